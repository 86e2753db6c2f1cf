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
from attn_dsl.synth.score import Split

WIKITEXT = SHARED / "text/wikitext2-valid.txt"
LARGE = ("--effort", 4, "--max-nodes", 4000)
MINUTES = ("--timeout", 600, *LARGE)
ENDLESS = ("--max-evals", 1_000_000, "--rounds", 50, "--timeout")


@dataclass(frozen=True)
class Part:
    """One fit and what it must reach.

    Attributes:
        what: the model and its texts, for the table.
        model: a folder of ``../shared/models``; None for the demo model on its own stories.
        options: of ``attn-dsl fit``.
        seconds: the most that the whole process may take.
        ious: the least mean IoU, by one of ``KINDS``.
        text: stories, or ``WIKITEXT`` without its headings.
    """

    what: str
    model: str | None
    options: tuple[object, ...] = ()
    seconds: float | None = None
    ious: dict[str, float] = field(default_factory=dict)
    text: Path = STORIES


ANY, SMALL = {"any size": 0.60}, {"at most 40 nodes": 0.45}
PARTS = {
    "demo": Part("the demo model, its own stories", None, (), 60),
    "stories": Part("stories260k, 300 stories", "stories260k", MINUTES, 600, ANY | SMALL),
    "babyllama": Part("babyllama-char, 300 stories", "babyllama-char", MINUTES, 600, ANY),
    "minilm": Part(
        "minilm-l6, 500 stories cut to 64 tokens", "minilm-l6",
        ("--max-tokens", 64, "--max-texts", 500, "--timeout", 1000, *LARGE), 1000, ANY,
    ),
    "wikitext": Part("stories260k, 300 articles", "stories260k", MINUTES, 600, {}, WIKITEXT),
    "timeout-60": Part("stories260k, work without end", "stories260k", (*ENDLESS, 60), 63),
    "timeout-120": Part("stories260k, work without end", "stories260k", (*ENDLESS, 120), 126),
}  # fmt: skip


def measure(name: str, folder: Path, options: list[str]) -> Iterator[Figure]:
    """Fit a part, or take the run that is kept, and yield its figures."""
    part, text = PARTS[name], PARTS[name].text
    if part.model and not SHARED.is_dir():
        yield Figure(part.what, "skipped: no folder ../shared")
        return
    if text == WIKITEXT:
        paragraphs = [line for line in text.read_text("utf-8").splitlines() if len(line) > 300]
        text = folder / "wikitext.txt"
        folder.mkdir(parents=True, exist_ok=True)
        text.write_text("\n\n".join(paragraphs), encoding="utf-8")
    given = (SHARED / "models" / part.model, "--text", text) if part.model else ()
    usage = kept(folder / name, "fit", *given, *part.options, "--seed", 0, *options)
    yield from figures(folder / name, part.what, part.ious)
    target = "-" if part.seconds is None else f"at most {part.seconds:g} s"
    yield Figure("... whole process", str(usage), target)


def figures(path: Path, what: str, targets: dict[str, float]) -> Iterator[Figure]:
    """Yield the figures of a run."""
    run = Run.open(path)
    capture = Capture.open(run.info["capture"] or path / "capture")
    results, seed = run.results, run.info["key"]["seed"]
    split, fronts = Split(capture, capture.split(seed)["test"]), [rows(r) for r in results]
    numbers = [r.layer * capture.heads_per_layer + r.head for r in results]
    ious = np.array([
        split.ious([parse(row.program) for row in front], number)
        for front, number in zip(fronts, numbers, strict=True)
    ])  # fmt: skip
    for at, kind in enumerate(KINDS):
        nodes = [front[at].nodes for front in fronts]
        sizes = f"nodes: mean {np.mean(nodes):.0f}, median {np.median(nodes):.0f}"
        target = f"at least {targets[kind]:.2f}" if kind in targets else "-"
        mean = bootstrap(ious[:, at].mean(0), seed)
        yield Figure(f"{what}: mean IoU, {kind} ({sizes})", str(mean), target)
    layers = np.array([r.layer for r in results])
    means = [ious[layers == x, 2].mean() for x in sorted(set(layers))]
    yield Figure("... by layer, any size", " ".join(f"{x:.2f}" for x in means))
    controls = {name: np.mean([r.controls[name] for r in results]) for name in results[0].controls}
    yield Figure("... controls", ", ".join(f"{x} {iou:.3f}" for x, iou in controls.items()))
    if library := run.info.get("library"):
        distinct = f"{library['programs']} of {len(results)}"
        yield Figure("... distinct programs for 95 % of the chosen ones' IoU", distinct)
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
