"""Open tables: a step that is left out becomes the one before it, and tables are found by their steps."""

from __future__ import annotations

import numpy as np
import pytest
from search_tasks import before
from test_weighed import FIRST, KEYS, design, task, weighted

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.synth.open_planes import stacked
from attn_dsl.synth.open_sets import opened
from attn_dsl.synth.proposer import HeadTask
from attn_dsl.synth.stacks import element_losses
from attn_dsl.synth.weights import shared_mass

TABLE = "by q - k [1: 1.5, 2: -1, 4: 0.8, 9: -0.5]"
PROGRAM = parse(f"head a causal:\n 2 where k == 0\n {TABLE}\n 1 * weight(token(k), {KEYS})")


@pytest.fixture(scope="module")
def job() -> HeadTask:
    return task(design("2 where k == 0", TABLE))


@pytest.mark.parametrize("gone", [(), (1,), (2, 3), (1, 2, 4), (4,), (0, 3)])
def test_a_step_that_is_left_out_becomes_the_one_before(
    job: HeadTask, gone: tuple[int, ...]
) -> None:
    """Planes, scores and curvature of what is left are those of the program that is left."""
    program, weights = opened(PROGRAM)
    some = np.array([i not in gone for i in range(len(weights))])
    planes = stacked(job.design, program)
    left = planes.kept(some)
    fresh = stacked(job.design, program.kept(some))
    pull = np.random.default_rng(0).normal(size=job.design.entries).astype(np.float32)
    predicted = job.measured(PROGRAM).predicted
    np.testing.assert_allclose(left.scores(weights[some]), fresh.scores(weights[some]), atol=1e-5)
    np.testing.assert_allclose(left.sums(pull), fresh.sums(pull), atol=1e-2)
    merged = planes.merged(planes.curvature(job.rows, predicted), some)
    np.testing.assert_allclose(merged, fresh.curvature(job.rows, predicted), rtol=1e-3, atol=0.02)
    table = next(x for x in program.kept(some).closed(weights[some]).terms
                  if isinstance(x, t.Table))  # fmt: skip
    bounds = [(1, 1.5), (2, -1.0), (4, 0.8), (9, -0.5)]
    expected = [x for i, x in enumerate(bounds, start=1) if i not in gone]
    assert [(e.bound, e.weight) for e in table.entries] == expected


def test_the_loss_of_a_step_is_that_of_the_table_without_it(job: HeadTask) -> None:
    program, weights = opened(PROGRAM)
    planes = stacked(job.design, program)
    predicted = job.measured(PROGRAM).predicted
    found = element_losses(planes.sets[0], weights[1:5], job.rows, predicted)
    for step in range(4):
        some = np.arange(len(weights)) != 1 + step
        less = job.measured(program.kept(some).closed(weights[some])).predicted
        lost = shared_mass(job.rows.actual, predicted) - shared_mass(job.rows.actual, less)
        assert found[step] == pytest.approx(lost, abs=0.02)


def test_a_finer_table_says_the_same(job: HeadTask) -> None:
    program, weights = opened(PROGRAM)
    table = program.sets[0]
    finer, values = table.finer([*weights[1:5]], [0, 3, 9, 40])  # type: ignore[union-attr]
    assert finer.elements == (0, 1, 2, 3, 4, 9, 40)
    assert values == [0.0, 1.5, -1.0, -1.0, 0.8, -0.5, -0.5]
    assert finer.closed([0.001] * 7) is None


def test_a_table_of_the_distance_is_found(job: HeadTask) -> None:
    start = job.fit(parse(FIRST))
    true = job.polish(job.fit(parse(f"head a causal:\n 2 where k == 0\n {TABLE}")))
    found = weighted(job, before(job, FIRST))
    best = max((f for f in found if f.nodes <= true.nodes + 1), key=lambda f: f.iou)
    assert best.iou > start.iou + 0.9 * (true.iou - start.iou)
    assert any(isinstance(term, t.Table) for term in best.program.terms)
