"""Output R²: what a model's attention really writes, intervals, and heads that have none."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import succeed, write_texts
from replace_models import save

import attn_dsl
from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.capture_write import write_capture
from attn_dsl.eval.controls import control_scores
from attn_dsl.eval.models import load_model
from attn_dsl.eval.outputs import output_r2, spreads, squared_errors
from attn_dsl.eval.run import Run
from attn_dsl.eval.split import Split

TEXTS = [
    "the cat sat on the mat and the dog ran to the park",
    "she saw a bird .",
    "one day the boy and the girl went to the park to see the dog",
]
PROGRAM = "head a {}:\n    4 where text(k-1) == text(q)\n    2 where k == 0\n"
PROJECTIONS = {
    "gpt2": "attn.c_proj", "llama": "self_attn.o_proj", "bert": "attention.output.dense"
}  # fmt: skip
"""By family, how the name of a layer's output projection ends."""


@pytest.mark.parametrize("family", PROJECTIONS)
def test_errors_and_spreads_are_those_of_real_forward_passes(tmp_path: Path, family: str) -> None:
    torch = pytest.importorskip("torch")
    from attn_dsl.eval.replace.context import replace_heads
    from attn_dsl.eval.replace.programs import baseline

    loaded = load_model(str(save(tmp_path / family, family)))
    capture = write_capture(loaded, TEXTS, tmp_path / "out", max_tokens=32)
    program = attn_dsl.parse(PROGRAM.format("causal" if capture.causal else "bidirectional"))
    texts = range(len(TEXTS))
    plan = Plan([program.tree], Batch([capture.tokens(i) for i in texts]))
    written: list[np.ndarray] = []
    for name, module in loaded.model.named_modules():
        if name.endswith(PROJECTIONS[family]):
            module.register_forward_hook(lambda *call: written.append(call[2][0].double().numpy()))

    def attention_output(text: int, layer: int) -> np.ndarray:
        written.clear()
        with torch.no_grad():
            loaded.model(torch.tensor([capture.ids(text)]))
        return written[layer]

    for layer, head in ((0, 1), (1, 0), (1, 3)):
        own, errors = [], []
        for text in texts:
            with replace_heads(loaded, baseline("zero", [(layer, head)], capture.causal)):
                without = attention_output(text, layer)
            own.append(attention_output(text, layer) - without)
            with replace_heads(loaded, {(layer, head): program}, texts=[TEXTS[text]]):
                replaced = attention_output(text, layer) - without
            errors.append(np.square(replaced - own[-1]).sum())
        mean = np.concatenate(own).mean(0)
        spread = [np.square(one - mean).sum() for one in own]
        number = 4 * layer + head
        mine = [squared_errors(capture, i, [number], plan.packed(i))[0, 0] for i in texts]
        assert mine == pytest.approx(errors, rel=5e-3)  # the capture is float16
        assert spreads(capture, texts, [number])[0] == pytest.approx(spread, rel=5e-3)
        found = Split(capture, texts).compare([program.tree], number)
        assert found.output_r2[0] == pytest.approx(1 - sum(errors) / sum(spread), abs=2e-2)


def test_the_interval_resamples_texts_of_all_heads_together() -> None:
    rng = np.random.default_rng(3)
    spread = rng.gamma(2.0, size=(3, 40))
    errors = spread * rng.random((3, 40))
    spread[2] = np.nan
    found = output_r2(errors, spread, seed=7)
    picks = np.random.default_rng(7).integers(0, 40, size=(2000, 40))
    r2s = 1 - errors[:2][:, picks].sum(-1) / spread[:2][:, picks].sum(-1)
    low, high = np.quantile(r2s.mean(0), [0.025, 0.975])
    assert found.mean == pytest.approx((1 - errors[:2].sum(1) / spread[:2].sum(1)).mean())
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.low < found.mean < found.high


# heads without a variance, captures without values


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model whose head L1H1 writes the same whatever it attends to, and texts."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("constant")
    model = AutoModelForCausalLM.from_pretrained(save(folder / "model", "gpt2"))
    projection, own = model.transformer.h[1].attn.c_attn, slice(64 + 8, 64 + 16)  # its values
    with torch.no_grad():
        projection.weight[:, own] = 0
        projection.bias[own] = 1
    model.save_pretrained(folder / "model")
    return folder / "model", write_texts(folder / "texts.jsonl")


def test_a_head_whose_outputs_are_all_the_same_has_no_output_r2(
    constant: tuple[Path, Path], tmp_path: Path
) -> None:
    model, texts = constant
    program = tmp_path / "a.attn"
    program.write_text(PROGRAM.format("causal"))
    args = (model, "--text", texts, "--max-tokens", "32")
    told = json.loads(
        succeed("fit", *args, "--heads", "L1H0,L1H1", "--max-evals", "4", "--jobs", "1",
                "--out", tmp_path / "run", "--json")
    )  # fmt: skip
    run = Run.open(tmp_path / "run")
    capture = run.open_capture()
    split = capture.split(0)
    with (run.path / "heads.csv").open() as lines:
        first, same = csv.DictReader(lines)
    assert told["output_r2"] == pytest.approx(float(first["output_r2"]), abs=1e-6)
    assert float(first["output_r2_low"]) <= float(first["output_r2"])
    for name in ("output_r2", "output_r2_low", "output_r2_high", "output_r2_best_control"):
        assert same[name] == "" != first[name]
    assert run.results[1].front
    assert not any(np.isfinite(row.output_r2_test) for row in run.results[1].front)
    controls = control_scores(capture, split, [4, 5])
    assert all(np.isfinite(r2[0]) and np.isnan(r2[1]) for _, r2 in controls.values())
    rows = json.loads(succeed("score", program, "--capture", capture.path, "--json"))
    assert [row["output_r2"] is None for row in rows] == [False] * 5 + [True] + [False] * 2
    line = succeed("score", program, "--capture", capture.path, "--heads", "L1H1").splitlines()[1]
    assert line.count("–") == 3
    alone = tmp_path / "alone"
    printed = succeed("fit", "--capture", capture.path, "--heads", "L1H1", "--max-evals", "2", "--out", alone)
    assert "Output R² is not known: the outputs of no head vary." in printed
    assert "the outputs of no head vary" in (alone / "report.html").read_text(encoding="utf-8")


def test_scores_and_runs_without_values_say_why(constant: tuple[Path, Path], tmp_path: Path) -> None:
    model, texts = constant
    program = tmp_path / "a.attn"
    program.write_text(PROGRAM.format("causal"))
    out = tmp_path / "capture"
    succeed("capture", model, "--text", texts, "--no-values", "--max-tokens", "32", "--out", out)
    why = f"Output R² is not known: {Capture.open(out).lacking}."
    scored = succeed("score", program, "--capture", out)
    assert why in " ".join(scored.split())
    assert scored.count("output R²") == 0
    (row, *_) = json.loads(succeed("score", program, "--capture", out, "--json"))
    assert row["output_r2"] is row["output_r2_low"] is None
    fit = ("fit", "--capture", out, "--heads", "L0H0", "--max-evals", "2", "--out")
    printed = " ".join(succeed(*fit, tmp_path / "run").split())
    assert why in printed
    assert printed.count("utput R²") == 1
    told = json.loads(succeed(*fit, tmp_path / "again", "--json"))
    assert told["output_r2"] is told["output_r2_median"] is None
    assert told["controls_output_r2_median"] == {}


def test_scores_of_many_heads_and_programs_are_those_of_each_pair(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 9, size=12)
    tokens = [[f"{i}{at}" for at in range(n)] for i, n in enumerate(lengths)]
    weights = [np.tril(rng.random((2, 2, n, n))) for n in lengths]
    capture = Capture.from_arrays(
        tokens,
        [w / w.sum(-1, keepdims=True) for w in weights],
        values=[rng.normal(size=(2, 1, n, 3)) for n in lengths],
        projections=rng.normal(size=(2, 2, 3, 5)),
    )
    heads = [attn_dsl.parse(PROGRAM.format("causal")), attn_dsl.parse("head u causal:\n")]
    plan = Plan([one.tree for one in heads], Batch([capture.tokens(i) for i in range(12)]))
    every = [squared_errors(capture, i, [1, 3], plan.packed(i)) for i in range(12)]
    spread = spreads(capture, range(12), [1, 3])
    for row, number in enumerate((1, 3)):
        outputs = []
        for i in range(12):
            contributions = capture.contributions(i, number)
            own = capture.matrix(i, 1 if number > 1 else 0, number % 2)
            outputs.append(own @ contributions)
            for column, program in enumerate(heads):
                off = (program(capture.tokens(i)) - own) @ contributions
                assert every[i][row, column] == pytest.approx(np.square(off).sum(), rel=1e-4)
        mean = np.concatenate(outputs).mean(0)
        by_hand = [np.square(one - mean).sum() for one in outputs]
        assert spread[row] == pytest.approx(by_hand, rel=1e-5)
