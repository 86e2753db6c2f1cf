"""Packed attention, the visible entries of heads row by row, and tensors in safetensors files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from attn_dsl.dsl.errors import InputError, WorkError
from attn_dsl.eval.files import (
    UNREADABLE,
    append,
    file_hash,
    first_line,
    give_name,
    new_part,
    part_of,
    writing,
)

Array = npt.NDArray[Any]
REMEDY = "run `attn-dsl capture` again into a fresh directory"
MAX_HEADER = 2**27
"""The most bytes of a header of a safetensors file that are read, as in the library."""
VERIFIED_FILE = ".verified"
ROW_TOLERANCE = 0.01
"""How far a row's sum may be from 1; bfloat16 attention comes within 0.004."""


def tensor_name(kind: str, index: int) -> str:
    """Name the tensor of one text, as in ``attention.00012``."""
    return f"{kind}.{index:05d}"


def n_entries(n: int, causal: bool) -> int:
    """Count the visible entries of one head on ``n`` tokens.

    >>> n_entries(4, causal=True), n_entries(4, causal=False)
    (10, 16)
    """
    return n * (n + 1) // 2 if causal else n * n


def row_starts(n: int, causal: bool) -> npt.NDArray[np.int64]:
    """Say where each row begins in the packed entries; row q has q+1 entries, or n.

    >>> row_starts(4, causal=True).tolist()
    [0, 1, 3, 6]
    """
    q = np.arange(n, dtype=np.int64)
    return q * (q + 1) // 2 if causal else q * n


def normalise_rows(values: npt.NDArray[np.float32], n: int, causal: bool) -> Array:
    """Divide packed rows, in the last axis of an array, by their sums, in place; return the sums."""
    if not n:
        return values[..., :0]
    lengths = np.arange(1, n + 1) if causal else np.full(n, n)
    sums: Array = np.add.reduceat(values, row_starts(n, causal), axis=-1)
    values /= np.repeat(sums, lengths, axis=-1)
    return sums


class Verified:
    """The files of a capture whose content was compared with its hash.

    A file is hashed when it is first read. The file ``.verified`` in the directory, where it can be written,
    tells later processes which sizes and times of change the verified files had.

    Args:
        hashes: by file, its SHA-256.
    """

    def __init__(self, folder: Path, hashes: Mapping[str, str]) -> None:
        self.folder, self.hashes = folder, dict(hashes)
        self._locks = {name: Lock() for name in hashes}
        self._whole: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return Verified, (self.folder, self.hashes)

    def check(self, file: str, again: bool = False) -> None:
        """Compare a file with its hash, once; ``again``: also where another process has done it.

        Raises:
            InputError: its content is another.
        """
        with self._locks[file]:
            if file in self._whole:
                return
            path, notes = self.folder / file, ""
            with suppress(OSError):
                notes = (self.folder / VERIFIED_FILE).read_text(encoding="utf-8", errors="replace")
            if again or self._line(file) not in notes:
                if file_hash(path) != self.hashes[file]:
                    raise InputError(f"{path} is damaged: its content does not have its hash; {REMEDY}")
                self.note(file)
            self._whole.add(file)

    def note(self, file: str) -> None:
        """Tell later processes that a file has its hash."""
        with suppress(OSError, WorkError):
            append(self.folder / VERIFIED_FILE, self._line(file))

    def _line(self, file: str) -> str:
        state = (self.folder / file).stat()
        return f"{self.hashes[file]} {state.st_size} {state.st_mtime_ns} {file}\n"


class Shards:
    """A tensor of each text in safetensors files; pickling it for a worker sends only the path.

    Args:
        shard_of: the file of each text, in the folder.
        kind: how the tensors' names begin: ``attention``, ``values``.
        verified: compares files with their hashes.
    """

    def __init__(self, folder: Path, shard_of: Sequence[str], kind: str, verified: Verified) -> None:
        self.folder, self.shard_of, self.kind = folder, tuple(shard_of), kind
        self.verified = verified
        self._open: dict[str, Any] = {}  # at most all files, mapped and not read

    def __reduce__(self) -> tuple[Any, ...]:
        return Shards, (self.folder, self.shard_of, self.kind, self.verified)

    def __iter__(self) -> Iterator[Array]:
        return map(self.__getitem__, range(len(self.shard_of)))

    def __getitem__(self, index: int) -> Array:
        """Read the tensor of one text from its file, which is mapped; an InputError if damaged."""
        return self.rows(index, slice(None))

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of the tensor of one text, which is not read."""
        return self._read(index, lambda tensor: tuple(tensor.get_shape()))

    def rows(self, index: int, some: slice) -> Array:
        """Read some rows of the tensor of one text, such as one head's."""
        return self._read(index, lambda tensor: tensor[some])

    def _read(self, index: int, what: Callable[[Any], Any]) -> Any:
        from safetensors import SafetensorError, safe_open

        file = self.shard_of[index]
        path = self.folder / file
        try:
            if file not in self._open:
                self.verified.check(file)
                self._open[file] = safe_open(path, framework="np")
            return what(self._open[file].get_slice(tensor_name(self.kind, index)))
        except FileNotFoundError:
            raise InputError(f"{path} is missing; {REMEDY}") from None
        except (OSError, SafetensorError, TypeError, ValueError) as error:
            raise InputError(f"{path} is damaged: {damage(path, error)}; {REMEDY}") from error


def damage(path: Path, error: BaseException) -> str:
    """Say what is wrong with a safetensors file; if offsets of a tensor are, with which."""
    with suppress(*UNREADABLE, OSError), path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, MAX_HEADER)))
        room = path.stat().st_size - 8 - length
        for name, tensor in header.items() if length <= MAX_HEADER else ():
            if name != "__metadata__":
                start, end = tensor["data_offsets"]
                bits = re.search(r"[0-9]+", tensor["dtype"])
                size = prod(tensor["shape"]) * (int(bits[0]) if bits else 8) // 8
                if not 0 <= start <= end <= room:
                    return f"the tensor `{name}` lies outside of the file"
                if end - start != size:
                    return f"the tensor `{name}` has {end - start} bytes, and its shape needs {size}"
    return first_line(error)


class ShardWriter:
    """A safetensors file whose tensors are written piece by piece, in any order, by any thread.

    It gets its name when it is finished. Where it cannot be written, all methods raise a WorkError.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.path, self._lock, header, end = path, Lock(), {}, 0
        self._places: dict[str, tuple[int, int]] = {}  # by tensor, first byte and bytes of a row
        for name, shape in sorted(shapes.items()):
            start, end = end, end + 2 * prod(shape)
            self._places[name] = start, 2 * prod(shape[1:])
            header[name] = {"dtype": "F16", "shape": shape, "data_offsets": (start, end)}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._begin = 8 + len(text)
        with writing(path):
            self._file = new_part(path)
            self._file.write(len(text).to_bytes(8, "little") + text)

    def put(self, name: str, row: int, values: Array) -> None:
        """Write some float16 rows of a tensor, beginning with one row."""
        start, width = self._places[name]
        with writing(self.path), self._lock:
            self._file.seek(self._begin + start + row * width)
            self._file.write(values.tobytes())

    def finish(self) -> dict[str, Any]:
        """Give the file its name; return that, its size and SHA-256."""
        with writing(self.path):
            give_name(self._file, self.path)
        size = self.path.stat().st_size
        return {"file": self.path.name, "bytes": size, "sha256": file_hash(self.path)}

    def discard(self) -> None:
        """Remove what was written, unless it is finished."""
        with suppress(OSError):
            self._file.close()
        part_of(self.path).unlink(missing_ok=True)
