"""Titles by language models: asked once, kept in the run, marked as the model's words."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from command_line import attn_dsl, succeed
from lark import Lark
from llm_server import Behaviour, serving

from attn_dsl.compiler.program import parse
from attn_dsl.dsl.gbnf import to_gbnf
from attn_dsl.synth.llm.model import Request
from attn_dsl.synth.llm.named import open_model
from attn_dsl.synth.llm.naming import GRAMMAR, LETTERS, titles

SOURCE = """\
set Pets = {"cat", "dog", "bird"}

score Stops:
    2 where token(i) == "."
    1 where lower(i) in Article

head a causal softmax:
    1 * Stops(k)
    0.5 where word(k) in Pets and text(q) in {" a", " the", " my"}
    2 where text(k) in {"x"}
"""
NAMES = ["a", "Stops", "Pets", '{" a", " my", " the"}']


def explained(*arguments: object) -> str:
    return succeed("explain", *arguments)


def test_titles_are_asked_for_once_kept_and_marked(small_run: Path, gguf_model: Path, tmp_path: Path) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    plain = explained(run, "L0H1")
    asked = explained(run, "L0H1", "--llm", gguf_model)
    assert asked.startswith(plain)
    mark, *first = asked.removeprefix(plain).strip().splitlines()
    assert mark == "In the words of a language model, which may be wrong:"
    line = " ".join(first)
    assert re.match(rf"- l00h01: “[^”]+” \({gguf_model.name}\)", line)
    file = run / "llm" / "titles.jsonl"
    kept = file.read_text()
    assert "Begin with “It looks at”" in json.loads(kept.splitlines()[0])["prompt"]
    assert explained(run, "L0H1") == explained(run, "L0H1", "--llm", gguf_model) == asked
    assert file.read_text() == kept
    told = json.loads(explained(run, "L0H1", "--json"))
    title = told["titles_by_language_model"][0]
    assert title["of"] == "l00h01" and f"“{title['text']}”" in line
    file.unlink()
    assert explained(run, "L0H1") == plain
    assert "titles_by_language_model" not in json.loads(explained(run, "L0H1", "--json"))


def test_programs_scores_and_sets_have_titles_of_a_few_words(language_model: Path, tmp_path: Path) -> None:
    model, program = open_model(str(language_model)), parse(SOURCE).tree
    found = list(titles(program, "Looks at pets.", None, model))
    assert [one.of for one in found] == NAMES
    assert all(0 < len(one.text) <= LETTERS for one in found)
    grammar = GRAMMAR.format("They are")
    request = Request("A word:", True, 4, 0, max_tokens=40, other=grammar)
    for completion in model.complete(request, lambda: False):
        assert completion.truncated or Lark(grammar).parse(completion.text)
    assert list(titles(program, "Looks at pets.", None, None)) == []


@pytest.mark.parametrize("owner", ["llamacpp", "library"])
def test_a_server_is_asked_for_titles(owner: str, language_model: Path, tmp_path: Path) -> None:
    how = Behaviour(owner=owner, wrong="They are **pets, and `stops`**.\nIs that all?")
    with serving(language_model, how) as url:
        found = list(titles(parse(SOURCE).tree, "Looks at pets.", tmp_path, open_model(url)))
    assert [one.of for one in found] == NAMES and {one.model for one in found} == {"small"}
    if owner == "llamacpp":
        assert {asked["grammar"] for asked in how.asked} == {
            to_gbnf(GRAMMAR.format(begun)) for begun in ("It looks at", "They are")
        }
    else:
        assert {one.text for one in found} == {"pets, and stops", "They are pets, and stops"}


def test_what_cannot_give_titles_is_refused(small_run: Path) -> None:
    for name, says in ((f"replay:{small_run}", "without --llm"), ("nowhere.gguf", "nowhere.gguf")):
        outcome = attn_dsl("explain", small_run, "L0H1", "--llm", name)
        assert outcome.code == 2 and says in outcome.err and not outcome.out
