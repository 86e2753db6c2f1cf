"""Measures what the project claims of its speed, and prints each figure beside its target.

    python benchmarks/run.py [--only NAME] [--repeat N]

Whole processes are timed from outside. The machine's load is printed with the table, since the
figures mean little without it.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
COMMAND = [sys.executable, "-m", "attn_dsl.cli"]
EVALUATE = (
    "import attn_dsl; p = attn_dsl.parse('head a causal:\\n 2 where text(k-1) == text(q)\\n"
    " -1 * log(1 + q - k)'); p(['a', ' b', ' a'])"
)


@dataclass(frozen=True)
class Figure:
    """A measured figure: what it is, how much was reached, and what was aimed for."""

    name: str
    reached: str
    target: str


def print_table(measures: Iterable[Callable[[], list[Figure]]]) -> None:
    """Measure one thing after the other and print a Markdown table as it goes."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}, load {os.getloadavg()[0]:.1f}\n")
    print("| what | reached | target |\n|---|---|---|", flush=True)
    for measure in measures:
        for figure in measure():
            print(f"| {figure.name} | {figure.reached} | {figure.target} |", flush=True)


def timed(command: list[str], **environment: str) -> float:
    """Run a process to its end and return its wall time in seconds."""
    started = time.perf_counter()
    subprocess.run(
        command, check=True, cwd=tempfile.gettempdir(), env=os.environ | environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - started


def spread(times: list[float]) -> str:
    """Write the median of some times with their range."""
    return f"{statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})"


def help_time(repeat: int) -> list[Figure]:
    """`attn-dsl --help`, whole process."""
    times = [timed([*COMMAND, "--help"]) for _ in range(max(5, repeat))]
    return [Figure("attn-dsl --help", spread(times), "under 0.3 s")]


def first_call(repeat: int) -> list[Figure]:
    """The first evaluation of a program after installation, and in later processes."""
    with tempfile.TemporaryDirectory() as cache:
        cold = timed([sys.executable, "-c", EVALUATE], NUMBA_CACHE_DIR=cache)
        warm = [
            timed([sys.executable, "-c", EVALUATE], NUMBA_CACHE_DIR=cache)
            for _ in range(max(5, repeat))
        ]
    return [
        Figure("first evaluation, nothing compiled", f"{cold:.1f} s", "under 20 s"),
        Figure("first evaluation, later processes", spread(warm), "under 1 s"),
    ]


def fit_time(name: str, arguments: list[str], target: str) -> list[Figure]:
    """A whole `attn-dsl fit`, and when its first head was shown."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        process = subprocess.Popen(
            [*COMMAND, "fit", *arguments, "--out", f"{folder}/run"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=folder,
        )  # fmt: skip
        assert process.stderr is not None
        first = None
        for line in process.stderr:
            if first is None and line.startswith("L0"):
                first = time.perf_counter() - started
        if process.wait():
            raise RuntimeError(f"fit {' '.join(arguments)} failed with {process.returncode}")
        whole = time.perf_counter() - started
        rows = (Path(folder) / "run" / "heads.csv").read_text(encoding="utf-8").splitlines()
    heads = len(rows) - 1
    return [
        Figure(f"{name}: {heads} heads, whole process", f"{whole:.1f} s", target),
        Figure(f"{name}: first head shown after", f"{first or whole:.1f} s", "10 s for the demo"),
    ]


def demo(repeat: int) -> list[Figure]:
    """The main job: `attn-dsl fit` on the demo model, kernels compiled before."""
    timed([*COMMAND, "fit", "--heads", "L0H0", "--max-texts", "20", "--max-evals", "5",
           "--out", tempfile.mkdtemp() + "/run"])  # fmt: skip
    return fit_time("fit, demo model", [], "under 60 s")


def stories(repeat: int) -> list[Figure]:
    """Forty heads of a real model on 300 stories."""
    if not SHARED.is_dir():
        return [Figure("fit, stories260k", "skipped: no folder ../shared", "under 180 s")]
    arguments = [
        str(SHARED / "models/stories260k"),
        "--text",
        str(SHARED / "text/tinystories-5k.jsonl"),
    ]
    return fit_time("fit, stories260k", arguments, "under 180 s")


MEASURES: dict[str, Callable[[int], list[Figure]]] = {
    "help": help_time,
    "first-call": first_call,
    "demo": demo,
    "stories": stories,
}


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=MEASURES, action="append")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    chosen = [MEASURES[name] for name in options.only or MEASURES]
    print_table([partial(measure, options.repeat) for measure in chosen])


if __name__ == "__main__":
    main()
