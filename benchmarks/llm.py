"""Compares, at equal processor time, a search alone with a search that asks a language model.

    python benchmarks/llm.py CAPTURE MODEL... [--every 10] [--most N] [--jobs N] [--out DIR]

Every tenth head (L0H0, L1H1, …) is searched alone, then with each MODEL (named as for ``fit --llm``), then
alone with so much more ``--effort`` that it takes about as long as with that model. Processor time is that of
the whole fit, shared scores included, over its heads. Programs are scored on the test texts and, as they are,
on Wikitext. Intervals are of the mean over heads, from a bootstrap.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from outputs import on_other_text

import attn_dsl
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.heads import label
from attn_dsl.eval.metrics import bootstrap
from attn_dsl.synth.llm.options import Options

NEARLY = 0.9  # the least share of the processor time with a model that the search alone is given
MOST = 24  # the most effort
FIGURES = "IoU", "output R²", "IoU, Wikitext", "output R², Wikitext"
Row = tuple[str, float, np.ndarray]
"""What was done, the seconds of a processor that it took, and ``FIGURES`` (4, heads)."""


def measured(name: str, capture: Path, heads: str, out: Path, **how: object) -> Row:
    """Fit, score on other texts, and print a row."""
    started = time.process_time()
    settings: dict[str, object] = {"capture": capture, "heads": heads, "out": out, **how}
    run = attn_dsl.fit(**settings)  # type: ignore[arg-type]
    spent = time.process_time() - started
    meta, results = Capture.open(capture).meta, run.results
    other = on_other_text(run, out.parent / "other", meta["source"], meta["max_tokens"])
    found = np.array([*([r.test[x].mean for r in results] for x in ("iou", "output_r2")),
                      [one.ious.mean() for one in other], [one.output_r2[0] for one in other]])  # fmt: skip
    nodes = sum(r.nodes for r in results) / len(results)
    reached = " | ".join(bootstrap(values, 0).with_interval for values in found)
    print(f"| {name} | {spent / len(results):.0f} s | {reached} | {nodes:.0f} |", flush=True)
    return name, spent, found


def gain(one: Row, other: Row) -> str:
    """Return a row on what one has more than another, head by head."""
    more = " | ".join(bootstrap(values, 0).with_interval for values in one[2] - other[2])
    return f"| {one[0]} less {other[0]} | {more} |"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="Compares searches with and without a language model.")
    parser.add_argument("capture", type=Path)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--most", type=int, help="the first so many of these heads")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--out", type=Path, help="where runs are kept")
    args = parser.parse_args()
    some = Capture.open(args.capture).pairs[:: args.every][: args.most]
    heads = ",".join(label(*pair) for pair in some)
    figures = " | ".join(FIGURES)
    print(f"{len(some)} heads: {heads}\n", f"| | processor time a head | {figures} | nodes |",
          "| --- | --- | --- | --- | --- | --- | --- |", sep="\n")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        out: Path = args.out or Path(folder)
        first = measured("search alone", args.capture, heads, out / "alone", jobs=args.jobs)
        told = []
        for number, model in enumerate(args.models):
            name = Path(model).stem
            asked = measured(f"search and {name}", args.capture, heads, out / f"asked{number}",
                             llm=Options(model), jobs=args.jobs)  # fmt: skip
            effort, longer = 1, first
            while longer[1] < NEARLY * asked[1] and effort < MOST:
                effort = min(MOST, max(effort + 1, round(effort * asked[1] / longer[1])))
                place = out / f"effort{number}-{effort}"
                longer = measured(f"search alone, effort {effort}", args.capture, heads, place,
                                  effort=effort, jobs=args.jobs)  # fmt: skip
            told += [gain(asked, first), gain(asked, longer)]
    print("", f"| less | {figures} |", "| --- | --- | --- | --- | --- |", *told, sep="\n")


if __name__ == "__main__":
    main()
