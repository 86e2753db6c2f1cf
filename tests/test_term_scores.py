"""Scores of terms: tunable programs compute what programs do; gradients and losses are those of the rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from search_tasks import design, task

from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.limits import TERM_LIMIT
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.replace.tunable import Tunable
from attn_dsl.eval.term_scores import Planes, TermScores
from attn_dsl.synth import pruning
from attn_dsl.synth.lbfgs import maximise
from attn_dsl.synth.sparse_design import SparseDesign

KEYS = '{" cat": 2.5, " dog": -2, " ran": 1.5, " said": -1.5}'
QUERIES = '{" !": 2.5, " she": 1.7, " the": -1.2}'
TERMS = (
    '1.2 where token(k) in {" cat", " dog"}',
    '1.2 where k == q-1 and token(q) in {" cat", " dog"} and alpha(k)',
    f"-0.7 * weight(token(k-1), {KEYS}) where q - k in 1..8",
    f"0.5 * weight(token(q), {QUERIES}) * weight(token(k), {KEYS}) where k < q",
    f"0.5 * log(1 + q - k) * weight(token(q), {QUERIES})",
    f"0.7 * weight(token(k+2), {KEYS})",
    f"0.5 * weight(token(q-1), {QUERIES}) * weight(token(k+1), {KEYS})",
    "by q - k [1: 1.5, 2: -1, 4: 0.8, 9: -0.5] where alpha(q)",
)


TEXTS = [Tokens.from_strings(x.split("|")) for x in (" the| cat| ran| !", " she| said| the| dog| ran| cat")]


def of(source: str) -> t.Head:
    return parse(f"head a causal:\n -0.2 * (q - k)\n by q - k [0: 1.5, 3: 0.2]\n {source}")


@pytest.fixture(scope="module")
def job():
    return task(design("2 where k == 0", f"1 * weight(token(k), {KEYS})"))


@pytest.mark.parametrize("term", TERMS)
def test_tunable_programs_compute_what_programs_do_and_know_the_gradient(term: str) -> None:
    program = Program.from_tree(of(term))
    tunable = Tunable([program])
    found = tunable.bundle(TEXTS)
    for i, text in enumerate(TEXTS):
        np.testing.assert_allclose(found[0, i, : len(text), : len(text)].detach(), program(text), atol=1e-6)
    given = torch.from_numpy(np.random.default_rng(0).normal(size=found.shape)).float()
    (gradient,) = torch.autograd.grad((found * given).sum(), [tunable.weights])
    x = tunable.weights.detach().clone()
    for i in range(len(x)):
        step, values = 0.02 * (torch.arange(len(x)) == i), []
        for moved in (x + step, x - step):
            tunable.weights.data = moved
            values.append(float((tunable.bundle(TEXTS) * given).sum().detach()))
        slope = (values[0] - values[1]) / 0.04
        assert float(gradient[i]) == pytest.approx(slope, rel=0.02, abs=2e-3)


@pytest.mark.parametrize("mix", [0.0, 1.0])
def test_the_gradient_is_that_of_the_objective(job, mix: float) -> None:
    program = of("0.5 * log(1 + q - k) where alpha(k)")
    rows, x = SparseDesign.of(job.design, job.rows, program), np.array(program.weights)
    rows.value(x, mix)
    found, _ = rows.scores.gradient(x, rows.residual[None])
    for i in range(len(x)):
        step = 0.01 * (np.arange(len(x)) == i)
        slope = (rows.value(x + step, mix) - rows.value(x - step, mix)) / 0.02
        assert found[i] == pytest.approx(slope, rel=0.02, abs=1.0)


def test_losses_are_those_of_the_program_without_a_term(job) -> None:
    program = parse(
        "head a causal:\n 2 where k == 0\n -0.2 * (q - k)\n 1.5 where alpha(k)\n"
        " 1 where alpha(q) and k == q-1"
    )
    x = np.array(program.weights)
    rows = SparseDesign.of(job.design, job.rows, program)
    losses = rows.losses(x)
    whole = rows.rows.row_scores(rows.predicted).sum()
    assert 1 + sum(pruning.sizes_of(program.terms)) == t.nodes(program)
    for i, loss in enumerate(losses):
        less = x * (np.arange(len(x)) != i)
        rows.value(less)
        assert loss == pytest.approx(whole - rows.rows.row_scores(rows.predicted).sum(), rel=1e-3, abs=0.1)


@pytest.mark.parametrize("scale", [1.0, 3000.0])  # many terms are at their limit with the second
def test_terms_are_cut_at_their_limit_and_do_not_change_there(scale: float) -> None:
    rng = np.random.default_rng(0)
    n, places, terms = 9, 3, 12
    starts = np.cumsum([0, *range(1, n + 1)])
    planes = rng.normal(size=(4, starts[-1])).astype(np.float32)
    rows = np.array([(0, rng.integers(4), *rng.integers(-1, places, 2)) for _ in range(terms)])
    scores = TermScores(starts, Planes(np.empty((0, 0), dtype=np.uint8), planes), rows,
                        rng.permutation(terms), np.abs(planes).max(1))  # fmt: skip
    x, values = scale * rng.normal(size=terms), rng.normal(size=(places, n)).astype(np.float32)
    query = np.repeat(np.arange(n), np.arange(1, n + 1))
    key = np.concatenate([np.arange(i + 1) for i in range(n)])

    def parts(x: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.array([
            x[scores.weights[j]] * planes[plane]
            * (values[q][query] if q >= 0 else 1) * (values[k][key] if k >= 0 else 1)
            for j, (_, plane, q, k) in enumerate(rows)
        ])  # fmt: skip

    found = np.zeros((1, starts[-1]), dtype=np.float32)
    scores.add(x, found, values)
    expected = np.clip(parts(x, values), -TERM_LIMIT, TERM_LIMIT).sum(0)
    np.testing.assert_allclose(found[0], expected, atol=1e-4 * scale)
    given = rng.normal(size=(1, starts[-1])).astype(np.float32)
    (gradient, to_values), free = (
        scores.gradient(x, given, values),
        np.abs(parts(x, values)) <= TERM_LIMIT,
    )
    assert free.all() == (scale == 1.0)

    def slope(step: np.ndarray, more: np.ndarray) -> float:
        apart = parts(x + step, values + more) - parts(x - step, values - more)
        return (apart * free @ given[0]).sum() / (2 * max(step.max(), more.max()))

    none = np.zeros_like(values)
    for i in range(terms):
        step = 1e-3 * np.abs(x).max() * (np.arange(terms) == i)
        assert gradient[i] == pytest.approx(slope(step, none), rel=1e-2, abs=1e-3 * scale)
    for place in np.ndindex(values.shape):
        more = none.copy()
        more[place] = 1e-3
        assert to_values[place] == pytest.approx(slope(0 * x, more), rel=2e-2, abs=2e-2 * scale)


def test_what_pays_least_goes_first() -> None:
    job = task(design("2 where k == 0", "1.5 where punct(k)"))
    whole = parse("head a causal:\n 2 where k == 0\n 1 where k == q-7\n 1.5 where punct(k)")
    rows = SparseDesign.of(job.design, job.rows, whole)
    x = np.array(whole.weights)
    found = pruning.pruned(rows, x, [5, 9, 99], lambda: False, 10, lambda *same: same)
    all_, some, few = (job.measured(one.program.with_weights(x.tolist())) for one, x in found)
    assert all_.nodes == t.nodes(whole)
    assert some.nodes <= 9 and some.iou > all_.iou - 0.01  # the offset is not missed
    assert few.nodes <= 5 and few.iou < some.iou - 0.01


def test_lbfgs_reaches_the_top_of_a_bent_ridge() -> None:
    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        a, b = x
        top = -((1 - a) ** 2) - 100 * (b - a * a) ** 2
        return top, np.array([2 * (1 - a) + 400 * a * (b - a * a), -200 * (b - a * a)])

    found = maximise(value, np.array([-1.2, 1.0]), np.array([800.0, 200.0]), 200)
    assert found == pytest.approx([1.0, 1.0], abs=1e-3)


def test_lbfgs_never_ends_below_its_start() -> None:
    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        return -float(np.abs(x).sum()), np.sign(x) * 5  # a gradient that points the wrong way

    start = np.array([1.0, -2.0])
    assert value(maximise(value, start, np.ones(2), 20))[0] >= value(start)[0]
