"""Measures replaced heads: what they cost in time, and what a model's predictions lose.

    python benchmarks/replacement.py time RUN
    python benchmarks/replacement.py quality RUN

RUN is a finished run. ``time`` replaces all of its heads in one of two copies of the model. Both
run in turns on the same texts; ratios are of the fastest rounds, and of the medians in brackets.
New texts come for the first time; when they come again, their features are known. ``quality``
replaces shares of the heads in three orders, beside the baselines, and tunes all of them.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from attn_dsl.eval.replace.context import replace_heads
from attn_dsl.eval.replace.programs import BASELINES
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
            new, fresh = fresh[:ROUNDS], fresh[ROUNDS:]
            compare("  forward, new texts", [forward(batch) for batch in new], clock)
            compare("  forward, again", [forward(batch) for batch in new], clock)
            compare("  generation", [generations] * 5, clock)


def replaced(run: str, out: str, stem: str, *options: str) -> dict[str, Any]:
    """Run `attn-dsl replace` and read its results."""
    command = [sys.executable, "-m", "attn_dsl.cli", "replace", run, "--out", out, *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((Path(out) / "replacement" / f"{stem}.json").read_text(encoding="utf-8"))


def growth(ratio: dict[str, float]) -> str:
    """Write a growth of perplexity in percent with its interval."""
    mean, low, high = (f"{100 * (ratio[name] - 1):+.1f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def measure_quality(run: str) -> None:
    """Print the growth of perplexity by share of heads, as Markdown."""
    with tempfile.TemporaryDirectory() as out:
        curve = replaced(run, out, "curve", "--order", "damage,iou,greedy")
        tuned = replaced(run, out, "curve-tuned", "--tune")
    cells = {
        (p["fraction"], p["order"], p["source"]): growth(p["effect"]["ratio"])
        for p in curve["points"] + tuned["points"]
    }
    columns = [(order, "programs") for order in ("damage", "iou", "greedy")]
    columns += [("damage", source) for source in ("tuned", *BASELINES)]
    print(f"perplexity {curve['original']['mean']:.3f}; its growth in percent:\n")
    print("| heads | " + " | ".join(f"{source} by {order}" for order, source in columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for share in sorted({share for share, _, _ in cells}):
        row = " | ".join(cells[share, order, source] for order, source in columns)
        print(f"| {100 * share:.0f} % | {row} |")
    for row in tuned["extra"]["tuning"]["tradeoff"]:
        way, iou = f"{100 * row['share']:.0f} %", f"{row['iou']['mean']:.3f}"
        print(f"{way} of the way to the tuned weights: IoU {iou}, {growth(row['ratio'])}")


if __name__ == "__main__":
    {"time": measure_time, "quality": measure_quality}[sys.argv[1]](sys.argv[2])
