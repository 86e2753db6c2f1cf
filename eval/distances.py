"""Comparisons of many programs with many heads: sums of minima, Jensen-Shannon, strongest keys.

IoU of two sets of n rows that each sum to 1 is m / (2n - m), where m is the sum of the minima of
their entries. So the score of P programs and H heads is a matrix product with (min, +) in the
place of (*, +), and is computed like one: blocks of entries that stay in cache, and tiles of 4 x 4
sums that stay in registers, so that each loaded entry is used four times.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from attn_dsl.compiler.evaluate import aligned
from attn_dsl.compiler.jit import COMPILED, SUMS
from attn_dsl.compiler.simd import WIDTH, load, minimum, spread, total

_FAST = {**COMPILED, "fastmath": {*SUMS, "arcp"}}
TINY = np.float32(1e-30)
BLOCK = 2304
"""Entries of a row that are worked on at once."""


@njit(**COMPILED)
def _tile(a, b, i, j, low, high, out):
    """Add the sums of minima of four rows with four rows to a 4 x 4 tile of ``out``."""
    a0, a1, a2, a3 = a[i], a[i + 1], a[i + 2], a[i + 3]
    b0, b1, b2, b3 = b[j], b[j + 1], b[j + 2], b[j + 3]
    zero = spread(np.float32(0.0))
    s00 = s01 = s02 = s03 = zero
    s10 = s11 = s12 = s13 = zero
    s20 = s21 = s22 = s23 = zero
    s30 = s31 = s32 = s33 = zero
    for e in range(low, high, WIDTH):
        x0, x1, x2, x3 = load(a0, e), load(a1, e), load(a2, e), load(a3, e)
        y0, y1, y2, y3 = load(b0, e), load(b1, e), load(b2, e), load(b3, e)
        s00 = s00 + minimum(x0, y0)
        s01 = s01 + minimum(x0, y1)
        s02 = s02 + minimum(x0, y2)
        s03 = s03 + minimum(x0, y3)
        s10 = s10 + minimum(x1, y0)
        s11 = s11 + minimum(x1, y1)
        s12 = s12 + minimum(x1, y2)
        s13 = s13 + minimum(x1, y3)
        s20 = s20 + minimum(x2, y0)
        s21 = s21 + minimum(x2, y1)
        s22 = s22 + minimum(x2, y2)
        s23 = s23 + minimum(x2, y3)
        s30 = s30 + minimum(x3, y0)
        s31 = s31 + minimum(x3, y1)
        s32 = s32 + minimum(x3, y2)
        s33 = s33 + minimum(x3, y3)
    out[i, j] += total(s00)
    out[i, j + 1] += total(s01)
    out[i, j + 2] += total(s02)
    out[i, j + 3] += total(s03)
    out[i + 1, j] += total(s10)
    out[i + 1, j + 1] += total(s11)
    out[i + 1, j + 2] += total(s12)
    out[i + 1, j + 3] += total(s13)
    out[i + 2, j] += total(s20)
    out[i + 2, j + 1] += total(s21)
    out[i + 2, j + 2] += total(s22)
    out[i + 2, j + 3] += total(s23)
    out[i + 3, j] += total(s30)
    out[i + 3, j + 1] += total(s31)
    out[i + 3, j + 2] += total(s32)
    out[i + 3, j + 3] += total(s33)


@njit(**COMPILED)
def minima(a, b, out):
    """Add to ``out`` (rows of a, rows of b), float64, the sums of minima of all pairs of rows.

    The entries come in whole lanes; those that pad them are 0 on one side at least.
    """
    rows, columns, entries = a.shape[0], b.shape[0], a.shape[1]
    for low in range(0, entries, BLOCK):
        high = min(low + BLOCK, entries)
        for i in range(0, rows - 3, 4):
            for j in range(0, columns - 3, 4):
                _tile(a, b, i, j, low, high, out)
        for i in range(rows):
            first = columns - columns % 4 if i < rows - rows % 4 else 0
            x = a[i]
            for j in range(first, columns):
                y = b[j]
                s = spread(np.float32(0.0))
                for e in range(low, high, WIDTH):
                    s = s + minimum(load(x, e), load(y, e))
                out[i, j] += total(s)


def in_lanes(table: np.ndarray) -> np.ndarray:
    """Copy a table (rows, entries) to cache lines, its rows padded with zeros to whole lanes."""
    out = aligned(*table.shape)
    out[:, : table.shape[1]] = table
    out[:, table.shape[1] :] = 0.0
    return out


@njit(**_FAST)
def _weighted_logarithms(x, bits, out):
    """Add x log2(x) of numbers from 0 to 2 to ``out``, many at a time."""
    for i in range(x.shape[0]):
        out[i] = max(x[i], TINY)
    view = out.view(np.int32)
    for i in range(x.shape[0]):
        # The power of two that brings the number between 3/4 and 3/2.
        bits[i] = (view[i] - np.int32(0x3F400000)) >> np.int32(23)
        view[i] -= bits[i] << np.int32(23)
    for i in range(x.shape[0]):
        # log(m) = 2 artanh((m - 1) / (m + 1)), of which the series ends soon
        s = (out[i] - np.float32(1.0)) / (out[i] + np.float32(1.0))
        u = s * s
        p = np.float32(1 / 9)
        p = p * u + np.float32(1 / 7)
        p = p * u + np.float32(1 / 5)
        p = p * u + np.float32(1 / 3)
        p = p * u + np.float32(1.0)
        out[i] = x[i] * (np.float32(2.885390082) * s * p + np.float32(bits[i]))


@njit(**_FAST)
def divergences(actual, predicted, starts, out):
    """Add the Jensen-Shannon distances (base 2) of all rows of all pairs, summed over the rows.

    Half the divergence of a pair of entries is (a + b) / 4 times
    (1 + r) log2(1 + r) + (1 - r) log2(1 - r) with r = (a - b) / (a + b): no term is negative, so
    that nothing is lost where two rows are nearly the same.

    Args:
        actual, predicted: float32 (heads, entries) and (programs, entries).
        starts: int64 (rows + 1), where each row starts.
        out: float64 (heads, programs).
    """
    size = starts[-1]
    high = np.empty(size, dtype=np.float32)
    low = np.empty(size, dtype=np.float32)
    logs = np.empty(size, dtype=np.float32)
    others = np.empty(size, dtype=np.float32)
    bits = np.empty(size, dtype=np.int32)
    one = np.float32(1.0)
    for h in range(actual.shape[0]):
        a = actual[h]
        for p in range(predicted.shape[0]):
            b = predicted[p]
            for i in range(size):
                both = max(a[i] + b[i], TINY)
                r = (a[i] - b[i]) / both
                high[i], low[i] = one + r, one - r
            _weighted_logarithms(high, bits, logs)
            _weighted_logarithms(low, bits, others)
            for i in range(size):
                logs[i] = (a[i] + b[i]) * max(logs[i] + others[i], np.float32(0.0))
            whole = 0.0
            for row in range(starts.shape[0] - 1):
                of_row = np.float32(0.0)
                for i in range(starts[row], starts[row + 1]):
                    of_row += logs[i]
                whole += np.sqrt(np.float64(of_row) * 0.25)
            out[h, p] += whole


@njit(**COMPILED)
def strongest(rows, starts):
    """Find the strongest key of every row, the first of several: int32 (tables, rows)."""
    out = np.empty((rows.shape[0], starts.shape[0] - 1), dtype=np.int32)
    for t in range(rows.shape[0]):
        for row in range(starts.shape[0] - 1):
            first = starts[row]
            best = first
            for i in range(first, starts[row + 1]):
                if rows[t, i] > rows[t, best]:
                    best = i
            out[t, row] = best - first
    return out


@njit(**COMPILED)
def agreements(actual, predicted, out):
    """Add to ``out`` (heads, programs) in how many rows the strongest keys are the same."""
    for h in range(actual.shape[0]):
        for p in range(predicted.shape[0]):
            same = 0
            for row in range(actual.shape[1]):
                same += actual[h, row] == predicted[p, row]
            out[h, p] += same
