"""Set parameters: a program and its vector say the same, and gradients and losses are those of the rows."""

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
from attn_dsl.eval.set_parameters import set_program
from attn_dsl.eval.set_scores import FIRST, Planes, Rows, SetScores
from attn_dsl.synth import pruning
from attn_dsl.synth.lbfgs import maximise
from attn_dsl.synth.sparse_design import SparseDesign, refit

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


TEXTS = [
    Tokens.from_strings(x.split("|"))
    for x in (" the| cat| ran| !", " she| said| the| dog| ran| cat")
]


def of(source: str) -> t.Head:
    return parse(f"head a causal:\n -0.2 * (q - k)\n by q - k [0: 1.5, 3: 0.2]\n {source}")


@pytest.fixture(scope="module")
def job():
    return task(design("2 where k == 0", f"1 * weight(token(k), {KEYS})"))


@pytest.mark.parametrize("term", TERMS)
def test_a_vector_says_what_its_program_does(job, term: str) -> None:
    program = of(term)
    found, x = set_program(program)
    assert len(found.terms) == 1 and len(found.sets) == 2
    whole, written = job.measured(program), found.written(x)
    assert t.nodes(written) == whole.nodes - ("and alpha" in term)  # of `and`, one goes
    np.testing.assert_allclose(job.measured(written).predicted, whole.predicted, atol=3e-3)
    again, values = set_program(written)
    np.testing.assert_allclose(again.rounded(values), found.rounded(x), atol=0.02)


@pytest.mark.parametrize("term", TERMS)
def test_tunable_programs_compute_with_the_vector_and_know_its_gradient(term: str) -> None:
    program = Program.from_tree(of(term))
    tunable = Tunable([program])
    found = tunable.bundle(TEXTS)
    for i, text in enumerate(TEXTS):
        np.testing.assert_allclose(
            found[0, i, : len(text), : len(text)].detach(), program(text), atol=1e-6
        )
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
    found = rows.scores.gradient(x, rows.residual[None])
    for i in range(len(x)):
        step = 0.01 * (np.arange(len(x)) == i)
        slope = (rows.value(x + step, mix) - rows.value(x - step, mix)) / 0.02
        assert found[i] == pytest.approx(slope, rel=0.02, abs=1.0)


def test_elements_of_sets_are_refitted() -> None:
    term = '1 * weight(token(k), {" cat": 1, " dog": -0.5}) where k < q'
    job = task(
        design("2 where k == 0", term.replace("1,", "2.5,").replace("-0.5", "-2"), noise=0.0)
    )
    start = parse(f"head a causal:\n 2 where k == 0\n {term}")
    found = job.measured(refit(job.design, job.rows, start))
    assert found.iou > job.measured(start).iou + 0.1
    (fitted,) = (x.value.set for x in found.program.terms if isinstance(x, t.Scaled))
    assert fitted.weights[0] == pytest.approx(2.5, abs=0.1) and fitted.weights[1] < -1


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
        assert loss == pytest.approx(
            whole - rows.rows.row_scores(rows.predicted).sum(), rel=1e-3, abs=0.1
        )


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("position", ["k-2", "k", "k+1", "q-1", "q+2"])
def test_a_token_beside_the_query_or_the_key_is_looked_up_where_it_is_seen(
    position: str, causal: bool
) -> None:
    rng = np.random.default_rng(5)
    texts = [Tokens.from_strings(rng.choice(list("abc"), size=n)) for n in (1, 2, 7, 12, 9, 9)]
    sees = "causal" if causal else "bidirectional"
    source = f'head x {sees}:\n 1 * weight(token({position}), {{"a": 1, "c": 2}})'
    program = Program.from_tree(parse(f'{source}\n 1 * weight(token(k), {{"b": 1}})'))
    found = Tunable([program]).bundle(texts).detach()[0]
    for text, matrix in zip(texts, found, strict=True):
        np.testing.assert_allclose(matrix[: len(text), : len(text)], program(text), atol=1e-6)


def test_named_sets_are_taken_and_plain_ones_left_when_asked() -> None:
    program = parse(
        'set A = {"a", "b"}\nset B = {"c": 2, "d": 1}\n'
        "head a causal:\n 2 where token(k) in A\n 1.5 * weight(token(k), B)\n 1 where punct(k)"
    )
    both, x = set_program(program)
    assert [one.lookups[0].elements for one in both.sets] == [("a", "b"), ("c", "d")]
    assert x.tolist() == [1, 2, 2, 3, 1.5]
    one, x = set_program(program, linear=True)
    assert [s.lookups[0].elements for s in one.sets] == [("c", "d")] and len(one.terms) == 2
    assert x.tolist() == [2, 1, 3, 1.5]


def test_elements_of_weight_0_are_left_out() -> None:
    program = parse(
        "head a causal:\n by q - k [0: 1, 3: 2]\n 3 where alpha(k)\n"
        ' 1 * weight(token(k), {"a": 2, "b": 1})\n'
        ' 1 * weight(token(q), {"c": 2}) * weight(token(k), {"d": 2})'
    )
    _, x = set_program(program)
    assert x.tolist() == [3, 1, 1, 2, 1, 2, 2]
    one, _ = set_program(parse('head a causal:\n 1 * weight(token(k), {"a": 2, "b": 1})'))
    assert one.written(np.array([0.004, -1.5])) == parse(
        'head a causal:\n 1 * weight(token(k), {"b": -1.5})'
    )
    assert not one.written(np.zeros(2)).terms


@pytest.mark.parametrize("scale", [1.0, 3000.0])  # many terms are at their limit with the second
def test_terms_are_cut_at_their_limit_and_do_not_change_there(scale: float) -> None:
    rng = np.random.default_rng(0)
    n, places, elements, terms = 9, 3, 5, 12
    starts = np.cumsum([0, *range(1, n + 1)])
    planes = rng.normal(size=(4, starts[-1])).astype(np.float32)
    reads = rng.integers(FIRST + terms, FIRST + terms + elements, (places, n)).astype(np.int32)
    reads[rng.random(reads.shape) < 0.3] = 0
    rows = np.array([(0, rng.integers(4), *rng.integers(-1, places, 2), 0) for _ in range(terms)])
    scores = SetScores(
        Rows(starts, np.zeros(n, dtype=np.int64)),
        Planes(np.empty((0, 0), dtype=np.uint8), planes), rows, FIRST + np.arange(terms),
        reads, reads, np.abs(planes).max(1),
    )  # fmt: skip
    x = rng.normal(size=terms + elements) * np.repeat([scale, 1.0], [terms, elements])
    query = np.repeat(np.arange(n), np.arange(1, n + 1))
    key = np.concatenate([np.arange(i + 1) for i in range(n)])

    def parts(x: np.ndarray) -> np.ndarray:
        table = np.concatenate([[0, 1], x])
        return np.array([
            table[FIRST + j] * planes[plane]
            * (table[reads[q]][query] if q >= 0 else 1) * (table[reads[k]][key] if k >= 0 else 1)
            for j, (_, plane, q, k, _) in enumerate(rows)
        ])  # fmt: skip

    found = np.zeros((1, starts[-1]), dtype=np.float32)
    scores.add(x, found)
    expected = np.clip(parts(x), -TERM_LIMIT, TERM_LIMIT).sum(0)
    np.testing.assert_allclose(found[0], expected, atol=1e-4 * scale)
    given = rng.normal(size=(1, starts[-1])).astype(np.float32)
    gradient, free = scores.gradient(x, given), np.abs(parts(x)) <= TERM_LIMIT
    assert free.all() == (scale == 1.0)
    for i in range(len(x)):
        step = 1e-3 * np.abs(x).max() * (np.arange(len(x)) == i)
        slope = ((parts(x + step) - parts(x - step)) * free @ given[0]).sum() / (2 * step.max())
        assert gradient[i] == pytest.approx(slope, rel=1e-2, abs=1e-3 * scale)


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
