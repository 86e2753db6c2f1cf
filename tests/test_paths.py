"""L1 paths and elimination: the minima are minima, and the terms that matter stay."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse, parse_term
from attn_dsl.dsl.printer import show_term
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.synth import vocabulary
from attn_dsl.synth import weights as w
from attn_dsl.synth.design import Design
from attn_dsl.synth.paths import FEW, coordinates, eliminate, path, prune, sizes
from attn_dsl.synth.proposer import HeadTask
from attn_dsl.synth.weights import Rows

WORDS = "the cat saw a dog . Tom and Mia ran to the park , and she said hi to him !".split()
TRUE = ("text(k-1) == text(q)", "punct(k)", "k == q-2", "capital(k)")
SOURCE = "head a causal:\n" + "".join(
    f" {weight} where {p}\n" for weight, p in zip((4, 2, 3, -2), TRUE, strict=True)
)


@pytest.fixture(scope="module")
def design() -> Design:
    rng = np.random.default_rng(3)
    tokens = [Tokens.from_strings([f" {x}" for x in rng.choice(WORDS, size=24)]) for _ in range(80)]
    program = Program.from_tree(parse(SOURCE))
    matrices = [program(x) + 0.002 * np.tril(rng.random((24, 24))) for x in tokens]
    attention = [(x / x.sum(1, keepdims=True)).astype(np.float32)[None, None] for x in matrices]
    capture = Capture.from_arrays(tokens, attention, causal=True)
    return Design(capture, capture.split(0)["fit"], entries=8_000, seed=0)


def task(design: Design, evals: int = 200) -> HeadTask:
    return HeadTask(design, 0, 0, seed=0, max_nodes=400, max_evals=evals)


def program(count: int) -> t.Head:
    """Return the true terms among others of the vocabulary."""
    true = [parse_term(f"? where {p}") for p in TRUE]
    others = [x for x in vocabulary.terms(causal=True) if x not in true][:: max(1, 160 // count)]
    return t.Head("l00h00", "causal", terms=(*others[: count - 4], *true))


def small_problem() -> tuple[np.ndarray, Rows]:
    rng = np.random.default_rng(1)
    planes = rng.normal(size=(6, 40 * 8)).astype(np.float32)
    scores = 1.5 * planes[0] - planes[3]
    masses = np.exp(scores).reshape(40, 8)
    actual = (masses / masses.sum(1, keepdims=True)).astype(np.float32).ravel()
    return planes, Rows(np.arange(0, 321, 8), actual)


def test_every_point_is_a_minimum() -> None:
    """The gradient is the penalty where a weight is not 0, and within it elsewhere (KKT)."""
    planes, rows = small_problem()
    scales = np.array([1.0, 2.0, 1.0, 0.5, 1.0, 1.0])
    points = list(path(planes, rows, scales))
    for point in points:
        predicted = np.empty(planes.shape[1], np.float32)
        w.predict(planes, point.weights, rows.starts, predicted)
        gradient = planes @ (predicted - rows.actual) / len(rows)
        limit = point.penalty * scales
        moved = point.weights != 0
        pull = -np.sign(point.weights[moved]) * limit[moved]
        np.testing.assert_allclose(gradient[moved], pull, atol=2e-3)
        assert (np.abs(gradient[~moved]) <= limit[~moved] + 2e-3).all()
    assert not points[0].support
    assert {0, 3} <= set(points[-1].support)
    losses = [point.loss for point in points]
    assert all(later <= before + 1e-6 for before, later in itertools.pairwise(losses))


def test_what_matters_comes_first() -> None:
    planes, rows = small_problem()
    first = next(point.support for point in path(planes, rows) if len(point.support) >= 2)
    assert first == (0, 3)


def test_coordinates_give_the_minimum_of_the_quadratic() -> None:
    hessian = np.array([[2.0, 0.5], [0.5, 1.0]])
    gradient, start = np.array([-3.0, 0.4]), np.array([0.2, 0.1])
    prices = np.array([0.1, 0.6])
    found = coordinates(hessian, gradient, start, prices)

    def value(x: np.ndarray) -> float:
        d = x - start
        return float(gradient @ d + 0.5 * d @ hessian @ d + prices @ np.abs(x))

    grid = [np.array([a, b]) for a in np.linspace(-1, 3, 201) for b in np.linspace(-2, 2, 201)]
    assert value(found) <= min(map(value, grid)) + 1e-9


@pytest.mark.parametrize("count", [12, 40])
def test_the_true_terms_stay(design: Design, count: int) -> None:
    """Of 12 terms (one by one) and of 40 (by a path) the four that made the head are kept."""
    assert (count <= FEW) == (count == 12)
    job, whole = task(design), program(count)
    found = job.prune(whole)
    assert [f.nodes for f in found] == sorted(f.nodes for f in found)
    full = job.fit(whole).iou
    close = next(f for f in found if f.iou > full - 0.05)
    assert len(close.program.terms) <= 10
    shown = {show_term(dataclasses.replace(x, weight=None)) for x in close.program.terms}  # type: ignore[call-arg]
    assert {"? where text(k-1) == text(q)", "? where k == q-2"} <= shown


def test_elimination_drops_what_loses_least(design: Design) -> None:
    job, whole = task(design), program(10)
    found = eliminate(job, whole)
    assert [len(f.program.terms) for f in found] == list(range(1, 10))
    four = next(f for f in found if len(f.program.terms) == 4)
    assert four.iou > job.fit(whole).iou - 0.02


def test_tables_stay_whole(design: Design) -> None:
    job = task(design)
    source = (
        "head a causal:\n by q - k [0: ?, 1: ?, 2: ?, 3: ?]\n ? where punct(k)\n ? where seen(k)"
    )
    found = eliminate(job, parse(source))
    assert [len(f.program.terms) for f in found] == [1, 2]
    assert any(isinstance(x, t.Table) and len(x.entries) == 4 for x in found[1].program.terms)


def test_it_stops_when_the_task_is_spent(design: Design) -> None:
    job = task(design, evals=3)
    prune(job, program(40))
    assert job.evals == 3


def test_sizes_count_sets_where_they_are_used() -> None:
    named = parse('set A = {"x", "y"}\nhead a causal:\n 2 where text(k) in A\n 1 where k == 0')
    assert sizes(named).tolist() == [7.0, 4.0]
