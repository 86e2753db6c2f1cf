"""Searches on a Dask cluster: the same bytes as on threads, workers that die, clear errors."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import attn_dsl, snapshot, succeed
from fitting import (
    HEADS,
    LABELS,
    SETTINGS,
    assert_same,
    rows,
    started,
    wait_for,
)  # fmt: skip

import attn_dsl as package
from attn_dsl.dsl.errors import InputError, WorkError
from attn_dsl.synth.runs.progress import Progress
from attn_dsl.synth.runs.worker import processor

distributed = pytest.importorskip("distributed")


def local_cluster(workers: int, **variables: str) -> Any:
    """Start a cluster of so many worker processes, with environment variables, on the loopback interface."""
    return distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None,
        host="127.0.0.1", silence_logs=50, env=variables,
    )  # fmt: skip


@pytest.fixture(scope="module")
def started_cluster() -> Iterator[Any]:
    """Two worker processes on the loopback interface; those that die are started again."""
    with local_cluster(2) as cluster:
        yield cluster


@pytest.fixture
def cluster(started_cluster: Any) -> Any:
    """The cluster with both of its workers, also after a test that killed one."""
    with distributed.Client(started_cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
    return started_cluster


def kill_a_busy_worker(cluster: Any) -> bool:
    """Kill a worker that has work, if there is one."""
    busy = {w.address for w in cluster.scheduler.workers.values() if w.processing}
    for nanny in cluster.workers.values():
        if nanny.worker_address in busy:
            os.kill(nanny.pid, signal.SIGKILL)
            return True
    return False


def test_a_cluster_gives_the_same_bytes(
    small_run: Path, small_capture: Path, cluster: Any, tmp_path: Path
) -> None:
    args = ("--capture", small_capture, *SETTINGS, "--scheduler", cluster.scheduler_address)
    succeed("fit", *args, "--out", tmp_path / "r")
    assert [f"L{int(r['layer']):02d}H{int(r['head']):02d}" for r in rows(small_run)] == LABELS
    assert_same(tmp_path / "r", small_run)


@pytest.mark.parametrize("failures", [3, 0])
def test_a_worker_that_dies_costs_only_its_task(
    small_run: Path, small_capture: Path, cluster: Any, tmp_path: Path, failures: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # With no failures allowed Dask gives the task up at once, and the search begins it again.
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", failures)
    killed: list[bool] = []

    def watch(progress: Progress) -> None:
        if progress.stage == "search" and progress.done and not any(killed):
            killed.append(kill_a_busy_worker(cluster))

    package.fit(
        capture=small_capture, out=tmp_path / "r", heads=HEADS, max_evals=8,
        scheduler=cluster.scheduler_address, watch=watch,
    )  # fmt: skip
    assert any(killed)
    assert_same(tmp_path / "r", small_run)


def test_a_head_whose_workers_always_die_is_given_up(
    small_run: Path,
    small_capture: Path,
    cluster: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    monkeypatch.setattr("attn_dsl.synth.runs.heads.TRIES", 1)

    def watch(progress: Progress) -> None:
        # A task that has just ended is not lost with its worker: again and again.
        if progress.stage == "search" and progress.done:
            kill_a_busy_worker(cluster)

    with pytest.raises(WorkError, match=r"died again and again.*--resume"):
        package.fit(
            capture=small_capture, out=tmp_path / "r", heads=HEADS, max_evals=8,
            scheduler=cluster.scheduler_address, watch=watch,
        )  # fmt: skip
    assert rows(tmp_path / "r")
    succeed("fit", "--capture", small_capture, *SETTINGS, "--out", tmp_path / "r", "--resume")
    assert_same(tmp_path / "r", small_run)


def test_a_search_on_a_cluster_is_interrupted_and_resumed(
    small_run: Path, small_capture: Path, cluster: Any, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    args = ("fit", "--capture", small_capture, *SETTINGS, "--scheduler", cluster.scheduler_address)
    with started(*args, "--out", out) as process:
        wait_for(process, out / "state", "L*.json")
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "--resume" in told
    assert "Traceback" not in told
    finished = snapshot(out / "state")
    assert 0 < len(finished) < len(LABELS)
    assert len(rows(out)) == len(finished)
    succeed(*args, "--out", out, "--resume")
    assert snapshot(out / "state").items() >= finished.items()
    assert_same(out, small_run)


def test_threads_go_on_where_a_cluster_stopped(
    small_run: Path, small_capture: Path, cluster: Any, tmp_path: Path
) -> None:
    class Enough(Exception):
        pass

    def watch(progress: Progress) -> None:
        if progress.result is not None:
            raise Enough

    with pytest.raises(Enough):
        package.fit(
            capture=small_capture, out=tmp_path / "r", heads=HEADS, max_evals=8,
            scheduler=cluster.scheduler_address, watch=watch,
        )  # fmt: skip
    succeed("fit", "--capture", small_capture, *SETTINGS, "--out", tmp_path / "r", "--resume")
    assert_same(tmp_path / "r", small_run)


def test_a_scheduler_that_goes_away_leaves_what_is_finished(
    small_run: Path, small_capture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    with local_cluster(1) as cluster:

        def watch(progress: Progress) -> None:
            if progress.result is not None:
                cluster.close(timeout=10)

        with pytest.raises(WorkError, match=r"went away.*--resume"):
            package.fit(
                capture=small_capture, out=out, heads=HEADS, max_evals=8,
                scheduler=cluster.scheduler_address, watch=watch,
            )  # fmt: skip
    assert rows(out)
    succeed("fit", "--capture", small_capture, *SETTINGS, "--out", out, "--resume")
    assert_same(out, small_run)


def test_workers_that_are_lost_are_told_of(
    small_run: Path, small_capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r"
    monkeypatch.setattr("attn_dsl.synth.runs.heads.LOOK", 0.2)
    monkeypatch.setattr("attn_dsl.synth.runs.executors.GIVE_UP", 2)
    with local_cluster(1) as cluster:

        def watch(progress: Progress) -> None:
            if progress.result is not None:
                cluster.scale(0)

        with (
            pytest.warns(UserWarning, match=r"lost the worker tcp.*none is left.*dask worker"),
            pytest.raises(WorkError, match=r"has had no workers for 2 s.*--resume"),
        ):
            package.fit(
                capture=small_capture, out=out, heads=HEADS, max_evals=8,
                scheduler=cluster.scheduler_address, watch=watch,
            )  # fmt: skip
    succeed("fit", "--capture", small_capture, *SETTINGS, "--out", out, "--resume")
    assert_same(out, small_run)


# errors


def test_no_workers(small_capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attn_dsl.synth.runs.executors.WORKERS", 1)
    with local_cluster(0) as cluster:
        address = cluster.scheduler_address
        args = ("--capture", small_capture, "--scheduler", address, "--out", tmp_path / "r")
        outcome = attn_dsl("fit", *args)
    assert outcome.code == 2
    assert f"{address} has no workers yet; waiting" in outcome.err
    assert f"dask worker {address}" in outcome.err
    assert not (tmp_path / "r").exists()


def test_no_scheduler(small_capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attn_dsl.synth.runs.executors.CONNECT", 2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    args = ("--capture", small_capture, "--scheduler", address, "--out", tmp_path / "r")
    outcome = attn_dsl("fit", *args)
    assert outcome.code == 2
    assert address in outcome.err
    assert "dask scheduler" in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("address", ["nonsense://x", "127.0.0.1:port", ""])
def test_addresses_that_are_none(small_capture: Path, tmp_path: Path, address: str) -> None:
    args = ("--capture", small_capture, "--scheduler", address, "--out", tmp_path / "r")
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


def test_workers_that_cannot_see_the_capture(small_capture: Path, cluster: Any, tmp_path: Path) -> None:
    import shutil

    moved = tmp_path / "capture"
    shutil.copytree(small_capture, moved)

    def watch(progress: Progress) -> None:
        if progress.stage == "prepare":
            shutil.rmtree(moved)

    with pytest.raises(InputError, match=r"the worker on .* cannot read .*file system"):
        package.fit(
            capture=moved, out=tmp_path / "r", heads="L0", max_evals=2, proposers=["library"],
            scheduler=cluster.scheduler_address, watch=watch,
        )  # fmt: skip


def test_workers_of_other_versions(
    small_capture: Path, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import metadata

    real = metadata.version
    ours = lambda name: "0.0.1" if name == "numba" else real(name)  # noqa: E731
    monkeypatch.setattr(metadata, "version", ours)
    args = ("--capture", small_capture, "--scheduler", cluster.scheduler_address)
    outcome = attn_dsl("fit", *args, "--out", tmp_path / "r")
    assert outcome.code == 2
    assert "numba" in outcome.err
    assert "0.0.1 here" in outcome.err
    assert not (tmp_path / "r").exists()


def test_workers_with_other_vector_instructions(small_capture: Path, tmp_path: Path) -> None:
    with local_cluster(1, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="") as cluster:
        args = ("--capture", small_capture, "--scheduler", cluster.scheduler_address)
        outcome = attn_dsl("fit", *args, "--out", tmp_path / "r")
    assert outcome.code == 2
    assert f"processor generic ({processor()} here)" in " ".join(outcome.err.split())
    assert not (tmp_path / "r").exists()


def test_without_dask_the_install_line_is_told(
    small_capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    args = ("--capture", small_capture, "--scheduler", "tcp://127.0.0.1:1", "--out", tmp_path / "r")
    outcome = attn_dsl("fit", *args)
    assert outcome.code == 2
    assert "pip install 'attn-dsl[cluster]'" in outcome.err
    assert not (tmp_path / "r").exists()
