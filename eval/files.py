"""Files that are written whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attn_dsl.dsl.errors import InputError, WorkError


def write(path: Path, text: str) -> None:
    """Write a text file at once: readers see the old one or the new one, never a part."""
    write_bytes(path, text.encode("utf-8", errors="replace"))


def write_bytes(path: Path, data: bytes) -> dict[str, Any]:
    """Write a file under a temporary name and rename it; return its name, size and SHA-256.

    Raises:
        InputError: its folder does not exist.
        WorkError: the disk is full, or the place cannot be written.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a directory; make it first")
    with writing(path):
        part_of(path).write_bytes(data)
        part_of(path).replace(path)
    return {"file": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def append(path: Path, text: str) -> None:
    """Add text to the end of a file, making its folder; a WorkError if it cannot be written."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)


def part_of(path: Path) -> Path:
    """Return the name of a file until it is whole."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise a WorkError where a file cannot be written, and remove its part."""
    try:
        yield
    except OSError as error:
        with suppress(OSError):
            part_of(path).unlink(missing_ok=True)
        raise WorkError(f"{path} cannot be written: {error.strerror}; what was finished before is kept, "
                        "run the command again (`fit` with --resume) to go on") from error  # fmt: skip


def refuse_other_things(place: Path, mine: tuple[str, ...], what: str) -> None:
    """Refuse a place that cannot become the directory of a capture or a run.

    Args:
        mine: how names begin that may be there already.
        what: what the directory is for.

    Raises:
        InputError: it is a file, or holds other things.
    """
    if place.exists() and not place.is_dir():
        raise InputError(f"{place} is a file; give a new directory for the {what} by --out")
    names = [file.name for file in place.iterdir()] if place.is_dir() else []
    if others := sorted(name for name in names if not name.startswith(mine)):
        raise InputError(f"{place} holds other things ({others[0]}) and no {what}; give a new directory by "
                         "--out")  # fmt: skip


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Write a table as CSV, so that equal runs give equal bytes.

    Numbers have six digits, bools are 0 and 1, the strings of a tuple are joined by spaces, and
    what is not known (nan, None) is left empty.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    return out.getvalue()


def _cell(value: Any) -> Any:
    """Bring a value of a table to what is written of it."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}"
    if isinstance(value, tuple):
        return " ".join(value)
    return int(value) if isinstance(value, bool) else value
