"""The table of operations: what a node of the graph may compute, and how each export writes it.

A program is lowered to a graph of operations (``graph.py``). The interpreter and all exports are made
from this table. All values are integers; false and true are 0 and 1. ``a`` and ``b`` are the operands
of an operation, ``x`` and ``y`` the constants of its node.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attn_dsl.dsl.functions import FUNCTIONS, TermFunction

ATOM, UNARY, SUM, CONJUNCTION, DISJUNCTION, COMPARISON = range(5, -1, -1)
"""Binding strength of an expression in Python; a comparison binds the loosest."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation: a row of the table."""

    name: str  # ``CODES`` has its number
    takes: int  # the number of operands
    # its result on integers, as a function of a, b, x, y that Numba compiles. None if it reads
    # positions, columns or whole rows: ``interpreter.run_row`` has a branch for it.
    value: Callable[[Any, Any, Any, Any], Any] | None = None
    array: str = ""  # Python source for NumPy and torch arrays, with ``xp`` for the module
    scalar: str = ""  # Python source for numbers, which Numba compiles; "" if equal to ``array``
    level: int = ATOM  # the binding strength of the source, which decides on parentheses
    latex: str = ""
    commutes: bool = False  # whether a and b may be swapped


ROWS: tuple[Operation, ...] = (
    # Positions, constants and columns of a text.
    Operation("constant", 0),  # x
    Operation("query", 0),  # q + x
    Operation("key", 0),  # k + x
    Operation("column_query", 0),  # column y at q + x
    Operation("column_key", 0),  # column y at k + x
    Operation("column", 1),  # column y at position a
    Operation("table", 2),  # table y at positions a and b, x outside: what a search finds, or ``match``
    # Arithmetic of whole numbers.
    Operation("add", 2, lambda a, b, x, y: a + b, "{a} + {b}", "", SUM, "{a} + {b}", True),
    Operation("subtract", 2, lambda a, b, x, y: a - b, "{a} - {b}", "", SUM, "{a} - {b}"),
    Operation("times", 1, lambda a, b, x, y: a * x, "{a} * {x}", "", UNARY, r"{x} \cdot [{a}]"),
    Operation("modulo", 1, lambda a, b, x, y: a % x, "{a} % {x}", "", UNARY, r"{a} \bmod {x}"),
    Operation("absolute", 1, lambda a, b, x, y: abs(a), "abs({a})", "", ATOM, r"\lvert {a} \rvert"),
    Operation("minimum", 2, lambda a, b, x, y: min(a, b), "xp.clip({a}, None, {b})",
              "min({a}, {b})", ATOM, r"\min({a}, {b})", True),
    Operation("maximum", 2, lambda a, b, x, y: max(a, b), "xp.clip({a}, {b}, None)",
              "max({a}, {b})", ATOM, r"\max({a}, {b})", True),
    # Predicates.
    Operation("equal", 2, lambda a, b, x, y: a == b, "{a} == {b}", "", COMPARISON,
              "{a} = {b}", True),
    Operation("unequal", 2, lambda a, b, x, y: a != b, "{a} != {b}", "", COMPARISON,
              r"{a} \neq {b}", True),
    Operation("less", 2, lambda a, b, x, y: a < b, "{a} < {b}", "", COMPARISON, "{a} < {b}"),
    Operation("at_most", 2, lambda a, b, x, y: a <= b, "{a} <= {b}", "", COMPARISON,
              r"{a} \leq {b}"),
    Operation("more", 2, lambda a, b, x, y: a > b, "{a} > {b}", "", COMPARISON, "{a} > {b}"),
    Operation("at_least", 2, lambda a, b, x, y: a >= b, "{a} >= {b}", "", COMPARISON,
              r"{a} \geq {b}"),
    Operation("between", 1, lambda a, b, x, y: (a >= x) & (a <= y),
              "({x} <= {a}) & ({a} <= {y})", "({x} <= {a} <= {y})", CONJUNCTION,
              r"{x} \leq {a} \leq {y}"),
    Operation("both", 2, lambda a, b, x, y: a & b, "{a} & {b}", "", CONJUNCTION,
              r"{a} \land {b}", True),
    Operation("either", 2, lambda a, b, x, y: a | b, "{a} | {b}", "", DISJUNCTION,
              r"{a} \lor {b}", True),
    Operation("negation", 1, lambda a, b, x, y: 1 - a, "~{a}", "(not {a})", UNARY, r"\lnot {a}"),
    # Quantifiers over the keys that a query sees, except its own; a is the predicate. Keep them last:
    # the interpreter treats all operations from ``any`` on as quantifiers.
    Operation("any", 1),
    Operation("count", 1),
    Operation("nearest", 1),
    Operation("first", 1),
    Operation("last", 1),
)  # fmt: skip
"""All operations by number."""

CODES: dict[str, int] = {row.name: code for code, row in enumerate(ROWS)}
"""The number of each operation, by name."""
QUANTIFIERS = ("any", "count", "nearest", "first", "last")

REALS: dict[str, TermFunction] = {
    "": TermFunction("", "the integer", "", None, "x", "{x}", float),
    "hundredths": TermFunction("hundredths", "a hundredth of the integer", "", None, "x / 100.0",
                               "{x}", lambda x: x / 100.0),
    **FUNCTIONS,
}  # fmt: skip
"""The real functions of an integer in terms: itself, a hundredth of it, or a term function."""
