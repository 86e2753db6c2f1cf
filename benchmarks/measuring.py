"""Measuring: whole processes from outside, functions in turns, and tables of what was reached."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from attn_dsl.eval.results import FrontRow, HeadResult

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
STORIES = SHARED / "text/tinystories-5k.jsonl"
SMALL = 40
KINDS = "as chosen", f"at most {SMALL} nodes", "any size"
ATTN_DSL = (sys.executable, "-m", "attn_dsl.cli")


@dataclass(frozen=True)
class Figure:
    """A measured figure: what it is, how much was reached, and what was aimed for."""

    name: str
    reached: str
    target: str = "-"


@dataclass(frozen=True)
class Usage:
    """What a process took."""

    wall: float  # seconds
    cpu: float  # seconds of processor time
    memory: int  # bytes, at the most
    first: float | None = None  # seconds until it showed its first head; None if it showed none

    def __str__(self) -> str:
        memory = f"{self.memory / 1e9:.1f} GB"
        return f"{self.wall:.0f} s, {self.cpu:.0f} s of processor time, {memory}"


def print_table(measures: Iterable[Callable[[], Iterable[Figure]]]) -> None:
    """Measure one thing after the other and print a Markdown table as it goes."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}, load {os.getloadavg()[0]:.1f}\n")
    print("| what | reached | target |\n|---|---|---|", flush=True)
    for measure in measures:
        for figure in measure():
            print(f"| {figure.name} | {figure.reached} | {figure.target} |", flush=True)


def run(*command: object, **environment: str) -> Usage:
    """Run a process to its end; end with its last message if it fails."""
    started, first, last = time.perf_counter(), None, ""
    process = subprocess.Popen([str(part) for part in command], env=os.environ | environment, text=True,
                               cwd=tempfile.gettempdir(), stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE)  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        last = line.strip() or last
        if first is None and re.match(r"L\d+H\d+ ", line):
            first = time.perf_counter() - started
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        shown = " ".join(map(str, command))
        raise SystemExit(f"{shown}\nended with {process.returncode}: {last}")
    wall = time.perf_counter() - started
    return Usage(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, first)


def kept(out: Path, *arguments: object) -> Usage:
    """Run a command of attn-dsl that makes a directory, unless the same has made it before.

    What it took is kept beside the directory. One that was interrupted starts again.
    """
    file, command = out.with_name(out.name + ".json"), [str(part) for part in arguments]
    if file.exists():
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["command"] == command:
            return Usage(**known["usage"])
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    print(f"{out.parent.name}/{out.name} ...", file=sys.stderr, flush=True)
    usage = run(*ATTN_DSL, *command, "--out", out)
    made = {"command": command, "usage": asdict(usage)}
    file.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return usage


def least(rounds: int, *sides: Callable[[], object],
          clock: Callable[[], float] = time.thread_time) -> list[float]:  # fmt: skip
    """Time functions in turns, after one call of each; return the least seconds of each."""
    times = [float("inf")] * len(sides)
    for side in sides:
        side()
    for _ in range(rounds):
        for i, side in enumerate(sides):
            started = clock()
            side()
            times[i] = min(times[i], clock() - started)
    return times


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the slope of a straight line through the logarithms; 1 is linear growth."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def rows(result: HeadResult) -> tuple[FrontRow, FrontRow, FrontRow]:
    """Return the rows of a head's front that figures are of, by ``KINDS``.

    The second and third have the best score on the select split; where all rows are larger than
    ``SMALL``, the second is the smallest.
    """
    front = sorted(result.front, key=lambda row: row.nodes)
    small = [row for row in front if row.nodes <= SMALL] or front[:1]
    chosen = next(row for row in front if row.chosen)
    best, best_small = (max(some, key=lambda row: row.score) for some in (front, small))
    return chosen, best_small, best
