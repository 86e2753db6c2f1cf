"""The evaluator: programs on texts, as matrices of attention or as the planes of their weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from attn_dsl.compiler import interpreter
from attn_dsl.compiler.code import Code, Kind
from attn_dsl.compiler.columns import Batch, stack
from attn_dsl.compiler.simd import WIDTH
from attn_dsl.compiler.softmax import AHEAD, evaluate_masses
from attn_dsl.compiler.text_planes import row_words, spread_rows, text_planes
from attn_dsl.dsl import tree as t

BLOCK = 2304
"""Entries that are worked on at once, in whole rows: all of a causal text of 64 tokens."""
GROUP = 64
"""Programs whose rows are kept at once: with ``BLOCK`` they fit a second-level cache."""
NO_MATCH = np.zeros((0, 0), dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Block:
    """Whole rows of a text's matrix.

    Attributes:
        rows: the queries.
        entries: where they stand among the packed entries of all rows that are computed.
        word: where they begin in the planes, in words.
    """

    rows: range
    entries: slice
    word: int


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of some programs' matrices on a text.

    Attributes:
        programs: whose rows they are.
        block: which rows.
        rows: float32 (programs, entries), each padded with zeros to whole vectors.
    """

    programs: slice
    block: Block
    rows: np.ndarray


def parts(
    code: Code, n: int, start: int, arrays: tuple[np.ndarray, ...], first: int = 0,
    group: int = GROUP,
) -> Iterator[Part]:  # fmt: skip
    """Evaluate programs on the rows of one text, each part small enough to stay in cache.

    Args:
        code: the programs, without holes.
        n, start: the tokens of the text, and where they begin in the columns.
        arrays: the columns (see ``columns.stack``), and the table of matching contexts.
        first: the first row.
        group: the most programs of a part.

    Yields:
        Blocks of rows one after the other, and of each all programs, group by group. The array of
        rows is reused for the next part.

    Raises:
        ValueError: a program has holes.
    """
    if np.isnan(code.weights).any():
        raise ValueError("a program has holes; fit its weights first")
    planes, terms, causal = text_planes(code, n, start, arrays, first), code.terms, code.causal
    blocks = list(row_blocks(n, causal, first))
    widest = max((padded(b.entries.stop - b.entries.start) for b in blocks), default=0)
    room = aligned(min(group, code.size), widest + WIDTH)
    masses = np.empty((planes.words + AHEAD) * WIDTH, dtype=np.float32)
    for block in blocks:
        width = padded(block.entries.stop - block.entries.start)
        for low in range(0, code.size, group):
            high = min(low + group, code.size)
            out = room[: high - low]
            redo = np.empty((high - low, len(block.rows)), dtype=np.bool_)
            if evaluate_masses(
                planes.truths, planes.words, *terms[Kind.TRUTH], planes.values, *terms[Kind.VALUE],
                planes.keys, planes.distances, planes.quick, low, causal, n, block.rows.start,
                block.rows.stop, block.word, masses, out, redo,
            ):  # fmt: skip
                _exactly(code, n, start, arrays, block, low, redo, out)
            yield Part(slice(low, high), block, out[:, :width])


def _exactly(
    code: Code, n: int, start: int, arrays: tuple[np.ndarray, ...], block: Block, first: int,
    redo: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """Evaluate some rows in float64, with the largest score of each taken out."""
    chosen = np.flatnonzero(redo.any(1))
    here = np.isin(code.owner, first + chosen)
    starts = np.concatenate([[0], np.cumsum(np.diff(code.offsets)[first + chosen])])
    part = out[chosen]
    interpreter.evaluate_rows(
        code.instructions, code.plane_rows, code.functions(2 * n), code.used[here],
        code.weights[here], starts.astype(np.int64), code.linear[first + chosen], code.causal, n,
        start, *arrays, redo[chosen], block.rows.start, part,
    )  # fmt: skip
    out[chosen] = part


class Plan:
    """Programs of one visibility on a batch of texts.

    >>> from attn_dsl.dsl.parser import parse
    >>> from attn_dsl.dsl.tokens import Tokens
    >>> batch = Batch([Tokens.from_strings(["a", " b"])])
    >>> Plan([parse("head uniform causal:\\n")], batch).packed(0)
    array([[1. , 0.5, 0.5]], dtype=float32)

    Args:
        programs: syntax trees, or the code of some.
        batch: the texts.
    """

    def __init__(self, programs: Sequence[t.Head] | Code, batch: Batch) -> None:
        self.code = programs if isinstance(programs, Code) else Code(programs)
        self.batch = batch

    @property
    def causal(self) -> bool:
        """The visibility of the programs."""
        return self.code.causal

    @property
    def size(self) -> int:
        """How many programs there are."""
        return self.code.size

    def packed(self, text: int) -> np.ndarray:
        """Evaluate all programs on one text.

        Args:
            text: its number in the batch.

        Returns:
            float32 (programs, entries): the visible entries of each matrix, row by row.
        """
        out = np.empty((self.size, self._entries(text)), dtype=np.float32)
        for part in self.parts(text):
            here = part.block.entries
            out[part.programs, here] = part.rows[:, : here.stop - here.start]
        return out

    def square(self, text: int, out: np.ndarray | None = None) -> np.ndarray:
        """Evaluate all programs on one text.

        Args:
            text: its number in the batch.
            out: where to write, float32 (programs, n or more, n or more), zero where no query sees
                a key; by default a new array.

        Returns:
            ``out``, whose first n rows and columns are the matrices.
        """
        n = int(self.batch.sizes[text])
        if out is None:
            out = np.zeros((self.size, n, n), dtype=np.float32)
        for part in self.parts(text):
            first, last = part.block.rows.start, part.block.rows.stop
            spread_rows(part.rows, first, self.causal, n, out[part.programs, first:last])
        return out

    def parts(self, text: int, group: int = GROUP) -> Iterator[Part]:
        """Evaluate the programs on one text part by part; see ``parts``."""
        n, start = int(self.batch.sizes[text]), int(self.batch.starts[text])
        return parts(self.code, n, start, self._arrays(text), 0, group)

    def typed_planes(self, text: int, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
        """Compute the planes of one text on all visible entries.

        Returns:
            uint8 (truths, entries), and (values, entries) of ``dtype``; ``code.truths`` tells which.
        """
        made = np.empty((len(self.code.planes), self._entries(text)), dtype=dtype)
        self._planes(text, np.arange(self.batch.sizes[text]), made)
        return made[self.code.truths].astype(np.uint8), made[~self.code.truths]

    def planes(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """Compute the planes that the weights multiply on some rows of every text.

        Args:
            rows: per text of the batch, the queries.

        Returns:
            float32 (planes, entries of those rows); ``code.programs`` tells whose they are.
        """
        sizes = self.batch.sizes.tolist()
        counts = [
            int((chosen + 1).sum()) if self.causal else len(chosen) * n
            for chosen, n in zip(rows, sizes, strict=True)
        ]
        out, at = np.empty((len(self.code.planes), sum(counts)), dtype=np.float32), 0
        for text, (chosen, count) in enumerate(zip(rows, counts, strict=True)):
            self._planes(text, np.asarray(chosen, dtype=np.int64), out[:, at : at + count])
            at += count
        return out

    def _planes(self, text: int, rows: np.ndarray, out: np.ndarray) -> None:
        """Compute the planes of some rows of one text."""
        code, n = self.code, int(self.batch.sizes[text])
        interpreter.planes_of_rows(
            code.instructions, code.plane_rows, code.functions(2 * n), self.causal, rows, n,
            int(self.batch.starts[text]), *self._arrays(text), out,
        )  # fmt: skip

    def _entries(self, text: int) -> int:
        return int(self.batch.entries(self.causal)[text])

    def prepare(self) -> None:
        """Make what all texts share, so that threads find it ready."""
        self.code.prepare(int(self.batch.sizes.max(initial=0)))
        _ = self._columns

    @cached_property
    def _columns(self) -> tuple[np.ndarray, ...]:
        return stack(self.code.graph.keys, self.batch, self.causal)

    def _arrays(self, text: int) -> tuple[np.ndarray, ...]:
        if not self.code.graph.needs_match:
            return (*self._columns, NO_MATCH)
        low, high = self.batch.starts[text : text + 2]
        return (*self._columns, interpreter.match_table(self.batch.token_ids()[low:high]))


def row_blocks(n: int, causal: bool, start: int = 0) -> Iterator[Block]:
    """Cut the rows of a text into blocks of at most ``BLOCK`` entries, of at least one row."""
    first, low, word = start, 0, 0
    while first < n:
        last, high = first, low
        while last < n and (last == first or high - low + (last + 1 if causal else n) <= BLOCK):
            high += last + 1 if causal else n
            last += 1
        yield Block(range(first, last), slice(low, high), word)
        word += row_words(last, causal, n) - row_words(first, causal, n)
        first, low = last, high


def aligned(rows: int, entries: int) -> np.ndarray:
    """Allocate float32 (rows, entries) from the start of a cache line, entries in whole lanes."""
    size = -(-entries // WIDTH) * WIDTH
    room = np.empty(rows * size + WIDTH, dtype=np.float32)
    skip = -room.ctypes.data % 64 // 4
    return room[skip : skip + rows * size].reshape(rows, size)


def padded(entries: int) -> int:
    """Round up to whole vectors."""
    return -(-entries // WIDTH) * WIDTH


def unpack(packed: np.ndarray, n: int, causal: bool) -> np.ndarray:
    """Turn packed entries (…, entries) into square matrices (…, n, n)."""
    if not causal:
        return packed.reshape(*packed.shape[:-1], n, n)
    square = np.zeros((*packed.shape[:-1], n, n), dtype=packed.dtype)
    rows, columns = np.tril_indices(n)
    square[..., rows, columns] = packed
    return square


def pack(square: np.ndarray, causal: bool) -> np.ndarray:
    """Turn square matrices (…, n, n) into packed entries: those that a query sees, row by row."""
    n = square.shape[-1]
    if not causal:
        return square.reshape(*square.shape[:-2], n * n)
    rows, columns = np.tril_indices(n)
    return square[..., rows, columns]
