"""The reference semantics: plain loops that define what every program means.

It is slow and simple. The compiler and the exports must agree with it to 1e-5.

- A query sees the keys up to its own position (``causal``) or all keys (``bidirectional``).
- At a position that the query does not see, a feature has its padding value: the empty string,
  false, -1 for positions and indices, or 0.
- A quantifier searches the keys that the query sees, except the query's own position. Of two keys
  at the same distance, the one before the query is the nearest. If no key is found, the position is -1.
- A function at a position is its value where ``i`` is that position.
- A search for a position ``i`` goes over the positions ``j`` that the query sees, ``i`` among them, or
  over those before or after ``i``. One up to ``i`` finds what a query at ``i`` would. If the query does not
  see ``i``, nothing is found.
- A score at a position is the sum of the weights whose predicates hold where ``i`` is that position.
- The weight of a symbol in a set is 0 if it is not in the set, and 1 if the set has no weights.
- A part of a sum is a term of its own, with the condition of the sum.
- What a term adds is cut to at most ``TERM_LIMIT`` in magnitude.
- ``softmax``: terms are logits. A row is exp(score) divided by the sum of exp(score) over its keys.
- ``linear``: terms are masses; a mass below ``LEAST_MASS`` counts as 0. A row is the sums of masses
  of its keys, divided by their total; uniform over the keys that the query sees if the total is 0.
"""

import math
from typing import NamedTuple

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.features import FEATURES, Column, Value
from attn_dsl.dsl.functions import FUNCTIONS, stem
from attn_dsl.dsl.limits import LEAST_MASS, TERM_LIMIT
from attn_dsl.dsl.scope import Scope, type_of
from attn_dsl.dsl.tokens import Tokens


class Places(NamedTuple):
    """The query that sees the text, and the positions that variables stand for."""

    view: int
    q: int = -1
    k: int = -1
    i: int = -1
    j: int = -1


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
        self.found: dict[tuple[t.Node, int, int], int] = {}

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
        return [self.term(term, Places(q, q, k)) for term in self.parts]

    def term(self, term: t.Simple, p: Places) -> float:
        """Return what one term adds to the score (or mass) of a pair of query and key."""
        if isinstance(term, t.Where):
            assert term.weight is not None
            return term.weight if self.holds(term.condition, p) else 0.0
        if term.condition is not None and not self.holds(term.condition, p):
            return 0.0
        if isinstance(term, t.Table):
            at = self.integer(term.value, p)
            return [0.0, *(e.weight or 0.0 for e in term.entries if e.bound <= at)][-1]
        assert term.weight is not None
        return min(max(term.weight * self.value(term.value, p), -TERM_LIMIT), TERM_LIMIT)

    def value(self, node: t.Value, p: Places) -> float:
        """Evaluate the value that the weight of a term is multiplied by."""
        match node:
            case t.Real("log", inner):
                return math.log(max(self.integer(inner, p), 1))
            case t.Real("sqrt", inner):
                return math.sqrt(max(self.integer(inner, p), 0))
            case t.Real("inv", inner):
                return 1.0 / max(self.integer(inner, p), 1)
            case t.Real(name, inner):
                return FUNCTIONS[name].value(self.integer(inner, p), 0.0)
            case t.Decay(inner, rate):
                return math.pow(rate, max(self.integer(inner, p), 0))
            case t.Weight(symbol, chosen):
                return self.weight(self.scope.literal(chosen), str(self.call(symbol, p)))
            case t.Score():
                return self.score(node, p)
            case t.Product(left, right):
                return self.value(left, p) * self.value(right, p)
        return float(self.integer(node, p))

    def score(self, node: t.Score, p: Places) -> float:
        """Sum the weights of a score whose predicates hold at its position, as the query sees the text."""
        definition, file = self.scope.score(node.name)
        at, outer = p._replace(i=getattr(p, node.variable) + node.shift), self.scope
        self.scope = outer.inside(file)
        found = sum((line.weight or 0.0) * self.holds(line.condition, at) for line in definition.terms)
        self.scope = outer
        return found

    def weight(self, literal: t.SetLiteral, symbol: str) -> float:
        """Return the weight of a symbol in a set: 0 outside it, and 1 in a set without weights."""
        if literal.weights is None:
            return float(symbol in literal.elements)
        return dict(zip(literal.elements, literal.weights, strict=True)).get(symbol, 0.0)

    def integer(self, node: t.Int, p: Places) -> int:
        """Evaluate an integer."""
        match node:
            case t.Integer(value):
                return value
            case t.Position(variable, shift):
                return int(getattr(p, variable)) + shift
            case t.Arithmetic(op, left, right):
                a, b = self.integer(left, p), self.integer(right, p)
                return a + b if op == "+" else a - b
            case t.Modulo(inner, modulus):
                return self.integer(inner, p) % modulus
            case t.Absolute(inner):
                return abs(self.integer(inner, p))
            case t.Extremum(name, left, right):
                a, b = self.integer(left, p), self.integer(right, p)
                return min(a, b) if name == "min" else max(a, b)
            case t.Call():
                return int(self.call(node, p))
            case t.Quantifier():
                return self.quantifier(node, p.view)
            case t.Search():
                return self.search(node, p)
        raise TypeError(f"not an integer: {node!r}")

    def quantifier(self, node: t.Quantifier, q: int) -> int:
        """Evaluate a quantifier at a query; the result is kept, as it does not depend on the key."""
        place = (node, q, q)
        if place not in self.found:
            others = (k for k in self.visible(q) if k != q)
            keys = [k for k in others if self.holds(node.body, Places(q, q, k))]
            self.found[place] = _result(node.name, keys, q)
        return self.found[place]

    def search(self, node: t.Search, p: Places) -> int:
        """Evaluate a search at its position; a search backwards sees what a query there would."""
        i = self.integer(node.at, p)
        if i not in self.visible(p.view):
            return _result(node.name, [], i)
        view = i if node.backwards and self.program.causal else p.view
        place = (node, i, view)
        if place not in self.found:
            over = [j for j in self.visible(view) if not node.over or t.COMPARE[node.over](j, i)]
            keys = [j for j in over if self.holds(node.body, Places(view, i=i, j=j))]
            self.found[place] = _result(node.name, keys, i)
        return self.found[place]

    def call(self, node: t.Symbol, p: Places) -> Value:
        """Evaluate a feature or function as the query sees the text, or what shortens its value."""
        if isinstance(node, t.Shortened):
            string = str(self.call(node.value, p))
            if node.name == "stem":
                return stem(string)
            return string[: node.length] if node.name == "prefix" else string[-node.length :]
        if not node.args:
            return self.n
        at = [self.integer(arg, p) for arg in node.args]
        if node.name not in FEATURES:
            found, file = self.scope.function(node.name)
            assert found is not None
            outer, self.scope = self.scope, self.scope.inside(file)
            value = self.side(found.value, p._replace(i=at[0]))
            self.scope = outer
            return value
        feature, keys = FEATURES[node.name], self.visible(p.view)
        if any(position not in keys for position in at):
            return feature.pad
        if node.name not in self.columns:
            self.columns[node.name] = feature.compute(self.analysis)
        column = self.columns[node.name]
        value = column.at(at[0], p.view, self.program.causal)
        return value[at[1]] if feature.arity == 2 else value  # type: ignore[index]

    def holds(self, node: t.Predicate, p: Places) -> bool:
        """Evaluate a predicate."""
        match node:
            case t.Always():
                return True
            case t.Not(inner):
                return not self.holds(inner, p)
            case t.And(left, right):
                return self.holds(left, p) and self.holds(right, p)
            case t.Or(left, right):
                return self.holds(left, p) or self.holds(right, p)
            case t.Compare(op, left, right):
                return t.COMPARE[op](self.side(left, p), self.side(right, p))
            case t.Between(inner, low, high):
                return low <= self.integer(inner, p) <= high
            case t.Member(symbol, chosen):
                return self.call(symbol, p) in self.scope.literal(chosen).elements
            case t.Affix(name, symbol, text):
                value = str(self.call(symbol, p))
                if name == "contains":
                    return text in value
                return value.startswith(text) if name == "starts" else value.endswith(text)
            case t.Call():
                return bool(self.call(node, p))
            case t.Quantifier() | t.Search():
                return bool(self.integer(node, p))
        raise TypeError(f"not a predicate: {node!r}")

    def side(self, node: t.Int | t.Predicate | t.Symbol | t.Text, p: Places) -> Value:
        """Evaluate one side of a comparison, or the value of a function."""
        if isinstance(node, t.Text):
            return node.value
        if isinstance(node, t.Call | t.Shortened):
            return self.call(node, p)
        return self.integer(node, p) if type_of(node, {}) == "int" else self.holds(node, p)  # type: ignore[arg-type]


def _result(name: str, found: list[int], at: int) -> int:
    """Return what a search finds: the positions where its predicate holds, seen from one of them."""
    return {"count": len(found), "any": len(found) > 0,
            "nearest": min(found, key=lambda j: (abs(at - j), j), default=-1),
            "first": min(found, default=-1), "last": max(found, default=-1)}[name]  # fmt: skip
