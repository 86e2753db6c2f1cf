"""Evaluation: programs on batches of texts, as packed matrices or as planes for fitting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attn_dsl.compiler import machine
from attn_dsl.compiler.batch import Batch
from attn_dsl.compiler.bytecode import Code, Compiler
from attn_dsl.compiler.lanes import WIDTH
from attn_dsl.compiler.masses import AHEAD, SCORE_RANGE, evaluate_masses, vectors
from attn_dsl.compiler.minsum import aligned
from attn_dsl.compiler.planes import (
    Kind,
    Layout,
    Planes,
    layout,
    row_words,
    text_planes,
    typed_planes,
)  # fmt: skip
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.limits import TERM_LIMIT

BLOCK = 2304
"""Entries that are worked on at once, in whole rows: all of a causal text of 64 tokens."""
GROUP = 64
"""Programs whose rows are kept at once: with ``BLOCK`` they fit a second-level cache."""


@dataclass(frozen=True, slots=True)
class Block:
    """Whole rows of a text's matrix.

    Attributes:
        rows: the queries.
        entries: where they stand in a packed matrix.
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
        rows: float32 (programs, entries), each padded with zeros to whole lanes.
    """

    programs: slice
    block: Block
    rows: np.ndarray


class Plan:
    """Programs of one visibility compiled together for one batch of texts.

    >>> from attn_dsl.dsl.parser import parse
    >>> from attn_dsl.dsl.tokens import Tokens
    >>> batch = Batch([Tokens.from_strings(["a", " b"])])
    >>> Plan([parse("head uniform causal:\\n")], batch).packed(0)
    array([[1. , 0.5, 0.5]], dtype=float32)
    """

    def __init__(self, programs: Sequence[t.Head], batch: Batch) -> None:
        if not programs:
            raise ValueError("a plan needs at least one program")
        compiler = Compiler(batch, programs[0].causal)
        for program in programs:
            compiler.add(program)
        self.batch, self.code = batch, compiler.finish()
        self.linear = np.array([p.normaliser == "linear" for p in programs], dtype=np.bool_)
        self.used, self.offsets = _ragged(self.code)
        self.weights = np.array(
            [np.nan if w is None else w for p in programs for w in p.weights], dtype=np.float64
        )

    @property
    def causal(self) -> bool:
        """The visibility of the programs."""
        return self.code.causal

    def packed(self, text: int) -> np.ndarray:
        """Evaluate all programs on one text.

        Args:
            text: its number in the batch.

        Returns:
            float32 (programs, entries): the visible entries of each matrix, row by row.
        """
        out = np.empty((self.size, int(self.batch.entries(self.causal)[text])), dtype=np.float32)
        for part in self.parts(text):
            here = part.block.entries
            out[part.programs, here] = part.rows[:, : here.stop - here.start]
        return out

    def parts(self, text: int, group: int = GROUP) -> Iterator[Part]:
        """Evaluate the programs on one text part by part, each small enough to stay in cache.

        Args:
            group: the most programs of a part.

        Yields:
            Blocks of rows one after the other, and of each all programs, group by group. The
            array of rows is reused for the next part.
        """
        if np.isnan(self.weights).any():
            raise ValueError("a program has holes; fit its weights first")
        n, causal = int(self.batch.sizes[text]), self.causal
        start = int(self.batch.starts[text])
        planes = text_planes(self.code, self._layout, n, start, self._arrays())
        keys = self._vectors(Kind.KEY, planes.keys)
        distances = self._vectors(Kind.DISTANCE, planes.distances)
        quick, terms = self._quick(planes), self._terms
        truth_rows, factors, truth_starts = terms[Kind.TRUTH]
        value_rows, weights, value_starts = terms[Kind.VALUE]
        blocks = list(row_blocks(n, causal))
        widest = max((padded(b.entries.stop - b.entries.start) for b in blocks), default=0)
        room = aligned(min(group, self.size), widest + WIDTH)
        masses = np.empty((planes.words + AHEAD) * WIDTH, dtype=np.float32)
        for block in blocks:
            width = padded(block.entries.stop - block.entries.start)
            for first in range(0, self.size, group):
                last = min(first + group, self.size)
                out = room[: last - first]
                redo = np.empty((last - first, len(block.rows)), dtype=np.bool_)
                if evaluate_masses(
                    planes.truths, planes.words, truth_rows, factors, truth_starts,
                    planes.values, value_rows, weights, value_starts, keys, distances, quick,
                    first, causal, n, block.rows.start, block.rows.stop, block.word, masses, out,
                    redo,
                ):  # fmt: skip
                    self._exactly(text, block, first, redo, out)
                yield Part(slice(first, last), block, out[:, :width])

    def typed_planes(self, text: int) -> tuple[np.ndarray, np.ndarray]:
        """Compute the planes of one text on all visible entries.

        Returns:
            uint8 (truths, entries) and float32 (values, entries); ``code.slots`` tells which.
        """
        n = int(self.batch.sizes[text])
        entries = int(self.batch.entries(self.causal)[text])
        slots = self.code.slots
        kinds = np.bincount(slots[:, 0], minlength=2)
        truths = np.empty((kinds[0], entries), dtype=np.uint8)
        values = np.empty((kinds[1], entries), dtype=np.float32)
        typed_planes(
            self.code.instructions, *self.code.plane_arrays, slots, self.causal, n,
            int(self.batch.starts[text]), *self._arrays(), truths, values,
        )  # fmt: skip
        return truths, values

    @property
    def size(self) -> int:
        """How many programs there are."""
        return len(self.code.programs)

    def prepare(self) -> None:
        """Make what all texts share, so that threads find it ready."""
        _ = self._arrays(), self.code.plane_arrays, self._owner, self._layout, self._terms

    @cached_property
    def _owner(self) -> np.ndarray:
        """The program that each weight belongs to."""
        return np.repeat(np.arange(self.size), np.diff(self.offsets))

    @cached_property
    def _layout(self) -> Layout:
        """How the planes are kept."""
        return layout(self.code)

    @cached_property
    def _terms(self) -> dict[Kind, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """By kind of plane: the planes of each program, their weights, where each program starts.

        Truths have factors in the place of weights, and twice as many starts: first the rewards of
        a program, whose factor counts where they do not hold, then its penalties.
        """
        places, own = self._layout.places[self.used], self._owner
        kinds, penal = places[:, 0], self.weights < 0
        parts = {}
        for kind in Kind:
            here = np.flatnonzero(kinds == kind)
            if kind == Kind.TRUTH:
                group = 2 * own[here] + penal[here]
                here = here[np.argsort(group, kind="stable")]
                counts = np.bincount(group, minlength=2 * self.size)
                amounts = np.exp(-np.abs(self.weights[here])).astype(np.float32)
            else:
                counts = np.bincount(own[here], minlength=self.size)
                amounts = self.weights[here].astype(float if kind != Kind.VALUE else np.float32)
            starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
            parts[kind] = (places[here, 1], amounts, starts)
        return parts

    def _vectors(self, kind: Kind, planes: np.ndarray) -> np.ndarray:
        """Compute the masses that each program makes of one token's or one distance's planes."""
        length = max(padded(planes.shape[1]), WIDTH) + WIDTH
        out = np.empty((self.size, length), dtype=np.float32)
        vectors(planes, *self._terms[kind], np.empty(planes.shape[1]), out)
        return out

    def _quick(self, planes: Planes) -> np.ndarray:
        """Say for each program whether its terms on a text stay within what float32 keeps."""
        quick = ~self.linear
        for kind, found in (
            (Kind.KEY, planes.keys), (Kind.DISTANCE, planes.distances), (Kind.VALUE, planes.values)
        ):  # fmt: skip
            if not len(found):
                continue
            rows, weights, starts = self._terms[kind]
            sizes = (
                np.abs(weights)
                * np.maximum(found.max(1, initial=0), -found.min(1, initial=0))[rows]
            )
            if kind == Kind.VALUE or sizes.max(initial=0) > TERM_LIMIT:
                own = np.repeat(np.arange(self.size), np.diff(starts))
                quick[own[sizes > TERM_LIMIT]] = False
            if kind == Kind.VALUE:
                quick &= np.bincount(own, sizes, minlength=self.size) <= SCORE_RANGE
        return quick

    def _exactly(
        self, text: int, block: Block, first: int, redo: np.ndarray, out: np.ndarray
    ) -> None:
        """Evaluate some rows in float64, with the largest score of each taken out."""
        chosen = np.flatnonzero(redo.any(1))
        here = np.isin(self._owner, first + chosen)
        starts = np.concatenate([[0], np.cumsum(np.diff(self.offsets)[first + chosen])])
        part = out[chosen]
        machine.evaluate_rows(
            self.code.instructions, *self.code.plane_arrays, self.used[here], self.weights[here],
            starts.astype(np.int64), self.linear[first + chosen], self.causal,
            int(self.batch.sizes[text]), int(self.batch.starts[text]), *self._arrays(),
            redo[chosen], block.rows.start, part,
        )  # fmt: skip
        out[chosen] = part

    def planes(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """Compute the planes that the weights multiply on some rows of every text.

        Args:
            rows: per text of the batch, the queries.

        Returns:
            float32 (planes, entries of those rows); ``code.programs`` tells whose they are.
        """
        sizes = self.batch.sizes
        chosen = np.concatenate([*rows, np.empty(0)]).astype(np.int64)
        counts = np.array([len(r) for r in rows], dtype=np.int64)
        entries = int((chosen + 1).sum()) if self.causal else int((counts * sizes).sum())
        planes, functions = self.code.plane_arrays
        out = np.empty((len(planes), entries), dtype=np.float32)
        machine.planes_texts(
            self.code.instructions, planes, functions, self.causal, chosen,
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), sizes, self.batch.starts,
            *self._arrays(), out,
        )  # fmt: skip
        return out

    def _arrays(self) -> tuple:
        tokens = self.batch.token_ids() if self.code.needs_match else _NO_TOKENS
        return (*self.code.column_arrays, tokens, self.code.needs_match)


_NO_TOKENS = np.zeros(0, dtype=np.int32)


def _ragged(code: Code) -> tuple[np.ndarray, np.ndarray]:
    """Return the planes of all programs behind each other, and where each program's start."""
    used = np.array([p for planes in code.programs for p in planes], dtype=np.int64)
    lengths = [len(planes) for planes in code.programs]
    return used, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def row_blocks(n: int, causal: bool) -> Iterator[Block]:
    """Cut the rows of a text into blocks of at most ``BLOCK`` entries, of at least one row."""
    first, low = 0, 0
    while first < n:
        last, high = first, low
        while last < n and (last == first or high - low + (last + 1 if causal else n) <= BLOCK):
            high += last + 1 if causal else n
            last += 1
        before = row_words(first, True) if causal else row_words(n, False) // n * first
        yield Block(range(first, last), slice(low, high), before)
        first, low = last, high


def padded(entries: int) -> int:
    """Round up to whole lanes."""
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
