"""Comparisons of many programs with many heads: sums of minima, Jensen-Shannon, strongest keys.

IoU of two sets of n rows that each sum to 1 is m / (2n - m), where m is the sum of the minima of
their entries. So the score of P programs and H heads is a matrix product with (min, +) in the
place of (*, +), and is computed like one: blocks of entries that stay in cache, and tiles of 4 x 4
sums that stay in registers, so that each loaded entry is used four times.
"""

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
def _with_minima(sums, x, y):
    """Add the minima of lanes and four others to four sums."""
    return (sums[0] + minimum(x, y[0]), sums[1] + minimum(x, y[1]), sums[2] + minimum(x, y[2]),
            sums[3] + minimum(x, y[3]))  # fmt: skip


@njit(**COMPILED)
def _add_totals(sums, out):
    out[0] += total(sums[0])
    out[1] += total(sums[1])
    out[2] += total(sums[2])
    out[3] += total(sums[3])


@njit(**COMPILED)
def _tile(a, b, i, j, low, high, out):
    """Add the sums of minima of four rows with four rows to a 4 x 4 tile of ``out``."""
    zero = spread(np.float32(0.0))
    s0 = s1 = s2 = s3 = zero, zero, zero, zero
    for e in range(low, high, WIDTH):
        y = load(b[j], e), load(b[j + 1], e), load(b[j + 2], e), load(b[j + 3], e)
        s0 = _with_minima(s0, load(a[i], e), y)
        s1 = _with_minima(s1, load(a[i + 1], e), y)
        s2 = _with_minima(s2, load(a[i + 2], e), y)
        s3 = _with_minima(s3, load(a[i + 3], e), y)
    _add_totals(s0, out[i, j : j + 4])
    _add_totals(s1, out[i + 1, j : j + 4])
    _add_totals(s2, out[i + 2, j : j + 4])
    _add_totals(s3, out[i + 3, j : j + 4])


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
