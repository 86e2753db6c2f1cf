"""Measures what programs explain of heads, on other texts as well, and what replacing heads costs.

    python benchmarks/outputs.py [--only MODEL] [--fit OPTIONS] [--out DIR]
    python benchmarks/outputs.py --run DIR            the figures of a run that is there

Each model is captured once and fitted as ``attn-dsl fit`` comes. Figures are means over all heads on the
test texts, with 95 % bootstrap intervals over texts, seed 0, beside how much the shared scores hold. The
programs of SmolLM2 are then scored on Wikitext, and its heads are replaced: the whole curve, and all
heads tuned through the model. Runs are kept in ``--out``, by default under a hash of the search's
sources, and are not repeated.
"""

import argparse
import hashlib
import json
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import KINDS, ROOT, SHARED, STORIES, Figure, kept, print_table, rows

from attn_dsl.dsl.parser import parse
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.metrics import bootstrap
from attn_dsl.eval.outputs import output_r2
from attn_dsl.eval.run import Run
from attn_dsl.eval.split import HeadScores, Split

MODELS: dict[str, tuple[object, int]] = {"smollm2": ("smollm2", 128),
                                         "stories260k": (SHARED / "models/stories260k", 128),
                                         "minilm": (SHARED / "models/minilm-l6", 64)}  # fmt: skip
"""By name, the model and the tokens of a text."""
WINDOWS = 30
OTHER = SHARED / "text/wikitext2-valid.txt", 60
"""Texts that programs were not fitted on, and how many windows of them are scored."""
CURVE = {
    "best outputs of each front": (), "... all heads, chosen programs": ("--chosen", "--fraction", 1),
    "... all heads, tuned":
        ("--fraction", 1, "--tune", "--tune-text", STORIES, "--tune-texts", 640)}  # fmt: skip
"""What is replaced: by name, options of ``attn-dsl replace``."""


def measure(name: str, folder: Path, options: list[str]) -> Iterator[Figure]:
    """Fit a model, or take the runs that are kept, and yield its figures."""
    model, tokens = MODELS[name]
    capture = folder / f"{name}-capture"
    kept(capture, "capture", model, "--text", STORIES, "--max-tokens", tokens)
    out = folder / name
    usage = kept(out, "fit", "--capture", capture, *options)
    yield from figures(out, name)
    run = Run.open(out)
    if (scores := run.definitions) is not None:
        held = sum(len(one.terms) for one in scores.scores.values())
        yield Figure("... shared scores; what they hold",
                     f"{len(scores.scores)}; {held} predicates")  # fmt: skip
    yield Figure("... fit", str(usage))
    if name == "smollm2":
        yield elsewhere(run, folder / f"{name}-other", model, tokens)
        for what, more in CURVE.items():
            place = folder / f"{name}-replaced-{len(more)}"
            usage = kept(place, "replace", out, "--max-texts", WINDOWS, *more)
            for file in sorted((place / "replacement").glob("*.json")):
                yield from growth(json.loads(file.read_text(encoding="utf-8")), what)
            yield Figure("... replacement", str(usage))


def figures(path: Path, what: str) -> Iterator[Figure]:
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
        yield Figure(f"{what}: IoU; output R², {kind}, {nodes:.0f} nodes", f"{iou}; {outputs}")
    best = np.array([[max(known.values()) for known in (r.controls, r.controls_output_r2)]
                     for r in run.results])  # fmt: skip
    yield Figure("... best control of each head", "{:.3f}; {:.3f}".format(*best.mean(0)))
    yield Figure("... heads that were cut short", f"{len(run.cut_short)} of {len(run.results)}")


def elsewhere(run: Run, place: Path, model: object, tokens: int) -> Figure:
    """Score the chosen programs of a run on texts of another kind."""
    found = on_other_text(run, place, model, tokens)
    iou = bootstrap(np.mean([one.ious[0] for one in found], axis=0), 0)
    outputs = output_r2(np.array([x.errors[0] for x in found]), np.array([x.spreads for x in found]), 0)
    return Figure(f"... as chosen, on {OTHER[0].name}", f"{iou}; {outputs}")


def on_other_text(run: Run, place: Path, model: object, tokens: int) -> list[HeadScores]:
    """Compare each head with its chosen program on other texts, whose capture is kept in a place."""
    text, count = OTHER
    kept(place, "capture", model, "--text", text, "--max-tokens", tokens, "--max-texts", count)
    split = Split(capture := Capture.open(place), range(count))
    return [split.compare([run.program(r.layer, r.head).tree], r.layer * capture.heads_per_layer + r.head)
            for r in run.results]  # fmt: skip


def growth(outcome: dict[str, Any], what: str) -> Iterator[Figure]:
    """Yield by how many percent perplexity grows with the share of heads, by what replaces them."""
    for point in outcome["points"]:
        mean, low, high = (100 * (point["effect"]["ratio"][x] - 1) for x in ("mean", "low", "high"))
        name = f"{what}: {100 * point['fraction']:.0f} %, {point['source']}"
        yield Figure(name, f"{mean:+,.1f} % [{low:,.1f}, {high:,.1f}]")


def main() -> None:
    """Measure and print a Markdown table."""
    made = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    made.add_argument("--run", action="append", metavar="DIR", help="may be repeated")
    made.add_argument("--only", choices=[*MODELS], action="append", help="may be repeated")
    made.add_argument("--fit", default=[], type=shlex.split, metavar="OPTIONS",
                      help="more options of attn-dsl fit")  # fmt: skip
    # Under a hash of the search, so that no old run passes for one of the present code.
    digest = hashlib.sha256()
    for file in sorted((ROOT / "synth").rglob("*.py")):
        digest.update(file.name.encode() + file.read_bytes())
    out = ROOT / "runs/bench/outputs" / digest.hexdigest()[:12]
    made.add_argument("--out", default=out, type=Path, metavar="DIR", help="where runs are kept")
    options = made.parse_args()
    folder = options.out.resolve()
    if options.run:
        print_table(partial(figures, Path(run), run) for run in options.run)
    else:
        print_table(partial(measure, name, folder, options.fit) for name in options.only or MODELS)


if __name__ == "__main__":
    main()
