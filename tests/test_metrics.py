"""Metrics against their definitions, written out with NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from attn_dsl.compiler.evaluate import pack
from attn_dsl.eval.metrics import METRICS, bootstrap, compare, ious
from attn_dsl.eval.minsum import shared_masses


def random_rows(n: int, causal: bool, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = rng.gamma(0.3, size=(n, n)) + 1e-9
    if causal:
        matrix = np.tril(matrix)
    return matrix / matrix.sum(1, keepdims=True)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n", [1, 2, 17])
def test_metrics_are_their_definitions(n: int, causal: bool) -> None:
    a, b = random_rows(n, causal, 1), random_rows(n, causal, 2)
    values = compare(np.float32(pack(a, causal)), np.float32(pack(b, causal)), n, causal)
    found = dict(zip(METRICS, values, strict=True))
    assert found["iou"] == pytest.approx(np.minimum(a, b).sum() / np.maximum(a, b).sum(), abs=1e-5)
    if n > 1:
        rest = np.minimum(a, b)[:, 1:].sum() / np.maximum(a, b)[:, 1:].sum()
        assert found["iou_no_sink"] == pytest.approx(rest, abs=1e-5)
    assert found["tv"] == pytest.approx(0.5 * np.abs(a - b).sum(1).mean(), abs=1e-5)
    m = (a + b) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = [np.where(x > 0, x * np.log2(x / m), 0).sum(1) for x in (a, b)]
    distance = np.sqrt(np.maximum((kl[0] + kl[1]) / 2, 0)).mean()
    assert found["jsd"] == pytest.approx(distance, abs=1e-4)
    assert found["top1"] == pytest.approx((a.argmax(1) == b.argmax(1)).mean())
    # Design, section 3: IoU of row-stochastic matrices from the mean total variation alone.
    assert found["iou"] == pytest.approx((1 - found["tv"]) / (1 + found["tv"]), abs=1e-5)


def test_ious_of_many_equal_iou_of_one() -> None:
    heads = np.stack([pack(random_rows(9, True, s), True) for s in range(3)]).astype(np.float32)
    programs = np.stack([pack(random_rows(9, True, s), True) for s in (7, 8)]).astype(np.float32)
    table = ious(heads, programs)
    assert table.shape == (3, 2)
    for h in range(3):
        for p in range(2):
            assert table[h, p] == pytest.approx(
                compare(heads[h], programs[p], 9, True)[0], abs=1e-6
            )


def test_a_perfect_program_scores_one_and_a_disjoint_one_zero() -> None:
    a = np.float32([1, 0, 1, 0, 0, 1])
    b = np.float32([1, 1, 0, 1, 0, 0])
    np.testing.assert_allclose(compare(a, a, 3, True), [1, 1, 0, 0, 1])
    assert compare(a, b, 3, True)[0] == pytest.approx(1 / 5)


def test_the_bootstrap_interval_covers_the_true_mean() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        estimate = bootstrap(rng.normal(0.5, 0.1, size=40), seed, resamples=400)
        covered += estimate.low <= 0.5 <= estimate.high
    assert 0.88 <= covered / 200 <= 0.98
    assert bootstrap(np.array([0.1, 0.9]), 3) == bootstrap(np.array([0.1, 0.9]), 3)
    assert bootstrap(np.array([]), 0).texts == 0


@pytest.mark.parametrize(("rows", "columns", "entries"), [(1, 1, 1), (4, 4, 1024), (9, 6, 2500)])
def test_tiled_minima_are_the_minima(rows: int, columns: int, entries: int) -> None:
    rng = np.random.default_rng(0)
    a = rng.random((rows, entries), dtype=np.float32)
    b = rng.random((columns, entries), dtype=np.float32)
    expected = np.minimum(a[:, None], b[None]).sum(-1, dtype=np.float64)
    np.testing.assert_allclose(shared_masses(a, b), expected, rtol=1e-5)
