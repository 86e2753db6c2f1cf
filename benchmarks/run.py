"""Measures whole processes as a user sees them, and prints each figure beside its target.

    python benchmarks/run.py

Processes are timed from outside, the report in a headless Chromium.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from measuring import ATTN_DSL, ROOT, SHARED, STORIES, Figure, print_table, run

from attn_dsl.eval import report
from attn_dsl.eval.run import Run

REPEAT = 5
HEADS = 1_000
KEYSTROKES = """() => ["w", "wh", "l3", "l3h1", "nodes<9", ""].map((text) => {
    const field = document.querySelector("#filter"), start = performance.now();
    field.value = text;
    field.dispatchEvent(new Event("input"));
    document.body.offsetHeight;
    return performance.now() - start;
})"""
"""Writes into the filter of a report and returns how many milliseconds each keystroke took."""
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


def filtering() -> Iterator[Figure]:
    """A keystroke in the filter of a report of a thousand heads."""
    sys.path.insert(0, str(ROOT / "tests"))
    from browser import CHROMIUM
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        run(*ATTN_DSL, "fit", "--heads", "L0", "--max-texts", 20, "--max-evals", 5, "--out", f"{folder}/run")
        done = Run.open(Path(folder, "run"))
        data = report.report_data(done, done.open_capture())
        pages = tuple(
            replace(page, result=replace(page.result, layer=i // 25, head=i % 25))
            for i, page in enumerate(data.pages[i % len(data.pages)] for i in range(HEADS))
        )
        file = Path(folder, "report.html")
        file.write_text(report.render(replace(data, pages=pages)), encoding="utf-8")
        with sync_playwright() as driver:
            page = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]).new_page()
            page.goto(file.as_uri())
            times = page.evaluate(KEYSTROKES)
    reached = f"{statistics.median(times):.0f} ms ({min(times):.0f} to {max(times):.0f})"
    yield Figure(f"report of {HEADS:,} heads: a keystroke in its filter", reached, "under 50 ms")


if __name__ == "__main__":
    print_table([start, fits, filtering])
