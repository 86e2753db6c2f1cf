"""Files that are written whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, BinaryIO, get_args, get_origin, get_type_hints

from attn_dsl.dsl.errors import InputError, WorkError

LOCK = ".lock"
"""The file by which a process has a directory to itself."""


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
    with writing(path), new_part(path) as file:
        file.write(data)
        give_name(file, path)
    return {"file": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def append(path: Path, text: str) -> None:
    """Add text to the end of a file, making its folder; a WorkError if it cannot be written, or is a link."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        own = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        with open(own, "a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def part_of(path: Path) -> Path:
    """Return the name of a file that this process writes, until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def new_part(path: Path) -> BinaryIO:
    """Open a file that ``give_name`` makes the one at a path; an old part or a link there is removed."""
    part_of(path).unlink(missing_ok=True)
    return part_of(path).open("xb")


def give_name(file: BinaryIO, path: Path) -> None:
    """Close the file from ``new_part`` and rename it; it is on the disk when this returns."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    part_of(path).replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise a WorkError where a file cannot be written, and remove its part."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):
            part_of(path).unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise WorkError(f"{path} cannot be written: {error.strerror}; what was finished before is kept, "
                        "run the command again (`fit` with --resume) to go on") from error  # fmt: skip


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes out of a directory for a while; the lock goes with the process.

    Parts of files that a process has left which was killed are removed.

    Raises:
        InputError: another process works in it, or it cannot be made.
    """
    from filelock import FileLock, Timeout

    new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise InputError(f"{path}: another process is working in it; wait until it ends, or interrupt it and "
                         "go on from what it has finished") from None  # fmt: skip
    except OSError as error:
        raise InputError(f"{path}: cannot be made or written: {error.strerror}; choose another "
                         "--out") from None  # fmt: skip
    try:
        for part in path.rglob(".*.part"):
            part.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
        if new and {file.name for file in path.iterdir()} <= {LOCK}:
            with suppress(OSError):  # nothing came of it
                (path / LOCK).unlink(missing_ok=True)
                path.rmdir()


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


UNREADABLE = ValueError, KeyError, TypeError, RecursionError, OverflowError
"""What reading JSON that is damaged can raise: wrong syntax, fields and types, deep nesting, huge numbers."""


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object of JSON with a hash of itself in the field ``sha256``, for ``unsealed``."""
    own = {key: value for key, value in data.items() if key != "sha256"}
    text = json.dumps(own, sort_keys=True)
    return {**own, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def read_json(text: str | bytes) -> Any:
    """Read JSON whose whole numbers have at most 63 bits, so that arrays and files can be of their sizes.

    Raises:
        ValueError, RecursionError: it is none, or has another number; the message says so.
    """

    def whole(digits: str) -> int:
        if (found := int(digits)).bit_length() > 63:
            raise ValueError(f"it has a number of {found.bit_length():,} bits, and 63 are allowed")
        return found

    return json.loads(text, parse_int=whole)


def unsealed(text: str) -> dict[str, Any]:
    """Read what ``sealed`` wrote, or an object without a hash; a ValueError if it was changed since."""
    data = read_json(text)
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    if data.get("sha256", own := sealed(data)["sha256"]) != own:
        raise ValueError("it was changed: its content does not have its sha256")
    return {key: value for key, value in data.items() if key != "sha256"}


def lines_of(path: Path) -> list[bytes]:
    """Return the lines of a file, none where it does not exist; an InputError if it cannot be read."""
    try:
        return path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; remove it") from error


def cut_off(line: bytes, error: BaseException) -> bool:
    """Return whether an interruption can have cut a line of JSON off, which cannot be read for an error."""
    return isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) and not line.endswith(b"\n")


def typed(kind: Any, value: Any, name: str = "it") -> Any:
    """Make a value of a type, such as a dataclass, from what JSON gives.

    >>> typed(tuple[tuple[int, int], ...], [[0, 1], [1, 0]])
    ((0, 1), (1, 0))

    Fields of a dataclass that have defaults may be missing.

    Raises:
        ValueError: it has other types or fields; the message names the field.
    """
    origin, args = get_origin(kind), get_args(kind)
    if origin is UnionType:
        kind = NoneType if value is None else next(one for one in args if one is not NoneType)
        return typed(kind, value, name)
    if kind is Any or (type(value) is kind and not args) or (kind is float and type(value) is int):
        return float(value) if kind is float else value
    if is_dataclass(kind) and isinstance(value, dict):
        types: dict[str, Any] = _types(kind)  # type: ignore[arg-type]
        if lacking := [one.name for one in fields(kind) if one.name not in value and one.default is MISSING
                       and one.default_factory is MISSING]:  # fmt: skip
            raise ValueError(f"{name} lacks {', '.join(lacking)}")
        known = {one.name: typed(types[one.name], value[one.name], f"`{one.name}`")
                 for one in fields(kind) if one.name in value}  # fmt: skip
        if others := sorted(value.keys() - known.keys()):
            raise ValueError(f"{name} has a field `{others[0]}`, which is not known")
        return kind(**known)  # type: ignore[operator]
    if origin is tuple and isinstance(value, list):
        each = args[:1] * len(value) if args[-1] is ... else args
        if len(each) == len(value):
            return tuple(typed(one, part, name) for one, part in zip(each, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {key: typed(args[1], part, f"`{key}`") for key, part in value.items()}
    wanted = "object" if origin is dict or is_dataclass(kind) else getattr(kind, "__name__", kind)
    raise ValueError(f"{name} is no {wanted}, but {str(value)[:40]!r}")


_types = lru_cache(maxsize=64)(get_type_hints)


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
