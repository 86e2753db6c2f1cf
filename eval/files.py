"""Files that are written whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attn_dsl.dsl.errors import InputError, WorkError


def write(path: Path, text: str) -> None:
    """Write a text file at once: readers see the old one or the new one, never a part.

    Raises:
        InputError: its folder does not exist.
        WorkError: the disk is full, or the place cannot be written.
    """
    write_bytes(path, text.encode("utf-8", errors="replace"))


def write_bytes(path: Path, data: bytes) -> dict[str, Any]:
    """Write a file under a temporary name and rename it; return its name, size and SHA-256."""
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a directory; make it first")
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise WorkError(
            f"{path} cannot be written: {error.strerror}; what was finished before is kept, "
            "run the command again to go on"
        ) from error
    return {"file": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Write a table as CSV; numbers to six digits, so that equal runs give equal bytes."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([f"{x:.6f}" if isinstance(x, float) else x for x in row])
    return out.getvalue()
