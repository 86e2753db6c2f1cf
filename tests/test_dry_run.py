"""`attn-dsl fit --dry-run`: the plan, from a configuration and a text alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import attn_dsl, succeed, write_texts

import attn_dsl as package
from attn_dsl.eval.texts import read_texts

SHORT = ("--max-tokens", "64")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "texts.jsonl")


def plan(*args: object) -> dict[str, Any]:
    return dict(json.loads(succeed("fit", *args, "--dry-run", "--json")))


def save_config(folder: Path, config: Any) -> Path:
    config.architectures = None
    config.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_plan_says_what_a_fit_then_does(
    small_model: Callable[[str], Path], texts: Path, tmp_path: Path, family: str
) -> None:
    args = (small_model(family), "--text", texts, "--max-tokens", "24", "--max-texts", "20")
    told = plan(*args, "--heads", "L1", "--out", tmp_path / "r")
    assert not (tmp_path / "r").exists()
    assert told["model"] == f"small-{family}"
    assert (told["layers"], told["heads_per_layer"], told["heads"]) == (2, 4, 4)
    assert told["counted"]
    capture = tmp_path / "capture"
    succeed("capture", *args, "--out", capture)
    made = package.Capture.open(capture)
    assert told["texts"] == made.n_texts == 20
    assert told["tokens"] == sum(len(made.tokens(i)) for i in range(20))
    assert told["capture_bytes"] == sum(made.packed(i).nbytes + made.values[i].nbytes for i in range(20))
    told = plan("--capture", capture, "--heads", "L1")
    assert (told["heads"], told["capture_bytes"]) == (4, 0)


def test_the_configuration_alone_is_enough(texts: Path, tmp_path: Path) -> None:
    """The plan of Llama-3.2-3B, whose weights would take 13 GB."""
    import transformers as hf

    config = hf.LlamaConfig(
        vocab_size=128_256, hidden_size=3072, intermediate_size=8192, num_hidden_layers=28,
        num_attention_heads=24, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
        max_position_embeddings=131_072,
    )  # fmt: skip
    folder = save_config(tmp_path / "llama-3b", config)
    told = plan(folder, "--text", texts)
    assert told["parameters"] == 3_212_749_824
    assert told["heads"] == 672
    assert told["memory_bytes"] > 4 * told["parameters"]
    assert not told["counted"]
    written = sum(len(text.encode()) for text in read_texts(str(texts)))
    assert told["tokens"] == pytest.approx(written / 4, rel=0.05)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json"]


def test_more_heads_take_longer(small_model: Callable[[str], Path], texts: Path) -> None:
    model = (small_model("gpt2"), "--text", texts, "--jobs", "1", *SHORT)
    library = "--proposers", "library"  # shared scores are found once, however many heads there are
    one, every = plan(*model, *library, "--heads", "L0H0"), plan(*model, *library)
    assert every["search_seconds"] == pytest.approx(8 * one["search_seconds"])
    assert plan(*model, "--heads", "L0H0")["search_seconds"] < plan(*model)["search_seconds"]
    assert plan(*model, "--timeout", "3")["seconds"] == 3
    assert any("--timeout 3" in w for w in plan(*model, "--timeout", "3")["warnings"])


def test_time_and_memory_follow_the_settings(small_model: Callable[[str], Path], texts: Path) -> None:
    model = (small_model("gpt2"), "--text", texts, "--jobs", "1", "--max-tokens", "24")
    usual = plan(*model)

    def seconds(*more: object) -> float:
        return float(plan(*model, *more)["search_seconds"])

    demo = [plan("demo", "--heads", "L0", "--effort", x)["search_seconds"] for x in (1, 2, 4)]
    assert demo == sorted(set(demo))
    assert all(seconds("--proposers", x) < usual["search_seconds"] for x in ("library", "scores"))
    assert seconds("--max-evals", 5) < usual["search_seconds"]
    assert plan(*model, "--effort", 8)["memory_bytes"] >= usual["memory_bytes"]


def test_it_says_what_was_measured(small_model: Callable[[str], Path], texts: Path) -> None:
    model = (small_model("gpt2"), "--text", texts, *SHORT)
    known = plan(*model, "--proposers", "library")
    assert known["guessed"] == [] and "guessed" not in known["estimate"]
    told = plan(*model, "--effort", 6, "--max-nodes", 2000, "--proposers", "llm,library",
                "--llm", "some/model")  # fmt: skip
    assert told["guessed"] == ["llm"]
    assert "guessed: llm" in told["estimate"]
    assert (told["effort"], told["max_nodes"], told["proposers"]) == (6, 2000, ["llm", "library"])


def test_what_it_prints(small_model: Callable[[str], Path], texts: Path) -> None:
    out = succeed("fit", small_model("gpt2"), "--text", texts, "--dry-run", *SHORT)
    for name in ("model", "text", "search", "disk", "memory", "time"):
        assert f"{name} " in out
    assert "2 layers of 4 heads" in out
    assert "8 heads" in out
    assert not [line for line in out.splitlines() if len(line) > 80]


# errors


def test_an_unknown_id_without_a_network(
    texts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    outcome = attn_dsl("fit", "nobody/no-such-model", "--text", texts, "--dry-run")
    assert outcome.code == 2
    assert "nobody/no-such-model" in outcome.err
    assert "HF_HUB_OFFLINE" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (("--max-tokens", "65"), "--max-tokens 64"),
        (("--heads", "L7"), "there is no L7"),
        (("--proposers", "magic"), "unknown magic"),
    ],
)
def test_what_a_fit_would_refuse_is_refused(
    small_model: Callable[[str], Path], texts: Path, args: tuple[str, ...], wanted: str
) -> None:
    outcome = attn_dsl("fit", small_model("gpt2"), "--text", texts, "--dry-run", *SHORT, *args)
    assert outcome.code == 2
    assert wanted in outcome.err


def test_no_room_is_told(
    small_model: Callable[[str], Path], texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    told = plan(small_model("gpt2"), "--text", texts, *SHORT)
    assert any("no room" in warning for warning in told["warnings"])
