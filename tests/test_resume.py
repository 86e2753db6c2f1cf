"""Runs that something ends halfway: they go on to what an uninterrupted run finds, byte for byte."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from pathlib import Path

import pytest
from command_line import attn_dsl, snapshot, succeed
from fitting import LABELS, SETTINGS, assert_same, rows, started, wait_for

import attn_dsl as package
from attn_dsl.dsl.errors import InputError
from attn_dsl.eval import run as run_module
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.files import alone, sealed


def status(run: Path) -> str:
    return str(json.loads((run / "run.json").read_text())["status"])


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_run_that_is_killed_twice_ends_like_one_that_is_not(
    small_run: Path, small_capture: Path, tmp_path: Path, jobs: str
) -> None:
    out = tmp_path / "r"
    args = ("fit", "--capture", small_capture, *SETTINGS, "--out", out, "--jobs", jobs)
    with started(*args) as process:
        wait_for(process, out / "state", "L*.json", 2)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert rows(out), "its tables are there at any time"
    kept = snapshot(out / "state")
    with started(*args, "--resume") as process:
        wait_for(process, out / "state", "L*.json", 4)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert snapshot(out / "state").items() >= kept.items()
    succeed(*args, "--resume")
    assert_same(out, small_run)
    assert status(out) == "done"


def test_what_a_kill_leaves_half_written_is_mended(
    small_run: Path, small_capture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    shutil.copytree(small_run, out)
    for name in LABELS[2:]:
        (out / "state" / f"{name}.json").unlink()
    (out / "programs" / ".L00H00.attn.part").write_text("head ")
    with (out / "candidates.jsonl").open("a") as file:
        file.write('{"layer": 1, "he')
    opened = package.Run.open(out)
    opened.tabulate()
    assert [r.label for r in opened.results] == LABELS[:2] and len(rows(out)) == 2
    succeed("fit", "--capture", small_capture, *SETTINGS, "--out", out, "--resume")
    assert_same(out, small_run)


@pytest.mark.parametrize("part", ["write", "append"])
def test_an_interrupt_while_a_head_is_recorded_leaves_nothing_twice(
    small_run: Path, small_capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    out, real = tmp_path / "r", getattr(run_module, part)

    def interrupted(path: Path, text: str) -> None:
        real(path, text)
        if path.name in ("candidates.jsonl", "L00H02.json"):
            monkeypatch.setattr(run_module, part, real)
            raise KeyboardInterrupt

    monkeypatch.setattr(run_module, part, interrupted)
    args = ("fit", "--capture", small_capture, *SETTINGS, "--out", out, "--jobs", "1")
    assert attn_dsl(*args).code == 130
    succeed(*args, "--resume")
    assert_same(out, small_run)


def test_a_run_of_several_rounds_still_opens(small_run: Path, tmp_path: Path) -> None:
    """Earlier versions searched in rounds: results of the last stand where all results stand today."""
    out = tmp_path / "r"
    shutil.copytree(small_run, out)
    info = json.loads((out / "run.json").read_text())
    info["key"]["rounds"] = 2
    (out / "run.json").write_text(json.dumps(sealed(info)))
    (out / "state" / "round1").mkdir()
    for name in LABELS:
        file = out / "state" / f"{name}.json"
        text = json.dumps(sealed({**json.loads(file.read_text()), "unfinished": {"greedy": 1.5}}))
        (file.parent / "round1" / file.name).write_text("{}")
        file.write_text(text)
    opened = package.Run.open(out)
    opened.tabulate()
    assert [r.label for r in opened.results] == LABELS
    assert_same(out, small_run)


def test_a_run_tells_all_processors_that_searched(
    small_run: Path, small_capture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    shutil.copytree(small_run, out)
    info = json.loads((out / "run.json").read_text())
    (own,) = info["processors"]
    (out / "run.json").write_text(json.dumps(sealed(info | {"processors": ["other avx"]})))
    succeed("fit", "--capture", small_capture, *SETTINGS, "--out", out, "--resume")
    assert package.Run.open(out).info["processors"] == sorted(["other avx", own])


# the disk


def test_a_full_disk_loses_nothing(small_capture: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the full disk: writing fails halfway."""
    whole, out = tmp_path / "whole", tmp_path / "r"
    args = ("fit", "--capture", small_capture, *SETTINGS, "--proposers", "library", "--jobs", "1")
    succeed(*args, "--out", whole)
    room, args = 2 * (whole / "candidates.jsonl").stat().st_size // 3, (*args, "--out", out)
    with started(*args, prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))) as process:
        _, told = process.communicate(timeout=120)
    assert process.returncode == 1, told
    assert "File too large" in told
    assert "--resume" in told
    assert "Traceback" not in told
    kept = snapshot(out / "state")
    assert kept
    succeed(*args, "--resume")
    assert snapshot(out / "state").items() >= kept.items()
    assert_same(out, whole)


@pytest.mark.parametrize("left", [0, 200])
def test_a_truncated_result_is_named_and_can_be_removed(
    small_run: Path, small_capture: Path, tmp_path: Path, left: int
) -> None:
    out = tmp_path / "r"
    shutil.copytree(small_run, out)
    file = out / "state" / "L00H01.json"
    file.write_bytes(file.read_bytes()[:left])
    before = snapshot(out)
    args = ("fit", "--capture", small_capture, *SETTINGS, "--out", out, "--resume")
    outcome = attn_dsl(*args)
    assert outcome.code == 2
    assert str(file) in outcome.err
    assert "delete it" in outcome.err
    after = snapshot(out)
    assert {k: v for k, v in after.items() if k != ".lock"} == {
        k: v for k, v in before.items() if k != ".lock"
    }
    file.unlink()
    succeed(*args)
    assert_same(out, small_run)


def test_a_lost_program_file_is_written_again(small_run: Path, small_capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    shutil.copytree(small_run, out)
    (out / "programs" / "L00H01.attn").unlink()
    (out / "programs" / "L00H02.attn").write_text("head other causal:\n")
    succeed("fit", "--capture", small_capture, *SETTINGS, "--out", out, "--resume")
    assert_same(out, small_run)


def test_a_capture_that_is_gone(small_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    shutil.copytree(small_run, out)
    (out / "state" / "L00H01.json").unlink()
    before = snapshot(out)
    args = ("--capture", tmp_path / "gone", *SETTINGS, "--out", out, "--resume")
    outcome = attn_dsl("fit", *args)
    assert outcome.code == 2
    assert "gone" in outcome.err
    assert snapshot(out).items() >= before.items()


@pytest.mark.parametrize("linked", ["candidates.jsonl", "heads.csv", "programs/L00H01.attn", ".lock"])
def test_links_are_not_followed_when_files_are_written(
    small_run: Path, small_capture: Path, tmp_path: Path, linked: str
) -> None:
    out, other = tmp_path / "r", tmp_path / "other"
    shutil.copytree(small_run, out, ignore=shutil.ignore_patterns("L00H01.json", ".lock"))
    kept = (out / linked).read_text() if (out / linked).exists() else "precious"
    other.write_text(kept)
    (out / linked).unlink(missing_ok=True)
    (out / linked).symlink_to(other)
    outcome = attn_dsl("fit", "--capture", small_capture, *SETTINGS, "--out", out, "--resume", "--jobs", "1")
    assert other.read_text() == kept
    if outcome.code == 0:
        assert not (out / linked).is_symlink()
        assert_same(out, small_run)
    else:
        assert str(out) in outcome.err and "symbolic links" in outcome.err


# two at once


def test_a_capture_is_written_by_one_process_at_a_time(small_capture: Path, tmp_path: Path) -> None:
    args = ("capture", "demo", "--max-texts", "2", "--out", tmp_path / "c")
    with alone(tmp_path / "c"):
        outcome = attn_dsl(*args)
    assert outcome.code == 2
    assert "another process is working" in outcome.err


def test_a_run_is_one_process_at_a_time(small_run: Path, small_capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    args = ("fit", "--capture", small_capture, *SETTINGS, "--out", out, "--jobs", "1")
    with started(*args) as process:
        wait_for(process, out / "state", "L*.json")
        second = attn_dsl(*args, "--resume")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert second.code == 2
    assert "another process" in second.err
    succeed(*args, "--resume")  # the lock went with the process
    assert_same(out, small_run)


def test_the_lock_goes_when_the_work_ends(tmp_path: Path) -> None:
    with alone(tmp_path / "r"):
        with pytest.raises(InputError, match="another process"), alone(tmp_path / "r"):
            pass
        (tmp_path / "r" / "file").touch()
    with alone(tmp_path / "r"):
        pass
    assert (tmp_path / "r" / "file").exists()


# time


def test_heads_that_time_cut_short_are_searched_again(
    small_run: Path, small_capture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    attention = Capture.open(small_capture)
    settings = {"heads": SETTINGS[1], "max_evals": 8, "jobs": 1}
    found = package.fit(capture=attention, out=out, timeout=1e-6, **settings)  # type: ignore[arg-type]
    assert found.cut_short
    assert found.info["cut_short"] == found.cut_short
    assert {r.label for r in found.results} | set(found.info["not_reached"]) == set(LABELS)
    assert status(out) == ("out of time" if found.info["not_reached"] else "done")
    before = snapshot(out / "state")
    short = package.fit(capture=attention, out=out, timeout=1e-6, resume=True, **settings)  # type: ignore[arg-type]
    assert snapshot(out / "state").items() >= before.items(), "they keep what they have"
    assert {r.label for r in short.results} >= {r.label for r in found.results}
    again = package.fit(capture=attention, out=out, resume=True, **settings)  # type: ignore[arg-type]
    assert again.info["not_reached"] == again.info["cut_short"] == []
    assert status(out) == "done"
    assert rows(out) == rows(small_run)
    assert snapshot(out / "programs") == snapshot(small_run / "programs")


def test_a_limit_that_is_not_reached_changes_nothing(
    small_run: Path, small_capture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    succeed("fit", "--capture", small_capture, *SETTINGS, "--timeout", "600", "--out", out)
    assert_same(out, small_run)
    assert json.loads((out / "run.json").read_text())["cut_short"] == []
