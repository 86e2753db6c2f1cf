"""Measures how much of what heads write programs explain, by objective, and what replacing heads costs.

    python benchmarks/outputs.py [--only MODEL] [--fit OPTIONS] [--out DIR]

Each model is captured once and fitted by attention and by both objectives. Figures are means over
all heads on the test texts, with 95 % bootstrap intervals over texts, seed 0. Then the heads of
SmolLM2 are replaced: the whole curve, and all heads tuned through the model. Runs are kept in
``--out``, by default under a hash of the search's sources, and are not repeated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import KINDS, SHARED, STORIES, Figure, kept, options_of_fits, print_table, rows

from attn_dsl.dsl.parser import parse
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.metrics import bootstrap
from attn_dsl.eval.outputs import output_r2
from attn_dsl.eval.run import Run
from attn_dsl.eval.split import Split

MODELS: dict[str, tuple[object, int]] = {
    "smollm2": ("smollm2", 128),
    "stories260k": (SHARED / "models/stories260k", 128),
    "minilm": (SHARED / "models/minilm-l6", 64),
}
"""By name, the model and the tokens of a text."""
OBJECTIVES = "attention", "both"
WINDOWS = 30
CURVE = {
    "chosen programs": ("--chosen",),
    "best outputs of each front": (),
    "... all heads, tuned": ("--fraction", 1, "--tune"),
}
"""What is replaced: by name, options of ``attn-dsl replace``."""


def measure(name: str, folder: Path, options: list[str]) -> Iterator[Figure]:
    """Fit a model, or take the runs that are kept, and yield its figures."""
    model, tokens = MODELS[name]
    capture = folder / f"{name}-capture"
    kept(capture, "capture", model, "--text", STORIES, "--max-tokens", tokens)
    for objective in OBJECTIVES:
        out = folder / f"{name}-{objective}"
        usage = kept(out, "fit", "--capture", capture, "--objective", objective, *options)
        yield from figures(out, f"{name}, by {objective}")
        yield Figure("... fit", str(usage))
    if name == "smollm2":
        for what, more in CURVE.items():
            place = folder / f"{name}-replaced-{len(more)}"
            usage = kept(place, "replace", out, "--max-texts", WINDOWS, *more)
            for file in sorted((place / "replacement").glob("*.json")):
                yield from growth(json.loads(file.read_text(encoding="utf-8")), what)
            yield Figure("... replacement", str(usage))


def figures(path: Path, what: str) -> Iterator[Figure]:
    """Yield IoU and output R² of a run's programs, and of the best control of each head."""
    run = Run.open(path)
    capture = Capture.open(run.info["capture"])
    split = Split(capture, capture.split(run.info["key"]["seed"])["test"])
    fronts = [rows(result) for result in run.results]
    found = [
        split.compare([parse(row.program) for row in front], r.layer * capture.heads_per_layer + r.head)
        for front, r in zip(fronts, run.results, strict=True)
    ]  # fmt: skip
    spreads = np.array([one.spreads for one in found])
    for at, kind in enumerate(KINDS):
        iou = bootstrap(np.mean([one.ious[at] for one in found], axis=0), 0)
        outputs = output_r2(np.array([one.errors[at] for one in found]), spreads, 0)
        nodes = np.mean([front[at].nodes for front in fronts])
        yield Figure(f"{what}: IoU; output R², {kind}, {nodes:.0f} nodes", f"{iou}; {outputs}")
    best = np.array([
        [max(known.values()) for known in (r.controls, r.controls_output_r2)] for r in run.results
    ])  # fmt: skip
    yield Figure("... best control of each head", "{:.3f}; {:.3f}".format(*best.mean(0)))


def growth(outcome: dict[str, Any], what: str) -> Iterator[Figure]:
    """Yield by how many percent perplexity grows with the share of heads, by what replaces them."""
    for point in outcome["points"]:
        mean, low, high = (100 * (point["effect"]["ratio"][x] - 1) for x in ("mean", "low", "high"))
        name = f"{what}: {100 * point['fraction']:.0f} %, {point['source']}"
        yield Figure(name, f"{mean:+,.1f} % [{low:,.1f}, {high:,.1f}]")


def main() -> None:
    """Measure and print a Markdown table."""
    options = options_of_fits(__doc__, "outputs", MODELS).parse_args()
    folder = options.out.resolve()
    print_table(partial(measure, name, folder, options.fit) for name in options.only or MODELS)


if __name__ == "__main__":
    main()
