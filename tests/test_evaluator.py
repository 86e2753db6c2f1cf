"""The quick evaluator agrees with the exact one at every size, and with what registers read."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given

from attn_dsl import testing
from attn_dsl.compiler import evaluate, interpreter, simd
from attn_dsl.compiler.code import Kind
from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.dependencies import Stage, stages
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.synth import search_terms

WORDS = ["The", " cat", " sat", ".", " It", " s", "aw", " (", "a", ")", "\n", " cat", ' "', "x"]


def drawn(count: int, causal: bool, scale: float) -> list[t.Head]:
    """Draw programs from the search's vocabulary."""
    rng = random.Random(0)
    terms, visibility = search_terms.terms(causal), "causal" if causal else "bidirectional"

    def weighted(term: t.Term) -> t.Term:
        size = scale / 50 if isinstance(term, t.Scaled) else scale
        return dataclasses.replace(term, weight=round(rng.uniform(-size, size), 3))

    return [
        t.Head(f"p{i}", visibility, "softmax", tuple(map(weighted, rng.sample(terms, 8))))  # type: ignore[arg-type]
        for i in range(count)
    ]


def exactly(plan: Plan, text: int) -> np.ndarray:
    """Evaluate all rows in float64."""
    n, entries = int(plan.batch.sizes[text]), int(plan.batch.entries(plan.causal)[text])
    out = np.empty((plan.size, entries), dtype=np.float32)
    redo = np.ones((plan.size, n), dtype=np.bool_)
    start = int(plan.batch.starts[text])
    evaluate._exactly(plan.code, n, start, plan._arrays(text), 0, 0, redo, out)
    return out


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("scale", [2.0, 15.0, 200.0, 1000.0])
def test_quick_and_exact_agree_from_1_to_600_tokens(causal: bool, scale: float) -> None:
    rng = random.Random(1)
    sizes = [1, 2, 15, 16, 17, 63, 64, 65, 100, 257, 600]
    batch = Batch([Tokens.from_strings(rng.choices(WORDS, k=n)) for n in sizes])
    plan = Plan(drawn(12, causal, scale), batch)
    for text in range(len(sizes)):
        np.testing.assert_allclose(plan.packed(text), exactly(plan, text), atol=1e-5)


def test_most_programs_of_the_search_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact evaluator is for rows that float32 cannot hold, not for every day."""
    batch = Batch([Tokens.from_strings(random.Random(2).choices(WORDS, k=80))])
    plan = Plan(drawn(200, True, 4.0), batch)
    calls: list[int] = []
    monkeypatch.setattr(evaluate, "_exactly", lambda *args: calls.append(int(args[-2].sum())))
    plan.packed(0)
    assert sum(calls) < 0.01 * 200 * 80


HARD = [
    "head a causal:\n 1000 where k == previous(q)",
    "head b causal:\n 1000 where punct(k)\n -1000 where k == q",
    "head c causal:\n 900 where text(k) == text(q)\n -900 where text(k) == text(q)\n 1 where k == 0",
    "head d causal:\n -50 * match(k-1, q)\n 30 where word(k) == word(q)",
    "head e causal:\n -1000 where text(k) == text(q)",
    "head f causal:\n 40 * log(1 + q - k)\n -39 * log(1 + k)",
    "head g causal:\n 500 where q == 3\n 1 where k == q-1",
    "head h causal linear:\n 3 where punct(k)\n 1 where k == q",
]


def test_extreme_weights_agree_with_the_exact_evaluator() -> None:
    batch = Batch([Tokens.from_strings(random.Random(3).choices(WORDS, k=n)) for n in (1, 40, 300)])
    plan = Plan([parse(source) for source in HARD], batch)
    for text in range(3):
        found = plan.packed(text)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, exactly(plan, text), atol=1e-5)


@given(testing.programs(), testing.tokens(min_size=1, max_size=12))
def test_registers_read_what_is_said_of_them(program: t.Head, tokens: Tokens) -> None:
    """A register that reads the key alone is the same in every row, and so on."""
    plan = Plan([program], Batch([tokens]))
    code, n = plan.code, len(tokens)
    read = stages(code.graph)
    every = np.arange(len(code.instructions))
    table = np.zeros((n, len(every), n), dtype=np.int64)
    for q in range(n):
        registers = np.zeros((len(every), 32), dtype=np.int32)
        keys = q + 1 if program.causal else n
        interpreter.run_row(code.instructions, every, registers, q, keys, 0, plan._arrays(0))
        table[q] = registers[:, :n]
    q, k = np.indices((n, n))
    seen = k <= q if program.causal else k >= 0
    for register, stage in enumerate(read):
        values = table[:, register][seen]
        group = {
            Stage.CONSTANT: 0 * q, Stage.QUERY: q, Stage.KEY: k, Stage.DISTANCE: q - k,
            Stage.PAIR: n * q + k,
        }[Stage(stage)][seen]  # fmt: skip
        for one in np.unique(group):
            assert len(np.unique(values[group == one])) == 1, (register, Stage(stage))


def test_planes_are_kept_by_what_they_read() -> None:
    source = """head a causal:
        1 where punct(k)
        1 where k == q-1
        1 * log(1 + q - k)
        1 where punct(q)
        1 where text(k) == text(q)
        1 * match(k-1, q)
        1 where text(k+1) == "a"
        1 where word(k) == "a"
    """
    plan = Plan([parse(source)], Batch([Tokens.from_strings(["a", " b"])]))
    kinds = [Kind(kind).name for kind, _ in plan.code.places]
    assert kinds == "KEY DISTANCE DISTANCE NONE TRUTH VALUE TRUTH TRUTH".split()


def test_vectors_do_what_their_plain_functions_do() -> None:
    from numba import njit

    @njit
    def compiled(a, b, numbers, words, out):  # type: ignore[no-untyped-def]
        words[0] = simd.word(numbers, 3)
        simd.store(out, 0, simd.pick(simd.holds(words, 0), simd.load(a, 1), simd.load(b, 2)))
        simd.store(out, 16, simd.minimum(simd.load(a, 0), simd.load(b, 0)))
        simd.store(out, 32, simd.load(a, 0) * simd.load(b, 0) + simd.spread(a[5]))
        return simd.total(simd.load(a, 4))

    rng = np.random.default_rng(0)
    a, b = rng.random((2, 32)).astype(np.float32)
    numbers = rng.integers(-1, 2, 32).astype(np.int32)
    words, out = np.zeros(1, dtype=np.uint16), np.zeros(48, dtype=np.float32)
    whole = compiled(a, b, numbers, words, out)
    true = numbers[3:19] != 0
    assert [int(words[0]) >> i & 1 for i in range(16)] == true.astype(int).tolist()
    np.testing.assert_array_equal(out[:16], np.where(true, a[1:17], b[2:18]))
    np.testing.assert_array_equal(out[16:32], np.minimum(a, b)[:16])
    np.testing.assert_allclose(out[32:], a[:16] * b[:16] + a[5], rtol=1e-6)
    assert whole == pytest.approx(a[4:20].sum(), rel=1e-6)
