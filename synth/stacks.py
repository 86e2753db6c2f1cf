"""Stacks: planes of which many are the elements of sets, so that each entry has at most one of a set.

A set of n tokens is then one plane of what its weights are multiplied by, and the number of the token of
each entry, whatever n is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import FAST
from attn_dsl.synth import weights as w
from attn_dsl.synth.graded.losses import change


@dataclass(frozen=True, eq=False)
class Lookup:
    """The planes of the elements of one set.

    Attributes:
        factor: float32 (entries): what a weight is multiplied by.
        element: int32 (entries): which weight; ``count`` where there is none.
        count: how many weights there are.
        entries: int32: which entries have an element, those of the first element first.
        sizes: int64 (count): how many entries each element has.
        steps: whether an element that is left out counts with the one before it, as in a table.
    """

    factor: np.ndarray
    element: np.ndarray
    count: int
    entries: np.ndarray
    sizes: np.ndarray
    steps: bool = False

    @classmethod
    def of(cls, planes: np.ndarray, steps: bool = False) -> Lookup:
        """Put planes that have no entry in common into one."""
        factor = np.zeros(planes.shape[1], dtype=np.float32)
        element = np.full(planes.shape[1], len(planes), dtype=np.int32)
        _overlay(planes, factor, element)
        return cls.laid(factor, element, len(planes), steps)

    @classmethod
    def laid(
        cls, factor: np.ndarray, element: np.ndarray, count: int, steps: bool = False
    ) -> Lookup:
        """Take a plane and its elements; where the plane is 0, an element counts for nothing."""
        used = np.flatnonzero((element < count) & (factor != 0)).astype(np.int32)
        order = np.argsort(element[used], kind="stable")
        sizes = np.bincount(element[used], minlength=count)
        return cls(factor, element, count, used[order], sizes, steps)

    def scores(self, weights: np.ndarray) -> np.ndarray:
        """Return what the set adds to the scores, float32 (entries)."""
        found = np.zeros_like(self.factor)
        self.add(weights, found)
        return found

    def add(self, weights: np.ndarray, scores: np.ndarray) -> None:
        """Add what the set adds to the scores, float32 (entries)."""
        _add(self.factor, self.element, np.append(weights, 0.0).astype(np.float32), scores)

    def sums(self, pull: np.ndarray) -> np.ndarray:
        """Return every plane times a vector, float64 (weights)."""
        found = np.empty(self.count)
        _sums(self.factor, self.entries, self.sizes, pull, found)
        return found

    def kept(self, some: np.ndarray) -> Lookup:
        """Return some of the planes, bool (weights)."""
        place, count = self.places(some), int(some.sum())
        left = place[:-1] < count
        sizes = np.bincount(place[:-1][left], self.sizes[left], count).astype(np.int64)
        entries = self.entries[np.repeat(left, self.sizes)]
        return Lookup(self.factor, place[self.element], count, entries, sizes, self.steps)

    def places(self, some: np.ndarray) -> np.ndarray:
        """Return which of some planes each becomes, and what is in none; their count: none of them."""
        found = np.cumsum(some, dtype=np.int32) - 1
        none = found < 0 if self.steps else ~some
        return np.append(np.where(none, some.sum(), found), some.sum()).astype(np.int32)

    def losing(self, weights: np.ndarray) -> np.ndarray:
        """Return by how much each element's weight is more than what it would be without it."""
        return weights - np.append(0.0, weights[:-1]) if self.steps else weights


class Stack(w.Columns):
    """Planes of terms, and those of sets behind them; the weights are in this order.

    Attributes:
        dense: float32 (weights, entries), of the terms.
        sets: of the others.
    """

    def __init__(self, dense: np.ndarray, sets: Sequence[Lookup]) -> None:
        self.dense, self.sets = dense, tuple(sets)

    def __len__(self) -> int:
        return len(self.dense) + sum(one.count for one in self.sets)

    def split(self, weights: np.ndarray) -> list[np.ndarray]:
        """Split what there is for each weight: that of terms, then set by set."""
        return np.split(weights, np.cumsum([len(self.dense), *(x.count for x in self.sets)])[:-1])

    def kept(self, some: np.ndarray) -> Stack:
        """Return a part of the planes, bool (weights)."""
        dense, *parts = self.split(some)
        sets = [x.kept(part) for x, part in zip(self.sets, parts, strict=True) if part.any()]
        return Stack(np.ascontiguousarray(self.dense[dense]), sets)

    def merged(self, hessian: np.ndarray, some: np.ndarray) -> np.ndarray:
        """Return the curvature of ``kept(some)`` from that of all planes."""
        dense, *parts = self.split(some)
        at = int(dense.sum())
        places = [np.where(dense, np.cumsum(dense) - 1, -1)]
        for one, part in zip(self.sets, parts, strict=True):
            count = int(part.sum())
            mine = one.places(part)[:-1]
            places.append(np.where(mine < count, mine + at, -1))
            at += count
        place = np.concatenate(places)
        sums = (place == np.arange(at)[:, None]).astype(np.float64)
        return sums @ hessian @ sums.T

    def scores(self, weights: np.ndarray) -> np.ndarray:
        """Return the weighted sum of all planes, float32 (entries)."""
        dense, *parts = self.split(np.asarray(weights, dtype=np.float32))
        found = dense @ self.dense
        for one, part in zip(self.sets, parts, strict=True):
            one.add(part, found)
        return found

    def sums(self, pull: np.ndarray) -> np.ndarray:
        """Return every plane times a vector, float64 (weights)."""
        dense = (self.dense @ pull).astype(np.float64)
        return np.concatenate([dense, *(one.sums(pull) for one in self.sets)])

    def curvature(self, rows: w.Rows, predicted: np.ndarray) -> np.ndarray:
        """Return the Hessian of the cross-entropy, summed over rows."""
        first, ends = len(self.dense), np.cumsum([len(self.dense), *(x.count for x in self.sets)])
        hessian = np.zeros((len(self), len(self)))
        means = np.empty((len(self), len(rows)), dtype=np.float32)
        masses = self.dense * predicted
        hessian[:first, :first] = masses @ self.dense.T
        none = np.zeros(len(predicted), dtype=np.int32)
        for mass, mean in zip(masses, means, strict=False):
            _row_sums(mass, none, rows.starts, mean[None])
        for i, one in enumerate(self.sets):
            mine = slice(ends[i], ends[i + 1])
            mass = predicted * one.factor
            _row_sums(mass, one.element, rows.starts, means[mine])
            for j, other in enumerate(masses):
                hessian[mine, j] = one.sums(other)
            for j, at in zip(range(i + 1), ends, strict=False):
                left = self.sets[j]
                sums = np.zeros((one.count, left.count + 1))
                _pair_sums(mass, one.entries, one.sizes, left.factor, left.element, sums)
                hessian[mine, at : at + left.count] = sums[:, :-1]
        hessian = np.tril(hessian) + np.tril(hessian, -1).T
        return hessian - (means @ means.T).astype(np.float64)


def element_losses(
    one: Lookup, weights: np.ndarray, rows: w.Rows, predicted: np.ndarray
) -> np.ndarray:
    """Return the mass that the rows share with a head only thanks to each element of a set."""
    losses = np.zeros(one.count)
    without = change(one.scores(one.losing(weights)))
    _element_losses(without, one.entries, one.sizes, rows.starts, rows.actual, predicted, losses)
    return losses


@njit(**FAST)
def _overlay(planes, factor, element):
    for j in range(planes.shape[0]):
        x = planes[j]
        for i in range(x.shape[0]):
            if x[i] != 0.0:
                factor[i] = x[i]
                element[i] = j


@njit(**FAST)
def _add(factor, element, table, scores):
    for i in range(scores.shape[0]):
        scores[i] += factor[i] * table[np.uint64(element[i])]


@njit(**FAST)
def _sums(factor, entries, sizes, pull, sums):
    first = 0
    for e in range(sizes.shape[0]):
        found = 0.0
        for entry in entries[first : first + sizes[e]]:
            at = np.uint64(entry)
            found += factor[at] * pull[at]
        sums[e] = found
        first += sizes[e]


@njit(**FAST)
def _row_sums(mass, element, starts, out):
    out[:] = np.float32(0.0)
    for r in range(starts.shape[0] - 1):
        for i in range(starts[r], starts[r + 1]):
            if element[i] < out.shape[0]:
                out[element[i], r] += mass[i]


@njit(**FAST)
def _pair_sums(mass, entries, sizes, other, element, sums):
    first = 0
    for e in range(sizes.shape[0]):
        found = sums[e]
        for entry in entries[first : first + sizes[e]]:
            at = np.uint64(entry)
            found[np.uint64(element[at])] += mass[at] * other[at]
        first += sizes[e]


@njit(**FAST)
def _scaled_minima(predicted, actual, low, high, scale):
    p, a = predicted[low:high], actual[low:high]
    found = np.float32(0.0)
    for i in range(p.shape[0]):
        found += min(p[i] * scale, a[i])
    return found


@njit(**FAST)
def _element_losses(change, entries, sizes, starts, actual, predicted, losses):
    shared = np.zeros(starts.shape[0] - 1, dtype=np.float32)
    for r in range(shared.shape[0]):
        shared[r] = _scaled_minima(predicted, actual, starts[r], starts[r + 1], np.float32(1.0))
    at = 0
    for e in range(sizes.shape[0]):
        end, r = at + sizes[e], 0
        while at < end:
            while starts[r + 1] <= entries[at]:
                r += 1
            low, high, last, mass = starts[r], starts[r + 1], at, np.float32(1.0)
            while last < end and entries[last] < high:
                i = entries[last]
                mass += predicted[i] * (change[i] - np.float32(1.0))
                last += 1
            scale = np.float32(1.0) / mass
            left = _scaled_minima(predicted, actual, low, high, scale)
            for i in entries[at:last]:
                p = predicted[i] * scale
                left += min(p * change[i], actual[i]) - min(p, actual[i])
            losses[e] += shared[r] - left
            at = last
