"""Syntax features with a real spaCy pipeline, whichever tokens the words are cut into."""

from __future__ import annotations

from pathlib import Path

import pytest

import attn_dsl
from attn_dsl.dsl import syntax
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.tokens import Tokens

pytest.importorskip("spacy")

WHOLE = ["The", " dog", " chased", " a", " cat", "."]
PIECES = ["<s>", "The", " d", "og", " chas", "ed", " a", " cat", "."]


@pytest.fixture
def pipeline(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(syntax.PIPELINE_VARIABLE, str(shared / "models/spacy-en-ewt"))


def values(name: str, strings: list[str]) -> list[object]:
    column = FEATURES[name].compute(Analysis(Tokens.from_strings(strings)))
    return list(column.settled)


@pytest.mark.shared
@pytest.mark.usefixtures("pipeline")
def test_parts_of_speech_go_to_every_piece_of_a_word() -> None:
    tags = ["DET", "NOUN", "VERB", "DET", "NOUN", "PUNCT"]
    assert values("upos", WHOLE) == tags
    assert values("upos", PIECES) == ["", *(tags[i] for i in (0, 1, 1, 2, 2, 3, 4, 5))]
    assert values("dep", WHOLE)[1] == "nsubj"
    assert values("syntax_head", PIECES)[1] == 3, "the last piece of the word that is the head"


@pytest.mark.shared
@pytest.mark.usefixtures("pipeline")
def test_a_program_may_use_them() -> None:
    program = attn_dsl.parse("head h bidirectional:\n 50 where k == syntax_head(q)")
    matrix = program(WHOLE)
    assert matrix[1].argmax() == 2
    with pytest.raises(attn_dsl.ProgramError, match="reads the whole text"):
        attn_dsl.parse('head h causal:\n 1 where upos(k) == "NOUN"')
    ahead = attn_dsl.parse('head h causal:\n 50 where upos(k) == "NOUN"', allow_lookahead=True)
    assert ahead.facts.lookahead == ("upos",)
    assert ahead(WHOLE)[2].argmax() == 1


@pytest.mark.shared
@pytest.mark.usefixtures("pipeline")
def test_tags_agree_with_the_treebank(shared: Path) -> None:
    """The pipeline reads our words: nearly its published 93.8 % where the words are the same."""
    right = total = 0
    sentence: list[tuple[str, str]] = []
    with (shared / "text/ud-ewt-test.conllu").open(encoding="utf-8") as file:
        lines = [next(file).rstrip("\n") for _ in range(6_000)]
    for line in lines:
        if line and not line.startswith("#"):
            number, form, _, tag, *_ = line.split("\t")
            if number.isdigit():
                sentence.append((form, tag))
        elif sentence:
            strings = [" " + form for form, _ in sentence]
            for found, (form, tag) in zip(values("upos", strings), sentence, strict=True):
                if form.isalpha():
                    right += found == tag
                    total += 1
            sentence = []
    assert total > 1_000
    assert right / total > 0.85


def test_a_missing_pipeline_is_an_error_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(syntax.PIPELINE_VARIABLE, "no_such_pipeline")
    with pytest.raises(InputError, match=syntax.PIPELINE_VARIABLE):
        values("upos", WHOLE)
