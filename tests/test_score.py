"""Score matrices agree with scoring pair by pair, in groups, threads and mixed programs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from attn_dsl.compiler import evaluate
from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval import score_matrix as score
from attn_dsl.eval.metrics import METRICS, compare

SOURCES = [
    "head a causal:\n 2 where text(k-1) == text(q)\n 1 where k == 0",
    "head b causal:\n -1 * log(1 + q - k)\n 900 where k == q",
    "head c causal linear:\n 1 where punct(k)",
    "head d causal:\n",
    "head e causal:\n by q - k [0: 1, 1: -3]\n 0.5 * match(k-1, q) where seen(q)",
] * 5
TEXTS = [["a", " b", " a", "."], ["x"], [" t", " .", " t", " u", " t"]]


@pytest.mark.parametrize("threads", [None, 2])
@pytest.mark.parametrize("block", [1, 7, 2304])
def test_a_score_matrix_is_the_mean_iou_of_every_pair(
    threads: int | None, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "BLOCK", block)
    programs = [parse(source) for source in SOURCES]
    batch = Batch([Tokens.from_strings(text) for text in TEXTS])
    rng = np.random.default_rng(0)
    attention = []
    for text in TEXTS:
        n = len(text)
        square = np.tril(rng.random((3, n, n)) + 0.01)
        square /= square.sum(-1, keepdims=True)
        attention.append(np.float32(square[:, *np.tril_indices(n)]))
    plan = Plan(programs, batch)
    executor = None if threads is None else ThreadPoolExecutor(threads)
    table = score.score_matrix(plan, attention.__getitem__, executor)
    assert table.shape == (3, len(SOURCES))
    for h in range(3):
        for p, program in enumerate(programs):
            alone = Plan([program], batch)
            each = [
                compare(attention[i][h], alone.packed(i)[0], len(text), True)[0]
                for i, text in enumerate(TEXTS)
            ]
            assert table[h, p] == pytest.approx(np.mean(each), abs=1e-5)


@pytest.mark.parametrize("block", [1, 7, 2304])
@pytest.mark.parametrize("group", [1, 4, 100])
def test_parts_are_the_matrices_in_pieces(
    group: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Batch([Tokens.from_strings(TEXTS[2])])
    plan = Plan([parse(source) for source in SOURCES], batch)
    whole = plan.packed(0)
    monkeypatch.setattr(evaluate, "BLOCK", block)
    seen = np.zeros(whole.shape, dtype=int)
    for part in plan.parts(0, group):
        here = part.block.entries
        size = here.stop - here.start
        np.testing.assert_array_equal(part.rows[:, :size], whole[part.programs, here])
        assert part.rows.shape[1] % 16 == 0
        assert not part.rows[:, size:].any()
        seen[part.programs, here] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("block", [20, 2304])
def test_all_metrics_of_one_pass_are_those_of_each_pair(
    causal: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "BLOCK", block)
    sources = SOURCES[:5] if causal else [s.replace("causal", "bidirectional") for s in SOURCES[:5]]
    programs = [parse(source) for source in sources]
    texts = [*TEXTS, [" w", " x", " w"] * 9]
    plan = Plan(programs, Batch([Tokens.from_strings(text) for text in texts]))
    rng = np.random.default_rng(1)
    for text, strings in enumerate(texts):
        n = len(strings)
        square = rng.gamma(0.3, size=(3, n, n)) + 1e-9
        if causal:
            square = np.tril(square)
        square /= square.sum(-1, keepdims=True)
        packed = plan.packed(text)
        heads = np.concatenate([np.float32(evaluate.pack(square, causal)), packed[:1]])
        found = score.measure_text(plan, text, heads)
        assert tuple(found) == METRICS
        for h in range(4):
            for p in range(len(programs)):
                expected = compare(heads[h], packed[p], n, causal)
                for name, value in zip(METRICS, expected, strict=True):
                    tolerance = 1e-3 if name == "jsd" and value < 1e-3 else 1e-5
                    assert found[name][h, p] == pytest.approx(value, abs=tolerance), name
    alone = score.measure_matrix(plan, lambda text: plan.packed(text)[:2], ["tv"])
    assert list(alone) == ["tv"]
    assert alone["tv"][0, 0] == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="unknown metrics: auc"):
        score.measure_text(plan, 0, plan.packed(0), ["auc"])
