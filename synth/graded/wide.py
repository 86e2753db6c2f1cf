"""The wide design: many more rows than the first, for what has many weights, such as graded sets."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.synth import vocabulary
from attn_dsl.synth.design import Design
from attn_dsl.synth.graded.cells import CHANNELS, Cells, Channel


class Planes:
    """Planes of the vocabulary's terms on the rows of a design, each made when first needed.

    Attributes:
        truths: uint8 (terms, entries); rows that were not asked for are untouched memory.
        values: float32 (values, entries), for the terms that are not 0 or 1.
    """

    def __init__(self, design: Design) -> None:
        self.design = design
        self._terms = vocabulary.terms(design.causal)
        truth = vocabulary.truths(design.causal)
        self._value = ~truth
        self._row = np.where(truth, np.arange(len(truth)), np.cumsum(~truth) - 1)
        self.truths = np.empty((len(truth), design.entries), dtype=np.uint8)
        self.values = np.empty((int((~truth).sum()), design.entries), dtype=np.float32)
        self._made = np.zeros(len(truth), dtype=bool)
        self._lock = threading.Lock()

    def of(self, terms: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Make the planes of some terms; return which are values, and the row of each."""
        for term in terms:
            if not self._made[term]:
                with self._lock:
                    self._make(term)
        chosen = np.asarray(terms, dtype=np.int64)
        return self._value[chosen], self._row[chosen]

    def _make(self, term: int) -> None:
        if not self._made[term]:
            visibility: t.Visibility = "causal" if self.design.causal else "bidirectional"
            program = t.Head("plane", visibility, "softmax", (self._terms[term],))
            target = self.values if self._value[term] else self.truths
            target[self._row[term]] = self.design.compute(program)[0]
            self._made[term] = True


class Wide:
    """A wide design with its cells and planes, and where the rows of the small design are in it.

    Attributes:
        design: the wide one; its rows include those of ``small``.
        small: the design that the other proposers use.
        channels: what the cells look at.
        inside: int64 (entries of ``small``): which entries of the wide one they are.
    """

    def __init__(
        self, small: Design, entries: int, seed: int, channels: tuple[Channel, ...] = CHANNELS
    ) -> None:
        self.small, self.channels = small, channels
        self.design = Design(small.capture, small.texts, entries, seed)
        rows = np.concatenate(
            [
                offset + np.searchsorted(wide, few)
                for offset, wide, few in zip(
                    np.cumsum([0, *map(len, self.design.rows)]),
                    self.design.rows,
                    small.rows,
                    strict=False,
                )
            ]
        )
        starts = self.design.starts
        self.inside = np.concatenate([np.arange(starts[r], starts[r + 1]) for r in rows])

    @cached_property
    def cells(self) -> Cells:
        """The cells of the wide design."""
        return Cells.of(self.design, self.channels)

    @cached_property
    def planes(self) -> Planes:
        """The planes of the vocabulary on it."""
        return Planes(self.design)
