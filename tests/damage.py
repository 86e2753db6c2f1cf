"""Damage to run directories and captures: how they are damaged, and what a command may do about it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line import Outcome, attn_dsl
from fitting import SETTINGS

from attn_dsl.eval.capture_files import content_hash
from attn_dsl.eval.files import sealed

WRONG: tuple[Any, ...] = (None, "x", -1, 10**400, 1.5, True, [], [[]], {}, "../../etc/passwd")
"""Values of which most are of another type than the one that they replace."""
COMMANDS = {
    "report": ("report", "{run}"),
    "explain": ("explain", "{run}", "L0H1"),
    "show": ("show", "{run}/programs/L00H01.attn"),
    "score": ("score", "{run}/programs/L00H01.attn", "--capture", "{run}/capture"),
    "detect": ("detect", "--capture", "{run}/capture"),
    "compare": ("compare", "{run}", "L0H1", "model", "--on", "the cat sat"),
    "replace": ("replace", "{run}", "--fraction", "0.5", "--order", "iou", "--max-texts", "2"),
    "resume": ("fit", "--capture", "{run}/capture", *SETTINGS, "--jobs", "1", "--out", "{run}", "--resume"),
}  # fmt: skip
"""Every command that reads a run or a capture."""
RUN = ("report", "explain", "compare", "replace", "resume")
READERS = {
    "run.json": RUN, "state": RUN, "programs": ("explain", "show", "score", "compare", "replace"),
    "vocabulary.attn": RUN, "candidates.jsonl": ("resume",), "replacement": ("replace",),
    "capture": ("score", "detect", "report", "compare", "replace", "resume"),
}  # fmt: skip
"""By file or folder of a run, the commands that read it."""


@dataclass(frozen=True)
class Damage:
    """One damage to one file of a run."""

    name: str
    file: str
    change: Callable[[Path], object]  # gets the file
    certain: bool = False  # whether no reader of it may succeed
    forged: bool = False  # whether hashes were made to fit, so that another result may be given


def run_command(name: str, run: Path) -> Outcome:
    """Run a command on a run directory."""
    return attn_dsl(*(part.format(run=run) for part in COMMANDS[name]))


def result(name: str, run: Path, outcome: Outcome) -> str:
    """Return what a command has told, without times, and independent of the place of the run."""
    told = outcome.out
    if name in ("report", "resume"):
        told += (run / "report.html").read_text(encoding="utf-8", errors="replace")
    return told.replace(str(run), "RUN")


def damages(folder: Path, seed: int) -> Iterator[Damage]:
    """Yield damages without end: all files in turn, and all kinds of damage in turn."""
    draw = random.Random(seed)
    files = sorted(str(x.relative_to(folder)) for x in folder.rglob("[!.]*") if x.is_file())
    files = [file for file in files if file.split("/")[0] in READERS and "fraction" not in file]
    while True:
        draw.shuffle(files)
        for file in files:
            size, kind = (folder / file).stat().st_size, draw.choice(KINDS)
            yield from kind(draw, file, size, files)


def _flip(draw: random.Random, file: str, size: int, files: list[str]) -> Iterator[Damage]:
    at, bit = draw.randrange(max(size, 1)), 1 << draw.randrange(8)

    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= bit
        path.write_bytes(data)

    if size:
        yield Damage(f"byte {at} of {file} ^ {bit}", file, change)


def _overwrite(draw: random.Random, file: str, size: int, files: list[str]) -> Iterator[Damage]:
    at, data = draw.randrange(max(size, 1)), draw.randbytes(draw.choice((1, 8, 100)))

    def change(path: Path) -> None:
        whole = path.read_bytes()
        path.write_bytes(whole[:at] + data + whole[at + len(data) :])

    yield Damage(f"{len(data)} random bytes at {at} of {file}", file, change)


def _cut(draw: random.Random, file: str, size: int, files: list[str]) -> Iterator[Damage]:
    left = draw.choice((0, 1, size // 2, max(size - 1, 0)))
    yield Damage(
        f"{file} cut to {left} of {size}",
        file,
        lambda path: path.write_bytes(path.read_bytes()[:left]),
    )


def _missing(draw: random.Random, file: str, size: int, files: list[str]) -> Iterator[Damage]:
    def folder(path: Path) -> None:
        path.unlink()
        path.mkdir()

    if draw.random() < 0.5:
        yield Damage(f"{file} missing", file, Path.unlink)
    else:
        yield Damage(f"{file} a folder", file, folder)


def _swapped(draw: random.Random, file: str, size: int, files: list[str]) -> Iterator[Damage]:
    alike = [x for x in files if x != file and x.split("/")[0] == file.split("/")[0]] or files
    other = draw.choice(alike)

    def change(path: Path) -> None:
        there = path.parents[len(file.split("/")) - 1] / other
        data = path.read_bytes()
        path.write_bytes(there.read_bytes())
        there.write_bytes(data)

    yield Damage(f"{file} and {other} swapped", file, change)


def _of_json(draw: random.Random, file: str, size: int, files: list[str]) -> Iterator[Damage]:
    """Change a value somewhere, with the hashes made to fit, as someone who wants to deceive would."""
    if not file.endswith((".json", ".jsonl")):
        return
    place, value = draw.random(), draw.choice(WRONG)

    def change(path: Path) -> None:
        lines = path.read_text().splitlines() if file.endswith("l") else [path.read_text()]
        at = int(place * len(lines))
        data = json.loads(lines[at])
        data.pop("sha256", None)
        into, key = draw.choice([*_places(data)])
        into[key] = value
        if "hash" in data and file.startswith("capture/"):
            data["hash"] = content_hash(data)
        lines[at] = json.dumps(data if file.startswith("capture/") else sealed(data))
        path.write_text("\n".join(lines) + "\n")

    yield Damage(f"a value of {file} becomes {str(value)[:20]!r}", file, change, forged=True)


def _deep(draw: random.Random, file: str, size: int, files: list[str]) -> Iterator[Damage]:
    text = draw.choice(("[" * 100_000, '{"a":' * 50_000, "9" * 5_000, '"\\ud800"', "null", "[]"))
    if file.endswith((".json", ".jsonl", ".attn")):
        yield Damage(
            f"{file} holds {text[:9]}…",
            file,
            lambda path: path.write_text(text),
            not file.endswith(".attn"),
        )


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a JSON value with a key in it."""
    for key in data if isinstance(data, dict) else range(len(data)):
        yield data, key
        if isinstance(data[key], (dict, list)):
            yield from _places(data[key])


KINDS = (_flip, _flip, _overwrite, _cut, _missing, _swapped, _of_json, _deep)


def judge(damage: Damage, command: str, run: Path, whole: str) -> str:
    """Return what is wrong with what a command does with a damaged run; empty if all is well.

    Well is exit code 2 with a message that names a file and a remedy; or the same result as before, where
    the damage is in what is not read. A program may be changed by hand, and then is taken as it is; of
    what is forged, only a traceback is wrong.
    """
    try:
        outcome = run_command(command, run)
    except Exception as error:  # a traceback for the user
        return f"traceback: {type(error).__name__}: {str(error)[:200]}"
    if "Traceback" in outcome.err:
        return "traceback"
    if outcome.code == 0:
        changed = result(command, run, outcome) != whole
        missing = damage.change is Path.unlink and damage.file.startswith("state/")  # it is not reached
        mine = missing or damage.forged or damage.file.startswith("programs/")
        return "accepted as good" if damage.certain or (changed and not mine) else ""
    if outcome.code != 2:
        return f"exit code {outcome.code}: {outcome.err[-300:]}"
    named = Path(damage.file).name in outcome.err or str(run) in outcome.err
    return "" if named and len(outcome.err) > 40 else f"no file or remedy: {outcome.err[-300:]}"


def copied(whole: Path, place: Path, damage: Damage) -> Path:
    """Copy a run, and damage the copy."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place)
    damage.change(place / damage.file)
    return place
