"""Measures the evaluator: scoring, evaluation, calls, score matrices, growth, memory, parsing.

    python benchmarks/evaluator.py

Both sides of every comparison run in this process in turns; the fastest of several rounds is
printed, in seconds of a core that this thread had, for others may use the machine too. Only the
line on two cores is wall time.
"""

import os
import random
import resource
import time
import tracemalloc
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from measuring import Figure, least, print_table, slope

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.compiler.program import parse
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.printer import show
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.distances import in_lanes, minima
from attn_dsl.eval.score_matrix import METRICS, measure_text, measure_texts, score_matrix
from attn_dsl.synth import search_terms

WORDS = "the cat saw a dog . Tom and Mia ran to park , she said hi One day big little happy".split()


def programs(count: int, seed: int = 0) -> list[t.Head]:
    """Draw programs of ten terms from the search's vocabulary."""
    rng, terms, found = random.Random(seed), search_terms.terms(True), []
    for i in range(count):
        drawn = rng.sample(terms, 10)
        largest = [0.04 if isinstance(term, t.Scaled) else 2.0 for term in drawn]
        weights = [round(rng.uniform(-most, most), 2) for most in largest]
        found.append(t.Head(f"p{i}", "causal", terms=tuple(drawn)).with_weights(weights))
    return found


def texts(count: int, n: int, seed: int = 0) -> list[Tokens]:
    """Draw texts of words that recur."""
    rng = random.Random(seed)
    return [Tokens.from_strings([" " + rng.choice(WORDS) for _ in range(n)]) for _ in range(count)]


def heads(count: int, n: int, seed: int = 0) -> np.ndarray:
    """Draw packed causal attention, rows summing to 1, float32 (heads, entries)."""
    rng = np.random.default_rng(seed)
    rows = [rng.dirichlet(np.full(q + 1, 0.3), count) for q in range(n)]
    return np.concatenate(rows, axis=1).astype(np.float32)


def scoring() -> Iterator[Figure]:
    """Min-sum scoring against torch.cdist on the same data."""
    a, b = in_lanes(heads(1000, 64)), in_lanes(heads(144, 64, seed=1))
    x, y = torch.tensor(a), torch.tensor(b)
    out = np.zeros((1000, 144))
    ours, theirs = least(25, lambda: minima(a, b, out), lambda: torch.cdist(x, y, p=1))
    rate = a.shape[0] * b.shape[0] * a.shape[1] / ours / 1e9
    yield Figure("min-sum scoring, entries/s on a core", f"{rate:.1f} G", "at least 15 G")
    ratio = f"{theirs / ours:.1f} x"
    yield Figure("min-sum scoring against torch.cdist(p=1)", ratio, "at least 12 x")


def papers_program(tokens: list[str]) -> np.ndarray:
    """A typical program as the paper writes them: loops over query and key that fill a matrix."""
    n = len(tokens)
    out = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            weight = 0.1
            if j == 0:
                weight += 1.0
            if j == i - 1:
                weight += 2.0
            if j > 0 and tokens[j - 1].strip().lower() == tokens[i].strip().lower():
                weight += 3.0
            if tokens[j].strip() in {".", "!", "?"}:
                weight += 0.5
            out[i, j] = weight
        out[i] /= out[i].sum()
    return out


def papers_iou(actual: np.ndarray, predicted: np.ndarray) -> float:
    """The IoU of two matrices as the paper computes it."""
    a, b = np.clip(actual, 0.0, 1.0), np.clip(predicted, 0.0, 1.0)
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())


def evaluation() -> Iterator[Figure]:
    """Ten-term programs in a batch of 1,000, at 64 and 512 tokens, and against the paper's way."""
    plans = {n: Plan(programs(1000), Batch(texts(1, n))) for n in (64, 512)}
    short, long = (least(200, lambda plan=plan: deque(plan.parts(0), maxlen=0))[0] / 1000
                   for plan in plans.values())  # fmt: skip
    (theirs,) = least(10, lambda: papers_program(list(texts(1, 64)[0].strings)))
    yield Figure("a ten-term program on 64 tokens", f"{short * 1e6:.2f} us", "under 3 us")
    yield Figure("a ten-term program on 512 tokens", f"{long * 1e6:.2f} us")
    ratio = long / short * (64 * 65) / (512 * 513)
    yield Figure("time by entry, 512 tokens against 64", f"{ratio:.2f}", "at most 1")
    yield Figure("evaluation against the paper's way", f"{theirs / short:.0f} x", "at least 200 x")


def calls() -> Iterator[Figure]:
    """A program of two terms, called again on a text."""
    program = parse("head a causal:\n 2 where text(k-1) == text(q)\n -1 * log(1 + q - k)")
    known, count = list(texts(1, 64)[0]), 100
    (again,) = least(500, lambda: [program(known) for _ in range(count)])
    name = "a two-term program on 64 tokens, called again"
    yield Figure(name, f"{again / count * 1e3:.3f} ms", "under 0.15 ms")


BUILT_IN = """head built_in causal:
    2 where repeats(k) == repeats(q)
    1 where k == previous(q) + 1
    -1 where sentence(k) == sentence(q)
"""
DEFINED = """def times(i) = count(j < i where token(j) == token(i))
def copy(i) = last(j < i where token(j) == token(i))
def part(i) = count(j <= i where sentence_start(j)) - 1
head defined causal:
    2 where times(k) == times(q)
    1 where k == copy(q) + 1
    -1 where part(k) == part(q)
"""


def functions() -> Iterator[Figure]:
    """A program with three functions against one with the built-in features that they repeat."""
    own, built_in = ([parse(source).tree] for source in (DEFINED, BUILT_IN))
    for n in (64, 512):
        batch = texts(40, n)

        def run(plan: Plan) -> None:
            deque((plan.packed(at) for at in range(40)), maxlen=0)

        cold = least(7, *(lambda p=p, x=batch: run(Plan(p, Batch(x))) for p in (own, built_in)))
        plans = [Plan(p, Batch(batch)) for p in (own, built_in)]
        warm = least(7, *(lambda plan=plan: run(plan) for plan in plans))
        for name, (ours, theirs) in (("new", cold), ("known", warm)):
            wanted = f"functions against built-in features, {name} texts of {n} tokens"
            yield Figure(wanted, f"{ours / theirs:.2f} x", "at most 1.5 x")


def matrix() -> Iterator[Figure]:
    """1,000 programs x 144 heads x 100 texts of 64 tokens, on two cores."""
    plan, attention = Plan(programs(1000), Batch(texts(100, 64))), heads(144, 64)
    with ThreadPoolExecutor(2) as executor:
        (wall,) = least(5, lambda: deque(measure_texts(plan, lambda _: attention, ("iou",), executor), 0),
                        clock=time.perf_counter)  # fmt: skip
    name = "1,000 programs x 144 heads x 100 texts, 2 cores"
    yield Figure(name, f"{wall:.2f} s", "under 4 s")


def metrics() -> Iterator[Figure]:
    """IoU of a pair, alone and with all metrics, and against the paper's way."""
    plan, attention = Plan(programs(100), Batch(texts(1, 64))), heads(144, 64)
    square = np.zeros((64, 64))
    square[np.tril_indices(64)] = attention[0]
    wanted = {"IoU of a pair on 64 tokens": ("iou",), "... with all metrics": METRICS}
    works = (lambda some=some: measure_text(plan, 0, attention, some) for some in wanted.values())
    *times, theirs = least(7, *works, lambda: papers_iou(square, square))
    pair = [seconds / (100 * 144) for seconds in times]
    for name, seconds in zip(wanted, pair, strict=True):
        yield Figure(name, f"{seconds * 1e9:.0f} ns")
    quicker = f"{theirs / pair[0]:.0f} x"
    yield Figure("IoU of a pair against the paper's way", quicker, "at least 250 x")


def growth() -> Iterator[Figure]:
    """How time grows with programs, heads and texts: slopes of a log-log fit."""
    base = {"programs": 500, "heads": 144, "texts": 16}
    for name, smallest in base.items():
        sizes, times = [smallest * factor for factor in (1, 2, 4, 8)], []
        for value in sizes:
            size = base | {name: value}
            plan = Plan(programs(size["programs"]), Batch(texts(size["texts"], 64)))
            attention = heads(size["heads"], 64)
            times += least(3, lambda p=plan, a=attention: score_matrix(p, lambda _: a))
        pairs = zip(sizes, times, strict=True)
        shown = ", ".join(f"{size}: {seconds:.2f} s" for size, seconds in pairs)
        reached = f"slope {slope(sizes, times):.2f}"
        yield Figure(f"growth with {name} ({shown})", reached, "at most 1.1")


def memory() -> Iterator[Figure]:
    """Peak memory as texts double, and what a compiled program keeps."""
    peaks = []
    for count in (50, 100, 200):
        plan = Plan(programs(500), Batch(texts(count, 64)))
        score_matrix(plan, lambda _: heads(36, 64))
        peaks.append(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    yield Figure("peak memory, 50 / 100 / 200 texts", " / ".join(peaks), "flat")
    sources = [show(p) for p in programs(2000, seed=7)]
    tracemalloc.start()
    made = [parse(source) for source in sources]
    by_program = tracemalloc.get_traced_memory()[0] / len(made) / 1024
    tracemalloc.stop()
    yield Figure("memory kept by a program", f"{by_program:.1f} KB", "under 20 KB")


def parsing() -> Iterator[Figure]:
    """Parse, check and compile a ten-term program."""
    sources, batch = [show(p) for p in programs(300, seed=3)], Batch(texts(1, 64))
    (seconds,) = least(50, lambda: Plan([parse(x).tree for x in sources], batch))
    reached = f"{seconds / len(sources) * 1e3:.2f} ms"
    yield Figure("parse + check + compile, ten terms", reached, "under 1 ms")


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    print_table([scoring, evaluation, calls, functions, matrix, metrics, growth, memory, parsing])
