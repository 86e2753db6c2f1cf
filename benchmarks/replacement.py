"""Measures what programs in the place of heads cost, by the order of heads, and what it takes.

    python benchmarks/replacement.py --run DIR [--capture DIR] [--out DIR]

Three commands of `attn-dsl replace`, each kept once it is finished: the curve by the default order,
whose processor time is told; the same by IoU; and every tenth head alone, against its gradient.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from measuring import ATTN_DSL, ROOT, run

from attn_dsl.eval.heads import label
from attn_dsl.eval.run import Run

WINDOWS = 30


def growth(point: dict, interval: bool) -> str:
    """Write by how many percent perplexity grows, with the ends of its interval if asked."""
    mean, low, high = (100 * (point["effect"]["ratio"][x] - 1) for x in ("mean", "low", "high"))
    return f"{mean:+,.1f}" + f" [{low:,.1f}, {high:,.1f}]" * interval


def main() -> None:
    """Measure and print a Markdown table, then correlation and time."""
    made = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    made.add_argument("--run", required=True, type=Path, metavar="DIR", help="a finished run")
    made.add_argument("--capture", default=[], type=lambda x: ("--capture", Path(x).resolve()))
    made.add_argument("--out", default=ROOT / "runs/bench/replacement", type=Path, metavar="DIR")
    options = made.parse_args()
    out, place = options.out.resolve(), options.run.resolve()
    command = ["replace", place, *options.capture, "--max-texts", WINDOWS, "--out", out]
    usage = run(*ATTN_DSL, *command)
    run(*ATTN_DSL, *command, "--order", "gradient,iou")
    some = ",".join(label(r.layer, r.head) for r in Run.open(place).results[::10])
    run(*ATTN_DSL, *command, "--order", "gradient,damage", "--fraction", 1, "--heads", some)
    curve, alone = (
        json.loads(next((out / "replacement").glob(name)).read_text(encoding="utf-8"))
        for name in ("curve.json", "heads-*.json")
    )
    sources = list(dict.fromkeys(point["source"] for point in curve["points"]))
    print(f"| order, heads replaced | {' | '.join(sources)} |\n|{'---|' * (1 + len(sources))}")
    rows: dict[str, list[str]] = {}
    for point in curve["points"]:
        name = f"{point['order']}, {100 * point['fraction']:.0f} %"
        rows.setdefault(name, []).append(growth(point, point["source"] == "programs"))
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")
    rank, heads = alone["extra"]["spearman"]["gradient, damage"], len(alone["points"][0]["heads"])
    print(f"\nSpearman of gradient and damage alone, {heads} heads: {rank:.2f}")
    print(f"{WINDOWS} windows, {curve['tokens']:,} predictions; the curve by gradient: {usage}")


if __name__ == "__main__":
    main()
