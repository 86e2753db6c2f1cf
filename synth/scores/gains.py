"""Which use of shared scores a program of a head gains most by: offered by keys, asked by queries, or both.

A use adds ``w * A(q) * B(k)`` on an interval of distances or at the first token, where A, B or both may be
left out. Gains are counted to second order in w, from the rows and the gradient by their scores.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import FAST
from attn_dsl.dsl import tree as t
from attn_dsl.synth.design import Design
from attn_dsl.synth.distance_bins import bins, condition, spans
from attn_dsl.synth.gains import gain

FIRST = t.Compare("==", t.Position("k"), t.Integer(0))


@dataclass(frozen=True, slots=True)
class ScoreUse:
    """A term with shared scores that may be added to a program."""

    gain: float  # nats over all rows
    nodes: int
    term: t.Scaled  # its weight is a hole

    @property
    def kind(self) -> tuple[bool, bool]:
        """Whether a score of the query, and whether one of the key is in it."""
        places = {x.variable for x in self.term.value.walk() if isinstance(x, t.Score)}
        return "q" in places, "k" in places


class ScoreGains:
    """The values of shared scores on the rows of a design, and what their uses gain.

    Attributes:
        names: of the scores.
    """

    def __init__(self, design: Design, names: tuple[str, ...], columns: np.ndarray) -> None:
        self.design, self.names = design, names
        ones = np.ones((len(columns), 1), dtype=np.float32)
        # float32 (tokens, 1 + scores); the first column stands for no score
        self.columns = np.ascontiguousarray(np.hstack([ones, columns]), dtype=np.float32)
        self.queries = self.columns[design.firsts + design.queries]

    @cached_property
    def intervals(self) -> list[tuple[t.Predicate | None, np.ndarray]]:
        """The conditions that a use may have, and the bins of distance that each is about."""
        causal = self.design.causal
        count = len(bins(causal))
        zero = 0 if causal else count // 2
        every = [*spans(causal), (zero, zero + 1), (zero + 1, zero + 2)]
        every += [(zero + 1, count)] if causal else []
        at = np.arange(count)
        found = [(condition(low, end, causal), ((at >= low) & (at < end)).astype(np.float32))
                 for low, end in dict.fromkeys(every)]  # fmt: skip
        return [*found, (FIRST, np.zeros(count, dtype=np.float32))]

    def best(self, residual: np.ndarray, predicted: np.ndarray, ridge: float, count: int) -> list[ScoreUse]:
        """Return the uses that gain most for their size, at most ``count`` of each kind.

        Args:
            residual, predicted: float32 (entries), the gradient by scores, and the rows.
            ridge: pseudo-evidence, in nats by squared weight.
        """
        members = np.array([inside for _, inside in self.intervals], dtype=np.float32)
        shape = len(members), len(self.queries), self.columns.shape[1]
        sums = np.zeros((2, *shape), dtype=np.float32)
        _moments(self.design.starts, self.design.firsts, self.design.entry_bins, residual, predicted,
                 self.columns, members, len(members) - 1, *sums)  # fmt: skip
        squared = self.queries**2
        found: list[ScoreUse] = []
        for (where, _), slope, curve in zip(self.intervals, *sums, strict=True):
            g, h = self.queries.T @ slope, squared.T @ curve
            found += self._largest(gain(g, np.maximum(h, 0.0), ridge), where, count)
        kinds: dict[tuple[bool, bool], list[ScoreUse]] = {}
        for use in sorted(found, key=lambda use: -use.gain / use.nodes**0.5):
            kinds.setdefault(use.kind, []).append(use)
        return [use for uses in kinds.values() for use in uses[:count]]

    def _largest(self, gains: np.ndarray, where: t.Predicate | None, count: int) -> list[ScoreUse]:
        """Return the largest gains under a condition, those of queries, of keys, and of both."""
        found = []
        for part, at in ((gains[1:, :1], (1, 0)), (gains[:1, 1:], (0, 1)), (gains[1:, 1:], (1, 1))):
            if where is FIRST and at[1]:
                continue  # what stands first says nothing
            if where is None and not at[1]:
                continue  # all keys get the same
            for place in np.argsort(-part, axis=None)[:count]:
                q, k = np.unravel_index(place, part.shape)
                term = self._term(int(q) + at[0], int(k) + at[1], where)
                found.append(ScoreUse(float(part[q, k]), t.nodes(term), term))
        return found

    def _term(self, query: int, key: int, where: t.Predicate | None) -> t.Scaled:
        sides: list[t.Factor] = []
        if query:
            sides.append(t.Score(self.names[query - 1], "q"))
        if key:
            sides.append(t.Score(self.names[key - 1], "k"))
        value: t.Value = t.Product(*sides) if len(sides) == 2 else sides[0]
        return t.Scaled(None, value, where)


@njit(**FAST)
def _moments(starts, firsts, bins, residual, predicted, columns, members, first, slopes, curves):
    """Sum the columns of a row's keys by interval: weighted by the gradient, and their variance.

    Args:
        members: float32 (intervals, bins): which bins are in each.
        first: the interval that is the first token alone.
        slopes, curves: float32 (intervals, rows, columns), the results.
    """
    count, width = members.shape[1], columns.shape[1]
    by_bin = np.empty((3, count, width), dtype=np.float32)
    for r in range(starts.shape[0] - 1):
        by_bin[:] = 0.0
        low = starts[r]
        for k in range(starts[r + 1] - low):
            value, own = columns[firsts[r] + k], by_bin[:, bins[low + k]]
            g, p = residual[low + k], predicted[low + k]
            for c in range(width):
                x = value[c]
                own[0, c] += g * x
                own[1, c] += p * x
                own[2, c] += p * x * x
        for j in range(members.shape[0]):
            if j == first:
                g, p = residual[low], predicted[low]
                for c in range(width):
                    x = columns[firsts[r], c]
                    slopes[j, r, c] = g * x
                    curves[j, r, c] = p * (np.float32(1.0) - p) * x * x
                continue
            mean = np.zeros(width, dtype=np.float32)
            for b in range(count):
                if members[j, b] != 0.0:
                    for c in range(width):
                        slopes[j, r, c] += by_bin[0, b, c]
                        mean[c] += by_bin[1, b, c]
                        curves[j, r, c] += by_bin[2, b, c]
            for c in range(width):
                curves[j, r, c] -= mean[c] * mean[c]
