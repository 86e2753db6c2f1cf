"""Gains: how much each candidate term would lower the cross-entropy, to second order.

For a plane x, head rows a and predicted rows p, the gradient is g = sum (a - p) x and the
curvature h = sum over rows of the variance of x under p; one Newton step gains g^2 / 2h.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import FAST
from attn_dsl.compiler.simd import WIDTH, holds, load, pick, spread, total, word
from attn_dsl.compiler.softmax import BLOCK, block_end


@dataclass(frozen=True)
class Packed:
    """Planes for the moments of all at once: truths as bits, so that they stay in cache."""

    # truths, values: int64, which planes are 0 or 1 everywhere, and which are not
    truths: np.ndarray
    values: np.ndarray
    # uint16 (truths, words): sixteen entries to a word, each row from a new word on
    bits: np.ndarray
    words: np.ndarray  # int64 (rows + 1), where each row's words start
    numbers: np.ndarray  # float32 (values, entries)
    starts: np.ndarray  # int64 (rows + 1), where each row's entries start

    @classmethod
    def of(cls, planes: np.ndarray, truths: np.ndarray, starts: np.ndarray) -> Self:
        """Pack planes, float32 (planes, entries); ``truths`` (planes) says which are 0 or 1."""
        words = np.concatenate([[0], np.cumsum(-(-np.diff(starts) // WIDTH))]).astype(np.int64)
        chosen, others = np.flatnonzero(truths), np.flatnonzero(~truths)
        bits = np.zeros((len(chosen), int(words[-1])), dtype=np.uint16)
        for i, plane in enumerate(chosen):
            _pack(planes[plane].astype(np.int32), starts, words, bits[i])
        return cls(chosen, others, bits, words, np.ascontiguousarray(planes[others]), starts)

    def moments(self, actual: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradient and curvature of every plane, summed over rows, float64 (planes)."""
        found = np.zeros((2, len(self.truths) + len(self.values)))
        _bit_moments(self.bits, self.truths, self.words, self.starts, actual, predicted, *found)
        _moments(self.numbers, self.values, self.starts, actual, predicted, *found)
        return found[0], found[1]


@njit(**FAST)
def _pack(plane, starts, words, bits):
    row = np.empty(0, dtype=np.int32)
    for r in range(starts.shape[0] - 1):
        low, size = starts[r], starts[r + 1] - starts[r]
        wide = (words[r + 1] - words[r]) * WIDTH
        if row.shape[0] < wide:
            row = np.empty(wide, dtype=np.int32)
        row[:size] = plane[low : low + size]
        row[size:] = 0
        for w in range(words[r + 1] - words[r]):
            bits[words[r] + w] = word(row, w * WIDTH)


@njit(**FAST)
def _bit_moments(bits, places, words, starts, actual, predicted, gradient, curvature):
    rows = starts.shape[0] - 1
    residual = np.zeros(BLOCK + WIDTH, dtype=np.float32)
    mass = np.zeros(BLOCK + WIDTH, dtype=np.float32)
    zero = spread(np.float32(0.0))
    first = 0
    while first < rows:
        last = block_end(starts, first)
        low, size = starts[first], starts[last] - starts[first]
        if size + WIDTH > residual.shape[0]:
            residual = np.zeros(size + WIDTH, dtype=np.float32)
            mass = np.zeros(size + WIDTH, dtype=np.float32)
        for i in range(size):
            residual[i] = actual[low + i] - predicted[low + i]
            mass[i] = predicted[low + i]
        for j in range(bits.shape[0]):
            plane = bits[j]
            for r in range(first, last):
                at = starts[r] - low
                g, m = zero, zero
                for w in range(words[r], words[r + 1]):
                    inside = holds(plane, w)
                    g = g + pick(inside, load(residual, at), zero)
                    m = m + pick(inside, load(mass, at), zero)
                    at += WIDTH
                under = total(m)
                gradient[places[j]] += total(g)
                curvature[places[j]] += max(under - under * under, np.float32(0.0))
        first = last


@njit(**FAST)
def _moments(planes, places, starts, actual, predicted, gradient, curvature):
    residual = actual - predicted
    for j in range(planes.shape[0]):
        for r in range(starts.shape[0] - 1):
            x = planes[j, starts[r] : starts[r + 1]]
            p = predicted[starts[r] : starts[r + 1]]
            d = residual[starts[r] : starts[r + 1]]
            g, m, s = np.float32(0.0), np.float32(0.0), np.float32(0.0)
            for i in range(x.shape[0]):
                v = p[i] * x[i]
                g += d[i] * x[i]
                m += v
                s += v * x[i]
            gradient[places[j]] += g
            curvature[places[j]] += max(s - m * m, np.float32(0.0))


def gain(gradient: np.ndarray, curvature: np.ndarray, ridge: float) -> np.ndarray:
    """Second-order gain of one more weight; ``ridge`` keeps rare planes from promising much."""
    return gradient**2 / (2.0 * (curvature + ridge))
