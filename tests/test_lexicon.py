"""The standard lexicon: its sets are well formed, and hold what their names say."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files

import pytest

from attn_dsl.dsl.check import check
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.segment import Segments

SETS = lexicon()
TABLES = [
    (file.name, name, table)
    for file in files("attn_dsl.grammars").joinpath("lexicon").iterdir()
    if file.name.endswith(".toml")
    for name, table in tomllib.loads(file.read_text(encoding="utf-8")).items()
]
NAMES = [name for _, name, _ in TABLES]


def test_no_name_is_used_twice() -> None:
    assert sorted(NAMES) == list(SETS)


@pytest.mark.parametrize(("file", "name", "table"), TABLES, ids=NAMES)
def test_a_set_is_well_formed(file: str, name: str, table: dict) -> None:
    assert re.fullmatch(r"[A-Z][A-Za-z0-9]*", name)
    assert set(table) <= {"doc", "union", "words"}
    assert 5 <= len(table["doc"]) <= 100 and "\n" not in table["doc"]
    words = table.get("words", [])
    assert len(words) == len(set(words)), "a word is listed twice"
    assert all(words) and not any(word != word.strip() for word in words)
    assert SETS[name].elements and SETS[name].file == file
    assert SETS[name].doc == table["doc"]
    parts = [SETS[part].elements for part in table.get("union", [])]
    assert SETS[name].elements >= set(words).union(*parts)
    check(parse(f"head a causal:\n 2 where text(k) in {name}"))


@pytest.mark.parametrize("name", [name for file, name, _ in TABLES if file == "english.toml"])
def test_english_words_are_as_the_feature_word_gives_them(name: str) -> None:
    for word in SETS[name].elements:
        assert word == word.lower()
        if name != "ContractionPiece":
            assert Segments(word).words == [word.replace("\u2019", "'")]


@pytest.mark.parametrize("apostrophe", ["'", "\u2019"])
def test_both_apostrophes_are_known(apostrophe: str) -> None:
    word = f"don{apostrophe}t"
    for name in ("DoForm", "Auxiliary", "Negation", "Contraction", "FunctionWord"):
        assert word in SETS[name].elements


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("Pronoun", "i me you he her it they", "my myself who the"),
        ("Possessive", "my mine his their", "he that"),
        ("Determiner", "a the this my every some", "of he and"),
        ("Preposition", "of in to with under", "and the is"),
        ("Conjunction", "and or because if", "the in"),
        ("Auxiliary", "is have did would can't cannot", "go make"),
        ("Negation", "not never nothing won't", "very will"),
        ("WhWord", "who what why", "that he"),
        ("FunctionWord", "i my myself someone the of and is not who very i'm", "dog run big said"),
        ("TimeWord", "today monday week", "place may"),
        ("SentenceEnd", '. ! ? … ."', ", ; a"),
        ("Delimiter", ", ; :", ". ("),
        ("CloseBracket", ") ] } );", "( ."),
        ("QuoteMark", "\" “ ” ' «", "( ."),
        ("Dash", "- – —", "_ ."),
        ("PythonKeyword", "def None lambda yield match", "print function"),
        ("Keyword", "def function fn func struct impl let", "foo printf"),
        ("Assignment", "= += :=", "== <"),
        ("Comparison", "== < >=", "= +"),
        ("Operator", "+ == = && -> <<", "( ; x"),
        ("Constant", "None null nil true", "x 1"),
        ("Relation", "= ≤ ∈", "+ x"),
        ("Greek", "alpha ω π", "a el"),
        ("LatexCommand", "frac cdot leq mathbb begin", "dog"),
        ("NumberSet", "ℝ ℕ", "R N"),
    ],
)
def test_a_set_holds_what_its_name_says(name: str, inside: str, outside: str) -> None:
    assert SETS[name].elements >= set(inside.split())
    assert not SETS[name].elements & set(outside.split())


def test_keyword_sets_are_complete_for_python() -> None:
    import keyword

    known = {*keyword.kwlist, *keyword.softkwlist} - {"_"}
    assert known <= SETS["PythonKeyword"].elements
