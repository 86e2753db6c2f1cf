"""Stacks: planes of which many are the elements of sets, so that each entry has at most one of a set.

A set of n tokens is then one plane of what its weights are multiplied by, and the number of the token of
each entry, whatever n is.
"""

from __future__ import annotations

import itertools
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
    """

    factor: np.ndarray
    element: np.ndarray
    count: int

    @classmethod
    def of(cls, planes: np.ndarray) -> Lookup:
        """Put planes that have no entry in common into one."""
        factor = np.zeros(planes.shape[1], dtype=np.float32)
        element = np.full(planes.shape[1], len(planes), dtype=np.int32)
        _overlay(planes, factor, element)
        return cls(factor, element, len(planes))

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
        found = np.zeros(self.count + 1)
        _sums(self.factor, self.element, pull, found)
        return found[:-1]

    def kept(self, some: np.ndarray) -> Lookup:
        """Return some of the planes, bool (weights)."""
        count = int(some.sum())
        numbers = np.full(self.count + 1, count, dtype=np.int32)
        numbers[:-1][some] = np.arange(count)
        return Lookup(self.factor, numbers[self.element], count)


class Stack(w.Columns):
    """Planes of terms, and those of sets behind them; the weights are in this order.

    Attributes:
        dense: float32 (weights, entries), of the terms.
        sets: of the others.
    """

    def __init__(self, dense: np.ndarray, sets: Sequence[Lookup]) -> None:
        self.dense, self.sets = dense, tuple(sets)

    @classmethod
    def of(cls, planes: np.ndarray, counts: Sequence[int]) -> Stack:
        """Stack planes of which the last are the elements of sets, so many of each."""
        ends = np.cumsum([len(planes) - sum(counts), *counts])
        sets = [Lookup.of(planes[a:b]) for a, b in itertools.pairwise(ends)]
        return cls(np.ascontiguousarray(planes[: ends[0]]), sets)

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
        planes = [*self.dense, *(one.factor for one in self.sets)]
        none = np.zeros(len(predicted), dtype=np.int32)
        numbers = [none] * len(self.dense) + [one.element for one in self.sets]
        counts = [1] * len(self.dense) + [one.count for one in self.sets]
        at = np.cumsum([0, *counts])
        hessian = np.zeros((len(self), len(self)))
        means = np.empty((len(self), len(rows)), dtype=np.float32)
        for i, (x, mine, n) in enumerate(zip(planes, numbers, counts, strict=True)):
            mass = predicted * x
            _row_sums(mass, mine, rows.starts, means[at[i] : at[i + 1]])
            for j in range(i + 1):
                sums = np.zeros((n + 1, counts[j] + 1))
                _pair_sums(mass, planes[j], mine, numbers[j], sums)
                hessian[at[i] : at[i + 1], at[j] : at[j + 1]] = sums[:n, : counts[j]]
        hessian = np.tril(hessian) + np.tril(hessian, -1).T
        return hessian - (means @ means.T).astype(np.float64)


def element_losses(
    one: Lookup, weights: np.ndarray, rows: w.Rows, predicted: np.ndarray
) -> np.ndarray:
    """Return the mass that the rows share with a head only thanks to each element of a set."""
    losses = np.zeros(one.count)
    without = change(one.scores(weights))
    _element_losses(without, one.element, one.count, rows.starts, rows.actual, predicted, losses)
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
        scores[i] += factor[i] * table[element[i]]


@njit(**FAST)
def _sums(factor, element, pull, sums):
    for i in range(pull.shape[0]):
        sums[element[i]] += factor[i] * pull[i]


@njit(**FAST)
def _row_sums(mass, element, starts, out):
    out[:] = np.float32(0.0)
    for r in range(starts.shape[0] - 1):
        for i in range(starts[r], starts[r + 1]):
            if element[i] < out.shape[0]:
                out[element[i], r] += mass[i]


@njit(**FAST)
def _pair_sums(mass, other, left, right, sums):
    for i in range(mass.shape[0]):
        sums[left[i], right[i]] += mass[i] * other[i]


@njit(**FAST)
def _element_losses(change, element, count, starts, actual, predicted, losses):
    one = np.float32(1.0)
    last = np.full(count, -1, dtype=np.int64)
    for r in range(starts.shape[0] - 1):
        low, high = starts[r], starts[r + 1]
        shared = np.float32(0.0)
        for i in range(low, high):
            shared += min(predicted[i], actual[i])
        for at in range(low, high):
            e = element[at]
            if e == count or last[e] == r:
                continue
            last[e] = r
            mass = np.float32(0.0)
            for i in range(low, high):
                mass += predicted[i] * (change[i] if element[i] == e else one)
            scale = one / mass
            left = np.float32(0.0)
            for i in range(low, high):
                p = predicted[i] * (change[i] if element[i] == e else one)
                left += min(p * scale, actual[i])
            losses[e] += shared - left
