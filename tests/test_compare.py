"""Editing: what changes in a model's predictions when a head's program is changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import attn_dsl, succeed
from replacing import masked_model, small_run

from attn_dsl.compiler.program import load
from attn_dsl.eval.replace import compare as comparing
from attn_dsl.eval.replace.replaced_model import ReplacedModel, open_replaced_model

REPEATED = "Zed Pip Lem Quo Rix Bam Zed Pip Lem Quo Rix Bam Zed Pip Lem"
INDUCTION = "head {name} causal:\n    9 where text(k-{back}) == text(q) and k >= {back}\n    3 where k == 0\n"


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two heads of the demo model, which has learned induction."""
    out = tmp_path_factory.mktemp("demo") / "run"
    succeed(
        "fit", "--heads", "L1H0,L2H7", "--max-texts", "30", "--max-tokens", "48", "--max-evals",
        "5", "--proposers", "library", "--jobs", "1", "--out", out,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def opened(demo_run: Path) -> ReplacedModel:
    return open_replaced_model(demo_run)


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An induction program for L1H0, and the same with its look one token further back."""
    folder = tmp_path_factory.mktemp("edited")
    files = []
    for back in (1, 2):
        file = folder / f"back{back}.attn"
        file.write_text(INDUCTION.format(name="l01h00", back=back))
        files.append(file)
    return files[0], files[1]


def test_looking_two_tokens_back_changes_predictions_of_repeated_text(
    opened: ReplacedModel, edited: tuple[Path, Path]
) -> None:
    a, b = map(str, edited)
    head, sides = comparing.choose_sides(opened, a, b, None)
    assert head == (1, 0)
    found = comparing.compare(opened.loaded, head, sides, REPEATED)
    assert found.changed > 0 and found.kl > 0.01
    # the copy is predicted better when the head looks at what followed the last copy
    half = len(found.predictions) // 2
    later = found.predictions[half:]
    right = [sum(p.target_probability[side] for p in later) for side in (0, 1)]
    assert right[0] > right[1]
    same = comparing.compare(opened.loaded, head, (sides[0], sides[0]), REPEATED)
    assert same.changed == 0 and same.kl == 0.0
    others = {(2, 7): opened.programs[2, 7]}
    assert comparing.compare(opened.loaded, head, sides, REPEATED, others).perplexity != found.perplexity


def test_the_models_own_head_and_the_runs_program(opened: ReplacedModel) -> None:
    head, sides = comparing.choose_sides(opened, "model", "L2H7", None)
    assert head == (2, 7) and sides[0].program is None
    assert sides[1].program == opened.programs[2, 7]
    found = comparing.compare(opened.loaded, head, sides, REPEATED)
    ids = opened.loaded.tokenizer(REPEATED).input_ids
    with torch.inference_mode():
        own = torch.softmax(opened.loaded.model(input_ids=torch.tensor([ids])).logits[0], -1)
    assert len(found.predictions) == len(ids) - 1
    for at, p in enumerate(found.predictions):
        assert p.target_probability[0] == pytest.approx(float(own[at, ids[at + 1]]), abs=1e-5)
        assert p.top_probability[0] == pytest.approx(float(own[at].max()), abs=1e-5)
    assert found.kl > 0


def test_the_command_prints_a_table(demo_run: Path, edited: tuple[Path, Path]) -> None:
    a, b = edited
    out = succeed("compare", demo_run, a, b, "--on", REPEATED)
    assert all(len(line.rstrip()) <= 80 for line in out.splitlines())
    assert "head L1H0" in out and "A: back1.attn" in out
    assert "The most probable token changes at" in out
    data = json.loads(succeed("compare", demo_run, a, b, "--on", REPEATED, "--json"))
    assert data["head"] == "L1H0" and data["changed"] == sum(p["changed"] for p in data["predictions"])
    assert f"changes at {data['changed']} of {len(data['predictions'])} positions" in out


def test_an_encoder_is_compared_word_by_word(tmp_path: Path) -> None:
    model = masked_model(tmp_path / "bert")
    run = small_run(lambda family: model, tmp_path)
    command = ("compare", run, "model", "L1H2", "--on", "the cat sat on the mat")
    assert "masked" in succeed(*command)
    data = json.loads(succeed(*command, "--json"))
    assert [p["target"].strip() for p in data["predictions"]] == "the cat sat on the mat".split()


def test_bad_input(
    demo_run: Path, edited: tuple[Path, Path], tmp_path: Path, small_model: Callable[[str], Path]
) -> None:
    a, b = edited
    other = tmp_path / "other.attn"
    other.write_text(a.read_text().replace("l01h00", "mine"))
    both = tmp_path / "both.attn"
    both.write_text("head x bidirectional:\n    1 where k == q+1\n")
    text = ("--on", REPEATED)
    for args, message in [
        ((a, tmp_path / "none.attn", *text), "no such file"),
        ((other, other, *text), "say so by --head"),
        (("L1H0", "L2H7", *text), "name different heads"),
        (("L0H0", a, *text), "has no program for L0H0"),
        (("L9H0", a, *text), "there is no L9H0"),
        ((a, b, *text, "--head", "L1"), "--head names one head"),
        ((a, b, "--on", "  "), "--on is too short"),
        ((a, b, "--on", "dog " * 600), "shorten it"),
        ((a, both, *text, "--head", "L1H0"), "bidirectional"),
        ((a, b, *text, "--model", small_model("gpt2")), "with other weights"),
    ]:
        outcome = attn_dsl("compare", demo_run, *args)
        assert outcome.code == 2 and message in outcome.err, (args, outcome.err)
        assert "Traceback" not in outcome.err
    assert load(a).name == "l01h00"
