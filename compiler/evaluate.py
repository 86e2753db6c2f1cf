"""Evaluation: programs on batches of texts, as packed matrices or as planes for fitting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from attn_dsl.compiler import machine
from attn_dsl.compiler.batch import Batch
from attn_dsl.compiler.bytecode import Code, Compiler
from attn_dsl.compiler.masses import TRUTH_RANGE, VALUE_RANGE, evaluate_masses, typed_planes
from attn_dsl.dsl import tree as t


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
        return next(rows for _, rows in self.groups(text, self.size))

    def groups(self, text: int, most: int) -> Iterator[tuple[int, np.ndarray]]:
        """Evaluate the programs on one text in groups of at most ``most``.

        Yields:
            The number of the group's first program, and float32 (group, entries). The array is
            reused for the next group.
        """
        if np.isnan(self.weights).any():
            raise ValueError("a program has holes; fit its weights first")
        n = int(self.batch.sizes[text])
        truths, values = self.typed_planes(text)
        quick = self._quick(values)
        lengths = np.arange(1, n + 1) if self.causal else np.full(n, n)
        out = np.empty((min(most, self.size), truths.shape[1]), dtype=np.float32)
        for first in range(0, self.size, most):
            last = min(first + most, self.size)
            rows = out[: last - first]
            evaluate_masses(
                truths, values, *(_part(a, i, first, last) for i, a in enumerate(self._factors)),
                quick[first:last], lengths, rows,
            )  # fmt: skip
            slow = first + np.flatnonzero(~quick[first:last])
            if len(slow):
                self._exactly(text, slow, rows, first)
            yield first, rows

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
        _ = self._arrays(), self.code.plane_arrays, self.code.slots, self._owner, self._factors

    @cached_property
    def _owner(self) -> np.ndarray:
        """The program that each weight belongs to."""
        return np.repeat(np.arange(self.size), np.diff(self.offsets))

    def _quick(self, values: np.ndarray) -> np.ndarray:
        """Say for each program whether its masses on a text stay within what float32 keeps."""
        slots = self.code.slots[self.used]
        truth = slots[:, 0] == 0
        largest = np.abs(values).max(axis=1, initial=0.0) if len(values) else np.zeros(1)
        size = np.abs(self.weights) * np.where(truth, 1.0, largest[np.where(truth, 0, slots[:, 1])])
        by_truth = np.bincount(self._owner[truth], size[truth], minlength=self.size)
        by_value = np.bincount(self._owner[~truth], size[~truth], minlength=self.size)
        return ~self.linear & (by_truth <= TRUTH_RANGE) & (by_value <= VALUE_RANGE)

    @cached_property
    def _factors(self) -> tuple[np.ndarray, ...]:
        """The truths with their factors and the values with their weights, by program.

        Factors are kept within float32; programs that need more are evaluated exactly.
        """
        slots, own = self.code.slots[self.used], self._owner
        parts: list[np.ndarray] = []
        for kind in (0, 1):
            here = slots[:, 0] == kind
            counts = np.bincount(own[here], minlength=self.size)
            held = np.clip(self.weights[here], -TRUTH_RANGE, TRUTH_RANGE)
            amounts = np.exp(held) if kind == 0 else held
            starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
            parts += [slots[here, 1], amounts.astype(np.float32), starts]
        return tuple(parts)

    def _exactly(self, text: int, chosen: np.ndarray, out: np.ndarray, first: int) -> None:
        """Evaluate some programs in float64, with the largest score of each row taken out."""
        n = int(self.batch.sizes[text])
        here = np.isin(self._owner, chosen)
        counts = np.diff(self.offsets)[chosen]
        part = np.empty((len(chosen), out.shape[1]), dtype=np.float32)
        machine.evaluate_text(
            self.code.instructions, *self.code.plane_arrays, self.used[here], self.weights[here],
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), self.linear[chosen],
            self.causal, n, int(self.batch.starts[text]), *self._arrays(), part,
        )  # fmt: skip
        out[chosen - first] = part

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
        planes, rates = self.code.plane_arrays
        out = np.empty((len(planes), entries), dtype=np.float32)
        machine.planes_texts(
            self.code.instructions, planes, rates, self.causal, chosen,
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), sizes, self.batch.starts,
            *self._arrays(), out,
        )  # fmt: skip
        return out

    def _arrays(self) -> tuple:
        tokens = self.batch.token_ids() if self.code.needs_match else _NO_TOKENS
        return (*self.code.column_arrays, tokens, self.code.needs_match)


_NO_TOKENS = np.zeros(0, dtype=np.int32)


def _part(array: np.ndarray, kind: int, first: int, last: int) -> np.ndarray:
    """Cut the starts of some programs out of ``_factors``; what they point into stays whole."""
    return array[first : last + 1] if kind % 3 == 2 else array


def _ragged(code: Code) -> tuple[np.ndarray, np.ndarray]:
    """Return the planes of all programs behind each other, and where each program's start."""
    used = np.array([p for planes in code.programs for p in planes], dtype=np.int64)
    lengths = [len(planes) for planes in code.programs]
    return used, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


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
