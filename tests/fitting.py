"""Small runs for tests: how they are made, stopped halfway, and compared."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import snapshot, succeed, write_texts
from small_models import save_model

HEADS = "L0,L1H0,L1H1"
LABELS = ["L00H00", "L00H01", "L00H02", "L00H03", "L01H00", "L01H01"]
SETTINGS = ("--heads", HEADS, "--max-evals", "8")


@pytest.fixture(scope="session")
def small_capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The attention of a small model with random weights on 24 short texts."""
    folder = tmp_path_factory.mktemp("capture")
    model = save_model(folder / "model", "gpt2")
    texts = write_texts(folder / "texts.jsonl")
    out = folder / "capture"
    succeed("capture", model, "--text", texts, "--out", out, "--max-tokens", "32")
    return out


@pytest.fixture(scope="session")
def small_run(small_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made with one thread and without interruption."""
    out = tmp_path_factory.mktemp("runs") / "run"
    succeed("fit", "--capture", small_capture, *SETTINGS, "--jobs", "1", "--out", out)
    return out


def rows(run: Path) -> list[dict[str, str]]:
    """Return the rows of `heads.csv`, seconds aside."""
    with (run / "heads.csv").open(encoding="utf-8", newline="") as lines:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(lines)]


def assert_same(one: Path, other: Path) -> None:
    """Compare everything that two runs have found."""
    assert rows(one) == rows(other)
    assert snapshot(one / "programs") == snapshot(other / "programs")
    assert (one / "pareto.csv").read_bytes() == (other / "pareto.csv").read_bytes()
    found = [sorted((r / "candidates.jsonl").read_text().splitlines()) for r in (one, other)]
    assert found[0] == found[1]


@contextmanager
def started(*args: object, prepare: Callable[[], object] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run the command line in a process of its own, which is gone at the end."""

    def begin() -> None:
        # What a shell does to its background jobs: they and their children ignore SIGINT.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if prepare is not None:
            prepare()

    with subprocess.Popen(
        [sys.executable, "-m", "attn_dsl.cli", *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "COLUMNS": "80"}, preexec_fn=begin,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], folder: Path, pattern: str, count: int = 1) -> None:
    """Wait until a process has written some files."""
    ends = time.monotonic() + 120
    while len(list(folder.glob(pattern))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends, f"no {pattern}"
        time.sleep(0.01)
