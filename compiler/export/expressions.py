"""Expressions: a program's tree as Python source on arrays, the same for every target.

What the targets do differently is in the helper functions that the source calls (``at``, ``log``,
``nearest`` …; see ``helpers``) and in a ``Dialect``. Constants are folded, so that an expression
is a number, a truth value, or ``Code`` whose value is an array.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from attn_dsl.compiler.export.columns import Columns, Reading
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.limits import TERM_LIMIT
from attn_dsl.dsl.printer import expression, show_term

COMPARISON, OR, AND, SUM, PRODUCT, UNARY, ATOM = range(7)
"""How tightly the operators of Python bind, the loosest first."""

BOUNDS = {"log": 22.0, "inv": 1.0, "decay": 1.0}
"""The largest values of the functions of a term; no number in a program reaches exp(22)."""


@dataclass(frozen=True, slots=True)
class Code:
    """An expression: its source, and how tightly its outermost operator binds."""

    text: str
    level: int = ATOM


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a target writes what no helper function can hide.

    Attributes:
        element: an element of a column, from its name and a position.
        found: what a quantifier found, from its variable.
        real: a truth value or whole number as a factor.
        weights: the array that holds the weights; empty to write them as numbers.
    """

    element: str = "{}[{}]"
    found: str = "{}"
    real: str = "{}"
    weights: str = ""


Truth = Code | bool
Whole = Code | int


def text(expression: Code | float | bool, level: int = COMPARISON) -> str:
    """Write an expression where one that binds at least so tightly may stand.

    >>> text(Code("q - k", SUM), PRODUCT), text(-2, PRODUCT), text(-2, ATOM)
    ('(q - k)', '-2', '(-2)')
    """
    if not isinstance(expression, Code):
        loose = not isinstance(expression, bool) and expression < 0
        expression = Code(repr(expression), UNARY if loose else ATOM)
    return expression.text if expression.level >= level else f"({expression.text})"


class Writer:
    """Writes the expressions of one program, and notes the columns and helpers that they need.

    Attributes:
        rows: the writer of quantifiers, whose values belong to whole rows; itself by default.
        helpers, used: the helper functions and the columns that the source names, in order.
        quantifiers: per variable, the quantifier and the source that computes it.
    """

    def __init__(
        self, program: t.Head, columns: Columns, dialect: Dialect, rows: Writer | None = None
    ) -> None:
        self.program, self.columns, self.dialect = program, columns, dialect
        self.rows = rows or self
        self.helpers: dict[str, None] = {}
        self.used: dict[str, None] = {}
        self.quantifiers: dict[str, tuple[t.Quantifier, str]] = {}
        self._variables: dict[t.Quantifier, str] = {}

    def call(self, helper: str, *args: Code | float | str) -> Code:
        """Write a call of a helper function."""
        self.helpers[helper] = None
        return Code(f"{helper}({', '.join(a if isinstance(a, str) else text(a) for a in args)})")

    # Integers.

    def integer(self, node: t.Int) -> Whole:
        """Write an integer."""
        match node:
            case t.Integer(value):
                return value
            case t.Position(variable, 0):
                return Code(variable)
            case t.Position(variable, shift):
                return Code(f"{variable} {'-' if shift < 0 else '+'} {abs(shift)}", SUM)
            case t.Arithmetic(op, left, right):
                a, b = self.integer(left), self.integer(right)
                if isinstance(a, int) and isinstance(b, int):
                    return a + b if op == "+" else a - b
                return Code(f"{text(a, SUM)} {op} {text(b, PRODUCT)}", SUM)
            case t.Absolute(inner):
                a = self.integer(inner)
                return abs(a) if isinstance(a, int) else Code(f"abs({text(a)})")
            case t.Extremum(name, left, right):
                a, b = self.integer(left), self.integer(right)
                if isinstance(a, int) and isinstance(b, int):
                    return (min if name == "min" else max)(a, b)
                return self.call(f"{name}imum", *((b, a) if isinstance(a, int) else (a, b)))
            case t.Call(name, args) if FEATURES[name].arity == 2:
                return self.match(*map(self.integer, args))
            case t.Call(name, args):
                return self.read(self.columns.feature(name), args[0])
            case t.Quantifier():
                return self.found(node)
        raise TypeError(f"not an integer: {node!r}")

    def read(self, column: Reading, at: t.Int) -> Whole | Truth:
        """Write a column at a position, as the query sees it."""
        position = self.integer(at)
        if isinstance(position, int):
            if position < 0:
                return column.pad
            position = Code(f"0 * q + {position}", SUM)
        self.used |= dict.fromkeys(filter(None, (column.name, column.known, column.open)))
        if column.known:
            return self.call(
                "known_at", column.name, column.known, column.open, position, column.pad
            )
        if position.text in ("q", "k"):
            return Code(self.dialect.element.format(column.name, position.text))
        return self.call("at", column.name, position, column.pad)

    def match(self, left: Whole, right: Whole) -> Whole:
        """Write the length of the matching context of two positions."""
        table, positions = self.columns.match(), []
        for position in (left, right):
            if isinstance(position, int):
                if position < 0:
                    return 0
                position = Code(f"0 * q + {position}", SUM)
            positions.append(position)
        self.used[table] = None
        return self.call("match_at", table, *positions)

    def found(self, node: t.Quantifier) -> Code:
        """Write what a quantifier finds: a variable that is computed beforehand."""
        return Code(self.dialect.found.format(self.rows.quantifier(node)))

    def quantifier(self, node: t.Quantifier) -> str:
        """Write a quantifier, unless it is there already; return its variable."""
        if node not in self._variables:
            searched = self.predicate(node.body)
            name = "exists" if node.name == "any" else node.name
            source = self.call(name, searched)
            variable = f"{name}_{len(self.quantifiers) + 1}"
            self.quantifiers[variable] = node, source.text
            self._variables[node] = variable
        return self._variables[node]

    # Predicates.

    def predicate(self, node: t.Predicate) -> Truth:
        """Write a predicate."""
        match node:
            case t.Always():
                return True
            case t.Not(t.Not(inner)):
                return self.predicate(inner)
            case t.Not(inner):
                return self.negation(self.predicate(inner))
            case t.And(left, right):
                a, b = self.predicate(left), self.predicate(right)
                if isinstance(a, bool) or isinstance(b, bool):
                    return False if a is False or b is False else b if a is True else a
                return Code(f"{text(a, AND)} & {text(b, SUM)}", AND)
            case t.Or(left, right):
                a, b = self.predicate(left), self.predicate(right)
                if isinstance(a, bool) or isinstance(b, bool):
                    return True if a is True or b is True else b if a is False else a
                return Code(f"{text(a, OR)} | {text(b, AND)}", OR)
            case t.Compare(op, left, t.Text(string)):
                assert isinstance(left, t.Call)
                holds = self.truth(self.columns.equals(left.name, string), left.args[0])
                return holds if op == "==" else self.negation(holds)
            case t.Compare(op, left, right):
                assert not isinstance(left, t.Text) and not isinstance(right, t.Text)
                return self.comparison(op, self.integer(left), self.integer(right))
            case t.Between(inner, low, high):
                value = self.integer(inner)
                if isinstance(value, int):
                    return low <= value <= high
                if low == high:
                    return self.comparison("==", value, low)
                return self.call("between", value, low, high)
            case t.Member(symbol, chosen):
                return self.truth(self.columns.member(symbol.name, chosen), symbol.args[0])
            case t.Affix(name, symbol, affix):
                return self.truth(self.columns.affix(symbol.name, name, affix), symbol.args[0])
            case t.Call(name, args):
                return self.truth(self.columns.feature(name), args[0])
            case t.Quantifier(name):
                found = self.found(node)
                return found if name == "any" else self.comparison("!=", found, 0)
        raise TypeError(f"not a predicate: {node!r}")

    def truth(self, column: Reading, at: t.Int) -> Truth:
        """Write a column of truth values at a position."""
        value = self.read(column, at)
        return value if isinstance(value, Code) else bool(value)

    def negation(self, value: Truth) -> Truth:
        """Write a negation."""
        return not value if isinstance(value, bool) else Code(f"~{text(value, UNARY)}", UNARY)

    def comparison(self, op: str, a: Whole, b: Whole) -> Truth:
        """Write a comparison of integers."""
        if isinstance(a, int) and isinstance(b, int):
            return {
                "==": a == b, "!=": a != b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b,
            }[op]  # fmt: skip
        return Code(f"{text(a, OR)} {op} {text(b, OR)}", COMPARISON)

    # Values and terms.

    def factor(self, node: t.Factor) -> Code | float:
        """Write a factor of a term."""
        if isinstance(node, t.Weight):
            return self.symbol_weight(node)
        if not isinstance(node, t.Real | t.Decay):
            number = self.integer(node)
            return self.real(number) if isinstance(number, Code) else float(number)
        inner = self.integer(node.value)
        name = node.name if isinstance(node, t.Real) else "decay"
        rate = (node.rate,) if isinstance(node, t.Decay) else ()
        if isinstance(inner, Code):
            return self.call(name, inner, *rate)
        if isinstance(node, t.Decay):
            return math.pow(node.rate, max(inner, 0))
        if name == "inv":
            return 1.0 / max(inner, 1)
        return math.log(max(inner, 1)) if name == "log" else math.sqrt(max(inner, 0))

    def symbol_weight(self, node: t.Weight) -> Code | float:
        """Write the weight of a symbol in a set: whole hundredths, or a truth value."""
        symbol = node.value
        if self.columns.literal(node.set).weights is None:
            holds = self.truth(self.columns.member(symbol.name, node.set), symbol.args[0])
            return self.real(holds) if isinstance(holds, Code) else float(holds)
        weight = self.read(self.columns.weight(symbol.name, node.set), symbol.args[0])
        return self.call("hundredths", weight) if isinstance(weight, Code) else weight / 100

    def largest(self, node: t.Factor) -> float:
        """Return the bound on the magnitude of a factor, infinite if there is none."""
        if isinstance(node, t.Weight):
            return max(map(abs, self.columns.literal(node.set).hundredths().values())) / 100
        if isinstance(node, t.Real):
            return BOUNDS.get(node.name, math.inf)
        return BOUNDS["decay"] if isinstance(node, t.Decay) else math.inf

    def signed(self, node: t.Factor) -> bool:
        """Say whether a factor may be negative."""
        if isinstance(node, t.Weight):
            return min(self.columns.literal(node.set).hundredths().values()) < 0
        return not isinstance(node, t.Real | t.Decay)

    def real(self, value: Code) -> Code:
        """Write an array of truth values or integers as a factor."""
        return value if self.dialect.real == "{}" else Code(self.dialect.real.format(text(value)))

    def weight(self, number: int) -> Code | float:
        """Write a weight, by its place in source order."""
        if self.dialect.weights:
            return Code(f"{self.dialect.weights}[{number}]")
        weight = self.program.weights[number]
        assert weight is not None
        return weight + 0.0

    def terms(self) -> list[tuple[str, str]]:
        """Write all terms: for each, the term as in the program, and the source of what it adds.

        The source is empty where the term never adds anything.
        """
        written, first = [], 0
        for term in self.program.terms:
            written.append((show_term(term), self.term(term, first)))
            first += len(t.weights_of(term))
        return written

    def term(self, term: t.Term, first: int) -> str:
        """Write what a term adds to the scores; ``first`` is the number of its first weight."""
        condition = True if term.condition is None else self.predicate(term.condition)
        if condition is False:
            return ""
        if isinstance(term, t.Where):
            added = self.weight(first)
        elif isinstance(term, t.Scaled):
            value = term.value
            factors = (value.left, value.right) if isinstance(value, t.Product) else (value,)
            added = self.product(self.weight(first), factors)
        else:
            steps = self.steps(term, first)
            if steps is None:
                return ""
            added = steps
        if isinstance(condition, Code):
            factor = text(self.real(condition), UNARY)
            return f"{text(added, PRODUCT)} * {factor}"
        return text(added)

    def product(self, weight: Code | float, factors: tuple[t.Factor, ...]) -> Code | float:
        """Write a weight times its factors, within the bounds of what a term may add."""
        linear = self.program.normaliser == "linear"
        values = [self.factor(factor) for factor in factors]
        if not any(isinstance(part, Code) for part in (weight, *values)):
            known = math.prod((weight, *values))  # type: ignore[arg-type]
            return min(max(known, 0.0 if linear else -TERM_LIMIT), TERM_LIMIT)
        written = [text(weight, PRODUCT), *(text(value, UNARY) for value in values)]
        product = Code(" * ".join(written), PRODUCT)
        largest = abs(weight) if not isinstance(weight, Code) else 1000.0
        cut = linear and any(map(self.signed, factors))
        if not cut and largest * math.prod(map(self.largest, factors)) <= TERM_LIMIT:
            return product
        return self.call("bounded", product)

    def steps(self, term: t.Table, first: int) -> Code | float | None:
        """Write the step of a table that a value is on; None if it is always below the first."""
        value = self.integer(term.value)
        bounds = [entry.bound for entry in term.entries]
        if isinstance(value, int):
            reached = sum(bound <= value for bound in bounds)
            return self.weight(first + reached - 1) if reached else None
        if self.dialect.weights:
            weights = f"{self.dialect.weights}[{first}:{first + len(bounds)}]"
        else:
            weights = repr([self.weight(first + i) for i in range(len(bounds))])
        return self.call("table", value, repr(bounds), weights)


def describe(node: t.Quantifier) -> str:
    """Write a quantifier as in the program."""
    return expression(node)
