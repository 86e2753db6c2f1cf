"""Measures what replaced heads cost: forward passes and generation, against the model's own.

    python benchmarks/replacement.py RUN [MODEL] [TEXT]

All heads of a fitted run are replaced at once, in one of two copies of the model. Both run in this
process in turns on the same texts; ratios are of the fastest rounds, and of the medians in
brackets. ``new texts`` come for the first time, ``again`` a second time, when their features are
known. Processor time on one thread does not suffer from what else the machine does.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from attn_dsl.eval.models import load_model
from attn_dsl.eval.replace.context import replace_heads
from attn_dsl.eval.texts import read_texts

BATCH, TOKENS, ROUNDS, NEW = 8, 128, 15, 128
MODEL, TEXT = "../shared/models/stories260k", "../shared/text/tinystories-5k.jsonl"


def heads_of(run: Path) -> dict[tuple[int, int], Any]:
    """Return the programs of a run by (layer, head)."""
    found = sorted((run / "programs").glob("L*H*.attn"))
    return {(int(p.stem[1:3]), int(p.stem[4:6])): p for p in found}


def compare(
    name: str, works: list[tuple[Callable[[], Any], Callable[[], Any]]], clock: Callable[[], float]
) -> None:
    """Time each pair of works in turns, the model's own first, and print the ratio."""
    sides: tuple[list[float], list[float]] = ([], [])
    for pair in works:
        for side, work in zip(sides, pair, strict=True):
            start = clock()
            work()
            side.append(1e3 * (clock() - start))
    own, replaced = map(min, sides)
    middle = statistics.median(sides[1]) / statistics.median(sides[0])
    print(
        f"{name:24} {own:8.1f} ms {replaced:8.1f} ms {replaced / own:6.2f} x ({middle:.2f} x)",
        flush=True,
    )


def main(run: str, model: str = MODEL, text: str = TEXT) -> None:
    """Print the table."""
    plain, loaded, heads = load_model(model), load_model(model), heads_of(Path(run))
    ids = [loaded.tokenizer(t).input_ids[:TOKENS] for t in read_texts(text)[:2000]]
    whole = [row for row in ids if len(row) == TOKENS]
    count = (2 * ROUNDS + 3) * BATCH
    batches = [torch.tensor(whole[i : i + BATCH]) for i in range(0, count, BATCH)]
    warm, fresh = batches[:3], batches[3:]

    def forward(batch: torch.Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
        return (lambda: plain.model(batch)), (lambda: loaded.model(batch))

    def generate(network: Any) -> Callable[[], Any]:
        more = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
        return lambda: network.generate(warm[0][:1, :4], pad_token_id=0, **more)

    with torch.inference_mode(), replace_heads(loaded, heads) as report:
        print(
            f"{len(report.heads)} heads replaced; {report.implementation} attention, "
            f"{BATCH} x {TOKENS} tokens; greedy generation of {NEW} tokens with cache"
        )
        generations = (generate(plain.model), generate(loaded.model))
        for work in (*(f for batch in warm for f in forward(batch)), *generations):
            work()
        for threads, clock, unit in (
            (1, time.process_time, "processor time"),
            (2, time.perf_counter, "wall time"),
        ):
            torch.set_num_threads(threads)
            print(f"{threads} thread{'s' * (threads > 1)}, {unit}")
            new, fresh = fresh[:ROUNDS], fresh[ROUNDS:]
            compare("  forward, new texts", [forward(b) for b in new], clock)
            compare("  forward, again", [forward(b) for b in new], clock)
            compare("  generation", [generations] * 5, clock)


if __name__ == "__main__":
    main(*sys.argv[1:])
