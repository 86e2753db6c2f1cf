"""Gains: how much each candidate term would lower the cross-entropy, to second order.

For a plane x, head rows a and predicted rows p, the gradient is g = sum (a - p) x and the
curvature h = sum over rows of the variance of x under p; one Newton step gains g^2 / 2h.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import FAST
from attn_dsl.compiler.simd import WIDTH, holds, load, pick, spread, total, word
from attn_dsl.compiler.softmax import BLOCK, block_end


@njit(**FAST)
def row_moments(planes, truths, starts, actual, predicted, gradient, curvature):
    """Compute the gradient and curvature of every plane on every row, float32 (planes, rows).

    ``truths`` says which planes are 0 or 1 everywhere: their square is themselves.
    """
    rows = starts.shape[0] - 1
    first = 0
    residual = np.empty(BLOCK, dtype=np.float32)
    while first < rows:
        last = block_end(starts, first)
        low, high = starts[first], starts[last]
        if high - low > residual.shape[0]:
            residual = np.empty(high - low, dtype=np.float32)
        for i in range(high - low):
            residual[i] = actual[low + i] - predicted[low + i]
        for j in range(planes.shape[0]):
            for r in range(first, last):
                x = planes[j, starts[r] : starts[r + 1]]
                p = predicted[starts[r] : starts[r + 1]]
                d = residual[starts[r] - low : starts[r + 1] - low]
                g = np.float32(0.0)
                m = np.float32(0.0)
                s = np.float32(0.0)
                if truths[j]:
                    for i in range(x.shape[0]):
                        g += d[i] * x[i]
                        m += p[i] * x[i]
                    s = m
                else:
                    for i in range(x.shape[0]):
                        v = p[i] * x[i]
                        g += d[i] * x[i]
                        m += v
                        s += v * x[i]
                gradient[j, r] = g
                curvature[j, r] = max(s - m * m, np.float32(0.0))
        first = last


@dataclass(frozen=True)
class Packed:
    """Planes for ``row_moments`` of all at once: truths as bits, so that they stay in cache."""

    # truths, values: int64, which planes are 0 or 1 everywhere, and which are not
    truths: np.ndarray
    values: np.ndarray
    # uint16 (truths, words): sixteen entries to a word, each row from a new word on
    bits: np.ndarray
    words: np.ndarray  # int64 (rows + 1), where each row's words start
    numbers: np.ndarray  # float32 (values, entries)
    starts: np.ndarray  # int64 (rows + 1), where each row's entries start

    @classmethod
    def of(cls, planes: np.ndarray, truths: np.ndarray, starts: np.ndarray) -> Packed:
        """Pack planes, float32 (planes, entries); ``truths`` (planes) says which are 0 or 1."""
        words = np.concatenate([[0], np.cumsum(-(-np.diff(starts) // WIDTH))]).astype(np.int64)
        chosen, others = np.flatnonzero(truths), np.flatnonzero(~truths)
        bits = np.zeros((len(chosen), int(words[-1])), dtype=np.uint16)
        for i, plane in enumerate(chosen):
            _pack(planes[plane].astype(np.int32), starts, words, bits[i])
        return cls(chosen, others, bits, words, np.ascontiguousarray(planes[others]), starts)

    def row_moments(
        self, actual: np.ndarray, predicted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradient and curvature of every plane on every row, float32 (planes, rows)."""
        shape = len(self.truths) + len(self.values), len(self.starts) - 1
        gradient = np.empty(shape, dtype=np.float32)
        curvature = np.empty(shape, dtype=np.float32)
        _bit_moments(
            self.bits, self.truths, self.words, self.starts, actual, predicted, gradient, curvature
        )
        if len(self.values):
            g, h = np.empty((2, len(self.values), shape[1]), dtype=np.float32)
            no = np.zeros(len(self.values), dtype=np.bool_)
            row_moments(self.numbers, no, self.starts, actual, predicted, g, h)
            gradient[self.values], curvature[self.values] = g, h
        return gradient, curvature


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
                gradient[places[j], r] = total(g)
                curvature[places[j], r] = max(under - under * under, np.float32(0.0))
        first = last


@njit(**FAST)
def key_moments(symbols, plane, rows, starts, actual, predicted, gradient, curvature):
    """Add up gradient and curvature by the key's symbol, where a plane holds, on some rows."""
    mass = np.zeros(gradient.shape[0], dtype=np.float32)
    for r in rows:
        low, high = starts[r], starts[r + 1]
        for i in range(low, high):
            if plane[i] != 0.0:
                s = symbols[i]
                gradient[s] += actual[i] - predicted[i]
                mass[s] += predicted[i]
        for i in range(low, high):
            s = symbols[i]
            m = mass[s]
            if m != 0.0:
                curvature[s] += m * (np.float32(1.0) - m)
                mass[s] = np.float32(0.0)


def gain(gradient: np.ndarray, curvature: np.ndarray, ridge: float) -> np.ndarray:
    """Second-order gain of one more weight; ``ridge`` keeps rare planes from promising much."""
    return gradient**2 / (2.0 * (curvature + ridge))


def best_set(
    gradient: np.ndarray, curvature: np.ndarray, ridge: float, price: float, limit: int
) -> tuple[float, np.ndarray]:
    """Choose the symbols that share one weight best: the gain less a price for each of them.

    Symbols are ranked by the weight that each would choose for itself; the best set for a
    positive (or negative) weight is then a prefix of that order.

    Args:
        gradient, curvature: per symbol.
        price: gain that each symbol must bring.
        limit: the most symbols.

    Returns:
        The gain less the price, and the chosen symbols.
    """
    wanted = gradient / (curvature + ridge)
    best, chosen = 0.0, np.empty(0, dtype=np.int64)
    for sign in (1.0, -1.0):
        order = np.argsort(-sign * wanted, kind="stable")[:limit]
        order = order[sign * wanted[order] > 0]
        if not len(order):
            continue
        g, h = np.cumsum(gradient[order]), np.cumsum(curvature[order])
        worth = gain(g, h, ridge) - price * np.arange(1, len(order) + 1)
        at = int(np.argmax(worth))
        if worth[at] > best:
            best, chosen = float(worth[at]), order[: at + 1]
    return best, chosen
