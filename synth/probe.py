"""Probe rows: a part of a design's rows, on which many terms are judged before one is fitted."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl import tree as t
from attn_dsl.synth.design import Design
from attn_dsl.synth.weights import Rows

T = TypeVar("T")

PROBES = 16_000
"""About how many entries the probe rows have."""
CHUNK = 256
"""Expressions that are evaluated at once."""


class Probe:
    """Every n-th row of a design, over all texts.

    Attributes:
        rows: per text, the queries that are taken.
        starts: int64 (rows + 1): where each row's entries start.
        row: int32 (entries): the row of each entry.
        chosen: int64 (entries): where they stand among those of the design.
        kept: int64 (rows): which rows of the design they are.
    """

    def __init__(self, design: Design, entries: int = PROBES) -> None:
        self.design, self.causal = design, design.causal
        every = max(1, round(design.entries / entries))
        counts = [len(rows) for rows in design.rows]
        kept = np.arange(sum(counts)) % every == 0
        ends = np.cumsum(counts)
        self.rows = [
            rows[kept[end - len(rows) : end]] for rows, end in zip(design.rows, ends, strict=True)
        ]
        widths = np.diff(design.starts)
        self.starts = np.concatenate([[0], np.cumsum(widths[kept])]).astype(np.int64)
        self.row = np.repeat(np.arange(kept.sum(), dtype=np.int32), widths[kept])
        self.chosen = np.flatnonzero(np.repeat(kept, widths))
        self.kept = np.flatnonzero(kept)

    @property
    def entries(self) -> int:
        """How many entries the rows have."""
        return len(self.chosen)

    def sample(self, entries: np.ndarray) -> np.ndarray:
        """Return what a vector of the design's entries is on the probe rows."""
        return np.ascontiguousarray(entries[..., self.chosen])

    def sample_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return what a vector of the design's rows is on the probe rows."""
        return np.ascontiguousarray(rows[..., self.kept])

    def target(self, rows: Rows) -> Rows:
        """Return a head's attention on the probe rows, given that on the design's."""
        return Rows(self.starts, self.sample(rows.actual))

    def planes(self, terms: Sequence[t.Term]) -> np.ndarray:
        """Compute the planes of some terms' weights, float32 (weights, entries)."""
        visibility: t.Visibility = "causal" if self.causal else "bidirectional"
        parts = [np.empty((0, self.entries), np.float32)]
        for some in batches(terms, CHUNK):
            plan = Plan([t.Head("probe", visibility, "softmax", some)], self.design.batch)
            parts.append(plan.planes(self.rows)[list(plan.code.programs[0])])
        return np.concatenate(parts)


def batches(items: Iterable[T], count: int) -> Iterator[tuple[T, ...]]:
    """Yield items in tuples of at most ``count``."""
    source = iter(items)
    while some := tuple(itertools.islice(source, count)):
        yield some
