"""Columns: what an exported program reads of a text, and the source that computes it.

Everything that needs strings is settled here, token by token: a program's comparison with a
string becomes a column of truth values, and symbols that are compared become numbers. What is left
is integers and truth values, which arrays of any kind can hold.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable
from dataclasses import dataclass

from attn_dsl.compiler.export.source import wrapped
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.lexicon import lexicon_literal
from attn_dsl.dsl.limits import MATCH_LIMIT
from attn_dsl.dsl.printer import number

INLINE = {
    "text": '[token.lstrip(" ") or token for token in tokens]',
    "token": "tokens",
    "length": '[len(token.lstrip(" ") or token) for token in tokens]',
    "seen": "[token in tokens[:i] for i, token in enumerate(tokens)]",
    "repeats": "[tokens[:i].count(token) for i, token in enumerate(tokens)]",
    "previous": (
        "[max((j for j in range(i) if tokens[j] == tokens[i]), default=-1) "
        "for i in range(len(tokens))]"
    ),
    "text_final": "[i == len(tokens) - 1 for i in range(len(tokens))]",
    "from_end": "[len(tokens) - 1 - i for i in range(len(tokens))]",
}
"""Features that a line of Python defines; exports spell them out instead of importing them."""

RESERVED = frozenset({"Attention", "WEIGHTS"})
"""Names of exported modules that a set may not take."""

MATCHES = f'''\
def matches(tokens: list[str]) -> list[list[int]]:
    """Count for all pairs of positions how many tokens ending there are the same."""
    rows: list[list[int]] = []
    for i, token in enumerate(tokens):
        above = [0, *rows[-1]] if rows else [0] * (len(tokens) + 1)
        rows.append(
            [min({MATCH_LIMIT}, 1 + above[j]) if token == other else 0 for j, other in enumerate(tokens)]
        )
    return rows
'''


@dataclass(frozen=True, slots=True)
class Reading:
    """A column that a program reads.

    Attributes:
        name: the variable that holds its values in the whole text.
        known, open: the variables that hold the token from which on each value is known, and what
            a query takes for those it does not know; empty where every value is known at once.
        pad: the value at a position that is not visible.
    """

    name: str
    known: str
    open: str
    pad: int | bool


class Columns:
    """The columns that a program reads, numbered by name as its expressions ask for them."""

    def __init__(self, program: t.Head) -> None:
        self.causal = program.causal
        self.defined = {d.name: d.value for d in program.sets}
        self.outputs: dict[str, str] = {}
        self._lists: dict[str, str] = {}
        self._imported: list[str] = []
        self._readings: dict[object, Reading] = {}
        self._sets: dict[object, tuple[str, t.SetLiteral]] = {}

    def feature(self, name: str) -> Reading:
        """Return a feature as numbers or truth values."""
        if name not in self._readings:
            wrap = "codes({})" if FEATURES[name].type == "symbol" else "{}"
            pad = 0 if FEATURES[name].type == "symbol" else FEATURES[name].pad
            assert not isinstance(pad, str)
            self._readings[name] = self._reading(name, name, wrap, pad)
        return self._readings[name]

    def equals(self, name: str, text: str) -> Reading:
        """Return whether a symbol is a string."""
        return self._test(name, f"is_{text}", f"== {text!r}", lambda value: value == text)

    def member(self, name: str, chosen: t.SetName | t.SetLiteral) -> Reading:
        """Return whether a symbol is in a set."""
        written, literal = self._set(chosen)
        label = written if isinstance(chosen, t.SetName) else "in_set"
        return self._test(name, f"in_{label}", f"in {written}", literal.elements.__contains__)

    def weight(self, name: str, chosen: t.SetName | t.SetLiteral) -> Reading:
        """Return the weight of a symbol in a weighted set, in hundredths: whole numbers."""
        written, literal = self._set(chosen)
        key = (name, f"weight {written}")
        if key not in self._readings:
            label = f"weight_{written}" if isinstance(chosen, t.SetName) else "weight"
            wrap = f"[round(100 * {written}.get(string, 0)) for string in {{}}]"
            pad = literal.hundredths().get("", 0)
            self._readings[key] = self._reading(f"{name}_{label}", name, wrap, pad)
        return self._readings[key]

    def literal(self, chosen: t.SetName | t.SetLiteral) -> t.SetLiteral:
        """Return the elements of a set: of the program, or else of the lexicon."""
        if isinstance(chosen, t.SetLiteral):
            return chosen
        return self.defined.get(chosen.name) or lexicon_literal(chosen.name)

    def affix(self, name: str, kind: str, text: str) -> Reading:
        """Return whether a symbol starts or ends with a string."""
        method = f"{kind}with"
        return self._test(
            name, f"{kind}_{text}", f".{method}({text!r})", lambda s: bool(getattr(s, method)(text))
        )

    def match(self) -> str:
        """Return the variable that holds the table of matching contexts."""
        return self.outputs.setdefault("match", "matches(tokens)") and "match"

    def source(self) -> str:
        """Write the sets and the function ``read``, which computes all columns of a text."""
        lines: list[str] = []
        for name, literal in self._sets.values():
            if literal.weights is None:
                start, items, end = "frozenset({", [repr(e) for e in literal.elements], "})"
            else:
                pairs = zip(literal.elements, literal.weights, strict=True)
                start, items, end = "{", [f"{e!r}: {number(w)}" for e, w in pairs], "}"
            lines += [*wrapped(f"{name} = {start}", items, end), ""]
        if "match" in self.outputs:
            lines += ["", *MATCHES.splitlines(), ""]
        lines += [""] if lines else []
        lines += [
            "def read(tokens: list[str]) -> dict[str, list]:",
            '    """Return the columns that the program reads of a text, one value for each token."""',
        ]
        lines += [f"    {line}".rstrip() for line in self._body()]
        return "\n".join(lines) + "\n"

    def _body(self) -> list[str]:
        if not self.outputs:
            return ["return {}"]
        lines = []
        if self._imported:
            names = ", ".join(map(repr, self._imported))
            lines += [f"feature = features(tokens, [{names}])".replace("'", '"')]
        lines += ["tokens = list(tokens)"] if self._lists or "match" in self.outputs else []
        if any("codes(" in value for value in self.outputs.values()):
            lines += [
                'number = {"": 0}',
                "",
                "def codes(strings):",
                '    """Number strings: equal ones alike, the empty one 0."""',
                "    return [number.setdefault(string, len(number)) for string in strings]",
                "",
            ]
        lines += [f"{name} = {value}" for name, value in self._lists.items() if name != value]
        items = [
            f"    {name!r}: {value},".replace("'", '"', 2) for name, value in self.outputs.items()
        ]
        return [*lines, "return {", *items, "}"]

    @property
    def imports(self) -> str:
        """The import of ``read``, if it needs attn_dsl."""
        if not self._imported:
            return ""
        return "from attn_dsl.compiler.export.runtime import features\n"

    def _raw(self, name: str, part: str = "") -> str:
        """Return the expression of a feature's list inside ``read``."""
        if name in INLINE:
            variable = "tokens" if name == "token" else name
            self._lists.setdefault(variable, INLINE[name])
            return variable
        if name not in self._imported:
            self._imported.append(name)
        return f'feature["{name}{part}"]'

    def _reading(self, name: str, base: str, wrap: str, pad: int | bool) -> Reading:
        name = self._unique(name)
        self.outputs[name] = wrap.format(self._raw(base))
        if not (self.causal and FEATURES[base].reads == "visible"):
            return Reading(name, "", "", pad)
        known, opened = f"{base}_known", self._unique(f"{name}_open")
        self.outputs[known] = self._raw(base, "_known")
        self.outputs[opened] = wrap.format(self._raw(base, "_open"))
        return Reading(name, known, opened, pad)

    def _test(self, name: str, label: str, test: str, holds: Callable[[str], bool]) -> Reading:
        key = (name, test)
        if key not in self._readings:
            test = test if test.startswith(".") else f" {test}"
            wrap = "[string" + test.replace("{", "{{").replace("}", "}}") + " for string in {}]"
            if not label.isidentifier() or not label.isascii():
                label = label[: label.index("_")]
            self._readings[key] = self._reading(f"{name}_{label}", name, wrap, holds(""))
        return self._readings[key]

    def _set(self, chosen: t.SetName | t.SetLiteral) -> tuple[str, t.SetLiteral]:
        name = "Set" if isinstance(chosen, t.SetLiteral) else chosen.name
        literal = self.literal(chosen)
        key = (name, literal)
        if key not in self._sets:
            taken = {given for given, _ in self._sets.values()} | RESERVED | self.defined.keys()
            taken -= {name} if isinstance(chosen, t.SetName) and name not in RESERVED else set()
            self._sets[key] = (_free(name, taken), literal)
        return self._sets[key]

    def _unique(self, name: str) -> str:
        return _free(name, self.outputs.keys())


def _free(name: str, taken: object) -> str:
    """Return a name, or with a number after it, that Python allows and nothing has taken."""
    tried, number = name, 0
    while tried in taken or keyword.iskeyword(tried):  # type: ignore[operator]
        number += 1
        tried = f"{name}_{number}"
    return tried
