"""Commands that are killed at random moments: gone on with, they give what nothing has killed."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import time
from pathlib import Path

import pytest
from command_line import attn_dsl, snapshot, succeed, write_texts
from fitting import assert_same, started
from small_models import save_model

KILLS = int(os.environ.get("ATTN_DSL_KILLS", "2"))
SEED = int(os.environ.get("ATTN_DSL_SEED", "0"))
FIT = ("--max-tokens", "32", "--heads", "L0H0,L0H1,L1H2", "--max-evals", "8", "--jobs", "2")
REPLACE = ("--fraction", "0.5", "--order", "iou,damage", "--max-texts", "2")
WHOLE = "library.csv vocabulary.attn report.html capture replacement".split()
"""What must be the same byte for byte, beside what ``assert_same`` compares."""


def seconds_of(*args: object) -> float:
    """Run a command; return its seconds, and half as many, as a new process also imports libraries."""
    began = time.monotonic()
    succeed(*args)
    return 1.5 * (time.monotonic() - began)


def kill(out: Path, args: tuple[object, ...], number: signal.Signals, after: float) -> list[str]:
    """Kill a command some time after it has made a directory; return the command that goes on."""
    with started(*args) as process:
        while not out.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(after)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    # Python says so where the interrupt came within a callback of C, which goes on.
    assert "Traceback" not in told or "Exception ignored" in told, told
    if process.returncode in (0, -number):  # it was at its end, or could not say a word
        resumes = args[0] == "fit" and (out / "run.json").exists()
        return [*map(str, args), *["--resume"] * resumes]
    # Python ends itself by SIGINT, 130 to a shell, where the interrupt came while it ran `exec`.
    assert process.returncode in (130, -signal.SIGINT), told
    *_, command = told.strip().splitlines()
    return shlex.split(command)[1:] if "Go on with" in told else [*map(str, args)]


def parts(run: Path) -> dict[str, bytes]:
    """Return what two runs must have in common byte for byte, and parts of files, which none may have."""
    return {
        name: data
        for name, data in snapshot(run).items()
        if (name.split("/")[0] in WHOLE and not name.endswith(".verified")) or name.endswith(".part")
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float, float]:
    """A folder with a model and a text, a run that nothing has killed, and how long its parts take."""
    folder = tmp_path_factory.mktemp("kills")
    model, text = save_model(folder / "model", "llama"), write_texts(folder / "texts.jsonl")
    run = folder / "run"
    fitting = seconds_of("fit", model, "--text", text, *FIT, "--out", run)
    return folder, run, fitting, seconds_of("replace", run, *REPLACE)


def test_what_is_killed_goes_on_to_the_same_bytes(
    whole: tuple[Path, Path, float, float], tmp_path: Path
) -> None:
    folder, run, fitting, replacing = whole
    draw, wanted = random.Random(SEED), parts(run)
    for i in range(KILLS):
        out = tmp_path / f"run{i}"
        args: tuple[object, ...] = ("fit", folder / "model", "--text", folder / "texts.jsonl")
        args, place, seconds = (*args, *FIT, "--out", out), out, fitting
        if replaces := i % 3 == 1:
            shutil.copytree(run, out, ignore=shutil.ignore_patterns("replacement"))
            args, place, seconds = ("replace", out, *REPLACE), out / "replacement", replacing
        number = draw.choice((signal.SIGKILL, signal.SIGTERM))
        after = draw.uniform(0, seconds)
        again = kill(place, args, number, after)
        outcome = attn_dsl(*again)
        case = f"{args[0]} {number.name} after {after:.2f} of {seconds:.2f} s, then {again}"
        print(case)
        assert outcome.code == 0, (case, outcome.err)
        if not replaces:
            succeed("replace", out, *REPLACE)
        assert_same(out, run)
        found = parts(out)
        assert found.keys() == wanted.keys(), case
        differ = [name for name in found if found[name] != wanted[name]]
        assert set(differ) <= {"report.html"}, (case, differ)  # it tells seconds
        shutil.rmtree(out)
