"""Metrics against their definitions, written out with NumPy, in groups, threads and blocks."""

from __future__ import annotations

import numpy as np
import pytest

from attn_dsl.compiler import evaluate
from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan, unpack
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval import score_matrix as score
from attn_dsl.eval.distances import in_lanes, minima
from attn_dsl.eval.metrics import bootstrap, ious
from attn_dsl.eval.score_matrix import METRICS

SOURCES = [
    "head a causal:\n 2 where text(k-1) == text(q)\n 1 where k == 0",
    "head b causal:\n -1 * log(1 + q - k)\n 900 where k == q",
    "head c causal linear:\n 1 where punct(k)",
    "head d causal:\n",
    "head e causal:\n by q - k [0: 1, 1: -3]\n 0.5 * match(k-1, q) where seen(q)",
] * 5
TEXTS = [["a", " b", " a", "."], ["x"], [" t", " .", " t", " u", " t"], [" w", " x", " w"] * 9]


def random_heads(count: int, n: int, causal: bool, seed: int = 1) -> np.ndarray:
    """Packed attention of some heads on a text of n tokens, float32."""
    square = np.random.default_rng(seed).gamma(0.3, size=(count, n, n)) + 1e-9
    square = np.tril(square) if causal else square
    seen = np.tri(n, dtype=bool) if causal else np.ones((n, n), dtype=bool)
    return np.float32((square / square.sum(-1, keepdims=True))[:, seen])


def defined(actual: np.ndarray, predicted: np.ndarray, n: int, causal: bool) -> dict[str, float]:
    """The metrics of two packed matrices as they are defined."""
    a, b = (unpack(rows, n, causal).astype(float) for rows in (actual, predicted))
    low, high, middle = np.minimum(a, b), np.maximum(a, b), (a + b) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = [np.where(x > 0, x * np.log2(x / middle), 0).sum(1) for x in (a, b)]
    return {
        "iou": low.sum() / high.sum(),
        "iou_no_sink": low[:, 1:].sum() / high[:, 1:].sum() if high[:, 1:].any() else 1.0,
        "jsd": np.sqrt(np.maximum((kl[0] + kl[1]) / 2, 0)).mean(),
        "tv": 0.5 * np.abs(a - b).sum(1).mean(),
        "top1": (a.argmax(1) == b.argmax(1)).mean(),
    }


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("block", [20, 2304])
def test_all_metrics_of_one_pass_are_those_of_each_pair(
    causal: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "BLOCK", block)
    sources = SOURCES[:5] if causal else [s.replace("causal", "bidirectional") for s in SOURCES[:5]]
    plan = Plan([parse(s) for s in sources], Batch([Tokens.from_strings(t) for t in TEXTS]))
    for text, strings in enumerate(TEXTS):
        n = len(strings)
        packed = plan.packed(text)
        heads = np.concatenate([random_heads(3, n, causal), packed[:1]])
        found = score.measure_text(plan, text, heads)
        assert tuple(found) == METRICS
        for h in range(4):
            for p in range(len(sources)):
                for name, value in defined(heads[h], packed[p], n, causal).items():
                    tolerance = 1e-3 if name == "jsd" and value < 1e-3 else 2e-5
                    assert found[name][h, p] == pytest.approx(value, abs=tolerance), name
        # Design, section 3: IoU of row-stochastic matrices from the mean total variation alone.
        np.testing.assert_allclose(found["iou"], (1 - found["tv"]) / (1 + found["tv"]), atol=1e-5)
    for alone in score.measure_texts(plan, lambda text: plan.packed(text)[:2], ["tv"]):
        assert list(alone) == ["tv"]
        assert alone["tv"][0, 0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("block", [1, 7, 2304])
def test_a_score_matrix_is_the_mean_iou_of_every_pair(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "BLOCK", block)
    programs = [parse(source) for source in SOURCES]
    batch = Batch([Tokens.from_strings(text) for text in TEXTS])
    attention = [random_heads(3, len(text), True) for text in TEXTS]
    plan = Plan(programs, batch)
    table = score.score_matrix(plan, attention.__getitem__)
    each = [ious(attention[i], plan.packed(i)) for i in range(len(TEXTS))]
    np.testing.assert_allclose(table, np.mean(each, axis=0), atol=1e-5)
    for p, program in enumerate(programs):
        alone = Plan([program], batch).packed(0)[0]
        expected = defined(attention[0][1], alone, len(TEXTS[0]), True)["iou"]
        assert each[0][1, p] == pytest.approx(expected, abs=1e-5)


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
    found = np.zeros((rows, columns))
    minima(in_lanes(a), in_lanes(b), found)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
