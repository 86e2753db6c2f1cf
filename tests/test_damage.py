"""Damaged runs and captures: one message with the file and a remedy, never a traceback or a result."""

from __future__ import annotations

import json
import os
import random
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from command_line import attn_dsl, succeed
from damage import COMMANDS, READERS, copied, damages, judge, result, run_command

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.files import sealed
from attn_dsl.eval.metrics import ious
from attn_dsl.eval.run import MAY_HAVE, NEEDED, Run
from attn_dsl.synth.pareto import choose, front

CASES = int(os.environ.get("ATTN_DSL_DAMAGES", "60"))
SEED = int(os.environ.get("ATTN_DSL_SEED", "0"))


@pytest.fixture(scope="module")
def whole(
    small_run: Path, small_capture: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, str]]:
    """A run with its capture and measurements of replacement inside, and what each command says of it."""
    run = tmp_path_factory.mktemp("damage") / "run"
    shutil.copytree(small_run, run)
    shutil.copytree(small_capture, run / "capture")
    said = {}
    for name in sorted(COMMANDS, key="replace".__ne__):
        run_command(name, run)  # what it writes is there from now on
        outcome = run_command(name, run)
        assert outcome.code == 0, outcome.err
        said[name] = result(name, run, outcome)
    return run, said


def test_no_damage_is_accepted_and_none_ends_in_a_traceback(
    whole: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """Each damage is tried on one of the commands that read the file."""
    run, said = whole
    draw, found = random.Random(SEED), []
    for damage in islice(damages(run, SEED), CASES):
        command = draw.choice(READERS[damage.file.split("/")[0]])
        broken = copied(run, tmp_path / "run", damage)
        if wrong := judge(damage, command, broken, said[command]):
            found.append(f"{command}: {damage.name}: {wrong}")
    assert not found, "\n".join(found)


def test_fields_of_another_type_are_named(small_run: Path, tmp_path: Path) -> None:
    """All that is read back of run.json; found by fuzzing: a report where `versions` was no object."""
    run = shutil.copytree(small_run, tmp_path / "run")
    info = json.loads((run / "run.json").read_text())
    known = {*NEEDED, *MAY_HAVE} & info.keys()
    assert {"versions", "texts", "library", "processors"} <= known
    for name in sorted(known):
        wrong = {**info, name: {"a": None} if isinstance(info[name], bool) else True}
        (run / "run.json").write_text(json.dumps(sealed(wrong)))
        with pytest.raises(InputError, match=f"run.json: damaged .*{name}"):
            Run.open(run)


@pytest.mark.parametrize(("field", "lost"), [("controls", "first token"), ("controls", ""), ("test", "jsd"),
                                             ("controls_output_r2", "uniform")])  # fmt: skip
def test_a_result_that_lacks_a_figure_is_refused(
    small_run: Path, tmp_path: Path, field: str, lost: str
) -> None:
    """Found by fuzzing: a report where one head had no controls."""
    run = shutil.copytree(small_run, tmp_path / "run")
    file = run / "state/L01H01.json"
    data = json.loads(file.read_text())
    data[field] = {name: value for name, value in data[field].items() if name != lost} if lost else {}
    file.write_text(json.dumps(sealed(data)))
    outcome = attn_dsl("report", run)
    assert outcome.code == 2
    assert "L01H01.json" in outcome.err and f"it lacks {lost}" in outcome.err


def test_a_number_beyond_all_bounds_is_refused(small_run: Path, tmp_path: Path) -> None:
    """Found by fuzzing: a run that is gone on with, one of whose programs has 10^400 nodes."""
    run = shutil.copytree(small_run, tmp_path / "run")
    file = run / "state/L00H03.json"
    file.write_text(json.dumps(sealed(json.loads(file.read_text()) | {"nodes": 10**400})))
    outcome = attn_dsl("fit", run, "--resume")
    assert outcome.code == 2
    assert "L00H03.json" in outcome.err and "a number of 1,329 bits" in outcome.err


def test_results_of_another_run_are_refused(small_run: Path, tmp_path: Path) -> None:
    """Results that are whole, in a run of another seed."""
    run = shutil.copytree(small_run, tmp_path / "run")
    info = json.loads((run / "run.json").read_text())
    info["key"]["seed"] = 5
    (run / "run.json").write_text(json.dumps(sealed(info)))
    outcome = attn_dsl("report", run)
    assert outcome.code == 2
    assert "it is of another capture or seed" in outcome.err


def test_programs_that_are_not_numbers_never_win() -> None:
    """NaN is no better than anything, whichever comes first."""
    nan = float("nan")
    for scores in ([nan, 0.2, 0.5], [0.2, nan, 0.5], [0.2, 0.5, nan]):
        assert choose(scores, [1, 2, 3], 0.0) == scores.index(0.5)
        assert front([*enumerate(scores)], lambda x: x[0], lambda x: x[1])[-1][1] == 0.5
    bad, good = np.float32([[nan, nan]]), np.float32([[0.5, 0.5]])
    assert np.isnan([ious(bad, good), ious(good, bad)]).all()


def test_verify_hashes_what_other_processes_have_verified(
    whole: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """A byte that changes without a change of the file's time is found by --verify."""
    run = shutil.copytree(whole[0], tmp_path / "run")
    shard = run / "capture" / "attention-00000.safetensors"
    state, data = shard.stat(), bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    os.utime(shard, ns=(state.st_atime_ns, state.st_mtime_ns))
    args = ("score", run / "programs" / "L00H01.attn", "--capture", run / "capture")
    succeed(*args)
    outcome = attn_dsl("--verify", *args)
    assert outcome.code == 2
    assert f"{shard} is damaged: its content does not have its hash" in outcome.err
    succeed(*args)
