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

from measuring import SHARED, STORIES, Figure, kept, options_of_fits, print_table
from synthesis import figures

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
        yield from figures(out, f"{name}, by {objective}", {})
        yield Figure("... fit", str(usage))
    if name == "smollm2":
        for what, more in CURVE.items():
            place = folder / f"{name}-replaced-{len(more)}"
            usage = kept(place, "replace", out, "--max-texts", WINDOWS, *more)
            for file in sorted((place / "replacement").glob("*.json")):
                yield from growth(json.loads(file.read_text(encoding="utf-8")), what)
            yield Figure("... replacement", str(usage))


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
