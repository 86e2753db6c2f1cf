"""The lexicon: named word sets that every program may use, read from data files.

A file of ``grammars/lexicon`` has one table per set: ``doc`` (what it holds), ``words``, and
``union`` (sets whose words it includes). A word with an apostrophe is included with a curly one too.
"""

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from attn_dsl.dsl.tree import SetLiteral


@dataclass(frozen=True, slots=True)
class WordSet:
    """A set of the lexicon: its name, a line that says what it holds, its words, and its file."""

    name: str
    doc: str
    elements: frozenset[str]
    file: str


@lru_cache(maxsize=1)
def lexicon() -> dict[str, WordSet]:
    """Return all sets of the lexicon by name, sorted by name."""
    from importlib.resources import files

    tables: dict[str, tuple[str, dict[str, Any]]] = {}
    for file in files("attn_dsl.grammars").joinpath("lexicon").iterdir():
        if file.name.endswith(".toml"):
            content = tomllib.loads(file.read_text(encoding="utf-8"))
            tables |= {name: (file.name, table) for name, table in content.items()}

    def elements(name: str) -> frozenset[str]:
        table = tables[name][1]
        parts = map(elements, table.get("union", []))
        words = table.get("words", [])
        curly = [word.replace("'", "\u2019") for word in words if any(map(str.isalpha, word))]
        return frozenset(words).union(curly, *parts)

    return {name: WordSet(name, table["doc"], elements(name), file)
            for name, (file, table) in sorted(tables.items())}  # fmt: skip


@lru_cache(maxsize=256)
def lexicon_literal(name: str) -> SetLiteral:
    """Return a set of the lexicon as a node of the syntax tree."""
    return SetLiteral(tuple(lexicon()[name].elements))
