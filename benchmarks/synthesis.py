"""Measures what `attn-dsl fit` reaches on models, and prints each figure beside its target.

    python benchmarks/synthesis.py [--only PART] [--fit OPTIONS] [--out DIR]
    python benchmarks/synthesis.py --run DIR            the figures of a run that is there

Every part is a process of its own. Its figures are means over all heads of the IoU on the test texts,
of rows picked on the select split, with 95 % bootstrap intervals over texts. Runs are kept in
``--out``, by default under a hash of the search's sources, and are not repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from measuring import KINDS, SHARED, STORIES, Figure, kept, options_of_fits, print_table, rows

from attn_dsl.dsl.parser import parse
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.metrics import bootstrap
from attn_dsl.eval.run import Run
from attn_dsl.eval.split import Split

MODELS = SHARED / "models"
LARGE = ("--text", STORIES, "--effort", 4, "--max-nodes", 4000, "--timeout")
ENDLESS = (MODELS / "stories260k", "--text", STORIES, "--max-evals", 1_000_000, "--rounds", 50)


@dataclass(frozen=True)
class Part:
    """One fit and what it must reach."""

    what: str  # the model and its texts, for the table
    arguments: tuple[object, ...]  # of ``attn-dsl fit``
    seconds: float  # the most that the whole process may take
    ious: dict[str, float] = field(default_factory=dict)  # the least mean IoU, by one of ``KINDS``


ANY, SMALL = {"any size": 0.60}, {"at most 40 nodes": 0.45}
PARTS = {
    "stories": Part(
        "stories260k, 300 stories", (MODELS / "stories260k", *LARGE, 600), 600, ANY | SMALL
    ),
    "babyllama": Part(
        "babyllama-char, 300 stories", (MODELS / "babyllama-char", *LARGE, 600), 600, ANY
    ),
    "minilm": Part(
        "minilm-l6, 500 stories cut to 64 tokens",
        (MODELS / "minilm-l6", *LARGE, 1000, "--max-tokens", 64, "--max-texts", 500), 1000, ANY,
    ),
    "timeout-60": Part("stories260k, work without end", (*ENDLESS, "--timeout", 60), 63),
    "timeout-120": Part("stories260k, work without end", (*ENDLESS, "--timeout", 120), 126),
}  # fmt: skip


def measure(name: str, folder: Path, options: list[str]) -> Iterator[Figure]:
    """Fit a part, or take the run that is kept, and yield its figures."""
    part = PARTS[name]
    usage = kept(folder / name, "fit", *part.arguments, "--seed", 0, *options)
    yield from figures(folder / name, part.what, part.ious)
    yield Figure("... whole process", str(usage), f"at most {part.seconds:g} s")


def figures(path: Path, what: str, targets: dict[str, float]) -> Iterator[Figure]:
    """Yield the figures of a run."""
    run = Run.open(path)
    capture = Capture.open(run.info["capture"] or path / "capture")
    results, seed = run.results, run.info["key"]["seed"]
    split, fronts = Split(capture, capture.split(seed)["test"]), [rows(r) for r in results]
    numbers = [r.layer * capture.heads_per_layer + r.head for r in results]
    ious = np.array([
        split.compare([parse(row.program) for row in front], number).ious
        for front, number in zip(fronts, numbers, strict=True)
    ])  # fmt: skip
    for at, kind in enumerate(KINDS):
        nodes = [front[at].nodes for front in fronts]
        sizes = f"nodes: mean {np.mean(nodes):.0f}, median {np.median(nodes):.0f}"
        target = f"at least {targets[kind]:.2f}" if kind in targets else "-"
        mean = bootstrap(ious[:, at].mean(0), seed)
        yield Figure(f"{what}: mean IoU, {kind} ({sizes})", str(mean), target)
    controls = {name: np.mean([r.controls[name] for r in results]) for name in results[0].controls}
    yield Figure("... controls", ", ".join(f"{x} {iou:.3f}" for x, iou in controls.items()))
    yield Figure("... heads that were cut short", f"{len(run.cut_short)} of {len(results)}")


def main() -> None:
    """Measure and print a Markdown table."""
    made = options_of_fits(__doc__, "synthesis", PARTS)
    made.add_argument("--run", action="append", metavar="DIR", help="may be repeated")
    options = made.parse_args()
    folder = options.out.resolve()
    if options.run:
        print_table(partial(figures, Path(run), run, {}) for run in options.run)
    else:
        print_table(partial(measure, name, folder, options.fit) for name in options.only or PARTS)


if __name__ == "__main__":
    main()
