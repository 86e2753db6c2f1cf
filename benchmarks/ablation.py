"""The ablation table: what each proposer of the search brings, and what its time would bring otherwise.

    python benchmarks/ablation.py --smollm2 DIR [--only MODEL] [--every N] [--out DIR]

From one capture of each model, ``attn-dsl fit`` runs with all default proposers, with each of them
left out, and with each further one added (but ``llm``), every run in a process of its own. What is
asked from an effort of 2 on is left out at that effort. A row's figures are means over heads of the
IoU on test texts, of rows that are picked on the select split; its changes are against the complete
run of the same effort, with 95 % bootstrap intervals over heads, in pairs. *At equal time* is the
complete run's IoU at the row's processor time, on the straight line in the logarithm of time through
its efforts of 1 and 2. Runs are kept in ``--out``, and are not repeated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import KINDS, SHARED, STORIES, kept, options_of_fits, rows

from attn_dsl.eval.capture import Capture
from attn_dsl.eval.heads import label
from attn_dsl.eval.metrics import bootstrap
from attn_dsl.eval.run import Run
from attn_dsl.synth.proposers import registry

MODELS = {"smollm2-135m": (128, 5), "stories260k": (128, 1), "minilm-l6": (64, 5)}
"""By model, the tokens of a text, and which heads are searched: every n-th."""


@dataclass(frozen=True)
class Row:
    """A run of the table."""

    seconds: float  # processor time of the whole process
    ious: np.ndarray  # float64 (3, heads): the IoU on test texts, as ``KINDS`` says


def variants() -> Iterator[tuple[str, int, list[str]]]:
    """Yield the runs: what is left out or added, the effort, the proposers."""
    for effort in (1, 2):
        yield "complete", effort, [*registry.DEFAULT]
    for one in registry.BUILT_IN:
        others = [name for name in registry.DEFAULT if name != one.name]
        if one.default:
            yield f"without {one.name}", one.effort, others
        elif one.name != "llm":
            yield f"with {one.name}", one.effort, [*others, one.name]


def at_time(first: Row, second: Row, seconds: float) -> np.ndarray:
    """Return the mean IoU of two runs at another time, on a line in the logarithm of time.

    >>> at_time(Row(10.0, np.array([[0.5]])), Row(40.0, np.array([[0.7]])), 20.0)
    array([0.6])
    """
    share = math.log(seconds / first.seconds) / math.log(second.seconds / first.seconds)
    low, high = first.ious.mean(1), second.ious.mean(1)
    return low + share * (high - low)


def change(row: Row, complete: Row, kind: int) -> str:
    """Write a row's mean IoU, and its change against the complete run with an interval over heads."""
    difference = bootstrap(row.ious[kind] - complete.ious[kind], seed=0)
    interval = f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
    return f"{row.ious[kind].mean():.4f}, {interval}"


def table(name: str, model: Path, options: Any) -> Iterator[str]:
    """Run everything for a model, and yield the lines of its table."""
    folder, (tokens, every) = options.out.resolve() / name, MODELS[name]
    capture = folder / "capture"
    usable = ",".join(one.name for one in registry.BUILT_IN if one.name != "llm")
    most = ("--max-texts", options.texts, "--max-tokens", tokens)
    kept(capture, "capture", model, "--text", STORIES, *most)
    fit = ("fit", "--capture", capture, "--heads")
    made = Capture.open(capture)
    numbers = range(0, made.n_heads, options.every or every)
    heads = ",".join(label(*divmod(n, made.heads_per_layer)) for n in numbers)
    # Compiles every kernel, which Numba keeps, so that no row has the time for it.
    short = ("--effort", 2, "--max-evals", 100)
    kept(folder / "compiled", *fit, "L0H0,L1H0", *short, "--proposers", usable)
    complete: dict[int, Row] = {}
    for what, effort, proposers in variants():
        out, asked = folder / f"{what.replace(' ', '-')}-{effort}", ",".join(proposers)
        how = ("--effort", effort, "--seed", 0, "--proposers", asked, *options.fit)
        usage = kept(out, *fit, heads, *how)
        ious = [[row.iou_test for row in rows(result)] for result in Run.open(out).results]
        row = Row(usage.cpu, np.array(ious).T)
        start = f"| {name}, {row.ious.shape[1]} heads | {what} | {effort} | {row.seconds:.0f} | "
        if what == "complete":
            complete[effort] = row
            yield start + " | ".join(f"{x:.4f}" for x in row.ious.mean(1)) + " | - |"
            continue
        cells = [change(row, complete[effort], kind) for kind in range(len(KINDS))]
        equal = " / ".join(f"{x:.4f}" for x in at_time(complete[1], complete[2], row.seconds))
        yield start + " | ".join([*cells, equal]) + " |"


def main() -> None:
    """Run what is not kept, and print the table."""
    made = options_of_fits(__doc__, "ablation", MODELS)
    made.add_argument("--smollm2", metavar="DIR", help="a transformers folder of SmolLM2-135M")
    made.add_argument("--every", type=int, metavar="N", help="every n-th head of each model")
    made.add_argument("--texts", type=int, default=300, metavar="N")
    options = made.parse_args()
    models = {name: SHARED / "models" / name for name in MODELS}
    models["smollm2-135m"] = Path(options.smollm2 or "smollm2-135m").resolve()
    print("Mean IoU on test texts; changes with 95 % bootstrap intervals over heads, in pairs.\n")
    print(f"| model | proposers | effort | processor s | {' | '.join(KINDS)} | "
          "complete run at equal time |\n|" + "---|" * 8, flush=True)  # fmt: skip
    for name in options.only or [name for name, folder in models.items() if folder.is_dir()]:
        for line in table(name, models[name], options):
            print(line, flush=True)


if __name__ == "__main__":
    main()
