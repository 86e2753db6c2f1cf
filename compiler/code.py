"""Code: the graph of some programs laid out as arrays, for any texts.

A *plane* is what one weight multiplies: up to two factors, where a condition holds. Each step of a
table is a plane of its own. Equal planes of several programs are one, and each is kept in the form
that what it reads allows (``Kind``).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from attn_dsl.compiler.dependencies import Stage, joined, stages
from attn_dsl.compiler.graph import NONE, Factor, Graph, Term
from attn_dsl.compiler.lower import lower
from attn_dsl.compiler.operations import CODES, REALS, real_value
from attn_dsl.dsl import tree as t

_BETWEEN = CODES["between"]
_LAST = 2**31 - 1
"""Where the last step of a table ends."""
_NUMBERS = {name: number for number, name in enumerate(REALS)}


class Plane(NamedTuple):
    """What one weight multiplies.

    Attributes:
        factor, other: functions of nodes that are multiplied; a node of NONE is no factor.
        condition: the node that must be true; NONE for none.
        truth: whether the plane is 0 or 1 everywhere: then it is ``factor`` and ``condition``.
    """

    factor: Factor
    condition: int = NONE
    other: Factor = Factor(NONE)
    truth: bool = False


class Kind(IntEnum):
    """How a plane is kept for one text."""

    NONE = 0  # the same for a whole row: softmax takes it out
    KEY = 1  # a number for each key
    DISTANCE = 2  # a number for each distance
    TRUTH = 3  # a bit for each pair
    VALUE = 4  # a number for each pair


_KINDS = {
    Stage.CONSTANT: Kind.NONE, Stage.QUERY: Kind.NONE, Stage.KEY: Kind.KEY,
    Stage.DISTANCE: Kind.DISTANCE,
}  # fmt: skip


class Code:
    """Programs of one visibility, ready for any texts.

    >>> from attn_dsl.dsl.parser import parse
    >>> code = Code([parse("head a causal:\\n 2 where k == 0\\n 1 where k == 0")])
    >>> len(code.planes), code.programs
    (1, ((0, 0),))

    Attributes:
        graph: the lowered programs.
        planes: the distinct planes.
        programs: per program its planes, one for each weight.
        weights: float64, the weights of all programs behind each other; NaN for a hole.
        used: int64, the plane of each weight.
        offsets: int64 (programs + 1), where the weights of each program begin.
        linear: bool, per program.
    """

    def __init__(self, programs: Sequence[t.Head]) -> None:
        self.graph = graph = lower(programs)
        numbers: dict[Plane, int] = {}
        self.programs = tuple(
            tuple(
                numbers.setdefault(plane, len(numbers))
                for term in terms
                for plane in _planes(graph, term)
            )
            for terms in graph.programs
        )
        self.planes = tuple(numbers)
        self.linear = np.array([p.normaliser == "linear" for p in programs], dtype=np.bool_)
        self.weights = np.array(
            [np.nan if w is None else w for p in programs for w in p.weights], dtype=np.float64
        )
        self.used = np.array([p for planes in self.programs for p in planes], dtype=np.int64)
        lengths = [len(planes) for planes in self.programs]
        self.offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    @property
    def causal(self) -> bool:
        """The visibility of the programs."""
        return self.graph.causal

    @property
    def size(self) -> int:
        """How many programs there are."""
        return len(self.programs)

    @cached_property
    def instructions(self) -> np.ndarray:
        """The nodes as the interpreter reads them, int32 (nodes, 5)."""
        rows = np.array(self.graph.nodes, dtype=np.int32).reshape(-1, 5)
        rows[:, 1:3] = np.maximum(rows[:, 1:3], 0)  # what is no operand is read, and not used
        return rows

    @cached_property
    def owner(self) -> np.ndarray:
        """The program that each weight belongs to, int64."""
        return np.repeat(np.arange(self.size), np.diff(self.offsets))

    @cached_property
    def _functions(self) -> dict[tuple[str, float], int]:
        """The functions of the planes' factors, numbered."""
        numbers: dict[tuple[str, float], int] = {}
        for plane in self.planes:
            for factor in (plane.factor, plane.other):
                numbers.setdefault((factor.function, factor.rate), len(numbers))
        return numbers

    @cached_property
    def plane_rows(self) -> np.ndarray:
        """The planes as the interpreter reads them, int32 (planes, 5)."""
        number = self._functions
        rows = [
            (
                p.factor.node, p.condition, number[p.factor.function, p.factor.rate],
                p.other.node, number[p.other.function, p.other.rate],
            )
            for p in self.planes
        ]  # fmt: skip
        return np.array(rows, dtype=np.int32).reshape(-1, 5)

    def functions(self, length: int) -> np.ndarray:
        """Return the functions with their values at 0, 1, … below ``length`` or a little more.

        Returns:
            float64 (functions, 2 + length): which function, its rate, its values.
        """
        table = self._tabulated
        if table is None or table.shape[1] < length + 2:
            size = 64
            while size < length:
                size *= 2
            table = np.zeros((len(self._functions), 2 + size))
            for row, (name, rate) in enumerate(self._functions):
                table[row, :2], table[row, 2:] = (_NUMBERS[name], rate), _values(name, rate, size)
            self._tabulated = table
        return table

    _tabulated: np.ndarray | None = None

    def prepare(self, tokens: int) -> None:
        """Make what all texts of up to so many tokens share, so that threads find it ready."""
        self.functions(2 * tokens)
        _ = self.terms, self.owner, self.row_nodes, self.instructions

    @cached_property
    def truths(self) -> np.ndarray:
        """Whether each plane is 0 or 1 everywhere, bool (planes)."""
        return np.array([plane.truth for plane in self.planes], dtype=np.bool_)

    @cached_property
    def places(self) -> np.ndarray:
        """Per plane, int64 (planes, 2): its ``Kind``, and its number among those of that kind."""
        read, kinds = self._stages, []
        for plane in self.planes:
            nodes = (plane.factor.node, plane.condition, plane.other.node)
            whole = joined(*(read[node] for node in nodes if node != NONE))
            kinds.append(_KINDS.get(whole, Kind.TRUTH if plane.truth else Kind.VALUE))
        chosen = np.array(kinds, dtype=np.int64)
        numbers = np.zeros(len(kinds), dtype=np.int64)
        for kind in Kind:
            numbers[chosen == kind] = np.arange((chosen == kind).sum())
        return np.stack([chosen, numbers], axis=1).reshape(-1, 2)

    @cached_property
    def row_nodes(self) -> np.ndarray:
        """The nodes to compute for every row, int64: what planes of pairs need and no key alone."""
        rows = self.plane_rows[self.places[:, 0] >= Kind.TRUTH]
        roots = set(rows[:, [0, 1, 3]].ravel().tolist()) - {NONE}
        steady = (Stage.CONSTANT, Stage.KEY)
        nodes = [i for i in self.graph.closure(roots) if self._stages[i] not in steady]
        return np.array(nodes, dtype=np.int64)

    @cached_property
    def _stages(self) -> list[Stage]:
        return stages(self.graph)

    @cached_property
    def terms(self) -> dict[Kind, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """By kind of plane: the planes of each program, their weights, where each program begins.

        Truths have factors in the place of weights, and twice as many starts: first the rewards of
        a program, whose factor counts where they do not hold, then its penalties.
        """
        places, own = self.places[self.used], self.owner
        kinds, penal = places[:, 0], self.weights < 0
        parts = {}
        for kind in Kind:
            here = np.flatnonzero(kinds == kind)
            if kind == Kind.TRUTH:
                group = 2 * own[here] + penal[here]
                here = here[np.argsort(group, kind="stable")]
                counts = np.bincount(group, minlength=2 * self.size)
                amounts = np.exp(-np.abs(self.weights[here])).astype(np.float32)
            else:
                counts = np.bincount(own[here], minlength=self.size)
                amounts = self.weights[here].astype(float if kind != Kind.VALUE else np.float32)
            starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
            parts[kind] = (places[here, 1], amounts, starts)
        return parts


@lru_cache(maxsize=256)
def _values(name: str, rate: float, size: int) -> np.ndarray:
    """Tabulate a function of a term at the numbers from 0 on."""
    return np.array([real_value(name, x, rate) for x in range(size)])


def _planes(graph: Graph, term: Term) -> list[Plane]:
    """Return what each weight of a term multiplies."""
    if term.bounds:
        node, ends = term.factors[0].node, [*(b - 1 for b in term.bounds[1:]), _LAST]
        steps = [
            graph.add(_BETWEEN, node, x=low, y=high)
            for low, high in zip(term.bounds, ends, strict=True)
        ]
        return [Plane(Factor(step), term.condition, truth=True) for step in steps]
    if not term.factors:
        return [Plane(Factor(term.condition), truth=True)]
    one, other = min(term.factors), max(term.factors)
    return [Plane(one, term.condition, other if len(term.factors) > 1 else Factor(NONE))]
