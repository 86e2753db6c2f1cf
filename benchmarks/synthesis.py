"""Measures what `attn-dsl fit` reaches on models, and prints each figure beside its target.

    python benchmarks/synthesis.py [--only PART] [--fit OPTIONS] [--out DIR]
    python benchmarks/synthesis.py --run DIR            the figures of a run that is there

Every part is a process of its own. Its figures are means over all heads on the test texts, of rows
picked on the select split, with 95 % bootstrap intervals over texts. Runs are kept in
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
from attn_dsl.eval.outputs import output_r2
from attn_dsl.eval.run import Run
from attn_dsl.eval.split import Split

MODELS = SHARED / "models"
LARGE = ("--text", STORIES, "--effort", 4, "--timeout")
ENDLESS = (MODELS / "stories260k", "--text", STORIES, "--effort", 1000)


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
    "timeout-60": Part("stories260k, fitted on all rows", (*ENDLESS, "--timeout", 60), 63),
    "timeout-120": Part("stories260k, fitted on all rows", (*ENDLESS, "--timeout", 120), 126),
}  # fmt: skip


def measure(name: str, folder: Path, options: list[str]) -> Iterator[Figure]:
    """Fit a part, or take the run that is kept, and yield its figures."""
    part = PARTS[name]
    usage = kept(folder / name, "fit", *part.arguments, "--seed", 0, *options)
    yield from figures(folder / name, part.what, part.ious)
    yield Figure("... whole process", str(usage), f"at most {part.seconds:g} s")


def figures(path: Path, what: str, targets: dict[str, float]) -> Iterator[Figure]:
    """Yield IoU and output R² of a run's programs, and of the best control of each head."""
    run = Run.open(path)
    capture = Capture.open(run.info["capture"] or path / "capture")
    split = Split(capture, capture.split(run.info["key"]["seed"])["test"])
    fronts = [rows(result) for result in run.results]
    found = []
    for front, r in zip(fronts, run.results, strict=True):
        programs = [parse(row.program, resolve=run.resolve) for row in front]
        found.append(split.compare(programs, r.layer * capture.heads_per_layer + r.head))
    spreads = np.array([one.spreads for one in found])
    for at, kind in enumerate(KINDS):
        iou = bootstrap(np.mean([one.ious[at] for one in found], axis=0), 0)
        outputs = output_r2(np.array([one.errors[at] for one in found]), spreads, 0)
        nodes = np.mean([front[at].nodes for front in fronts])
        target = f"IoU at least {targets[kind]:.2f}" if kind in targets else "-"
        name = f"{what}: IoU; output R², {kind}, {nodes:.0f} nodes"
        yield Figure(name, f"{iou}; {outputs}", target)
    best = np.array([
        [max(known.values()) for known in (r.controls, r.controls_output_r2)] for r in run.results
    ])  # fmt: skip
    yield Figure("... best control of each head", "{:.3f}; {:.3f}".format(*best.mean(0)))
    yield Figure("... heads that were cut short", f"{len(run.cut_short)} of {len(run.results)}")


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
