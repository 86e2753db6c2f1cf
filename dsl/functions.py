"""Term functions: the table ``FUNCTIONS`` of real functions of an integer, such as ``log``.

Only terms may use them. The grammar, error messages, compiler, exports and reference pages are made
from this table. To add a function, add a row to ``_ALL``. ``shortened`` has the functions of symbols.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache


@dataclass(frozen=True)
class TermFunction:
    """A real function of an integer, as in ``-0.8 * log(1 + q - k)``.

    ``formula`` is a Python expression of ``x`` (the argument as a float, at least ``least``), of
    ``rate`` if the function has one, and of ``xp``, a module: ``math``, ``numpy`` or ``torch``.
    """

    name: str
    doc: str  # its value, for the reference pages
    example: str  # a value of the language that uses it
    least: int | None  # smaller arguments are replaced by this number; None: none are
    formula: str
    latex: str  # the function in LaTeX, with ``{x}`` for the argument and ``{rate}`` for the rate
    bound: Callable[[float], float]  # its largest magnitude, given that of its argument

    @property
    def rated(self) -> bool:
        """Whether the function has a second argument, a rate between 0 and 1."""
        return "rate" in self.formula

    @cached_property
    def value(self) -> Callable[[int, float], float]:
        """The function of an integer and a rate in plain Python, which Numba can compile."""
        x = "x" if self.least is None else f"max(x, {self.least})"
        inside = re.sub(r"\bx\b", f"float({x})", self.formula)
        made: Callable[[int, float], float] = eval(f"lambda x, rate: {inside}", {"xp": math})
        return made


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
"""All term functions by name."""


def shortened(string: str, name: str, length: int = 0) -> str:
    """Return the first or last characters of a string, or its stem.

    >>> shortened("running", "prefix", 4), shortened("running", "suffix", 3), shortened("running", "stem")
    ('runn', 'ing', 'run')
    """
    if name == "stem":
        return stem(string)
    return string[:length] if name == "prefix" else string[-length:]


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """Return the stem of an English word in lower case, by the Snowball rules (Porter 2001)."""
    from snowballstemmer.english_stemmer import EnglishStemmer  # one object serves one thread

    return str(EnglishStemmer().stemWord(word.lower()))
