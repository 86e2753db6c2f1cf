"""Language models: the same protocol for transformers and llama.cpp, and what cannot be used."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llm_models import is_proposal

from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.parser import parse
from attn_dsl.synth.llm import kept
from attn_dsl.synth.llm.model import Completion, LanguageModel, ModelError, Request
from attn_dsl.synth.llm.named import absolute, check_spec, open_model
from attn_dsl.synth.llm.parse_output import extracted, programs, read, whole_terms
from attn_dsl.synth.llm.sampling import Writing, draw

ASKED = Request("A head that looks at the token before.", True, 12, 3, max_tokens=160)


def never() -> bool:
    return False


@pytest.fixture(scope="module", params=["language_model", "gguf_model"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return open_model(str(request.getfixturevalue(request.param)))


def test_completions_are_programs_and_repeat(model: LanguageModel) -> None:
    found = model.complete(ASKED, never)
    assert len(found) == 12
    assert len({c.text for c in found}) > 6
    for completion in found:
        assert completion.tokens <= 160
        text = whole_terms(completion.text) if completion.truncated else completion.text
        assert is_proposal(text) if text else completion.truncated
    assert len(list(programs(found, causal=True, name="a"))) > 4
    assert model.complete(ASKED, never) == found
    other = model.complete(dataclasses.replace(ASKED, seed=4), never)
    assert [c.text for c in other] != [c.text for c in found]


def test_bidirectional_heads(model: LanguageModel) -> None:
    found = model.complete(dataclasses.replace(ASKED, causal=False), never)
    whole = [whole_terms(c.text) if c.truncated else c.text for c in found]
    assert any(whole)
    assert all(is_proposal(text, causal=False) for text in whole if text)


def test_more_completions_than_are_written_side_by_side(model: LanguageModel) -> None:
    found = model.complete(dataclasses.replace(ASKED, count=70, max_tokens=40), never)
    assert len(found) == 70
    assert len({c.text for c in found}) > 20
    assert all(0 < c.tokens <= 40 for c in found)


def test_greedy_sampling_is_the_same_for_all(model: LanguageModel) -> None:
    found = model.complete(dataclasses.replace(ASKED, count=3, temperature=0, max_tokens=40), never)
    assert len({c.text for c in found}) == 1


def test_it_stops_when_told(model: LanguageModel) -> None:
    asked = iter(range(1_000))
    found = model.complete(ASKED, lambda: next(asked) > 8)
    assert len(found) == 12
    assert all(c.truncated and c.tokens < 40 for c in found)


def test_what_prompts_share_is_read_once(
    language_model: Path, gguf_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Likeliest tokens are the same whether the shared part was read now, kept, or kept on disk."""
    shared = "The language: k == 0 is the first token. " * 12
    asked = [
        Request(shared + own, True, 2, 0, 0.0, 60, shared=len(shared))
        for own in ("The head: a", "The head: b")
    ]
    for where in (language_model, gguf_model):
        model: Any = open_model(str(where))
        whole = [model.complete(dataclasses.replace(one, shared=0), never) for one in asked]
        read, original = list[int](), model._read

        def counted(*given: Any, **how: Any) -> Any:
            rows = given[2] if where == gguf_model else given[0]  # noqa: B023
            read.append(len(rows))  # noqa: B023
            return original(*given, **how)  # noqa: B023

        monkeypatch.setattr(model, "_read", counted)
        found = [model.complete(one, never) for one in asked]
        assert found == whole
        assert sum(n > 100 for n in read) <= 1  # none where the disk has it from before
        assert model.complete(asked[0], never) == found[0]
    for file in kept.folder().iterdir():
        file.write_bytes(file.read_bytes()[:-7])
    assert open_model(str(gguf_model)).complete(asked[1], never) == found[1]
    assert "damaged" in caplog.text
    caplog.clear()
    assert open_model(str(gguf_model)).complete(asked[1], never) == found[1]
    assert not caplog.text


def test_what_is_kept_on_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kept, "MOST_BYTES", 1_000)
    for number in range(12):
        kept.save(f"{number}.state", bytes(90))
    names = {file.name for file in kept.folder().iterdir()}
    assert len(names) == kept.MOST_FILES and "11.state" in names
    kept.save("large.state", bytes(2_000))
    kept.save("most.state", bytes(900))
    assert kept.load("most.state") == bytes(900)
    assert kept.load("large.state") is None
    (tmp_path / "attn-dsl" / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "attn-dsl" / "file"))
    kept.save("nowhere.state", b"data")
    assert kept.load("nowhere.state") is None


def test_a_prompt_that_does_not_fit(model: LanguageModel) -> None:
    long = dataclasses.replace(ASKED, prompt="word " * model.context)
    with pytest.raises(ModelError, match=r"context leaves 0 tokens.*--prompt-tokens"):
        model.complete(long, never)


def test_both_formats_are_the_same_model(language_model: Path, gguf_model: Path) -> None:
    one, other = open_model(str(language_model)), open_model(str(gguf_model))
    assert one.context == other.context == 4096
    assert one.fingerprint != other.fingerprint
    for prompt in (ASKED.prompt, '? where text(k) in {"the", " café"}\n    ? * log(1 + q - k)'):
        assert one.count(prompt) == other.count(prompt)
    short = dataclasses.replace(ASKED, max_tokens=40)
    pairs = zip(one.complete(short, never), other.complete(short, never), strict=True)
    # a draw near the border of two tokens may go either way
    assert sum(a == b for a, b in pairs) >= 8


@pytest.mark.parametrize("family", ["demo", "mistral", "gemma3_text"])
def test_side_by_side_is_as_one_by_one(family: str, language_model: Path, tmp_path: Path) -> None:
    """Completions that share a prompt's cells, in models with and without sliding windows."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = language_model
    if family != "demo":
        torch.manual_seed(0)
        config = AutoConfig.for_model(
            family, vocab_size=2048, hidden_size=32, intermediate_size=64, num_hidden_layers=6,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=12,
            bos_token_id=0, eos_token_id=0, pad_token_id=0, max_position_embeddings=512,
        )  # fmt: skip
        folder = tmp_path / family
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(language_model).save_pretrained(folder)
    model: Any = open_model(str(folder))
    asked = dataclasses.replace(ASKED, count=5, max_tokens=30)
    found = model.complete(asked, never)
    writing, ids = Writing(model.tokenizer, asked, 30), model.encoded(asked.prompt)
    for at in range(5):
        token: int | None = -1
        while token is not None:
            with torch.inference_mode():
                logits = model._model(torch.tensor([ids + writing.tokens[at]])).logits[0, -1]
            token = writing.step(at, logits.numpy())
    assert len({c.text for c in found}) > 1
    assert sum(a == b for a, b in zip(found, writing.completions(), strict=True)) >= 4


def test_draws_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    uniform = np.random.default_rng(0).random(4_000)

    def shares(temperature: float, min_p: float = 0.0) -> np.ndarray:
        how = dataclasses.replace(ASKED, temperature=temperature, min_p=min_p)
        drawn = [draw(logits, u, how) for u in uniform]
        return np.bincount(drawn, minlength=4) / len(uniform)

    assert shares(1.0) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    sharp = np.array([0.25, 0.09, 0.0225, 0.0025])
    assert shares(0.5) == pytest.approx(sharp / sharp.sum(), abs=0.03)
    assert shares(0.0)[0] == 1
    assert shares(1.0, 0.25) == pytest.approx([0.5263, 0.3158, 0.1579, 0], abs=0.03)
    with pytest.raises(ModelError, match="not numbers"):
        draw(np.array([np.nan, np.nan]), 0.5, ASKED)


def test_what_is_no_model(tmp_path: Path, gguf_model: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"PK\x03\x04 something else")
    (tmp_path / "cut.gguf").write_bytes(gguf_model.read_bytes()[:-5_000])
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "bert"}')
    for spec, says in (
        ("", "name one by --llm MODEL"),
        (f"{tmp_path}/missing.gguf", "no such GGUF file"),
        (f"{tmp_path}/no.gguf", r"llama\.cpp cannot load it: "),
        (f"{tmp_path}/cut.gguf", r"llama\.cpp cannot load it: "),
        (f"{tmp_path}/empty", r"no config\.json|no tokenizer"),
        (f"{tmp_path}/odd", "tokenizer"),
        (f"{tmp_path}/none", "is not a directory"),
        ("hf:repo", "hf:REPO:FILE"),
        ("replay:nowhere", "no completions are kept there"),
    ):
        with pytest.raises(InputError, match=says):
            open_model(spec)


def test_a_folder_without_weights(tmp_path: Path, language_model: Path) -> None:
    folder = shutil.copytree(language_model, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be loaded as a causal language model"):
        open_model(str(folder))
    with pytest.raises(InputError, match="--llm-device cuda"):
        open_model(str(language_model), device="cuda:99")


def test_a_name_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coder.gguf").touch()
    assert absolute("coder.gguf") == str(tmp_path / "coder.gguf")
    for spec in ("https://api.example.com/v1#some", "hf:org/repo:file.gguf", "org/repo", "gpt2"):
        assert absolute(spec) == spec


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
    defined = "def f(i) = punct(i)\n\n" + source.replace("k == 0", "f(k)")
    assert extracted(f"```attn\n{defined}```") == extracted(f"So:\n{defined}Yes.") == defined
    unused = defined.replace("\n\n", "  # dots\ndef g(i) = f(i-1)\n\n")
    assert read(unused, causal=True) == parse(defined)
    assert whole_terms(defined + "    ? whe") == defined
    assert whole_terms(defined[: -len("f(k)\n")]) == ""
    assert whole_terms(source + "    ? whe") == source
    assert whole_terms("head a causal softmax:\n    ? whe") == whole_terms("head a cau") == ""
    commented = "# It rests.\n" + source.replace("== 0\n", "== 0  # on the first\n")
    assert read(commented, causal=True) == read(source, causal=True)
    for wrong, says in (
        (source.replace("causal", "bidirectional"), "only causal softmax"),
        (source.replace("k == 0", "text_final(k)"), "text_final"),
        (source.replace("softmax", "linear"), "softmax"),
        ("head a", "expected"),
    ):
        with pytest.raises(Exception, match=says):
            read(wrong, causal=True)
    steps = ", ".join(f"{step}: ?" for step in range(-100, 0))
    table = Completion(f"head a bidirectional softmax:\n    by q - k [{steps}]\n", 400, False)
    assert len(list(programs([table], causal=False, name="l00h01"))) == 1
    for odd in ("<|im_end|>", f"{source}<|im_end|>", f"```\n{source}", "```", "\ufffd\x00"):
        assert not list(programs([Completion(odd, 9, False)], causal=True, name="l00h01"))
    written = [Completion(source + "    ? wh", 9, True), Completion("I cannot.", 3, False)]
    assert [p.name for p in programs(written, causal=True, name="l00h01")] == ["l00h01"]
