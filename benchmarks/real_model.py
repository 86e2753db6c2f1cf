"""Measures a fit of a real model: its plan beside what happens, its time and IoU, how ctrl-c ends it.

    python benchmarks/real_model.py [MODEL] [--text FILE] [--effort N] [--moments N] [--out DIR]

MODEL is `smollm2` by default. A capture and a run that are finished are kept for the next time. The
last rows are what each proposer takes for a head, for the ``Cost`` in ``synth/proposers/registry.py``.
"""

import argparse
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from measuring import ATTN_DSL, ROOT, STORIES, Figure, kept, print_table
from outputs import figures

from attn_dsl.eval.capture import Capture
from attn_dsl.synth.proposer import HeadTask, pool
from attn_dsl.synth.proposers import registry
from attn_dsl.synth.search import Search
from attn_dsl.synth.session import Session, Settings

LONGEST = 30.0  # interrupts come within so many seconds of a phase


def fit(model: str, text: Path, effort: int, out: Path) -> Iterator[Figure]:
    """Plan a capture and a fit, make them, and say what they took and found."""
    for name, source in {"capture": (model, "--text", text),
                         "run": ("--capture", out / "capture", "--effort", effort)}.items():  # fmt: skip
        plan = subprocess.run([*map(str, (*ATTN_DSL, "fit", *source, "--dry-run", "--json"))],
                              capture_output=True, check=True)  # fmt: skip
        told = json.loads(plan.stdout)
        usage = kept(out / name, "capture" if name == "capture" else "fit", *source)
        planned = told["seconds"] - (told["search_seconds"] if name == "capture" else 0.0)
        ratio = f"planned {planned:.0f} s, {planned / usage.wall:.2f} of it"
        yield Figure(f"{name}: {usage}", ratio, "0.67 to 1.5")
    yield from figures(out / "run", model)


def interrupts(phase: str, moments: int, out: Path, *command: object) -> Iterator[Figure]:
    """Interrupt a command at some moments, and say how long it went on at the most."""
    late, left = [], out / "interrupted"
    for moment in np.linspace(0.5, LONGEST, moments):
        shutil.rmtree(left, ignore_errors=True)
        process = subprocess.Popen(
            [*map(str, (*ATTN_DSL, *command, "--out", left))], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
        time.sleep(moment)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        if process.wait() in (130, -signal.SIGINT):  # else it had ended before
            late.append(time.monotonic() - started)
    reached = f"{max(late):.2f} s at the most, of {len(late)} times" if late else "it was faster"
    yield Figure(f"ctrl-c, {phase}", reached, "at most 2 s")


def proposers(out: Path, effort: int) -> Iterator[Figure]:
    """What each proposer takes for a head: the mean of three, after one that makes what all share."""
    settings = Settings(registry.DEFAULT, effort=effort)
    session = Session(Capture.open(out / "capture"), settings, out / "run")
    Search(session).prepare()
    last = session.capture.n_layers - 1
    for name in registry.DEFAULT:
        proposer, seconds, evals = registry.find(name).make(session), [], 0
        for place in ((0, 0), (0, 1), (last // 2, 1), (last, 0)):
            task = HeadTask(session.design, *place, seed=0, max_nodes=200, max_evals=1600)
            started = time.process_time()
            pool(task, [proposer])
            seconds.append(time.process_time() - started)
            evals += task.evals
        reached = f"{sum(seconds[1:]) / 3:.2f} s, {evals / 4:.0f} programs"
        yield Figure(f"{name}, effort {effort}", reached)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", metavar="MODEL", nargs="?", default="smollm2")
    parser.add_argument("--text", type=Path, default=STORIES)
    parser.add_argument("--effort", type=int, default=1)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--out", type=Path, default=ROOT / "runs/bench/real_model")
    options = parser.parse_args()
    out = options.out.resolve()
    given = "--capture", out / "capture"
    phases = {"capture": ("capture", options.model, "--text", options.text),
              "search": ("fit", *given, "--effort", options.effort),
              "replacement": ("replace", out / "run", *given),
              "tuning": ("replace", out / "run", *given, "--tune", "--fraction", 1)}  # fmt: skip
    print_table([partial(fit, options.model, options.text, options.effort, out),
                 *(partial(interrupts, name, options.moments, out, *x) for name, x in phases.items()),
                 partial(proposers, out, options.effort)])  # fmt: skip


if __name__ == "__main__":
    main()
