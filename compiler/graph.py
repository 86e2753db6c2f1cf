"""The graph that programs are lowered to: nodes of operations, equal ones once, constants folded.

Everything that runs or writes a program reads this graph. A node is an operation on earlier nodes;
it is named by its number. ``lower.py`` builds the graph from syntax trees.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from attn_dsl.compiler.operations import CODES, ROWS, Operation
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES

NONE = -1
"""Stands for no node."""


class Node(NamedTuple):
    """An operation (its number), its operands (numbers of nodes), and its constants."""

    op: int
    a: int = NONE
    b: int = NONE
    x: int = 0
    y: int = 0

    @property
    def operation(self) -> Operation:
        """The row of the table of operations."""
        return ROWS[self.op]

    @property
    def operands(self) -> tuple[int, ...]:
        """The nodes that it reads."""
        return (self.a, self.b)[: ROWS[self.op].takes]


@dataclass(frozen=True, slots=True)
class ColumnKey:
    """A column of a text: a feature of every token, or a test of a symbol feature.

    Attributes:
        name: of the feature.
        kind: ``feature``: its value; ``in``: whether it is in a set; ``weight``: its weight in a
            set, in hundredths; ``starts`` and ``ends``: whether it begins or ends with a string.
        elements: of the set, with their weights in hundredths; or the one string of an affix.
        label: how the program writes the set, for printers.
    """

    name: str
    kind: str = "feature"
    elements: frozenset[tuple[str, int]] = frozenset()
    label: str = field(default="", compare=False)

    def value(self, symbol: str) -> int:
        """Apply the test to the value of the feature.

        >>> ColumnKey("word", "ends", frozenset({("ing", 1)})).value("going")
        1
        """
        if self.kind in ("in", "weight"):
            return dict(self.elements).get(symbol, 0)
        ((text, _),) = self.elements
        return int(symbol.startswith(text) if self.kind == "starts" else symbol.endswith(text))

    @property
    def truth(self) -> bool:
        """Whether its values are 0 and 1 for false and true."""
        return self.kind in ("in", "starts", "ends") or FEATURES[self.name].type == "bool"

    @property
    def partial(self) -> bool:
        """Whether a causal query may not know the value at a key that it sees."""
        return FEATURES[self.name].reads == "visible"

    @property
    def pad(self) -> int:
        """The value at a position that the query does not see; the empty string is symbol 0."""
        pad = FEATURES[self.name].pad
        if isinstance(pad, str):
            return 0 if self.kind == "feature" else self.value(pad)
        return int(pad)


class Factor(NamedTuple):
    """What a weight multiplies: a function (see ``REALS``) of a node."""

    node: int
    function: str = ""
    rate: float = 0.0


class Term(NamedTuple):
    """A lowered term of a program.

    Attributes:
        factors: none, one or two, which are multiplied. For a table: its integer.
        condition: the node that must be true; NONE where there is no condition.
        bounds: where the steps of a table begin; empty for other terms.
        source: the term of the syntax tree.
    """

    factors: tuple[Factor, ...]
    condition: int
    bounds: tuple[int, ...]
    source: t.Term


class Graph:
    """Programs of one visibility as one graph.

    Attributes:
        causal: the visibility.
        nodes: operands before what reads them.
        columns: the columns that the nodes read, numbered.
        programs: the terms of each program.
        heads: the syntax tree of each program.
    """

    def __init__(self, causal: bool) -> None:
        self.causal = causal
        self.nodes: list[Node] = []
        self.columns: dict[ColumnKey, int] = {}
        self.programs: list[tuple[Term, ...]] = []
        self.heads: list[t.Head] = []
        self._numbers: dict[tuple[int, ...], int] = {}

    @property
    def keys(self) -> tuple[ColumnKey, ...]:
        """The columns by number."""
        return tuple(self.columns)

    def column(self, key: ColumnKey) -> int:
        """Number a column."""
        return self.columns.setdefault(key, len(self.columns))

    def constant(self, value: int) -> int:
        """Add a constant."""
        return self.add(_CONSTANT, x=value)

    def add(self, op: int, a: int = NONE, b: int = NONE, x: int = 0, y: int = 0) -> int:
        """Add a node, unless there is an equal one or its value is known; return its number."""
        row = ROWS[op]
        if row.value is not None:
            first = self.nodes[a]
            second = self.nodes[b] if row.takes == 2 else first
            if first.op == second.op == _CONSTANT:
                return self.add(_CONSTANT, x=int(row.value(first.x, second.x, x, y)))
            if op in _CONNECTIVES:
                for one, other in ((a, b), (b, a)):
                    if self.nodes[one].op == _CONSTANT:
                        return other if self.nodes[one].x == _CONNECTIVES[op] else one
            elif op == _NEGATION and first.op == _NEGATION:
                return first.a
        key = (op, b, a, x, y) if row.commutes and a > b else (op, a, b, x, y)
        number = self._numbers.setdefault(key, len(self.nodes))
        if number == len(self.nodes):
            self.nodes.append(Node(op, a, b, x, y))
        return number

    def closure(self, roots: set[int]) -> list[int]:
        """Return some nodes and all that they are computed from, in order."""
        inside = set(roots)
        for number in range(max(roots, default=-1), -1, -1):
            if number in inside:
                inside.update(self.nodes[number].operands)
        return sorted(inside)

    @cached_property
    def needs_match(self) -> bool:
        """Whether any node counts matching contexts."""
        return any(node.op == CODES["match"] for node in self.nodes)


_CONSTANT, _NEGATION = CODES["constant"], CODES["negation"]
_CONNECTIVES = {CODES["both"]: 1, CODES["either"]: 0}
"""The truth value that changes nothing, by connective."""
