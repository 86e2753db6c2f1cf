"""Compares, at equal processor time, a search alone with a search that asks a language model.

    python benchmarks/llm.py CAPTURE MODEL... [--every 10] [--most N] [--jobs N] [--out DIR]

Every tenth head (L0H0, L1H1, …) is searched alone, then with each MODEL (named as for ``fit --llm``), then
alone with so much more ``--effort`` that it takes about as long as with that model. Processor time is that of
the whole fit, shared scores included, over its heads. Intervals are of the mean over heads, from a bootstrap.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

import attn_dsl
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.heads import label
from attn_dsl.eval.metrics import bootstrap
from attn_dsl.eval.results import HeadResult
from attn_dsl.synth.llm.options import Options

NEARLY = 0.9  # the least share of the processor time with a model that the search alone is given
MOST = 24  # the most effort
Row = tuple[str, float, list[HeadResult]]
"""What was done, the seconds of a processor that it took, and what came of it."""


def measured(name: str, capture: Path, heads: str, out: Path, **how: object) -> Row:
    """Fit, and print a row."""
    started = time.process_time()
    settings: dict[str, object] = {"capture": capture, "heads": heads, "out": out, **how}
    results = attn_dsl.fit(**settings).results  # type: ignore[arg-type]
    spent = time.process_time() - started
    ious, r2s = ([r.test[figure].mean for r in results] for figure in ("iou", "output_r2"))
    nodes = sum(r.nodes for r in results) / len(results)
    reached = " | ".join(bootstrap(np.array(x), 0).with_interval for x in (ious, r2s))
    print(f"| {name} | {spent / len(results):.0f} s | {reached} | {nodes:.0f} |", flush=True)
    return name, spent, results


def gain(one: Row, other: Row) -> str:
    """Say what one row has more than another, head by head."""
    pairs = [*zip(one[2], other[2], strict=True)]
    iou, r2 = ([a.test[x].mean - b.test[x].mean for a, b in pairs] for x in ("iou", "output_r2"))
    return (f"{one[0]} less {other[0]}, {len(pairs)} heads: IoU {bootstrap(np.array(iou), 0).with_interval}, "
            f"output R² {bootstrap(np.array(r2), 0).with_interval}")  # fmt: skip


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
    print(f"{len(some)} heads: {heads}\n", "| | processor time a head | IoU | output R² | nodes |",
          "| --- | --- | --- | --- | --- |", sep="\n")  # fmt: skip
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
    print("", *told, sep="\n")


if __name__ == "__main__":
    main()
