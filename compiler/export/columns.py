"""Columns of exported modules: the lists that a program reads of a text, and their source.

Exported arrays hold no strings. A test of a symbol becomes a list of truth values, one per token, and
symbols that are compared become numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from attn_dsl.compiler.export.source import wrapped
from attn_dsl.compiler.graph import MATCH, ColumnKey, Key, SearchKey
from attn_dsl.dsl.features import FEATURES


class Reading(NamedTuple):
    """The variables of a column: its values, and for a partial column ``known`` and ``open``."""

    name: str
    known: str = ""
    open: str = ""


class Columns:
    """The columns that a program reads; each gets its variables at the first use."""

    def __init__(self, causal: bool, free: Callable[[str], str]) -> None:
        self.causal, self.free = causal, free
        self.outputs: dict[str, str] = {}  # the source of the list of each variable
        self.lists: dict[str, str] = {}  # ``Feature.python`` of those that have it, by variable
        self.imported: dict[str, None] = {}  # the features that are imported from attn_dsl
        self.sets: dict[Any, tuple[str, str]] = {}  # variable and definition of each set
        self.searches = False  # whether the function that makes searches is imported
        self._readings: dict[Key, Reading] = {}

    def table(self, key: SearchKey) -> str:
        """Return the variable of a table."""
        if key == MATCH:
            self.outputs["match"] = "matches(tokens)"
            return "match"
        return self._search(key)

    def _search(self, key: SearchKey) -> str:
        if key not in self._readings:
            self._readings[key] = Reading(self.free(f"{key.name}_1"))
            self.searches = True
            self.outputs[self._readings[key].name] = f"search_column(given, {key.source!r}, {self.causal})"
        return self._readings[key].name

    def reading(self, key: Key) -> Reading:
        """Return the variables of a column."""
        if isinstance(key, SearchKey):
            self._search(key)
        if key not in self._readings:
            assert isinstance(key, ColumnKey)
            label, before, after = self._test(key)
            label = label if label.isidentifier() and label.isascii() else label[: label.find("_")]
            made = "".join(f"_{how}{length or ''}" for how, length in key.functions)
            name = self.free(f"{key.name}{made}_{label}".rstrip("_"))
            self.outputs[name] = f"{before}{self._list(key.name)}{after}"
            found = Reading(name)
            if self.causal and key.partial:
                found = Reading(name, f"{key.name}_known", self.free(f"{name}_open"))
                self.outputs[found.known] = self._list(key.name, "_known")
                self.outputs[found.open] = f"{before}{self._list(key.name, '_open')}{after}"
            self._readings[key] = found
        return self._readings[key]

    def values(self) -> dict[str, Any]:
        """Return the values for the template ``columns``."""
        names = ["features"] * bool(self.imported) + ["search_column"] * self.searches
        imports = [f"from attn_dsl.compiler.columns import {', '.join(names)}"] if names else []
        if any("stem" in dict(getattr(key, "functions", ())) for key in self._readings):
            imports.append("from attn_dsl.dsl.functions import stem")
        return {"sets": [text for _, text in self.sets.values()], "outputs": self.outputs,
                "lists": {name: text for name, text in self.lists.items() if name != text},
                "imported": list(self.imported), "imports": imports,
                "codes": any("codes(" in value for value in self.outputs.values()),
                "given": self.searches,
                "reads_tokens": self.searches or bool(self.lists) or "match" in self.outputs}  # fmt: skip

    def _list(self, name: str, part: str = "") -> str:
        """Return the source of the list of a feature."""
        if written := FEATURES[name].python:
            variable = "tokens" if written == "tokens" else name
            self.lists[variable] = written
            return variable
        self.imported[name] = None
        return f'feature["{name}{part}"]'

    def _test(self, key: ColumnKey) -> tuple[str, str, str]:
        """Return a label for what a column makes of a feature, and its source around the list."""
        string = "string"
        for how, length in key.functions:
            part = f"[:{length}]" if how == "prefix" else f"[-{length}:]"
            string = f"stem({string})" if how == "stem" else string + part
        if key.functions and key.kind == "feature":
            return "", f"codes([{string} for string in ", "])"
        if key.kind == "feature":
            return ("", "codes(", ")") if FEATURES[key.name].type == "symbol" else ("", "", "")
        pairs = sorted(key.elements)
        text, label, name = pairs[0][0], key.label or "set", ""
        if key.label or len(pairs) > 1 or key.kind == "weight":
            name = self._set(key, pairs)
        label, test = {
            "in": (f"in_{label}", f"{string} in {name}") if name else (f"is_{text}", f"{string} == {text!r}"),
            "weight": (f"weight_{label}", f"{name}.get({string}, 0)"),
            "starts": (f"starts_{text}", f"{string}.startswith({text!r})"),
            "ends": (f"ends_{text}", f"{string}.endswith({text!r})"),
            "contains": (f"contains_{text}", f"{text!r} in {string}")}[key.kind]  # fmt: skip
        return label, f"[{test} for string in ", "]"

    def _set(self, key: ColumnKey, pairs: list[tuple[str, int]]) -> str:
        """Return the variable of a set; define it at the first use."""
        known = (key.label, key.kind, key.elements)
        if known not in self.sets:
            name = self.free(key.label or "Set")
            start, end = ("frozenset({", "})") if key.kind == "in" else ("{", "}  # hundredths")
            items = [repr(e) if key.kind == "in" else f"{e!r}: {weight}" for e, weight in pairs]
            self.sets[known] = name, wrapped(f"{name} = {start}", items, end)
        return self.sets[known][0]
