"""Shards: safetensors files of packed attention, written atomically and read memory-mapped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.files import write_bytes

Array = npt.NDArray[Any]
REMEDY = "run `attn-dsl capture` again into a fresh directory"
_DTYPES: dict[str, type[np.floating[Any]]] = {"F16": np.float16, "F32": np.float32}


def tensor_name(index: int) -> str:
    """Name the tensor of one text.

    >>> tensor_name(12)
    'attention.00012'
    """
    return f"attention.{index:05d}"


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


def normalise_rows(values: npt.NDArray[np.float32], n: int, causal: bool) -> None:
    """Divide packed rows, in the last axis of an array, by their sums, in place."""
    if n:
        starts = row_starts(n, causal)
        lengths = np.arange(1, n + 1) if causal else np.full(n, n)
        values /= np.repeat(np.add.reduceat(values, starts, axis=-1), lengths, axis=-1)


class ShardReader:
    """The tensors of one safetensors file, mapped into memory when first asked for.

    >>> ShardReader(path).tensor("attention.00000").dtype
    dtype('float16')

    Raises:
        InputError: the file is missing, cut off, or no safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._base = 0
        self._tensors: dict[str, Any] = self._read_header()
        self._data = np.memmap(path, dtype=np.uint8, mode="r")

    def _read_header(self) -> dict[str, Any]:
        try:
            with self.path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                size = os.fstat(file.fileno()).st_size
                if not 2 <= length <= size - 8:
                    raise ValueError("the header is cut off")
                header = json.loads(file.read(length))
            ends = [spec["data_offsets"][1] for key, spec in header.items() if key[:2] != "__"]
        except FileNotFoundError as error:
            raise InputError(f"{self.path} is missing; {REMEDY}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{self.path} is damaged: {error}; {REMEDY}") from error
        self._base = 8 + length
        wanted = self._base + max(ends, default=0)
        if size != wanted:
            raise InputError(
                f"{self.path} is cut off or damaged: it has {size} bytes, its header speaks of "
                f"{wanted}; {REMEDY}"
            )
        return header

    def tensor(self, name: str) -> npt.NDArray[np.floating[Any]]:
        """Return one tensor as a read-only array over the file; nothing is copied.

        Raises:
            InputError: the file holds no such tensor, or one that is no float16 or float32.
        """
        spec = self._tensors.get(name)
        if spec is None or spec.get("dtype") not in _DTYPES:
            raise InputError(f"{self.path} holds no tensor {name} of floats; {REMEDY}")
        start, end = spec["data_offsets"]
        data = self._data[self._base + start : self._base + end]
        return data.view(_DTYPES[spec["dtype"]]).reshape(spec["shape"])


class Store(Protocol):
    """Where packed attention lies: one array of shape [heads, entries] per text."""

    def packed(self, index: int) -> Array:
        """Return the packed attention of one text."""


class ArrayStore:
    """Packed attention in memory."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        self.arrays = list(arrays)

    def packed(self, index: int) -> Array:
        """Return the packed attention of one text."""
        return self.arrays[index]


class ShardStore:
    """Packed attention in safetensors shards; pickling it for a worker sends only the path."""

    def __init__(self, folder: Path, shard_of: Sequence[str]) -> None:
        self.folder = folder
        self.shard_of = list(shard_of)
        self._open: dict[str, ShardReader] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardStore, (self.folder, self.shard_of)

    def packed(self, index: int) -> Array:
        """Return the packed attention of one text, mapped into memory."""
        name = self.shard_of[index]
        shard = self._open.get(name)
        if shard is None:
            shard = self._open[name] = ShardReader(self.folder / name)
        return shard.tensor(tensor_name(index))


def write_shard(path: Path, tensors: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """Write tensors to a safetensors file, whole or not at all.

    >>> sorted(write_shard(path, {"attention.00000": np.ones((2, 3), np.float16)}))
    ['bytes', 'file', 'sha256']

    Raises:
        WorkError: the file cannot be written (a full disk, say).
    """
    from safetensors.numpy import save

    return write_bytes(path, save(dict(tensors)))
