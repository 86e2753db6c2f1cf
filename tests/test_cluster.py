"""Searches on a Dask cluster: the same bytes as on threads, workers that die, clear errors."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import attn_dsl, snapshot, succeed, write_texts
from small_models import save_model

import attn_dsl as package
from attn_dsl.dsl.errors import InputError, WorkError
from attn_dsl.synth.progress import Progress

distributed = pytest.importorskip("distributed")

HEADS = "L0,L1H0,L1H1"
LABELS = ["L00H00", "L00H01", "L00H02", "L00H03", "L01H00", "L01H01"]
SETTINGS = ("--heads", HEADS, "--max-evals", "8")


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The attention of a small model with random weights on 24 short texts."""
    folder = tmp_path_factory.mktemp("capture")
    model = save_model(folder / "model", "gpt2")
    texts = write_texts(folder / "texts.jsonl")
    out = folder / "capture"
    succeed("capture", model, "--text", texts, "--out", out, "--max-tokens", "32")
    return out


@pytest.fixture(scope="module")
def run(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made with one thread."""
    out = tmp_path_factory.mktemp("runs") / "run"
    succeed("fit", "--capture", capture, *SETTINGS, "--jobs", "1", "--out", out)
    return out


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two worker processes on the loopback interface; those that die are started again."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
        host="127.0.0.1", silence_logs=50,
    ) as cluster:  # fmt: skip
        yield cluster


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "heads.csv").open(encoding="utf-8", newline="") as lines:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(lines)]


def assert_same(one: Path, other: Path) -> None:
    assert rows(one) == rows(other)
    assert snapshot(one / "programs") == snapshot(other / "programs")
    assert (one / "pareto.csv").read_bytes() == (other / "pareto.csv").read_bytes()
    found = [sorted((r / "candidates.jsonl").read_text().splitlines()) for r in (one, other)]
    assert found[0] == found[1]


def test_a_cluster_gives_the_same_bytes(
    run: Path, capture: Path, cluster: Any, tmp_path: Path
) -> None:
    args = ("--capture", capture, *SETTINGS, "--scheduler", cluster.scheduler_address)
    succeed("fit", *args, "--out", tmp_path / "r")
    assert [f"L{int(r['layer']):02d}H{int(r['head']):02d}" for r in rows(run)] == LABELS
    assert_same(tmp_path / "r", run)


@pytest.mark.parametrize(("number", "failures"), [(1, 3), (2, 3), (1, 0)])
def test_a_worker_that_dies_costs_only_its_task(
    run: Path, capture: Path, cluster: Any, tmp_path: Path, number: int, failures: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # With no failures allowed Dask gives the task up at once, and the search begins it again.
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", failures)
    killed: list[int] = []

    def watch(progress: Progress) -> None:
        if progress.number == number and progress.done == 1 and not killed:
            busy = next(iter(cluster.workers.values()))
            killed.append(busy.pid)
            os.kill(busy.pid, signal.SIGKILL)

    package.fit(
        capture=capture, out=tmp_path / "r", heads=HEADS, max_evals=8,
        scheduler=cluster.scheduler_address, watch=watch,
    )  # fmt: skip
    assert killed
    assert_same(tmp_path / "r", run)


def test_a_head_whose_workers_always_die_is_given_up(
    run: Path, capture: Path, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    monkeypatch.setattr("attn_dsl.synth.rounds.TRIES", 1)
    killed: list[int] = []

    def watch(progress: Progress) -> None:
        if progress.done == 1 and not killed:
            killed.append(next(iter(cluster.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(WorkError, match=r"died again and again.*--resume"):
        package.fit(
            capture=capture, out=tmp_path / "r", heads=HEADS, max_evals=8,
            scheduler=cluster.scheduler_address, watch=watch,
        )  # fmt: skip
    assert rows(tmp_path / "r")
    succeed("fit", "--capture", capture, *SETTINGS, "--out", tmp_path / "r", "--resume")
    assert_same(tmp_path / "r", run)


def test_a_search_on_a_cluster_is_interrupted_and_resumed(
    run: Path, capture: Path, cluster: Any, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    args = ("fit", "--capture", capture, *SETTINGS, "--scheduler", cluster.scheduler_address)
    with subprocess.Popen(
        [sys.executable, "-m", "attn_dsl.cli", *map(str, args), "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        try:
            ends = time.monotonic() + 120
            while not list((out / "state").glob("round1/L*.json")):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < ends, "no head was finished"
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, told
    assert "--resume" in told
    assert "Traceback" not in told
    finished = snapshot(out / "state")
    assert 0 < len(finished) < 2 * len(LABELS)
    assert len(rows(out)) == len({Path(name).stem for name in finished})
    succeed(*args, "--out", out, "--resume")
    assert snapshot(out / "state").items() >= finished.items()
    assert_same(out, run)


def test_threads_go_on_where_a_cluster_stopped(
    run: Path, capture: Path, cluster: Any, tmp_path: Path
) -> None:
    class Enough(Exception):
        pass

    def watch(progress: Progress) -> None:
        if progress.result is not None:
            raise Enough

    with pytest.raises(Enough):
        package.fit(
            capture=capture, out=tmp_path / "r", heads=HEADS, max_evals=8,
            scheduler=cluster.scheduler_address, watch=watch,
        )  # fmt: skip
    succeed("fit", "--capture", capture, *SETTINGS, "--out", tmp_path / "r", "--resume")
    assert_same(tmp_path / "r", run)


def test_a_scheduler_that_goes_away_leaves_what_is_finished(
    run: Path, capture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None,
        host="127.0.0.1", silence_logs=50,
    ) as cluster:  # fmt: skip

        def watch(progress: Progress) -> None:
            if progress.result is not None:
                cluster.close(timeout=10)

        with pytest.raises(WorkError, match=r"went away.*--resume"):
            package.fit(
                capture=capture, out=out, heads=HEADS, max_evals=8,
                scheduler=cluster.scheduler_address, watch=watch,
            )  # fmt: skip
    assert rows(out)
    succeed("fit", "--capture", capture, *SETTINGS, "--out", out, "--resume")
    assert_same(out, run)


# errors


def test_no_scheduler(capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attn_dsl.synth.executors.CONNECT", 2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    args = ("--capture", capture, "--scheduler", address, "--out", tmp_path / "r")
    outcome = attn_dsl("fit", *args)
    assert outcome.code == 2
    assert address in outcome.err
    assert "dask scheduler" in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("address", ["nonsense://x", "127.0.0.1:port", ""])
def test_addresses_that_are_none(capture: Path, tmp_path: Path, address: str) -> None:
    args = ("--capture", capture, "--scheduler", address, "--out", tmp_path / "r")
    outcome = attn_dsl("fit", *args)
    assert outcome.code == 2
    assert "--scheduler" in outcome.err
    assert not (tmp_path / "r").exists()


def test_a_capture_in_memory_is_refused(cluster: Any, tmp_path: Path) -> None:
    attention = [np.full((1, 2, 8, 8), 1 / 8, np.float32) for _ in range(12)]
    tokens = [[f" {i}{j}" for j in range(8)] for i in range(12)]
    made = package.Capture.from_arrays(tokens, attention)
    with pytest.raises(InputError, match="in memory"):
        package.fit(capture=made, out=tmp_path / "r", scheduler=cluster.scheduler_address)


def test_workers_that_cannot_see_the_capture(capture: Path, cluster: Any, tmp_path: Path) -> None:
    import shutil

    moved = tmp_path / "capture"
    shutil.copytree(capture, moved)

    def watch(progress: Progress) -> None:
        if progress.stage == "prepare":
            shutil.rmtree(moved)

    with pytest.raises(InputError, match=r"the worker on .* cannot read .*file system"):
        package.fit(
            capture=moved, out=tmp_path / "r", heads="L0", max_evals=2,
            scheduler=cluster.scheduler_address, watch=watch,
        )  # fmt: skip


def test_workers_of_other_versions(
    capture: Path, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import metadata

    real = metadata.version
    ours = lambda name: "0.0.1" if name == "numba" else real(name)  # noqa: E731
    monkeypatch.setattr(metadata, "version", ours)
    args = ("--capture", capture, "--scheduler", cluster.scheduler_address)
    outcome = attn_dsl("fit", *args, "--out", tmp_path / "r")
    assert outcome.code == 2
    assert "numba" in outcome.err
    assert "0.0.1 here" in outcome.err
    assert not (tmp_path / "r").exists()


def test_without_dask_the_install_line_is_told(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    args = ("--capture", capture, "--scheduler", "tcp://127.0.0.1:1", "--out", tmp_path / "r")
    outcome = attn_dsl("fit", *args)
    assert outcome.code == 2
    assert "pip install 'attn-dsl[cluster]'" in outcome.err
    assert not (tmp_path / "r").exists()
