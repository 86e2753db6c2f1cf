"""Stacks: planes of sets laid into one, which compute what the planes themselves do."""

import numpy as np
import pytest

from attn_dsl.synth import weights as w
from attn_dsl.synth.stacks import Lookup, Stack, element_losses

RNG = np.random.default_rng(5)
WIDTHS = RNG.integers(1, 40, 50)
STARTS = np.concatenate([[0], np.cumsum(WIDTHS)])
ENTRIES = int(STARTS[-1])
COUNTS = [4, 3]


def rows_of(scores: np.ndarray) -> np.ndarray:
    """Return softmax rows, float32 (entries)."""
    parts = [np.exp(x - x.max()) for x in np.split(scores.astype(np.float64), STARTS[1:-1])]
    return np.concatenate([x / x.sum() for x in parts]).astype(np.float32)


@pytest.fixture(scope="module")
def planes() -> np.ndarray:
    """Two dense planes, and two sets whose elements have no entry in common."""
    dense = RNG.normal(size=(2, ENTRIES))
    sets = []
    for count in COUNTS:
        element, factor = RNG.integers(0, count + 2, ENTRIES), RNG.normal(size=ENTRIES)
        sets += [factor * (element == e) for e in range(count)]
    return np.array([*dense, *sets], dtype=np.float32)


WEIGHTS = RNG.normal(size=2 + sum(COUNTS))
HEAD = w.Rows(STARTS, rows_of(RNG.normal(size=ENTRIES)))


def stack_of(planes: np.ndarray) -> Stack:
    """Put the planes of each set into one."""
    return Stack(planes[:2], [Lookup.of(planes[2:6]), Lookup.of(planes[6:])])


def test_a_stack_computes_what_its_planes_do(planes: np.ndarray) -> None:
    stack, dense = stack_of(planes), w.Dense(planes)
    assert len(stack) == len(dense) == len(WEIGHTS)
    assert [x.shape for x in (stack.dense, *(one.factor for one in stack.sets))] == [
        (2, ENTRIES), (ENTRIES,), (ENTRIES,)
    ]  # fmt: skip
    for columns in (stack, dense):
        np.testing.assert_allclose(columns.scores(WEIGHTS), WEIGHTS @ planes, atol=1e-5)
    expected = w.softmax(dense.scores(WEIGHTS), STARTS)
    np.testing.assert_allclose(expected, rows_of(WEIGHTS @ planes), atol=1e-5)
    pull = RNG.normal(size=ENTRIES).astype(np.float32)
    np.testing.assert_allclose(stack.sums(pull), planes @ pull, atol=1e-3)
    np.testing.assert_allclose(
        stack.curvature(HEAD, expected), dense.curvature(HEAD, expected), atol=1e-3
    )


def test_some_planes_of_a_stack_are_those_of_the_rest(planes: np.ndarray) -> None:
    some = np.array([False, True, True, False, True, False, False, False, False])
    stack = stack_of(planes).kept(some)
    assert (len(stack), len(stack.sets)) == (3, 1)
    expected = WEIGHTS[some] @ planes[some]
    np.testing.assert_allclose(stack.scores(WEIGHTS[some]), expected, atol=1e-5)


def test_the_loss_of_an_element_is_that_of_the_program_without_it(planes: np.ndarray) -> None:
    predicted = rows_of(WEIGHTS @ planes)
    before = np.minimum(predicted, HEAD.actual).sum()
    found = element_losses(Lookup.of(planes[2:6]), WEIGHTS[2:6], HEAD, predicted)
    for element, loss in enumerate(found, start=2):
        without = np.where(np.arange(len(WEIGHTS)) == element, 0.0, WEIGHTS)
        shared = np.minimum(rows_of(without @ planes), HEAD.actual).sum()
        assert loss == pytest.approx(before - shared, abs=1e-3)
