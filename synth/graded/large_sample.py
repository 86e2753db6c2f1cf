"""The large sample: many more rows than the first design, for programs with many parameters."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.eval.set_parameters import Lookup, SetProgram, SetTerm
from attn_dsl.synth import vocabulary
from attn_dsl.synth.design import Design
from attn_dsl.synth.graded.distance_bins import bins, condition, spans
from attn_dsl.synth.objective import HeadRows
from attn_dsl.synth.sparse_design import SparseDesign, TermPlanes

QUERY, KEY = (t.Call("token", (t.Position(variable),)) for variable in ("q", "k"))


class LargeSample:
    """A design of more rows, with the planes and tokens that factors are made of.

    Attributes:
        small: the design that the other proposers use.
        design: the large one; its rows include those of ``small``.
        inside: int64 (entries of ``small``): which entries of the large one they are.
    """

    def __init__(self, small: Design, entries: int, seed: int) -> None:
        self.small = small
        self.design = Design(small.capture, small.texts, entries, seed, small.objective)
        offsets = np.cumsum([0, *map(len, self.design.rows)])
        places = zip(offsets, self.design.rows, small.rows, strict=False)
        rows = np.concatenate([at + np.searchsorted(large, few) for at, large, few in places])
        starts = self.design.starts
        self.inside = np.concatenate([np.arange(starts[r], starts[r + 1]) for r in rows])

    @cached_property
    def planes(self) -> TermPlanes:
        """The planes of the vocabulary, and of all intervals of distances."""
        causal = self.design.causal
        count = len(bins(causal))
        every = [condition(a, b, causal) for a in range(count) for b in range(a + 1, count + 1)]
        intervals = [t.Where(None, one) for one in every if one is not None]
        return TermPlanes(self.design, [*vocabulary.terms(causal), *intervals])

    @cached_property
    def symbols(self) -> np.ndarray:
        """The string of every number that a token may have; that of 0 is empty."""
        return np.array([self.design.symbols[s] for s in range(self.design.width)], dtype=object)

    @cached_property
    def row_bins(self) -> np.ndarray:
        """The bin of each entry, those of every row numbered apart, int32 (entries)."""
        rows, starts = np.concatenate(self.design.rows), self.design.starts
        widths = np.diff(starts)
        firsts = np.array([first for first, _ in bins(self.design.causal)])
        distance = np.repeat(rows, widths) - self.design.key_places
        found = np.searchsorted(firsts, distance, side="right") - 1
        return (found + np.repeat(np.arange(len(rows)) * len(firsts), widths)).astype(np.int32)

    @cached_property
    def key_bins(self) -> np.ndarray:
        """The bin and the key's symbol of each entry as one number, int32 (entries)."""
        found = self.row_bins % len(bins(self.design.causal))
        return found * np.int32(self.design.width) + self.design.key_symbols

    def by_symbol(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sum numbers of entries by bin and symbol, of the query and of the key.

        Returns:
            float64 (bins, symbols) for each.
        """
        count, width = len(bins(self.design.causal)), self.design.width
        rows = len(self.design.starts) - 1
        by_row = np.bincount(self.row_bins, numbers, rows * count).reshape(rows, count)
        symbols = self.design.query_symbols
        queries = np.array([np.bincount(symbols, one, width) for one in by_row.T])
        keys = np.bincount(self.key_bins, numbers, count * width).reshape(count, width)
        return queries, keys

    @cached_property
    def products(self) -> tuple[list[tuple[int, int]], SparseDesign]:
        """The program of all products of two sets of all tokens, one for each of ``spans``."""
        causal, names = self.design.causal, tuple(self.symbols)
        intervals = spans(causal)
        sets = [
            SetTerm((Lookup(QUERY, names), Lookup(KEY, names)), None, condition(*one, causal))
            for one in intervals
        ]
        empty = t.Head("products", "causal" if causal else "bidirectional")
        rows = HeadRows(self.design.starts, np.zeros(self.design.entries, dtype=np.float32))
        return intervals, SparseDesign(self.planes, rows, SetProgram(empty, (), tuple(sets)))
