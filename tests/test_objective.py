"""The objective: scores by attention and by outputs, their gradient, and what a search makes of it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from search_tasks import WORDS, task

from attn_dsl.compiler.program import Program
from attn_dsl.dsl.definitions import in_folder
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.controls import control_scores, simple_controls
from attn_dsl.eval.split import Split
from attn_dsl.synth.design import Design
from attn_dsl.synth.fit import fit, settings_of, with_objective
from attn_dsl.synth.objective import OBJECTIVES, HeadRows
from attn_dsl.synth.sparse_design import SparseDesign

HEAD = "head a causal:\n 2 where k == 0\n 1.5 where k == q-1\n 3 where punct(k)"


@pytest.fixture(scope="module")
def capture() -> Capture:
    """One head, mostly a program; its values are small but at punctuation."""
    rng = np.random.default_rng(0)
    tokens = [Tokens.from_strings([f" {x}" for x in rng.choice(WORDS, size=20)]) for _ in range(60)]
    matrices, values = [], []
    for x in tokens:
        noise = np.tril(rng.random((20, 20)))
        mixed = 0.7 * Program.from_tree(parse(HEAD))(x) + 0.3 * noise / noise.sum(1, keepdims=True)
        matrices.append(mixed[None, None])
        size = np.array([3.0 if s.strip() in ".!," else 0.1 for s in x.strings])
        values.append((rng.normal(size=(20, 4)) * size[:, None])[None, None])
    return Capture.from_arrays(tokens, matrices, values=values, causal=True)


def design(capture: Capture, objective: str) -> Design:
    return Design(capture, capture.split(0)["fit"], 2_000, 0, OBJECTIVES[objective])


@pytest.fixture(scope="module")
def rows(capture: Capture) -> HeadRows:
    return design(capture, "both").target(0, 0)


@pytest.fixture(scope="module")
def predicted(capture: Capture) -> np.ndarray:
    job = task(design(capture, "both"))
    return job.measured(parse("head a causal:\n 1 where k == 0\n 0.4 where punct(k)")).predicted


def test_output_r2_of_rows_is_that_of_its_definition(rows: HeadRows, predicted: np.ndarray) -> None:
    own, other = (
        np.array([
            part[a:b] @ rows.outputs.values[f : f + b - a]
            for a, b, f in zip(rows.starts, rows.starts[1:], rows.outputs.firsts, strict=False)
        ])
        for part in (rows.actual, predicted)
    )  # fmt: skip
    spread = ((own - own.mean(0)) ** 2).sum()
    assert rows.outputs.spread == pytest.approx(spread, rel=1e-5)
    r2 = 1 - ((own - other) ** 2).sum() / spread
    assert rows.output_r2(predicted) == pytest.approx(r2, rel=1e-4)
    assert rows.output_r2(rows.actual) == pytest.approx(1.0)
    iou, score = rows.scores(predicted)
    assert score == pytest.approx((iou + 0.3 * r2) / 1.3, rel=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("mix", [0.0, 0.4, 1.0])
def test_the_gradient_of_the_objective(capture: Capture, objective: str, mix: float) -> None:
    made = design(capture, objective)
    source = 'head a causal:\n 0.5 where k == 0\n 1 * weight(token(k), {" cat": 1, " .": -0.5})'
    program = parse(source)
    x = np.array(program.weights)
    sparse = SparseDesign.of(made, made.target(0, 0), program)
    sparse.value(x, mix)
    found, _ = sparse.scores.gradient(x, sparse.residual[None])
    for i in range(len(x)):
        step = np.zeros(len(x))
        step[i] = 1e-2
        slope = (sparse.value(x + step, mix) - sparse.value(x - step, mix)) / 2e-2
        assert found[i] == pytest.approx(slope, rel=0.03, abs=0.03)


def test_losses_are_those_of_leaving_terms_out(capture: Capture) -> None:
    made = design(capture, "both")
    program = parse("head a causal:\n 1.5 where k == 0\n 0.8 where k == q-1\n -0.3 * log(1 + q - k)")
    sparse, x = SparseDesign.of(made, made.target(0, 0), program), np.array(program.weights)
    losses = sparse.losses(x)
    whole = sparse.rows.row_scores(sparse.predicted).sum()
    for i, loss in enumerate(losses):
        sparse.value(x * (np.arange(len(x)) != i))
        lost = whole - sparse.rows.row_scores(sparse.predicted).sum()
        assert loss == pytest.approx(lost, rel=1e-3, abs=0.1)


def test_a_search_by_outputs_explains_more_of_them(capture: Capture, tmp_path: Path) -> None:
    found = {}
    for objective in OBJECTIVES:
        run = fit(capture=capture, out=tmp_path / objective, objective=objective, jobs=1)
        (found[objective],) = run.results
    assert found["output"].test["output_r2"].mean > found["attention"].test["output_r2"].mean - 1e-9
    assert found["attention"].test["iou"].mean > found["output"].test["iou"].mean - 0.01
    both = found["both"]
    (chosen,) = (row for row in both.front if row.chosen)
    assert chosen.output_r2_test == pytest.approx(both.test["output_r2"].mean, abs=1e-6)
    assert chosen.score == pytest.approx((chosen.iou_select + 0.3 * chosen.output_r2_select) / 1.3)
    assert both.test["output_r2"].low < both.test["output_r2"].mean < both.test["output_r2"].high
    split = Split(capture, capture.split(0)["test"])
    again = split.compare([parse(both.program, resolve=in_folder(tmp_path / "both"))], 0)
    assert again.output_r2[0] == pytest.approx(both.test["output_r2"].mean)


def test_controls_by_outputs(capture: Capture) -> None:
    found = control_scores(capture, capture.split(0), [0])
    assert all(math.isfinite(x) for x in np.concatenate([*found.values()]).ravel())
    split = Split(capture, capture.split(0)["test"])
    first = split.compare([simple_controls(causal=True)["first token"]], 0)
    assert found["first token"][0, 0] == pytest.approx(first.ious.mean(), rel=1e-5)
    assert found["first token"][1, 0] == pytest.approx(first.output_r2[0], rel=1e-5)


def test_without_values_outputs_are_refused_and_attention_is_the_default(capture: Capture) -> None:
    bare = dataclasses.replace(capture, values=())
    asked = settings_of(0, 9, 9, 1, None, allow_lookahead=False, objective="output")
    with pytest.raises(InputError, match=r"--objective output needs the values of heads.*give"):
        with_objective(asked, bare)
    open_ = settings_of(0, 9, 9, 1, None, allow_lookahead=False)
    assert with_objective(open_, bare).objective == "attention"
    assert with_objective(open_, capture).objective == "both"
    with pytest.raises(InputError, match="there is no outputs; known: attention, output, both"):
        settings_of(0, 9, 9, 1, None, allow_lookahead=False, objective="outputs")


def test_outputs_that_are_all_the_same_have_no_r2() -> None:
    tokens = [["a", " b", f" c{i}"] for i in range(12)]
    matrices = [np.tril(np.ones((3, 3)))[None, None] / np.arange(1, 4)[:, None]] * 12
    capture = Capture.from_arrays(tokens, matrices, values=[np.ones((1, 1, 3, 2))] * 12)
    made = Design(capture, range(12), 100, 0, OBJECTIVES["output"])
    rows = made.target(0, 0)
    assert rows.outputs is None
    iou, score = rows.scores(rows.actual)
    assert (iou, score) == (pytest.approx(1.0), pytest.approx(1.0))
    assert math.isnan(control_scores(capture, capture.split(0), [0])["uniform"][1, 0])
