"""The reference semantics: plain loops that define what every program means.

It is slow and simple. The compiler and the exports must agree with it to 1e-5.

- A query sees the keys up to its own position (``causal``) or all keys (``bidirectional``).
- At a position that the query does not see, a feature has its padding value: the empty string,
  false, -1 for positions and indices, or 0.
- A quantifier searches the keys that the query sees, except the query's own position. Of two keys
  at the same distance, the one before the query is the nearest. If no key is found, the position
  is -1.
- A score at a position is the sum of the weights whose predicates hold where ``i`` is that position.
- The weight of a symbol in a set is 0 if it is not in the set, and 1 if the set has no weights.
- A part of a sum is a term of its own, with the condition of the sum.
- What a term adds is cut to at most ``TERM_LIMIT`` in magnitude.
- ``softmax``: terms are logits. A row is exp(score) divided by the sum of exp(score) over its keys.
- ``linear``: terms are masses; a mass below ``LEAST_MASS`` counts as 0. A row is the sums of masses
  of its keys, divided by their total; uniform over the keys that the query sees if the total is 0.
"""

from __future__ import annotations

import math
from typing import Any

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.features import FEATURES, Column, Value
from attn_dsl.dsl.functions import FUNCTIONS, stem
from attn_dsl.dsl.limits import LEAST_MASS, TERM_LIMIT
from attn_dsl.dsl.scope import Scope
from attn_dsl.dsl.tokens import Tokens


def evaluate(program: t.Head, tokens: Tokens) -> list[list[float]]:
    """Return the attention matrix of a program on a text, n rows (queries) of n weights (keys).

    >>> from attn_dsl.dsl.parser import parse
    >>> program = parse("head previous causal:\\n 1000 where k == q-1")
    >>> evaluate(program, Tokens.from_strings(["a", " b", " c"]))
    [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]

    Raises:
        ValueError: a weight is a hole.
    """
    return Interpreter(program, Analysis(tokens)).matrix()


class Interpreter:
    """Evaluates one program on one text by plain loops."""

    def __init__(self, program: t.Head, analysis: Analysis) -> None:
        if any(weight is None for weight in program.weights):
            raise ValueError("the program has holes; fit its weights first")
        self.program, self.analysis, self.n = program, analysis, analysis.n
        self.scope = Scope.of(program)
        self.parts = [part for term in program.terms for part in t.parts_of(term)]
        self.columns: dict[str, Column] = {}
        self.found: dict[tuple[str, int, int], int] = {}

    def matrix(self) -> list[list[float]]:
        """Return the attention matrix."""
        return [self.row(q) for q in range(self.n)]

    def visible(self, q: int) -> range:
        """Return the keys that a query sees."""
        return range(q + 1 if self.program.causal else self.n)

    def row(self, q: int) -> list[float]:
        """Return the attention weights of one query over all keys."""
        keys = self.visible(q)
        if self.program.normaliser == "softmax":
            scores = [sum(self.terms(q, k)) for k in keys]
            top = max(scores)
            masses = [math.exp(score - top) for score in scores]
        else:
            masses = [sum(x for x in self.terms(q, k) if x >= LEAST_MASS) for k in keys]
            if sum(masses) == 0.0:
                masses = [1.0 for _ in keys]
        total = sum(masses)
        return [mass / total for mass in masses] + [0.0] * (self.n - len(masses))

    def terms(self, q: int, k: int) -> list[float]:
        """Return what each term adds to the score (or mass) of a pair of query and key."""
        return [self.term(term, q, k) for term in self.parts]

    def term(self, term: t.Simple, q: int, k: int) -> float:
        """Return what one term adds to the score (or mass) of a pair of query and key."""
        if isinstance(term, t.Where):
            assert term.weight is not None
            return term.weight if self.holds(term.condition, q, k) else 0.0
        if term.condition is not None and not self.holds(term.condition, q, k):
            return 0.0
        if isinstance(term, t.Table):
            at = self.integer(term.value, q, k)
            return [0.0, *(e.weight or 0.0 for e in term.entries if e.bound <= at)][-1]
        assert term.weight is not None
        return min(max(term.weight * self.value(term.value, q, k), -TERM_LIMIT), TERM_LIMIT)

    def value(self, node: t.Value, q: int, k: int) -> float:
        """Evaluate the value that the weight of a term is multiplied by."""
        match node:
            case t.Real("log", inner):
                return math.log(max(self.integer(inner, q, k), 1))
            case t.Real("sqrt", inner):
                return math.sqrt(max(self.integer(inner, q, k), 0))
            case t.Real("inv", inner):
                return 1.0 / max(self.integer(inner, q, k), 1)
            case t.Real(name, inner):
                return FUNCTIONS[name].value(self.integer(inner, q, k), 0.0)
            case t.Decay(inner, rate):
                return math.pow(rate, max(self.integer(inner, q, k), 0))
            case t.Weight(symbol, chosen):
                return self.weight(self.scope.literal(chosen), str(self.call(symbol, q, k)))
            case t.Score():
                return self.score(node, q, k)
            case t.Product(left, right):
                return self.value(left, q, k) * self.value(right, q, k)
        return float(self.integer(node, q, k))

    def score(self, node: t.Score, q: int, k: int) -> float:
        """Sum the weights of a score whose predicates hold at its position, as the query sees the text."""
        definition, file = self.scope.score(node.name)
        at, outer = (q if node.variable == "q" else k) + node.shift, self.scope
        self.scope = outer.inside(file)
        found = sum(
            (line.weight or 0.0) * self.holds(line.condition, q, at) for line in definition.terms
        )
        self.scope = outer
        return found

    def weight(self, literal: t.SetLiteral, symbol: str) -> float:
        """Return the weight of a symbol in a set: 0 outside it, and 1 in a set without weights."""
        if literal.weights is None:
            return float(symbol in literal.elements)
        return dict(zip(literal.elements, literal.weights, strict=True)).get(symbol, 0.0)

    def integer(self, node: t.Int, q: int, k: int) -> int:
        """Evaluate an integer."""
        match node:
            case t.Integer(value):
                return value
            case t.Position(variable, shift):
                return (q if variable == "q" else k) + shift
            case t.Arithmetic(op, left, right):
                a, b = self.integer(left, q, k), self.integer(right, q, k)
                return a + b if op == "+" else a - b
            case t.Modulo(inner, modulus):
                return self.integer(inner, q, k) % modulus
            case t.Absolute(inner):
                return abs(self.integer(inner, q, k))
            case t.Extremum(name, left, right):
                a, b = self.integer(left, q, k), self.integer(right, q, k)
                return min(a, b) if name == "min" else max(a, b)
            case t.Call():
                return int(self.call(node, q, k))
            case t.Quantifier(name, body):
                return self.search(name, body, q)
        raise TypeError(f"not an integer: {node!r}")

    def search(self, name: str, body: t.Predicate, q: int) -> int:
        """Evaluate a quantifier at a query; the result is kept, as it does not depend on the key."""
        place = (name, id(body), q)
        if place not in self.found:
            keys = [k for k in self.visible(q) if k != q and self.holds(body, q, k)]
            self.found[place] = {
                "count": len(keys),
                "any": len(keys) > 0,
                "nearest": min(keys, key=lambda k: (abs(q - k), k), default=-1),
                "first": min(keys, default=-1),
                "last": max(keys, default=-1),
            }[name]
        return self.found[place]

    def call(self, node: t.Symbol, q: int, k: int) -> Value:
        """Evaluate a feature at its positions, as the query sees it, or what shortens it."""
        if isinstance(node, t.Shortened):
            string = str(self.call(node.value, q, k))
            if node.name == "stem":
                return stem(string)
            return string[: node.length] if node.name == "prefix" else string[-node.length :]
        if not node.args:
            return self.n
        feature = FEATURES[node.name]
        at = [self.integer(arg, q, k) for arg in node.args]
        keys = self.visible(q)
        if any(position not in keys for position in at):
            return feature.pad
        if node.name not in self.columns:
            self.columns[node.name] = feature.compute(self.analysis)
        column = self.columns[node.name]
        found: Any = column.at(at[0], q, self.program.causal)
        return found[at[1]] if feature.arity == 2 else found

    def holds(self, node: t.Predicate, q: int, k: int) -> bool:
        """Evaluate a predicate."""
        match node:
            case t.Always():
                return True
            case t.Not(inner):
                return not self.holds(inner, q, k)
            case t.And(left, right):
                return self.holds(left, q, k) and self.holds(right, q, k)
            case t.Or(left, right):
                return self.holds(left, q, k) or self.holds(right, q, k)
            case t.Compare(op, left, right):
                return t.COMPARE[op](self.side(left, q, k), self.side(right, q, k))
            case t.Between(inner, low, high):
                return low <= self.integer(inner, q, k) <= high
            case t.Member(symbol, chosen):
                return self.call(symbol, q, k) in self.scope.literal(chosen).elements
            case t.Affix(name, symbol, text):
                value = str(self.call(symbol, q, k))
                if name == "contains":
                    return text in value
                return value.startswith(text) if name == "starts" else value.endswith(text)
            case t.Call():
                return bool(self.call(node, q, k))
            case t.Quantifier(name, body):
                return bool(self.search(name, body, q))
        raise TypeError(f"not a predicate: {node!r}")

    def side(self, node: t.Int | t.Symbol | t.Text, q: int, k: int) -> Value:
        """Evaluate one side of a comparison."""
        if isinstance(node, t.Text):
            return node.value
        if isinstance(node, t.Call | t.Shortened):
            return self.call(node, q, k)
        return self.integer(node, q, k)
