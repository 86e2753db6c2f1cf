"""The evaluator: attention matrices of programs on texts, and the planes that weights multiply."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attn_dsl.compiler import interpreter
from attn_dsl.compiler.code import Code, Kind
from attn_dsl.compiler.columns import Batch, stack
from attn_dsl.compiler.simd import WIDTH
from attn_dsl.compiler.softmax import AHEAD, evaluate_masses
from attn_dsl.compiler.text_planes import row_words, spread_rows, text_planes
from attn_dsl.dsl import tree as t

BLOCK = 2304
"""The most entries of a block of whole rows. A causal text of 64 tokens is one block."""
GROUP = 64  # the most programs of a part; their blocks fit in a second-level cache


@dataclass(frozen=True, slots=True)
class RowBlock:
    """A block of whole rows of the matrices of some programs on a text."""

    programs: slice  # the range of programs
    queries: range  # the range of rows
    entries: slice  # the entries of these rows among those of all rows that are computed
    rows: np.ndarray  # float32 (programs, entries), padded with zeros to whole vectors


def parts(code: Code, n: int, start: int, arrays: tuple[np.ndarray, ...],
          first: int = 0) -> Iterator[RowBlock]:  # fmt: skip
    """Evaluate programs on one text, block of rows by block, in parts that fit in the cache.

    Args:
        n, start: the number of tokens, and the index of the first one in the columns.
        arrays: the columns (see ``columns.stack``), and the tables.
        first: the first row to evaluate.

    Yields:
        The parts. The array ``RowBlock.rows`` is overwritten by the next one.
    """
    planes, terms, causal = text_planes(code, n, start, arrays, first), code.terms, code.causal
    blocks = list(row_blocks(n, causal, first))
    widest = max((padded(here.stop - here.start) for _, here, _ in blocks), default=0)
    room = aligned(min(GROUP, code.size), widest + WIDTH)
    masses = np.empty((planes.words + AHEAD) * WIDTH, dtype=np.float32)
    for queries, here, word in blocks:
        width = padded(here.stop - here.start)
        for low in range(0, code.size, GROUP):
            high = min(low + GROUP, code.size)
            out = room[: high - low]
            redo = np.empty((high - low, len(queries)), dtype=np.bool_)
            if evaluate_masses(planes.truths, planes.words, terms[Kind.TRUTH], planes.values,
                               terms[Kind.VALUE], planes.keys, planes.distances, planes.quick, low, causal, n,
                               queries.start, queries.stop, word, masses, out, redo):  # fmt: skip
                _exactly(code, n, start, arrays, queries.start, low, redo, out)
            yield RowBlock(slice(low, high), queries, here, out[:, :width])


def _exactly(code: Code, n: int, start: int, arrays: tuple[np.ndarray, ...], query: int, first: int,
             redo: np.ndarray, out: np.ndarray) -> None:  # fmt: skip
    """Evaluate again, in float64, the rows from ``query`` on that ``redo`` marks; write them to ``out``."""
    chosen = np.flatnonzero(redo.any(1))
    here = np.isin(code.owner, first + chosen)
    starts = np.concatenate([[0], np.cumsum(np.diff(code.offsets)[first + chosen])])
    part = out[chosen]
    interpreter.evaluate_rows(code.instructions, code.plane_rows, code.functions(2 * n), code.used[here],
                              code.weights[here], starts.astype(np.int64), code.linear[first + chosen],
                              code.causal, n, start, arrays, redo[chosen], query, part)  # fmt: skip
    out[chosen] = part


class Plan:
    """Evaluates programs of one visibility on a batch of texts, which methods name by their index.

    >>> from attn_dsl.dsl.parser import parse
    >>> from attn_dsl.dsl.tokens import Tokens
    >>> batch = Batch([Tokens.from_strings(["a", " b"])])
    >>> Plan([parse("head uniform causal:\\n")], batch).packed(0)
    array([[1. , 0.5, 0.5]], dtype=float32)
    """

    def __init__(self, programs: Sequence[t.Head] | Code, batch: Batch) -> None:
        self.code = programs if isinstance(programs, Code) else Code(programs)
        self.causal, self.size, self.batch = self.code.causal, self.code.size, batch

    def packed(self, text: int) -> np.ndarray:
        """Evaluate all programs on one text: the visible entries row by row, float32 (programs, entries)."""
        out = np.empty((self.size, self._entries(text)), dtype=np.float32)
        for part in self.parts(text):
            here = part.entries
            out[part.programs, here] = part.rows[:, : here.stop - here.start]
        return out

    def square(self, text: int, out: np.ndarray | None = None) -> np.ndarray:
        """Evaluate all programs on one text, as square matrices: float32 (programs, n, n).

        ``out`` takes them if it is given; it may be larger. Only visible entries are written.
        """
        n = int(self.batch.sizes[text])
        if out is None:
            out = np.zeros((self.size, n, n), dtype=np.float32)
        for part in self.parts(text):
            first, last = part.queries.start, part.queries.stop
            spread_rows(part.rows, first, self.causal, n, out[part.programs, first:last])
        return out

    def parts(self, text: int) -> Iterator[RowBlock]:
        """Evaluate all programs on one text in parts; see the function ``parts``."""
        n, start = int(self.batch.sizes[text]), int(self.batch.starts[text])
        return parts(self.code, n, start, self._arrays(text))

    def typed_planes(self, text: int) -> tuple[np.ndarray, np.ndarray]:
        """Compute the planes of one text: those of ``code.truths`` as uint8, the others as float32."""
        made = np.empty((len(self.code.planes), self._entries(text)), dtype=np.float32)
        self._planes(text, np.arange(self.batch.sizes[text]), made)
        return made[self.code.truths].astype(np.uint8), made[~self.code.truths]

    def planes(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """Compute the planes on some rows of all texts, concatenated: float32 (planes, visible entries)."""
        sizes = self.batch.sizes.tolist()
        counts = [int((chosen + 1).sum()) if self.causal else len(chosen) * n
                  for chosen, n in zip(rows, sizes, strict=True)]  # fmt: skip
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
            int(self.batch.starts[text]), self._arrays(text), out)  # fmt: skip

    def _entries(self, text: int) -> int:
        return int(self.batch.entries(self.causal)[text])

    def prepare(self) -> None:
        """Compute the arrays that all texts share, so that threads only read them."""
        self.code.prepare(int(self.batch.sizes.max(initial=0)))
        _ = self._columns

    @cached_property
    def _columns(self) -> tuple[np.ndarray, ...]:
        return stack(self.code.graph.keys, self.batch, self.causal)

    def _arrays(self, text: int) -> tuple[np.ndarray, ...]:
        return (*self._columns, self.batch.tables(self.code.graph.tables, text))


def row_blocks(n: int, causal: bool, start: int = 0) -> Iterator[tuple[range, slice, int]]:
    """Yield the rows of a text from ``start`` on in blocks of at most ``BLOCK`` entries, or one row.

    Each is a range of rows, their entries, and their first word in the text planes.
    """
    first, low, word = start, 0, 0
    while first < n:
        last, high = first, low
        while last < n and (last == first or high - low + (last + 1 if causal else n) <= BLOCK):
            high += last + 1 if causal else n
            last += 1
        yield range(first, last), slice(low, high), word
        word += row_words(last, causal, n) - row_words(first, causal, n)
        first, low = last, high


def aligned(rows: int, entries: int) -> np.ndarray:
    """Allocate float32 (rows, entries rounded up to lanes), aligned to a cache line."""
    size = padded(entries)
    room = np.empty(rows * size + WIDTH, dtype=np.float32)
    skip = -room.ctypes.data % 64 // 4
    return room[skip : skip + rows * size].reshape(rows, size)


def padded(entries: int) -> int:
    """Round a number of entries up to whole vectors of ``WIDTH``."""
    return -(-entries // WIDTH) * WIDTH


def unpack(packed: np.ndarray, n: int, causal: bool) -> np.ndarray:
    """Turn packed entries (…, entries) into square matrices (…, n, n), 0 where a query sees no key.

    >>> unpack(np.array([1.0, 0.25, 0.75]), 2, True)
    array([[1.  , 0.  ],
           [0.25, 0.75]])
    """
    if not causal:
        return packed.reshape(*packed.shape[:-1], n, n)
    square = np.zeros((*packed.shape[:-1], n, n), dtype=packed.dtype)
    rows, columns = np.tril_indices(n)
    square[..., rows, columns] = packed
    return square


def pack(square: np.ndarray, causal: bool) -> np.ndarray:
    """Turn square matrices (…, n, n) into packed entries: the keys that each query sees, row by row."""
    n = square.shape[-1]
    if not causal:
        return square.reshape(*square.shape[:-2], n * n)
    rows, columns = np.tril_indices(n)
    return square[..., rows, columns]
