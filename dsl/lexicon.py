"""The standard lexicon: named word sets that every program may use, read from data files."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class WordSet:
    """A set of the lexicon: its name, what it holds, its elements, the file that defines it."""

    name: str
    doc: str
    elements: frozenset[str]
    file: str


@lru_cache(maxsize=1)
def lexicon() -> dict[str, WordSet]:
    """Return all sets of the lexicon by name, sorted.

    >>> "she" in lexicon()["Pronoun"].elements
    True
    """
    from importlib.resources import files

    found: dict[str, WordSet] = {}
    folder = files("attn_dsl.grammars").joinpath("lexicon")
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".toml"):
            continue
        for name, entry in tomllib.loads(file.read_text(encoding="utf-8")).items():
            if name in found:
                raise ValueError(f"the lexicon defines {name} twice: {found[name].file}, {file.name}")
            found[name] = WordSet(name, entry["doc"], frozenset(entry["words"]), file.name)
    return dict(sorted(found.items()))
