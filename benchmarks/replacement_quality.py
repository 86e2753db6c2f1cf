"""Measures what models lose when programs stand in the place of their heads, against the targets.

    python benchmarks/replacement_quality.py [--only NAME] [--fit-seconds S] [--run NAME=DIR]

Each model is fitted (unless a finished run is given), then measured on the test texts of the run:
heads in the order of their measured damage, of IoU and greedily, with the controls, and with the
weights of all heads tuned through the model. Intervals are over texts, in pairs with the model.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
COMMAND = [sys.executable, "-m", "attn_dsl.cli"]
STORIES = SHARED / "text/tinystories-5k.jsonl"


@dataclass(frozen=True)
class Subject:
    """A model with its text, and the most growth of perplexity, in percent, that is aimed for.

    Attributes:
        paper: by share of heads, what the paper's library costs on this very model, in percent.
    """

    arguments: tuple[str, ...]
    targets: dict[float, float] = field(default_factory=dict)
    tuned: float | None = None
    paper: dict[float, float] = field(default_factory=dict)


SUBJECTS = {
    "stories260k": Subject(
        (str(SHARED / "models/stories260k"), "--text", str(STORIES)),
        {0.25: 2, 0.5: 8, 1.0: 35}, 16, {0.1: 2.9, 0.25: 6.1, 0.5: 20.9, 1.0: 107},
    ),
    "babyllama-char": Subject(
        (str(SHARED / "models/babyllama-char"), "--text", str(STORIES)),
        {0.25: 6}, 50, {0.1: 16, 0.25: 23, 0.5: 81, 1.0: 368},
    ),
    "demo": Subject(()),
}  # fmt: skip


def timed(*arguments: object) -> float:
    """Run a command of attn-dsl to its end; return its wall time in seconds."""
    started = time.perf_counter()
    command = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(f"attn-dsl {' '.join(map(str, arguments))} failed")
    return time.perf_counter() - started


def load(file: Path) -> dict:
    """Read the results of a replacement."""
    return json.loads(file.read_text(encoding="utf-8"))


def growth(point: dict | None) -> str:
    """Write a point's growth of perplexity in percent with its interval."""
    if point is None:
        return "-"
    ratio = point["effect"]["ratio"]
    low, mean, high = (f"{100 * (ratio[name] - 1):+.1f}" for name in ("low", "mean", "high"))
    return f"{mean} [{low}, {high}]"


def find(outcome: dict, order: str, source: str, share: float) -> dict | None:
    """Find a point of a curve."""
    for point in outcome["points"]:
        if (point["order"], point["source"], point["fraction"]) == (order, source, share):
            return point
    return None


def measure(name: str, subject: Subject, run: Path | None, seconds: float, out: Path) -> None:
    """Fit, replace, tune, and print what came of it as Markdown."""
    if run is None:
        run = out / name
        fit_time = timed("fit", *subject.arguments, "--timeout", seconds, "--out", run, "--jobs", 2)
        print(f"{name}: fitted in {fit_time:.0f} s\n")
    results = out / f"{name}-results"
    curve_time = timed("replace", run, "--order", "damage,iou,greedy", "--out", results)
    tune_time = timed("replace", run, "--tune", "--out", results)
    curve = load(results / "replacement/curve.json")
    tuned = load(results / "replacement/curve-tuned.json")
    before = curve["original"]
    print(
        f"{name}: perplexity {before['mean']:.3f} [{before['low']:.3f}, {before['high']:.3f}] as it "
        f"is, {before['texts']} test texts, {curve['tokens']:,} predictions. Growth in percent:\n"
    )
    sources = ("uniform", "first token", "mean by offset", "zero")
    print("| heads | by damage | by IoU | greedy | tuned for all | aim | paper's library | "
          + " | ".join(sources) + " |")  # fmt: skip
    print("|---|" + "---|" * (6 + len(sources)))
    for share in sorted({point["fraction"] for point in curve["points"]}):
        cells = [
            growth(find(curve, order, "programs", share)) for order in ("damage", "iou", "greedy")
        ]
        cells.append(growth(find(tuned, "damage", "tuned", share)))
        aim = subject.targets.get(share)
        aims = [] if aim is None else [f"{aim:g}"]
        if share == 1.0 and subject.tuned is not None:
            aims.append(f"{subject.tuned:g} tuned")
        cells.append(", ".join(aims) or "-")
        cells.append(f"+{subject.paper[share]:g}" if share in subject.paper else "-")
        controls = [find(curve, "damage", source, share) for source in sources]
        cells += [f"{100 * (p['effect']['ratio']['mean'] - 1):+.0f}" for p in controls if p]
        print(f"| {100 * share:.0f} % | " + " | ".join(cells) + " |")
    tuning = tuned["extra"]["tuning"]
    print("\nIoU against perplexity on the way from the fitted to the tuned weights, all heads:\n")
    print("| way | IoU | growth in percent |\n|---|---|---|")
    for row in tuning["tradeoff"]:
        iou, point = row["iou"], {"effect": {"ratio": row["ratio"]}}
        print(
            f"| {100 * row['share']:.0f} % | {iou['mean']:.3f} [{iou['low']:.3f}, {iou['high']:.3f}] "
            f"| {growth(point)} |"
        )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(
        f"\nThree orders with controls in {curve_time:.0f} s; tuning {tuning['seconds']:.0f} s "
        f"({len(tuning['history']) - 1} epochs) of {tune_time:.0f} s; peak memory {peak:.1f} GiB.\n",
        flush=True,
    )


def main() -> None:
    """Measure the models that are asked for, all of them by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=SUBJECTS, action="append")
    parser.add_argument("--fit-seconds", type=float, default=600)
    parser.add_argument("--run", action="append", default=[], metavar="NAME=DIR")
    options = parser.parse_args()
    runs = dict(pair.split("=", 1) for pair in options.run)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only or SUBJECTS:
            if not SHARED.is_dir() and name != "demo":
                print(f"{name}: skipped: no folder ../shared\n")
                continue
            run = Path(runs[name]).resolve() if name in runs else None
            measure(name, SUBJECTS[name], run, options.fit_seconds, Path(folder))


if __name__ == "__main__":
    main()
