"""Code: the graph of some programs as arrays, from which they are evaluated on any text.

A *plane* is the n by n matrix that one weight multiplies: the product of up to two factors where a
condition holds, else 0. Each step of a table has a plane of its own. Programs share equal planes. A
plane is stored in a form that depends on what it reads (``Kind``), such as one vector by key.
"""

from collections.abc import Sequence
from enum import IntEnum
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from attn_dsl.compiler.dependencies import Stage, joined, stages
from attn_dsl.compiler.graph import NONE, Factor, Graph, Term
from attn_dsl.compiler.lower import lower
from attn_dsl.compiler.operations import REALS
from attn_dsl.dsl import tree as t

_LAST = 2**31 - 1  # the upper bound of the last step of a table
_NUMBERS = {name: number for number, name in enumerate(REALS)}


class Plane(NamedTuple):
    """The matrix that one weight multiplies, by nodes of the graph."""

    factor: Factor  # it is multiplied by ``other``
    condition: int = NONE  # the node where the plane is not 0; NONE for no condition
    other: Factor = Factor(NONE)  # the node of a missing factor is NONE
    # whether all entries are 0 or 1; then the plane is ``factor and condition``
    truth: bool = False


class Kind(IntEnum):
    """The form in which a plane is stored for one text."""

    NONE = 0  # not stored: constant in each row, which does not change softmax
    KEY = 1  # a number for each key
    DISTANCE = 2  # a number for each distance
    TRUTH = 3  # a bit for each pair
    VALUE = 4  # a number for each pair


_KINDS = {Stage.CONSTANT: Kind.NONE, Stage.QUERY: Kind.NONE, Stage.KEY: Kind.KEY,
          Stage.DISTANCE: Kind.DISTANCE}  # fmt: skip


class Code:
    """Programs of one visibility, lowered and laid out as arrays."""

    def __init__(self, programs: Sequence[t.Head], causal_searches: bool | None = None) -> None:
        self.graph = graph = lower(programs, causal_searches)
        self.causal, self.size = graph.causal, len(programs)
        numbers: dict[Plane, int] = {}
        planes = [[p for term in terms for p in _planes(graph, term)] for terms in graph.programs]
        # per program, the number of the plane of each weight
        self.programs = tuple(tuple(numbers.setdefault(plane, len(numbers)) for plane in those)
                              for those in planes)  # fmt: skip
        self.planes = tuple(numbers)  # the distinct planes
        self.linear = np.array([p.normaliser == "linear" for p in programs], dtype=np.bool_)
        # the weights of all programs, concatenated; NaN for a hole
        self.weights = np.array([np.nan if w is None else w for p in programs for w in p.weights],
                                dtype=np.float64)  # fmt: skip
        # the plane of each weight
        self.used = np.array([p for planes in self.programs for p in planes], dtype=np.int64)
        # the start of each program in ``weights`` and ``used``, int64 (programs + 1)
        lengths = [len(planes) for planes in self.programs]
        self.offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.owner = np.repeat(np.arange(self.size), lengths)  # the program of each weight
        # whether all entries of each plane are 0 or 1
        self.truths = np.array([plane.truth for plane in self.planes], dtype=np.bool_)

    @cached_property
    def instructions(self) -> np.ndarray:
        """The nodes for the interpreter, int32 (nodes, 5): op, a, b, x, y."""
        rows = np.array(self.graph.nodes, dtype=np.int32).reshape(-1, 5)
        rows[:, 1:3] = np.maximum(rows[:, 1:3], 0)  # missing operands are read, but not used
        return rows

    @cached_property
    def _functions(self) -> dict[tuple[str, float], int]:
        """The distinct functions and rates of the factors of planes, with their numbers."""
        numbers: dict[tuple[str, float], int] = {}
        for plane in self.planes:
            for factor in (plane.factor, plane.other):
                numbers.setdefault((factor.function, factor.rate), len(numbers))
        return numbers

    @cached_property
    def plane_rows(self) -> np.ndarray:
        """The planes for the interpreter, int32 (planes, 5); see ``interpreter``."""
        number = self._functions
        rows = [(p.factor.node, p.condition, number[p.factor.function, p.factor.rate],
                 p.other.node, number[p.other.function, p.other.rate]) for p in self.planes]  # fmt: skip
        return np.array(rows, dtype=np.int32).reshape(-1, 5)

    def functions(self, length: int) -> np.ndarray:
        """Return number in ``REALS``, rate, and ``length`` values or more of each function, float64."""
        table = self._tabulated
        if table is None or table.shape[1] < length + 2:
            size = max(64, 1 << (length - 1).bit_length())
            table = np.zeros((len(self._functions), 2 + size))
            for row, (name, rate) in enumerate(self._functions):
                table[row, :2], table[row, 2:] = (_NUMBERS[name], rate), _values(name, rate, size)
            self._tabulated = table
        return table

    _tabulated: np.ndarray | None = None

    def prepare(self, tokens: int) -> None:
        """Compute the arrays for texts of up to ``tokens`` tokens, so that threads only read them."""
        self.functions(2 * tokens)
        _ = self.terms, self.row_nodes, self.instructions

    @cached_property
    def places(self) -> np.ndarray:
        """Per plane, int64 (planes, 2): its ``Kind``, and its index among planes of that kind."""
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
        """The nodes that planes of pairs need and that change from row to row, int64."""
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
        """Per kind of plane: the index of each term's plane, its weight, and the start of each program.

        Terms of kind ``TRUTH`` have factors exp(-|weight|) instead of weights. They are sorted so
        that each program has two runs: rewards (weight >= 0), whose factor multiplies the mass
        where the truth is 0, and penalties (weight < 0), whose factor does so where it is 1.
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
    """Return the values of a function of ``REALS`` at 0, 1, …, ``size - 1``."""
    return np.array([REALS[name].value(x, rate) for x in range(size)])


def _planes(graph: Graph, term: Term) -> list[Plane]:
    """Return the plane of each weight of a term."""
    if term.bounds:
        node, ends = term.factors[0].node, [*(b - 1 for b in term.bounds[1:]), _LAST]
        steps = [graph.add("between", node, x=low, y=high)
                 for low, high in zip(term.bounds, ends, strict=True)]  # fmt: skip
        return [Plane(Factor(step), term.condition, truth=True) for step in steps]
    if not term.factors:
        return [Plane(Factor(term.condition), truth=True)]
    one, other = min(term.factors), max(term.factors)
    return [Plane(one, term.condition, other if len(term.factors) > 1 else Factor(NONE))]
