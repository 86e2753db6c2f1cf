"""Measures what replaced heads cost in time.

    python benchmarks/replacement.py RUN

All heads of RUN, a finished run, are replaced in one of two copies of the model. Both run in turns
on the same texts; ratios are of the fastest rounds, and of the medians in brackets. New texts come
for the first time; when they come again, their features are known.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from attn_dsl.eval.replace.context import replace_heads
from attn_dsl.eval.replace.replaced_model import open_replaced_model

BATCH, ROUNDS, NEW = 8, 15, 128
Work = Callable[[], Any]


def compare(name: str, works: list[tuple[Work, Work]], clock: Callable[[], float]) -> None:
    """Time each pair of works in turns, the model's own first, and print the ratio."""
    sides: tuple[list[float], list[float]] = ([], [])
    for pair in works:
        for side, work in zip(sides, pair, strict=True):
            start = clock()
            work()
            side.append(1e3 * (clock() - start))
    own, replaced = map(min, sides)
    middle = statistics.median(sides[1]) / statistics.median(sides[0])
    print(f"{name:22} {own:8.1f} ms {replaced:8.1f} ms {replaced / own:6.2f} x ({middle:.2f} x)")


def measure_time(run: str) -> None:
    """Print what forward passes and generation cost with all heads replaced."""
    plain, opened = open_replaced_model(run).loaded, open_replaced_model(run)
    length = max(map(len, opened.ids("fit")))
    whole = [ids for part in ("fit", "select", "test") for ids in opened.ids(part)]
    whole = [ids for ids in whole if len(ids) == length]
    batches = [torch.tensor(whole[i : i + BATCH]) for i in range(0, len(whole) - BATCH, BATCH)]
    start, *fresh = batches
    rounds = min(ROUNDS, len(fresh) // 2)

    def forward(batch: torch.Tensor) -> tuple[Work, Work]:
        return (lambda: plain.model(batch)), (lambda: opened.loaded.model(batch))

    def generate(network: Any) -> Work:
        new = min(NEW, (opened.loaded.max_positions or 2 * NEW) - 4)
        more = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
        return lambda: network.generate(start[:1, :4], pad_token_id=0, **more)

    generations = (generate(plain.model), generate(opened.loaded.model))
    with torch.inference_mode(), replace_heads(opened.loaded, opened.programs) as report:
        print(f"{len(report.heads)} heads, {report.implementation} attention, {BATCH} x {length}")
        for work in (*forward(start), *generations):
            work()
        for threads, clock in ((1, time.process_time), (2, time.perf_counter)):
            torch.set_num_threads(threads)
            print(f"{threads} thread(s), {clock.__name__}")
            new, fresh = fresh[:rounds], fresh[rounds:]
            compare("  forward, new texts", [forward(batch) for batch in new], clock)
            compare("  forward, again", [forward(batch) for batch in new], clock)
            compare("  generation", [generations] * 5, clock)


if __name__ == "__main__":
    measure_time(sys.argv[1])
