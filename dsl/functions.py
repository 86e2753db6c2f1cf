"""Term functions: the functions of an integer that only terms have, each one row of a table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TermFunction:
    """A function of an integer x, of which max(x, least) counts."""

    name: str
    doc: str
    example: str
    least: int
    formula: str
    latex: str
    bound: Callable[[float], float]

    def value(self, x: int, rate: float = 0.0) -> float:
        """Compute it."""
        names = {"x": float(max(x, self.least)), "rate": rate, "xp": math}
        return float(eval(self.formula, names))


FUNCTIONS = {
    f.name: f
    for f in (
        TermFunction("log", "ln max(x, 1)", "log(1 + q - k)", 1, "xp.log(x)",
                     r"\ln \max({x}, 1)", lambda largest: math.log(max(largest, 1))),
        TermFunction("sqrt", "root of max(x, 0)", "sqrt(q - k)", 0, "xp.sqrt(x)",
                     r"\sqrt{{\max({x}, 0)}}", lambda largest: math.sqrt(largest)),
        TermFunction("inv", "1 / max(x, 1)", "inv(1 + q - k)", 1, "1.0 / x",
                     r"\frac{{1}}{{\max({x}, 1)}}", lambda largest: 1.0),
        TermFunction("decay", "r to the power of max(x, 0)", "decay(q - k, 0.5)", 0, "rate ** x",
                     r"{rate}^{{\max({x}, 0)}}", lambda largest: 1.0),
    )
}
