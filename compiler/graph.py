"""The graph that programs are lowered to: each node is an operation on earlier nodes.

The evaluator and all exports read this graph; ``lower.py`` builds it from syntax trees. A node is
referred to by its number. Equal nodes are stored once, and constants are folded.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, NamedTuple

from attn_dsl.compiler.operations import CODES, REALS, ROWS, Operation
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.expand import as_functions
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.functions import shortened
from attn_dsl.dsl.printer import definition_lines

NONE = -1  # the number of a missing node: no operand, factor or condition
LARGEST = 2.0**31  # no integer of a checked program is larger in magnitude


class Node(NamedTuple):
    """An operation (its number), its operands a and b (numbers of nodes), its constants x and y."""

    op: int
    a: int = NONE
    b: int = NONE
    x: int = 0
    y: int = 0

    @property
    def operation(self) -> Operation:
        """The operation, as a row of the table."""
        return ROWS[self.op]

    @property
    def operands(self) -> tuple[int, ...]:
        """The numbers of the nodes that it reads."""
        return (self.a, self.b)[: ROWS[self.op].takes]


@dataclass(frozen=True, slots=True)
class ColumnKey:
    """A column of a text: an integer per token, a feature or a test of a symbol feature."""

    name: str  # of the feature
    # ``feature``: its value; ``in``: whether the symbol is in a set; ``weight``: its weight in a
    # set, in hundredths; ``starts``, ``ends``, ``contains``: whether it does so with a string
    kind: str = "feature"
    # the elements of the set with an integer each: the weight in hundredths for ``weight``, else
    # 1. For ``starts``, ``ends`` and ``contains``, the one string.
    elements: frozenset[tuple[str, int]] = frozenset()
    # the name of the set in the program, for exports; "" if it is written out
    label: str = field(default="", compare=False)
    # the functions that shorten the symbol before, each with its length; see ``tree.unshortened``
    functions: tuple[tuple[str, int], ...] = ()

    @property
    def shown(self) -> str:
        """The feature, and what shortens it: ``prefix(word, 4)``."""
        found = self.name
        for name, length in self.functions:
            found = f"{name}({found}{f', {length}' if length else ''})"
        return found

    def symbol(self, symbol: str) -> str:
        """Return a symbol after the functions that shorten it."""
        for name, length in self.functions:
            symbol = shortened(symbol, name, length)
        return symbol

    def value(self, symbol: str) -> int:
        """Return the entry of the column for a symbol; only for kinds other than ``feature``."""
        symbol = self.symbol(symbol)
        if self.kind in ("in", "weight"):
            return integers(self.elements).get(symbol, 0)
        ((text, _),) = self.elements
        if self.kind == "contains":
            return int(text in symbol)
        return int(symbol.startswith(text) if self.kind == "starts" else symbol.endswith(text))

    @property
    def truth(self) -> bool:
        """Whether its values are truth values, 0 or 1."""
        return self.kind in ("in", "starts", "ends", "contains") or FEATURES[self.name].type == "bool"

    @property
    def partial(self) -> bool:
        """Whether a causal query may not yet know the value at a key that it sees."""
        return FEATURES[self.name].reads == "visible"

    @property
    def pad(self) -> int:
        """The value at a position that the query does not see. The empty string is symbol 0."""
        pad = FEATURES[self.name].pad
        if isinstance(pad, str):
            return 0 if self.kind == "feature" else self.value(pad)
        return int(pad)


@dataclass(frozen=True, slots=True)
class SearchKey:
    """What a search finds for each position: a column of a text, or a table if it depends on the query.

    The body of a search has no functions and no names of sets but those of the lexicon. ``MATCH`` is the
    table of ``match``, which no search makes.
    """

    name: str  # as in ``tree.Search``
    over: str
    body: t.Predicate
    causal: bool  # whether it is part of a causal program

    kind = "search"
    label = ""
    partial = False
    elements: ClassVar[frozenset[tuple[str, int]]] = frozenset()

    @property
    def at_query(self) -> bool:
        """Whether ``i`` sees the text as a query there does; else it is seen whole, or up to the query."""
        return self.causal and self.over in t.BACKWARDS

    @property
    def by_query(self) -> bool:
        """Whether what is found depends on the query, so that it takes a table."""
        return self.causal and not self.at_query

    @property
    def truth(self) -> bool:
        """Whether its values are truth values, 0 or 1."""
        return self.name == "any"

    @property
    def pad(self) -> int:
        """What is found for a position that the query does not see."""
        return -1 if self.name in ("nearest", "first", "last") else 0

    @property
    def source(self) -> str:
        """The search in the language: functions, of which the last one is the search for ``i``."""
        search = t.Search(self.name, self.over, self.body, t.Position("i"))  # type: ignore[arg-type]
        return "\n".join(definition_lines((), (), as_functions(search)))


MATCH = SearchKey("match", "", t.Always(), causal=False)
Key = ColumnKey | SearchKey


@lru_cache(maxsize=512)
def integers(elements: frozenset[tuple[str, int]]) -> dict[str, int]:
    """Return the integer of each element of a column."""
    return dict(elements)


class Factor(NamedTuple):
    """A factor of a term: a real function (one of ``REALS``) of a node."""

    node: int
    function: str = ""
    rate: float = 0.0


class Term(NamedTuple):
    """A lowered term of a program."""

    # none, one or two factors, whose product the weight multiplies. For a table: its integer.
    factors: tuple[Factor, ...]
    condition: int  # the node where the term is not 0; NONE for a term without condition
    bounds: tuple[int, ...]  # the lower bounds of the steps of a table; empty for other terms
    source: t.Term


class Graph:
    """Programs of one visibility as one graph."""

    def __init__(self, causal: bool) -> None:
        self.causal = causal
        self.nodes: list[Node] = []  # operands come before the nodes that read them
        self.columns: dict[Key, int] = {}  # the columns that nodes read, with their numbers
        self.tables: dict[SearchKey, int] = {}  # the tables that nodes read, with their numbers
        self.programs: list[tuple[Term, ...]] = []  # the terms of each program
        self.heads: list[t.Head] = []  # the syntax tree of each program
        self.scores: dict[int, t.Score] = {}  # the nodes that are values of scores
        self._numbers: dict[tuple[int, ...], int] = {}

    @property
    def keys(self) -> tuple[Key, ...]:
        """The columns in the order of their numbers."""
        return tuple(self.columns)

    @property
    def features(self) -> set[str]:
        """The names of the features that programs read, in searches too."""
        bodies = (key.body for key in (*self.columns, *self.tables) if isinstance(key, SearchKey))
        calls = {n.name for body in bodies for n in body.walk() if isinstance(n, t.Call)}
        return calls | {key.name for key in self.columns if isinstance(key, ColumnKey)}

    def column(self, key: Key) -> int:
        """Return the number of a column; add it if it is new."""
        return self.columns.setdefault(key, len(self.columns))

    def table(self, key: SearchKey, row: int, column: int) -> int:
        """Return the node that reads a table at two positions, which are nodes."""
        return self.add("table", row, column, key.pad, self.tables.setdefault(key, len(self.tables)))

    def constant(self, value: int) -> int:
        """Return the node of a constant."""
        return self.add("constant", x=value)

    def add(self, name: str, a: int = NONE, b: int = NONE, x: int = 0, y: int = 0) -> int:
        """Return the node of an operation: an equal one, a constant if it can be folded, or a new one."""
        op = CODES[name]
        row = ROWS[op]
        if row.value is not None:
            first = self.nodes[a]
            second = self.nodes[b] if row.takes == 2 else first
            if first.op == second.op == _CONSTANT:
                return self.constant(int(row.value(first.x, second.x, x, y)))
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
        """Return some nodes and all nodes that they depend on, sorted."""
        inside = set(roots)
        for number in range(max(roots, default=-1), -1, -1):
            if number in inside:
                inside.update(self.nodes[number].operands)
        return sorted(inside)

    def bound(self, term: Term) -> float:
        """Return an upper bound on the magnitude of the product of the factors of a term."""
        if term.bounds:
            return 1.0
        return math.prod(REALS[f.function].bound(self._largest(f.node)) for f in term.factors)

    def _largest(self, number: int) -> float:
        """Bound the magnitude of the integer of a node."""
        node = self.nodes[number]
        match node.operation.name:
            case "constant" | "times":  # a truth value times x
                return abs(node.x)
            case "add":
                return min(self._largest(node.a) + self._largest(node.b), LARGEST)
            case "column_query" | "column_key" | "column" if self.keys[node.y].kind == "weight":
                return max(abs(weight) for _, weight in self.keys[node.y].elements)
        return LARGEST


_CONSTANT, _NEGATION = CODES["constant"], CODES["negation"]
_CONNECTIVES = {CODES["both"]: 1, CODES["either"]: 0}  # the neutral truth value of each connective
