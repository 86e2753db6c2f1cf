"""Colours of programs: Pygments, TextMate and pages give every lexeme the same kind."""

from __future__ import annotations

import importlib
import json
import re
import tomllib
from pathlib import Path

import pytest
from command_line import attn_dsl, succeed
from pygments.token import Error, Name, Token

from attn_dsl.cli.editors import KINDS, AttnLexer, textmate
from attn_dsl.dsl.definitions import canonical
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.functions import FUNCTIONS
from attn_dsl.dsl.highlighting import marked
from attn_dsl.dsl.library import library

ROOT = Path(__file__).parents[1]
WHOLE = """\
# Everything that the grammar has.
use "vocabulary.attn"
set Starts = {"a": 1.5, "b\\"c": -2}
score Late:
    1 where punct(i)
def rank(i) = count(j where length(j) < 3 and j <= i)
def odd(i) = rank(i) % 2 == 1
head where causal linear:
    -2.5 * log(1 + q-1) where k == 0 and not odd(k) or rank(k) in -1..3  # beside
    ? where prefix(text(k-1), 2) not in Starts and n > 2
    by q - k [-1: 2, 3: ?] where any(punct(j))
    1 * Late(k-1) + 2 * decay(q - k, 0.9)
"""
SOURCES = {"whole": WHOLE} | {
    name: (ROOT / "grammars" / x.path).read_text(encoding="utf-8") for name, x in library(spacy=True).items()
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_pygments_knows_every_lexeme(source: str) -> None:
    found = list(AttnLexer(stripnl=False).get_tokens(source))
    assert "".join(text for _, text in found) == source
    assert not [text for kind, text in found if kind in Error]


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_pages_and_editors_have_the_kinds_of_pygments(source: str) -> None:
    """The TextMate grammar is read as editors do: line by line, earliest match, first rule."""
    lexer = AttnLexer(stripnl=False)
    wanted = [(kind, text) for kind, text in lexer.get_tokens(source) if kind not in Token.Text]
    assert [(KINDS[kind][0], text) for kind, text in marked(source) if kind] == wanted
    patterns = textmate()["patterns"]
    scopes, scoped = {f"{scope}.attn": kind for kind, scope in KINDS.values()}, []
    for line in source.split("\n"):
        at = 0
        while at < len(line):
            hits = [(re.compile(one["match"]).search(line, at), one["name"]) for one in patterns]
            first = min(((hit, name) for hit, name in hits if hit), key=lambda x: x[0].start(), default=None)
            if first is None:
                break
            scoped.append((scopes[first[1]], first[0][0]))
            at = first[0].end()
    assert scoped == wanted


def test_kinds_come_from_the_grammar_and_the_tables() -> None:
    kinds = [(kind, text) for kind, text in marked(WHOLE) if kind]
    for wanted in (
        ("comment", "# beside"), ("string", '"b\\"c"'), ("number", "-2.5"), ("number", "?"),
        ("definition", "rank"), ("definition", "where"), ("call", "rank"), ("type", "Late"),
        ("word", "use"), ("variable", "n"), ("operator", ".."), ("function", "prefix"),
    ):  # fmt: skip
        assert wanted in kinds, wanted
    assert ("number", "-1") in kinds, "a bound"
    assert kinds.count(("number", "1")) == 7, "and q-1 is a difference"
    for name in (
        *(f.name for f in FEATURES.values() if f.arity),
        *FUNCTIONS,
        "any",
        "count",
        "stem",
    ):
        assert next(marked(f"{name}(k)")) == ("function", name)
    assert next(marked("txt(k)")) == ("call", "txt"), "a misspelt feature looks otherwise"


def test_what_is_no_lexeme_is_an_error() -> None:
    found = list(AttnLexer().get_tokens('2 where text(k) == "open\n'))
    assert (Error, '"') in found and (Name.Builtin, "text") in found


def test_the_entry_point_names_the_lexer() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"]["pygments.lexers"]["attn"].partition(":")
    assert getattr(importlib.import_module(module), name) is AttnLexer


def test_the_grammar_for_editors_is_printed() -> None:
    assert json.loads(succeed("grammar", "--textmate")) == textmate()
    assert attn_dsl("grammar", "--textmate", "--gbnf").code == 2


def test_the_example_is_a_program() -> None:
    assert "def odd(i) = rank(i) % 2 == 1" in canonical(WHOLE, "whole")
