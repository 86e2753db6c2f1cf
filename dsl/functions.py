"""Functions of an integer that only terms have: the table ``FUNCTIONS``, one row for each.

The grammar, error messages, evaluators, exports and reference pages are made from it. To add a
function, add a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TermFunction:
    """A function of an integer, as in ``-0.8 * log(1 + q - k)``.

    ``formula`` is a Python expression of ``x`` (the argument as a float), of ``rate`` if the
    function has one, and of ``xp``, a module such as ``math``, ``numpy`` or ``torch``.
    """

    name: str
    doc: str  # its value, for the reference
    example: str  # a value that uses it
    least: int  # a smaller argument counts as this one
    formula: str
    latex: str  # the same in LaTeX, with ``{x}`` for the argument as it is written, and ``{rate}``
    bound: Callable[[float], float]  # its largest magnitude, from that of the argument

    @property
    def rated(self) -> bool:
        """Whether it has a rate between 0 and 1 as its second argument."""
        return "rate" in self.formula

    def value(self, x: int, rate: float = 0.0) -> float:
        """Compute it with the module ``math``.

        >>> FUNCTIONS["inv"].value(4), FUNCTIONS["decay"].value(2, 0.5)
        (0.25, 0.25)
        """
        names = {"x": float(max(x, self.least)), "rate": rate, "xp": math}
        return float(eval(self.formula, names))


_ALL = [
    TermFunction("log", "ln max(x, 1)", "log(1 + q - k)", 1, "xp.log(x)",
                 r"\ln \max({x}, 1)", lambda x: math.log(max(x, 1.0))),
    TermFunction("sqrt", "the square root of max(x, 0)", "sqrt(q - k)", 0, "xp.sqrt(x)",
                 r"\sqrt{{\max({x}, 0)}}", math.sqrt),
    TermFunction("inv", "1 / max(x, 1)", "inv(q - k)", 1, "1.0 / x",
                 r"\frac{{1}}{{\max({x}, 1)}}", lambda x: 1.0),
    TermFunction("decay", "rate to the power of max(x, 0)", "decay(q - k, 0.9)", 0, "rate ** x",
                 r"{rate}^{{\max({x}, 0)}}", lambda x: 1.0),
]  # fmt: skip

FUNCTIONS: dict[str, TermFunction] = {function.name: function for function in _ALL}
"""All functions of a term by name."""
