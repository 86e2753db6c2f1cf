"""Language models: the same protocol for transformers and llama.cpp, and what cannot be used."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attn_dsl.dsl.errors import InputError
from attn_dsl.synth.llm.grammar import proposal_grammar
from attn_dsl.synth.llm.model import LanguageModel, ModelError, Sampling
from attn_dsl.synth.llm.named import check_spec, open_model
from attn_dsl.synth.llm.reading import complaint, extracted, read, whole_terms
from attn_dsl.synth.llm.sampling import draw

GRAMMAR = proposal_grammar(True, numbers=False)
PROMPT = "A head that looks at the token before."


@pytest.fixture(scope="module", params=["transformers", "llama.cpp"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    if request.param == "transformers":
        return open_model(str(request.getfixturevalue("language_model")))
    pytest.importorskip("llama_cpp")
    return open_model(str(request.getfixturevalue("shared") / "models" / "stories260k.gguf"))


def test_completions_are_programs_and_repeat(model: LanguageModel) -> None:
    sampling = Sampling(max_tokens=160)
    found = model.complete(PROMPT, GRAMMAR, 12, 3, sampling)
    assert len(found) == 12
    programs = 0
    for completion in found:
        assert completion.tokens <= 160
        assert completion.logprob is not None and completion.logprob < 0
        text = whole_terms(completion.text) if completion.truncated else completion.text
        if not completion.truncated:
            assert text and text.endswith("\n")
        if text:
            assert set(read(text, causal=True).weights) <= {None}
            programs += 1
    assert programs
    assert len({c.text for c in found}) > 6
    assert model.complete(PROMPT, GRAMMAR, 12, 3, sampling) == found
    other = model.complete(PROMPT, GRAMMAR, 12, 4, sampling)
    assert [c.text for c in other] != [c.text for c in found]


def test_truncated_ones_are_counted(model: LanguageModel) -> None:
    found = model.complete(PROMPT, GRAMMAR, 4, 0, Sampling(max_tokens=16))
    assert {c.truncated for c in found} >= {True}
    for completion in found:
        assert completion.tokens <= 16


def test_greedy_sampling_is_the_same_for_all(model: LanguageModel) -> None:
    found = model.complete(PROMPT, GRAMMAR, 3, 0, Sampling(temperature=0, max_tokens=40))
    assert len({c.text for c in found}) == 1


def test_it_stops_when_told(model: LanguageModel) -> None:
    asked = iter(range(1_000))
    found = model.complete(PROMPT, GRAMMAR, 6, 0, Sampling(max_tokens=200), lambda: next(asked) > 8)
    assert len(found) == 6
    assert all(c.truncated and c.tokens < 12 for c in found)


def test_a_prompt_that_does_not_fit(model: LanguageModel) -> None:
    words = "word " * model.context
    with pytest.raises(ModelError, match=r"the model's context is \d+.*--prompt-tokens"):
        model.complete(words, GRAMMAR, 1, 0, Sampling())


def test_branching_changes_nothing(language_model: Path) -> None:
    model: Any = open_model(str(language_model))
    assert model._branching
    branching = model.complete(PROMPT * 3, GRAMMAR, 8, 0, Sampling(max_tokens=60))
    model._branching = False
    model._model.set_attn_implementation("sdpa")
    plain = model.complete(PROMPT * 3, GRAMMAR, 8, 0, Sampling(max_tokens=60))
    assert [c.text for c in branching] == [c.text for c in plain]
    for a, b in zip(branching, plain, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-3)


@pytest.mark.shared
def test_two_backends_write_the_same(shared: Path) -> None:
    pytest.importorskip("llama_cpp")
    sampling = Sampling(max_tokens=60)
    one, other = (
        open_model(str(shared / "models" / name)).complete(PROMPT, GRAMMAR, 8, 0, sampling)
        for name in ("stories260k", "stories260k.gguf")
    )
    same = [(a, b) for a, b in zip(one, other, strict=True) if a.text == b.text]
    assert len(same) >= 5  # a draw near the border of two tokens may go either way
    for a, b in same:
        assert a.logprob == pytest.approx(b.logprob, abs=0.1)


def test_draws_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    uniform = np.random.default_rng(0).random(4_000)

    def shares(sampling: Sampling) -> np.ndarray:
        drawn = [draw(logits, u, sampling)[0] for u in uniform]
        return np.bincount(drawn, minlength=4) / len(uniform)

    assert shares(Sampling()) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    assert shares(Sampling(top_p=0.75)) == pytest.approx([5 / 8, 3 / 8, 0, 0], abs=0.03)
    assert shares(Sampling(min_p=0.2)) == pytest.approx([50 / 95, 30 / 95, 15 / 95, 0], abs=0.03)
    assert shares(Sampling(temperature=0))[0] == 1
    sharp = np.array([0.25, 0.09, 0.0225, 0.0025])
    assert shares(Sampling(temperature=0.5)) == pytest.approx(sharp / sharp.sum(), abs=0.03)
    chosen, logprob = draw(logits, 0.9, Sampling(temperature=2))
    assert logprob == pytest.approx(math.log([0.5, 0.3, 0.15, 0.05][chosen]))


def test_logits_that_are_not_numbers() -> None:
    with pytest.raises(ModelError, match="not numbers"):
        draw(np.array([np.nan, np.nan]), 0.5, Sampling())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temperature": -1}, "--temperature must lie between 0 and 10"),
        ({"top_p": 0.0}, "--top-p must be above 0"),
        ({"min_p": 2}, "--min-p must lie between 0 and 1"),
        ({"max_tokens": 3}, "--completion-tokens must be at least 16"),
    ],
)
def test_sampling_out_of_range(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Sampling(**options)


def test_what_is_no_model(tmp_path: Path, language_model: Path) -> None:
    pytest.importorskip("llama_cpp")
    (tmp_path / "no.gguf").write_bytes(b"PK\x03\x04 something else")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(40))
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "bert"}')
    for spec, says in (
        (f"{tmp_path}/missing.gguf", "no such file"),
        (f"{tmp_path}/no.gguf", "not a GGUF file"),
        (f"{tmp_path}/cut.gguf", r"llama\.cpp cannot load it"),
        (f"{tmp_path}/empty", r"without config\.json"),
        (f"{tmp_path}/odd", "cannot be loaded as a causal language model"),
        (f"{tmp_path}/none", "no such directory"),
        ("hf:repo", "hf:REPO:FILE"),
        ("replay:nowhere", "no completions are kept there"),
    ):
        with pytest.raises(InputError, match=says):
            open_model(spec)
    broken = shutil.copytree(language_model, tmp_path / "unknown")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "attn_dsl_prompt": "poem"}))
    with pytest.raises(InputError, match="'poem', which is unknown"):
        open_model(str(broken))


@pytest.mark.parametrize(
    ("spec", "package", "extra"),
    [("a.gguf", "llama_cpp", "llm"), ("http://localhost:1/v1", "openai", "openai")],
)
def test_a_missing_extra_gives_the_install_line(
    monkeypatch: pytest.MonkeyPatch, spec: str, package: str, extra: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == package else found(name, *a)
    )
    with pytest.raises(InputError, match=rf"pip install 'attn-dsl\[{extra}\]'"):
        check_spec(spec)


def test_programs_are_read_from_answers() -> None:
    source = "head a causal softmax:\n    ? where k == 0\n"
    assert extracted(f"Of course!\n```attn\n{source}```\nIt looks at the first.") == source
    assert extracted(f"Here it is.\n{source}I hope that helps.") == source
    assert extracted("I cannot do that.") == "I cannot do that."
    assert complaint(source, causal=True) is None
    assert "bidirectional" in str(complaint(source, causal=False))
    assert "text_final" in str(complaint(source.replace("k == 0", "text_final(k)"), causal=True))
    assert "softmax" in str(complaint(source.replace("softmax", "linear"), causal=True))
    assert whole_terms(source + "    ? whe") == source
    assert whole_terms("head a causal softmax:\n    ? whe") is None
    assert whole_terms("head a cau") is None
