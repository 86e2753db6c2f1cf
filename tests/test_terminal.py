"""The terminal: colours, widths, silence without one, completion, and the hint after ctrl-c."""

from __future__ import annotations

import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import attn_dsl, snapshot, succeed
from fitting import SETTINGS, assert_same, rows, started, wait_for
from rich.color import Color

from attn_dsl.cli.options import STYLES

FIRST = 'head first causal softmax:\n    2 where k == 0  # the sink\n    1 where word(k) in {"the"}\n'
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")


class Terminal:
    """A command that runs on a terminal of its own."""

    def __init__(self, *args: object, **environment: str) -> None:
        command = [sys.executable, "-m", "attn_dsl.cli", *map(str, args)]
        plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
        chosen = {"TERM": "xterm-256color", "COLUMNS": "80", **environment}
        self.process, self.fd = pty.fork()
        if self.process == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.execve(sys.executable, command, plain | chosen)

    def finish(self) -> tuple[int, str]:
        """Return the exit code and everything that was shown."""
        shown = b""
        while True:
            try:
                part = os.read(self.fd, 1 << 16)
            except OSError:  # the other end is closed
                part = b""
            if not part:
                break
            shown += part
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1]), shown.decode()


@pytest.fixture
def first(tmp_path: Path) -> Path:
    file = tmp_path / "first.attn"
    file.write_text(FIRST)
    return file


# completion


def complete(words: str, folder: Path) -> list[str]:
    """Return what bash is offered for the last word of a line."""
    line = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    done = subprocess.run(
        [sys.executable, "-m", "attn_dsl.cli"], cwd=folder, capture_output=True, text=True, check=True,
        env={**os.environ, **line, "_ATTN_DSL_COMPLETE": "bash_complete"}, timeout=60,
    )  # fmt: skip
    return done.stdout.split()


def test_commands_runs_and_heads_are_completed(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one").symlink_to(small_run)
    (tmp_path / "note.attn").touch()
    for words, offered in {
        "attn-dsl sh": "show", "attn-dsl show runs/o": "runs/one", "attn-dsl report ru": "runs/one",
        "attn-dsl explain runs/one L1": "L1H0 L1H1", "attn-dsl show runs/one l0h3": "L0H3",
        "attn-dsl replace runs/one --heads L0H1,L1": "L0H1,L1H0 L0H1,L1H1",
        "attn-dsl fit d": "demo", "attn-dsl fit --resu": "--resume",
    }.items():  # fmt: skip
        found = [one.partition(",")[::2] for one in complete(words, tmp_path)]
        assert found == [("plain", one) for one in offered.split()], words
    assert complete("attn-dsl show note", tmp_path) == ["file,note"], "the shell looks for files"
    assert complete("attn-dsl fit --text no", tmp_path) == ["file,no"]


def test_completion_takes_a_moment(small_run: Path, tmp_path: Path) -> None:
    words = f"attn-dsl show {small_run} L1"
    seconds = []
    for _ in range(3):
        before = os.times()
        complete(words, tmp_path)
        after = os.times()
        seconds.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    assert min(seconds) < 0.3, "of processor time: others may be at work"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_printed(shell: str) -> None:
    script = succeed("completion", shell)
    assert f"_ATTN_DSL_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


# widths


@pytest.mark.parametrize("columns", [80, 60])
def test_what_is_printed_fits_the_terminal(
    small_run: Path, small_capture: Path, first: Path, tmp_path: Path, columns: int
) -> None:
    out = tmp_path / "r"
    commands = [
        ("show", first), ("show", small_run, "L0H1"), ("explain", small_run, "L0H1"),
        ("explain", first, "--on", "Tom saw the dog"), ("diff", small_run, "L0H1", first),
        ("score", first, "--capture", small_capture), ("detect", "--capture", small_capture),
        ("fit", "--capture", small_capture, "--heads", "L0H1", "--max-evals", "2", "--out", out),
        ("fit", "--capture", small_capture, "--heads", "L0H1", "--program", first, "--refit", "--out", out),
        ("features", "--run", small_run),
    ]  # fmt: skip
    for command in commands:
        outcome = attn_dsl(*command, columns=columns)
        assert outcome.code == 0, outcome.err
        long = [line for line in outcome.out.splitlines() if len(line) > columns]
        assert not [line for line in long if str(tmp_path.parent.parent) not in line], command
        assert "…" not in outcome.out or command[0] in ("fit", "features"), "nothing is cut off"


# colours


def luminance(r: int, g: int, b: int) -> float:
    """Return the relative luminance of WCAG 2."""
    parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
             for c in (r / 255, g / 255, b / 255)]  # fmt: skip
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


@pytest.mark.parametrize("ground", [(255, 255, 255), (0, 0, 0), (30, 30, 30)])
def test_colours_are_legible_on_light_and_dark(ground: tuple[int, int, int]) -> None:
    colours = {word for style in STYLES.values() for word in re.findall(r"color\(\d+\)", style)}
    assert len(colours) >= 5
    for colour in colours:
        pair = sorted((luminance(*Color.parse(colour).get_truecolor()), luminance(*ground)))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 3.5, colour


def test_programs_are_coloured_on_a_terminal_alone(first: Path) -> None:
    code, shown = Terminal("show", first).finish()
    assert code == 0
    assert "\x1b[38;5;98mwhere\x1b[0m" in shown and "\x1b[3;38;5;66m# the sink\x1b[0m" in shown
    code, plain = Terminal("show", first, NO_COLOR="1").finish()
    assert code == 0 and "38;5" not in plain
    assert CONTROL.sub("", plain) == CONTROL.sub("", shown) == succeed("show", first)


def test_nothing_but_text_without_a_terminal(small_capture: Path, tmp_path: Path) -> None:
    """Progress is a plain line at each stage; no control sequence is written into a file or pipe."""
    args = ("fit", "--capture", small_capture, *SETTINGS, "--jobs", "1", "--out", tmp_path / "r")
    with started(*args) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", out + err)
    assert len([line for line in err.splitlines() if line.startswith("searching heads")]) == 1, err


# ctrl-c


def hint(told: str) -> list[str]:
    """Return the command that an interrupted one names, for a shell."""
    command = shlex.split(CONTROL.sub("", told).split("Go on with:\n")[1].splitlines()[0])
    assert command[0] == "attn-dsl"
    return [sys.executable, "-m", "attn_dsl.cli", *command[1:]]


def go_on(told: str, folder: Path) -> None:
    done = subprocess.run(hint(told), cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_command_that_ctrl_c_names_finishes_the_run(
    small_run: Path, small_capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args = (
        "fit",
        "--capture",
        os.path.relpath(small_capture),
        *SETTINGS,
        "--jobs",
        "1",
        "--comments",
    )
    terminal = Terminal(*args, "--out", "my run")
    ends = time.monotonic() + 120
    while not list(Path("my run/state").glob("L*.json")):
        assert time.monotonic() < ends
        time.sleep(0.01)
    os.write(terminal.fd, b"\x03")
    code, shown = terminal.finish()
    assert code == 130, shown
    assert hint(shown)[3:] == ["fit", "--resume", "--out", "my run", "--jobs=1"]
    go_on(shown, tmp_path)
    assert rows(Path("my run")) == rows(small_run)
    assert "# " in Path("my run/programs/L00H00.attn").read_text(), "--comments is kept"


def test_a_run_goes_on_with_no_other_option(small_run: Path, small_capture: Path, tmp_path: Path) -> None:
    for name, more in (("a", ("--out", tmp_path / "a")), ("b", (tmp_path / "b",))):
        out = tmp_path / name
        args = ("fit", "--capture", small_capture, *SETTINGS, "--jobs", "1", "--out", out)
        with started(*args) as process:
            wait_for(process, out / "state", "L*.json", 2)
            process.kill()
            process.wait()
        succeed("fit", "--resume", *more)
        assert_same(out, small_run)
    before = snapshot(out / "state")
    outcome = attn_dsl("fit", "--resume", out, "--max-evals", "9")
    assert outcome.code == 2 and "max_evals: 8 there, 9 now" in outcome.err
    assert snapshot(out / "state") == before


@pytest.mark.parametrize("program", [(), ("--program", "first.attn")])
def test_the_command_that_an_interrupted_capture_names(
    first: Path, tmp_path: Path, program: tuple[str, ...]
) -> None:
    """Before there is a run.json, the command is repeated; programs of one's own are fitted anew."""
    first.write_text(FIRST.replace("2 where", "? where"))
    args = (
        "fit",
        *program,
        "--heads",
        "L1H0",
        "--max-texts",
        "40",
        "--max-tokens=32",
        "--jobs",
        "1",
    )
    args += ("--max-evals", "2", "--proposers", "library") if not program else ()
    with started(*args, "--out", "r", prepare=lambda: os.chdir(tmp_path)) as process:
        wait_for(process, tmp_path / "r" / "capture", "*attention-*")
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    go_on(told, tmp_path)
    assert (tmp_path / "r" / ("hypotheses.csv" if program else "heads.csv")).is_file()
