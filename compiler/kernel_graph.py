"""Expressions of a program as a graph: equal ones once, constants folded, by what they read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from attn_dsl.compiler.batch import Batch, ColumnArrays
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import reads_key
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.lexicon import lexicon_literal

LARGEST = {"log": 21.5, "inv": 1.0, "decay": 1.0}
"""The largest values of functions: the checker bounds whole numbers so that none exceeds 2^31."""
SCORE_LIMIT = 300.0
"""Scores up to this magnitude need no maximum taken out: their exponentials are no extremes."""


class Stage(IntEnum):
    """What an expression reads, and so how often it is computed."""

    CONSTANT = 0
    QUERY = 1
    KEY = 2
    DISTANCE = 3
    PAIR = 4


@dataclass(frozen=True, slots=True)
class ColumnKey:
    """A column that a kernel reads: a feature, or a test of a symbol feature.

    Attributes:
        kind: ``feature``, ``in``, ``starts``, ``ends`` or ``weight``.
        name: of the feature.
        detail: the elements of a set, or the one string of an affix.
        hundredths: of a weighted set, its elements and what each weighs.
    """

    kind: str
    name: str
    detail: frozenset[str] = frozenset()
    hundredths: tuple[tuple[str, int], ...] = ()

    @property
    def pad(self) -> int:
        """The value outside what is visible; the empty text is symbol 0."""
        pad = FEATURES[self.name].pad
        return int(self.test(pad)) if isinstance(pad, str) else int(pad)

    def test(self, value: str) -> int:
        """Apply the test to a symbol, or weigh it."""
        if self.kind == "in":
            return value in self.detail
        if self.kind == "weight":
            return next((weight for element, weight in self.hundredths if element == value), 0)
        (text,) = self.detail or ("",)
        if self.kind == "feature":
            return False
        return value.startswith(text) if self.kind == "starts" else value.endswith(text)

    def arrays(self, batch: Batch) -> ColumnArrays:
        """Return the column on a batch of texts."""
        if self.kind == "feature":
            return batch.column(self.name)
        if self.kind == "in":
            return batch.members(self.name, self.detail)
        if self.kind == "weight":
            return batch.weights(self.name, self.hundredths)
        (text,) = self.detail
        return batch.affix(self.name, self.kind, text)


@dataclass(frozen=True, slots=True)
class Expr:
    """A node of the expression graph: an operation on earlier nodes; ``data`` are numbers."""

    op: str
    args: tuple[int, ...] = ()
    data: tuple[int, ...] = ()
    stage: Stage = Stage.CONSTANT


_FOLD: dict[str, Callable[..., int]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "abs": abs, "min": min, "max": max,
    "eq": lambda a, b: int(a == b), "ne": lambda a, b: int(a != b), "lt": lambda a, b: int(a < b),
    "le": lambda a, b: int(a <= b), "and": lambda a, b: a & b, "or": lambda a, b: a | b,
    "not": lambda a: 1 - a,
}  # fmt: skip
_COMPARISONS = {
    "==": ("eq", False), "!=": ("ne", False), "<": ("lt", False), "<=": ("le", False),
    ">": ("lt", True), ">=": ("le", True),
}  # fmt: skip


def joined(*stages: Stage) -> Stage:
    """Return how often something is computed that is made of parts of these stages."""
    found = set(stages) - {Stage.CONSTANT}
    return Stage.PAIR if len(found) > 1 else max(found, default=Stage.CONSTANT)


@dataclass(frozen=True, slots=True)
class Part:
    """A factor of a term: an integer, and the function that is applied to it.

    Attributes:
        node: the integer's number among the expressions.
        function: ``log``, ``sqrt``, ``inv``, ``decay``, ``weight``; the empty string for none.
        rate: of a decay.
        largest: the bound on the factor's magnitude, infinite if there is none.
        signed: whether it may be negative.
    """

    node: int
    function: str = ""
    rate: float = 0.0
    largest: float = math.inf
    signed: bool = False


@dataclass(frozen=True, slots=True)
class Parts:
    """What a term is made of: its factors, and its condition, which is the constant 1 for none."""

    factors: tuple[Part, ...]
    condition: int

    @property
    def nodes(self) -> tuple[int, ...]:
        """The numbers of all its expressions."""
        return (*(factor.node for factor in self.factors), self.condition)

    @property
    def largest(self) -> float:
        """The bound on the magnitude of the product of the factors."""
        return math.prod(factor.largest for factor in self.factors)


class Graph:
    """The expressions of a program: equal ones are one node, positions are linear in q and k."""

    def __init__(self, program: t.Head) -> None:
        self.program, self.causal = program, program.causal
        self.sets = {d.name: d.value for d in program.sets}
        self.exprs: list[Expr] = []
        self._numbers: dict[Expr, int] = {}
        self._columns: dict[ColumnKey, int] = {}
        linear = program.normaliser == "linear"  # in a softmax, what all keys share cancels
        used = [e for e in program.terms if any(t.weights_of(e)) and (linear or reads_key(e))]
        self.terms = [(term, self.parts(term)) for term in used]

    @property
    def columns(self) -> tuple[ColumnKey, ...]:
        """The columns that it reads."""
        return tuple(self._columns)

    def parts(self, term: t.Term) -> Parts:
        """Build the factors and the condition of a term."""
        if isinstance(term, t.Where):
            return Parts((), self.predicate(term.condition))
        condition = self.constant(1) if term.condition is None else self.predicate(term.condition)
        value = term.value
        factors = (value.left, value.right) if isinstance(value, t.Product) else (value,)
        return Parts(tuple(map(self.part, factors)), condition)

    def part(self, node: t.Factor) -> Part:
        """Build a factor."""
        if isinstance(node, t.Real):
            return Part(self.integer(node.value), node.name, 0.0, LARGEST.get(node.name, math.inf))
        if isinstance(node, t.Decay):
            return Part(self.integer(node.value), "decay", node.rate, LARGEST["decay"])
        if not isinstance(node, t.Weight):
            return Part(self.integer(node), signed=True)
        symbol, literal = node.value, self.literal(node.set)
        if literal.weights is None:
            key = ColumnKey("in", symbol.name, frozenset(literal.elements))
            return Part(self.column(key, self.integer(symbol.args[0])), largest=1.0)
        pairs = tuple(sorted(literal.hundredths().items()))
        key = ColumnKey("weight", symbol.name, hundredths=pairs)
        largest = max(abs(weight) for _, weight in pairs) / 100
        column = self.column(key, self.integer(symbol.args[0]))
        return Part(column, "weight", 0.0, largest, min(weight for _, weight in pairs) < 0)

    def literal(self, chosen: t.SetName | t.SetLiteral) -> t.SetLiteral:
        """Return the elements of a set: of the program, or else of the lexicon."""
        if isinstance(chosen, t.SetLiteral):
            return chosen
        return self.sets.get(chosen.name) or lexicon_literal(chosen.name)

    def stage(self, *nodes: int) -> Stage:
        """Return how often something is computed that is made of some expressions."""
        return joined(*(self.exprs[node].stage for node in nodes))

    def bounded(self) -> bool:
        """Say whether no score can be large, and no pair needs an exponential."""
        size = 0.0
        for term, parts in self.terms:
            weight = max(abs(w or 0) for w in t.weights_of(term))
            if self.stage(*parts.nodes) <= Stage.QUERY:
                continue
            if isinstance(term, t.Scaled):
                stage = self.stage(*(factor.node for factor in parts.factors))
                weight *= parts.largest if stage is not Stage.PAIR else math.inf
            size += weight
        return size <= SCORE_LIMIT

    def number(self, expr: Expr) -> int:
        """Number a node; equal ones have one number."""
        number = self._numbers.setdefault(expr, len(self.exprs))
        if number == len(self.exprs):
            self.exprs.append(expr)
        return number

    def linear(self, q: int, k: int, x: int) -> int:
        """Build q * query + k * key + x."""
        if not q and not k:
            return self.number(Expr("constant", (), (x,)))
        stage = Stage.DISTANCE if q == -k else Stage.PAIR
        stage = Stage.QUERY if not k else Stage.KEY if not q else stage
        return self.number(Expr("linear", (), (q, k, x), stage))

    def constant(self, value: int) -> int:
        """Build a number."""
        return self.linear(0, 0, value)

    def form(self, node: int) -> tuple[int, ...] | None:
        """Return the coefficients of a linear node."""
        expr = self.exprs[node]
        if expr.op == "constant":
            return (0, 0, *expr.data)
        return expr.data if expr.op == "linear" else None

    def apply(self, op: str, *args: int, data: tuple[int, ...] = ()) -> int:
        """Build an operation, folded where its value is known."""
        exprs = [self.exprs[a] for a in args]
        if op in _FOLD and all(e.op == "constant" for e in exprs):
            return self.constant(_FOLD[op](*(e.data[0] for e in exprs)))
        forms = [self.form(a) for a in args]
        if op in ("add", "sub", "eq", "ne", "lt", "le") and None not in forms:
            a, b = (f or () for f in forms)
            sign = 1 if op == "add" else -1
            both = self.linear(*(x + sign * y for x, y in zip(a, b, strict=True)))
            if op in ("add", "sub"):
                return both
            if joined(*(e.stage for e in exprs)) is not self.exprs[both].stage:
                return self.compared(op, both)
        if op in ("and", "or"):
            for one, other in (args, args[::-1]):
                if self.exprs[one].op == "constant":
                    return other if bool(self.exprs[one].data[0]) == (op == "and") else one
            if args[0] == args[1]:
                return args[0]
        return self.number(Expr(op, args, data, joined(*(e.stage for e in exprs))))

    def compared(self, op: str, node: int) -> int:
        """Build a comparison of a linear node with 0; one of a distance as ``q - k == 1``."""
        q, k, x = self.form(node) or (0, 0, 0)
        if q > 0:
            return self.apply(op, self.linear(q, k, 0), self.constant(-x))
        if q < 0:
            return self.apply(op, self.constant(x), self.linear(-q, -k, 0))
        return self.apply(op, node, self.constant(0))

    def select(self, condition: int, yes: int, no: int) -> int:
        """Build a choice."""
        if self.exprs[condition].op == "constant":
            return yes if self.exprs[condition].data[0] else no
        return yes if yes == no else self.apply("select", condition, yes, no)

    def seen(self, position: int) -> int:
        """Build whether a position inside the text is not after the query, in a causal program."""
        if not self.causal:
            return self.constant(1)
        form = self.form(position)
        if form is not None and form[:2] == (0, 1) and form[2] <= 0:
            return self.constant(1)
        return self.apply("le", position, self.linear(1, 0, 0))

    def column(self, key: ColumnKey, position: int) -> int:
        """Build a column at a position, as the query sees it."""
        c = self._columns.setdefault(key, len(self._columns))
        load = self.load("settled", c, position, key.pad)
        if self.causal and FEATURES[key.name].reads == "visible":
            now = self.linear(1, 0, 0)
            settled = self.apply("le", self.load("known", c, position, 0), now)
            load = self.select(settled, load, self.load("opened", c, now, key.pad))
        return self.select(self.seen(position), load, self.constant(key.pad))

    def load(self, array: str, column: int, position: int, pad: int) -> int:
        """Build an entry of an array of a column, anywhere in the text."""
        stage = self.exprs[position].stage or Stage.QUERY
        return self.number(Expr(array, (position,), (column, pad), stage))

    def integer(self, node: t.Int) -> int:
        """Build an integer expression."""
        match node:
            case t.Integer(value):
                return self.constant(value)
            case t.Position(variable, shift):
                return self.linear(int(variable == "q"), int(variable == "k"), shift)
            case t.Arithmetic(op, left, right):
                name = "add" if op == "+" else "sub"
                return self.apply(name, self.integer(left), self.integer(right))
            case t.Absolute(inner):
                return self.apply("abs", self.integer(inner))
            case t.Extremum(name, left, right):
                return self.apply(name, self.integer(left), self.integer(right))
            case t.Call("match", args):
                column = self._columns.setdefault(ColumnKey("feature", "token"), len(self._columns))
                a, b = (self.integer(arg) for arg in args)
                raw = self.apply("match", a, b, data=(column,))
                inside = self.apply("and", self.seen(a), self.seen(b))
                return self.select(inside, raw, self.constant(0))
            case t.Call(name, args):
                return self.column(ColumnKey("feature", name), self.integer(args[0]))
            case t.Quantifier(name, body):
                return self.number(Expr(name, (self.predicate(body),), (), Stage.QUERY))
        raise TypeError(f"not an integer: {node!r}")

    def predicate(self, node: t.Predicate) -> int:
        """Build a predicate."""
        match node:
            case t.Always():
                return self.constant(1)
            case t.Not(inner):
                return self.apply("not", self.predicate(inner))
            case t.And(left, right):
                return self.apply("and", self.predicate(left), self.predicate(right))
            case t.Or(left, right):
                return self.apply("or", self.predicate(left), self.predicate(right))
            case t.Compare(op, left, t.Text(text)):
                assert isinstance(left, t.Call)
                found = self.member(left, ColumnKey("in", left.name, frozenset([text])))
                return found if op == "==" else self.apply("not", found)
            case t.Compare(op, left, right):
                name, swapped = _COMPARISONS[op]
                a, b = self.integer(left), self.integer(right)  # type: ignore[arg-type]
                return self.apply(name, b, a) if swapped else self.apply(name, a, b)
            case t.Between(inner, low, high):
                value = self.integer(inner)
                return self.apply(
                    "and", self.apply("le", self.constant(low), value),
                    self.apply("le", value, self.constant(high)),
                )  # fmt: skip
            case t.Member(symbol, chosen):
                elements = frozenset(self.literal(chosen).elements)
                return self.member(symbol, ColumnKey("in", symbol.name, elements))
            case t.Affix(name, symbol, text):
                return self.member(symbol, ColumnKey(name, symbol.name, frozenset([text])))
        return self.apply("ne", self.integer(node), self.constant(0))

    def member(self, symbol: t.Call, key: ColumnKey) -> int:
        """Build a test of a symbol."""
        found = self.column(key, self.integer(symbol.args[0]))
        return self.apply("ne", found, self.constant(0))
