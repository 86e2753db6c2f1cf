"""Row by row comparisons of many programs with many heads: Jensen-Shannon, strongest keys, sinks.

IoU and total variation need only sums of minima (``eval/minsum.py``); what is here needs the
rows themselves, and is computed on the same blocks while they are in cache.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import COMPILED, SUMS

_FAST = {**COMPILED, "fastmath": {*SUMS, "arcp"}}
TINY = np.float32(1e-30)


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
                total = np.float32(0.0)
                for i in range(starts[row], starts[row + 1]):
                    total += logs[i]
                whole += np.sqrt(np.float64(total) * 0.25)
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
