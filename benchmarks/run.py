"""Measures whole processes as a user sees them, and prints each figure beside its target.

    python benchmarks/run.py

Processes are timed from outside.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from measuring import ATTN_DSL, SHARED, STORIES, Figure, print_table, run

REPEAT = 5
EVALUATE = ("import attn_dsl; p = attn_dsl.parse('head a causal:\\n 2 where text(k-1) == text(q)\\n"
            " -1 * log(1 + q - k)'); p(['a', ' b', ' a'])")  # fmt: skip


def spread(times: list[float]) -> str:
    """Write the median of some times with their range."""
    return f"{statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})"


def start() -> Iterator[Figure]:
    """`attn-dsl --help`, and the first evaluation of a program, where nothing is compiled and later."""
    times = [run(*ATTN_DSL, "--help").wall for _ in range(REPEAT)]
    yield Figure("attn-dsl --help", spread(times), "under 0.3 s")
    with tempfile.TemporaryDirectory() as cache:
        command = (sys.executable, "-c", EVALUATE)
        cold, *warm = (run(*command, NUMBA_CACHE_DIR=cache).wall for _ in range(1 + REPEAT))
    yield Figure("first evaluation, nothing compiled", f"{cold:.1f} s", "under 20 s")
    yield Figure("first evaluation, later processes", spread(warm), "under 1 s")


def fit(name: str, target: str, *arguments: object) -> Iterator[Figure]:
    """A whole `attn-dsl fit`, and when its first head was shown."""
    with tempfile.TemporaryDirectory() as folder:
        usage = run(*ATTN_DSL, "fit", *arguments, "--out", f"{folder}/run")
        heads = len(Path(f"{folder}/run/heads.csv").read_text(encoding="utf-8").splitlines()) - 1
    yield Figure(f"fit, {name}: {heads} heads, whole process", f"{usage.wall:.1f} s", target)
    first = usage.first or usage.wall
    yield Figure(f"fit, {name}: first head shown after", f"{first:.1f} s", "10 s for the demo")


def fits() -> Iterator[Figure]:
    """The demo model, once the kernels are compiled, and a real one of forty heads."""
    for _ in fit("one head", "", "--heads", "L0H0", "--max-texts", 20, "--max-evals", 5):
        pass
    yield from fit("demo model", "under 60 s")
    model = SHARED / "models/stories260k"
    if model.is_dir():
        yield from fit("stories260k", "under 180 s", model, "--text", STORIES)


if __name__ == "__main__":
    print_table([start, fits])
