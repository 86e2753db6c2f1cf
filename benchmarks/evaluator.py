"""Measures the evaluator: scoring, evaluation, calls, score matrices, growth, memory, parsing.

    python benchmarks/evaluator.py

Both sides of every comparison run in this process in turns; the fastest of several rounds is
printed, in seconds of a core that this thread had, for others may use the machine too. Only the
line on two cores is wall time. The growth with programs, heads and texts is drawn in
``growth.svg``.
"""

from __future__ import annotations

import dataclasses
import os
import random
import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import paper
import torch
from growth import Curve, draw
from run import Figure, print_table

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.compiler.program import parse
from attn_dsl.compiler.stream import Stream
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.printer import show
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.minsum import in_lanes, minima
from attn_dsl.eval.score_matrix import measure_text, score_matrix
from attn_dsl.synth import vocabulary

WORDS = "the cat saw a dog . Tom and Mia ran to park , she said hi One day big little happy".split()


def programs(count: int, seed: int = 0) -> list[t.Head]:
    """Draw programs of ten terms from the search's vocabulary."""
    rng = random.Random(seed)
    terms = vocabulary.terms(True)

    def weighted(term: t.Term) -> t.Term:
        scale = 0.02 if isinstance(term, t.Scaled) else 1.0
        return dataclasses.replace(term, weight=round(rng.uniform(-2, 2) * scale, 2))

    return [
        t.Head(f"p{i}", "causal", "softmax", tuple(map(weighted, rng.sample(terms, 10))))
        for i in range(count)
    ]


def texts(count: int, n: int, seed: int = 0) -> list[Tokens]:
    """Draw texts of words that recur."""
    rng = random.Random(seed)
    return [Tokens.from_strings([" " + rng.choice(WORDS) for _ in range(n)]) for _ in range(count)]


def heads(count: int, n: int, seed: int = 0) -> np.ndarray:
    """Draw packed causal attention, rows summing to 1."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(0.3, size=(count, n * (n + 1) // 2)).astype(np.float32) + np.float32(1e-6)
    lengths = np.arange(1, n + 1)
    starts = np.cumsum(lengths) - lengths
    return values / np.repeat(np.add.reduceat(values, starts, axis=1), lengths, axis=1)


def interleaved(
    rounds: int, *sides: Callable[[], object], clock: Callable[[], float] = time.thread_time
) -> list[float]:
    """Time several functions in turns; return the least seconds of each."""
    times: list[list[float]] = [[] for _ in sides]
    for side in sides:
        side()
    for _ in range(rounds):
        for side, own in zip(sides, times, strict=True):
            started = clock()
            side()
            own.append(clock() - started)
    return [min(own) for own in times]


def patient(side: Callable[[], object], rounds: int = 10, over: float = 20.0) -> float:
    """Time a short function now and then for a while; return its least seconds.

    A virtual core runs at half its speed while its twin on the same core is busy, for seconds on end.
    """
    least, end = np.inf, time.perf_counter() + over
    while time.perf_counter() < end:
        (seconds,) = interleaved(rounds, side)
        least = min(least, seconds)
        time.sleep(0.2)
    return least


def scoring() -> list[Figure]:
    """Min-sum scoring against torch.cdist on the same data."""
    a, b = in_lanes(heads(1000, 64)), in_lanes(heads(144, 64, seed=1))
    x, y = torch.tensor(a), torch.tensor(b)
    out = np.zeros((1000, 144))
    ours, theirs = interleaved(25, lambda: minima(a, b, out), lambda: torch.cdist(x, y, p=1))
    rate = a.shape[0] * b.shape[0] * a.shape[1] / ours / 1e9
    return [
        Figure("min-sum scoring, entries/s on a core", f"{rate:.1f} G", "at least 15 G"),
        Figure(
            "min-sum scoring against torch.cdist(p=1)", f"{theirs / ours:.1f} x", "at least 12 x"
        ),
    ]


def evaluation() -> list[Figure]:
    """Ten-term programs in a batch of 1,000, at 64 and 512 tokens."""
    figures, by_entry = [], []
    for n in (64, 512):
        plan = Plan(programs(1000), Batch(texts(1, n)))

        def run(plan: Plan = plan) -> None:
            for _ in plan.parts(0):
                pass

        seconds = patient(run)
        by_entry.append(seconds / 1000 / (n * (n + 1) // 2) * 1e9)
        target = "under 3 us" if n == 64 else "-"
        figures.append(
            Figure(f"a ten-term program on {n} tokens", f"{seconds * 1e3:.2f} us", target)
        )
    figures.append(
        Figure(
            "time by entry, 512 tokens against 64", f"{by_entry[1] / by_entry[0]:.2f}", "at most 1"
        )
    )
    return figures


def calls() -> list[Figure]:
    """A program of two terms in use: called again, on a new text, and token by token."""
    program = parse("head a causal:\n 2 where text(k-1) == text(q)\n -1 * log(1 + q - k)")
    known, new = list(texts(1, 64)[0]), [list(text) for text in texts(1500, 64, seed=1)]
    fresh, stream, count = iter(new), Stream(program), 100

    def grow() -> None:
        stream.reset()
        for token in known:
            stream.append([token])

    again = patient(lambda: [program(known) for _ in range(count)], over=5.0) / count
    other = min(interleaved(10, lambda: [program(next(fresh)) for _ in range(count)])) / count
    row = patient(grow, over=5.0) / len(known)
    return [
        Figure("a two-term program on 64 tokens, called again", f"{again * 1e3:.3f} ms", "under 0.15 ms"),
        Figure("... on another text", f"{other * 1e3:.3f} ms", "-"),
        Figure("... a token of a text that grows to 64", f"{row * 1e3:.3f} ms", "-"),
    ]  # fmt: skip


def matrix() -> list[Figure]:
    """1,000 programs x 144 heads x 100 texts of 64 tokens, on two cores."""
    plan = Plan(programs(1000), Batch(texts(100, 64)))
    attention = heads(144, 64)
    with ThreadPoolExecutor(2) as executor:

        def run() -> None:
            score_matrix(plan, lambda text: attention, executor)

        (seconds,) = interleaved(5, run, clock=time.perf_counter)
        (cpu,) = interleaved(3, run, clock=time.process_time)
    return [
        Figure("1,000 programs x 144 heads x 100 texts, 2 cores", f"{seconds:.2f} s", "under 4 s"),
        Figure("... seconds of both cores together", f"{cpu:.2f} s", "-"),
    ]


def against_the_paper() -> list[Figure]:
    """The same work as the paper does it, interleaved."""
    n = 64
    text = texts(1, n)[0]
    plan = Plan(programs(1000), Batch([text]))
    attention = heads(144, n)
    square = np.zeros((n, n))
    square[np.tril_indices(n)] = attention[0]
    predicted = paper.program(list(text.strings))
    theirs, their_iou, ours, both = interleaved(
        5,
        lambda: paper.program(list(text.strings)),
        lambda: paper.iou(square, predicted),
        lambda: [None for _ in plan.parts(0)],
        lambda: score_matrix(plan, lambda _: attention),
    )
    by_pair = (both - ours) / (1000 * 144)
    return [
        Figure(
            "evaluation against the paper's way",
            f"{theirs / (ours / 1000):.0f} x",
            "at least 200 x",
        ),
        Figure(
            "IoU of a pair against the paper's way",
            f"{their_iou / by_pair:.0f} x",
            "at least 250 x",
        ),
    ]


def metrics() -> list[Figure]:
    """All metrics of the same pairs, against IoU alone."""
    plan, attention = Plan(programs(100), Batch(texts(1, 64))), heads(144, 64)
    alone, quick, whole = interleaved(
        7,
        lambda: measure_text(plan, 0, attention, ("iou",)),
        lambda: measure_text(plan, 0, attention, ("iou", "tv", "iou_no_sink", "top1")),
        lambda: measure_text(plan, 0, attention),
    )
    pairs = 100 * 144
    return [
        Figure("IoU of a pair on 64 tokens", f"{alone / pairs * 1e9:.0f} ns", "-"),
        Figure("... with TV, no-sink and top-1", f"{quick / pairs * 1e9:.0f} ns", "-"),
        Figure("... with Jensen-Shannon too", f"{whole / pairs * 1e9:.0f} ns", "-"),
    ]


def growth() -> list[Figure]:
    """How time grows with programs, heads and texts: slopes of a log-log fit."""
    curves = []
    base = {"programs": 500, "heads": 144, "texts": 16}
    for name in base:
        sizes, times = [], []
        for factor in (1, 2, 4, 8):
            size = base | {name: base[name] * factor}
            plan = Plan(programs(size["programs"]), Batch(texts(size["texts"], 64)))
            attention = heads(size["heads"], 64)
            (seconds,) = interleaved(3, lambda p=plan, a=attention: score_matrix(p, lambda _: a))
            sizes.append(size[name])
            times.append(seconds)
        curves.append(Curve(name, tuple(sizes), tuple(times)))
    draw(curves, Path(__file__).parent / "growth.svg")
    return [
        Figure(
            f"growth with {c.name} (" + _listed(c) + ")",
            f"slope {c.slope:.2f}", "at most 1.1",
        )
        for c in curves
    ]  # fmt: skip


def _listed(curve: Curve) -> str:
    return ", ".join(
        f"{size}: {seconds:.2f} s" for size, seconds in zip(curve.sizes, curve.seconds, strict=True)
    )


def memory() -> list[Figure]:
    """Peak memory as texts double, and what a compiled program keeps."""
    peaks = []
    for count in (50, 100, 200):
        plan = Plan(programs(500), Batch(texts(count, 64)))
        score_matrix(plan, lambda _: heads(36, 64))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    sources = [show(p) for p in programs(2000, seed=7)]
    before = _resident()
    kept = [parse(source) for source in sources]
    by_program = (_resident() - before) / len(kept)
    return [
        Figure(
            "peak memory, 50 / 100 / 200 texts", " / ".join(f"{p:.0f} MB" for p in peaks), "flat"
        ),
        Figure("memory kept by a program", f"{by_program:.1f} KB", "under 20 KB"),
    ]


def _resident() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1024


def parsing() -> list[Figure]:
    """Parse, check and compile a ten-term program."""
    sources = [show(p) for p in programs(300, seed=3)]
    batch = Batch(texts(1, 64))

    def run() -> None:
        Plan([parse(source).tree for source in sources], batch)

    seconds = patient(run, rounds=3)
    return [
        Figure(
            "parse + check + compile, ten terms",
            f"{seconds / len(sources) * 1e3:.2f} ms",
            "under 1 ms",
        )
    ]


def main() -> None:
    """Measure and print a Markdown table."""
    torch.set_num_threads(1)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    print_table(
        [scoring, evaluation, calls, matrix, metrics, against_the_paper, growth, memory, parsing]
    )


if __name__ == "__main__":
    main()
