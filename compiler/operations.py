"""The table of operations: what a lowered program is made of, and how each target writes it.

A program is lowered to a graph of these (``graph.py``). Its evaluator and all printers read this
table, so that an operation is one row of it. Whole numbers and truth values are integers; a truth
value is 0 or 1. ``a`` and ``b`` stand for operands, ``x`` and ``y`` for constants of the node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from attn_dsl.dsl.functions import FUNCTIONS

Type = Literal["int", "bool", "symbol"]

ATOM, UNARY, SUM, CONJUNCTION, DISJUNCTION, COMPARISON = range(5, -1, -1)
"""How tightly an expression binds in Python, a comparison the loosest."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A row of the table.

    Attributes:
        name: what it is called here and in the interpreter.
        takes: how many operands it has.
        type: of its result.
        value: its meaning on whole numbers, as a function of a, b, x, y; Numba compiles it. None
            for what reads positions, columns or whole rows: the interpreter spells these out.
        array: as Python source that NumPy and torch read, which are written ``xp``.
        scalar: as Python source that Numba reads; "" where it is the same.
        level: how tightly the source binds, so that parentheses are written where they are needed.
        latex: as LaTeX.
        commutes: whether a and b may change places.
    """

    name: str
    takes: int
    type: Type
    value: Callable[[Any, Any, Any, Any], Any] | None = None
    array: str = ""
    scalar: str = ""
    level: int = ATOM
    latex: str = ""
    commutes: bool = False


_ROWS = [
    # Positions, constants and columns of a text.
    Operation("constant", 0, "int"),  # x
    Operation("query", 0, "int"),  # q + x
    Operation("key", 0, "int"),  # k + x
    Operation("column_query", 0, "int"),  # column y at q + x
    Operation("column_key", 0, "int"),  # column y at k + x
    Operation("column", 1, "int"),  # column y at position a
    Operation("match", 2, "int"),  # how many tokens ending at two positions are the same
    # Arithmetic of whole numbers.
    Operation("add", 2, "int", lambda a, b, x, y: a + b, "{a} + {b}", "", SUM, "{a} + {b}", True),
    Operation("subtract", 2, "int", lambda a, b, x, y: a - b, "{a} - {b}", "", SUM, "{a} - {b}"),
    Operation("absolute", 1, "int", lambda a, b, x, y: abs(a), "abs({a})", "", ATOM,
              r"\lvert {a} \rvert"),
    Operation("minimum", 2, "int", lambda a, b, x, y: min(a, b), "xp.clip({a}, None, {b})",
              "min({a}, {b})", ATOM, r"\min({a}, {b})", True),
    Operation("maximum", 2, "int", lambda a, b, x, y: max(a, b), "xp.clip({a}, {b}, None)",
              "max({a}, {b})", ATOM, r"\max({a}, {b})", True),
    # Predicates.
    Operation("equal", 2, "bool", lambda a, b, x, y: a == b, "{a} == {b}", "", COMPARISON,
              "{a} = {b}", True),
    Operation("unequal", 2, "bool", lambda a, b, x, y: a != b, "{a} != {b}", "", COMPARISON,
              r"{a} \neq {b}", True),
    Operation("less", 2, "bool", lambda a, b, x, y: a < b, "{a} < {b}", "", COMPARISON,
              "{a} < {b}"),
    Operation("at_most", 2, "bool", lambda a, b, x, y: a <= b, "{a} <= {b}", "", COMPARISON,
              r"{a} \leq {b}"),
    Operation("more", 2, "bool", lambda a, b, x, y: a > b, "{a} > {b}", "", COMPARISON,
              "{a} > {b}"),
    Operation("at_least", 2, "bool", lambda a, b, x, y: a >= b, "{a} >= {b}", "", COMPARISON,
              r"{a} \geq {b}"),
    Operation("between", 1, "bool", lambda a, b, x, y: (a >= x) & (a <= y),
              "({x} <= {a}) & ({a} <= {y})", "({x} <= {a} <= {y})", CONJUNCTION,
              r"{x} \leq {a} \leq {y}"),
    Operation("both", 2, "bool", lambda a, b, x, y: a & b, "{a} & {b}", "", CONJUNCTION,
              r"{a} \land {b}", True),
    Operation("either", 2, "bool", lambda a, b, x, y: a | b, "{a} | {b}", "", DISJUNCTION,
              r"{a} \lor {b}", True),
    Operation("negation", 1, "bool", lambda a, b, x, y: 1 - a, "~{a}", "(not {a})", UNARY,
              r"\lnot {a}"),
    # Quantifiers over the other keys that a query sees; a is what they search.
    Operation("any", 1, "bool"),
    Operation("count", 1, "int"),
    Operation("nearest", 1, "int"),
    Operation("first", 1, "int"),
    Operation("last", 1, "int"),
]  # fmt: skip

CODES: dict[str, int] = {row.name: code for code, row in enumerate(_ROWS)}
"""The number of each operation in the interpreter."""
ROWS: tuple[Operation, ...] = tuple(_ROWS)
"""All operations by number."""
QUANTIFIERS = ("any", "count", "nearest", "first", "last")

REALS = ("", "hundredths", *FUNCTIONS)
"""What a term may make of a whole number, by number: itself, a hundredth of it, or a function."""


def real_formula(name: str) -> tuple[int | None, str]:
    """Return what a function of a term computes: the least argument that counts, and a formula.

    >>> real_formula("log"), real_formula("hundredths")
    ((1, 'xp.log(x)'), (None, 'x / 100.0'))
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name].least, FUNCTIONS[name].formula
    return None, "x / 100.0" if name == "hundredths" else "x"


def real_value(name: str, x: int, rate: float) -> float:
    """Apply a function of a term to a whole number.

    >>> real_value("hundredths", 25, 0.0)
    0.25
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name].value(x, rate)
    return x / 100.0 if name == "hundredths" else float(x)


def real_bound(name: str, largest: float) -> float:
    """Return the largest magnitude of a function of a term where its argument has at most this.

    >>> real_bound("inv", float("inf")), real_bound("hundredths", 250)
    (1.0, 2.5)
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name].bound(largest)
    return largest / 100.0 if name == "hundredths" else largest
