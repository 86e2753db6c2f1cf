"""Scoring many programs against many heads: tiled sums of minima, the heart of IoU.

IoU of two sets of n rows that each sum to 1 is m / (2n - m), where m is the sum of the minima of
their entries. So the score of P programs and H heads is a matrix product with (min, +) in the
place of (*, +), and is computed like one: blocks of entries that stay in cache, and tiles of 4 x 4
sums that stay in registers, so that each loaded entry is used four times.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": True}
BLOCK = 1024
"""Entries of a row that are worked on at once: 8 rows of them are 32 KB."""


@njit(**_OPTIONS)
def _tile(a0, a1, a2, a3, b0, b1, b2, b3, out, i, j):
    """Add the sums of minima of four rows with four rows to a 4 x 4 tile of ``out``."""
    zero = np.float32(0.0)
    s00 = s01 = s02 = s03 = zero
    s10 = s11 = s12 = s13 = zero
    s20 = s21 = s22 = s23 = zero
    s30 = s31 = s32 = s33 = zero
    for e in range(a0.shape[0]):
        x0, x1, x2, x3 = a0[e], a1[e], a2[e], a3[e]
        y0, y1, y2, y3 = b0[e], b1[e], b2[e], b3[e]
        s00 += min(x0, y0)
        s01 += min(x0, y1)
        s02 += min(x0, y2)
        s03 += min(x0, y3)
        s10 += min(x1, y0)
        s11 += min(x1, y1)
        s12 += min(x1, y2)
        s13 += min(x1, y3)
        s20 += min(x2, y0)
        s21 += min(x2, y1)
        s22 += min(x2, y2)
        s23 += min(x2, y3)
        s30 += min(x3, y0)
        s31 += min(x3, y1)
        s32 += min(x3, y2)
        s33 += min(x3, y3)
    out[i, j] += s00
    out[i, j + 1] += s01
    out[i, j + 2] += s02
    out[i, j + 3] += s03
    out[i + 1, j] += s10
    out[i + 1, j + 1] += s11
    out[i + 1, j + 2] += s12
    out[i + 1, j + 3] += s13
    out[i + 2, j] += s20
    out[i + 2, j + 1] += s21
    out[i + 2, j + 2] += s22
    out[i + 2, j + 3] += s23
    out[i + 3, j] += s30
    out[i + 3, j + 1] += s31
    out[i + 3, j + 2] += s32
    out[i + 3, j + 3] += s33


@njit(**_OPTIONS)
def minima(a, b, out):
    """Add to ``out`` (rows of a, rows of b), float64, the sums of minima of all pairs of rows."""
    rows, columns, entries = a.shape[0], b.shape[0], a.shape[1]
    for low in range(0, entries, BLOCK):
        high = min(low + BLOCK, entries)
        for i in range(0, rows - 3, 4):
            for j in range(0, columns - 3, 4):
                _tile(
                    a[i, low:high], a[i + 1, low:high], a[i + 2, low:high], a[i + 3, low:high],
                    b[j, low:high], b[j + 1, low:high], b[j + 2, low:high], b[j + 3, low:high],
                    out, i, j,
                )  # fmt: skip
        for i in range(rows):
            first = columns - columns % 4 if i < rows - rows % 4 else 0
            for j in range(first, columns):
                x, y = a[i, low:high], b[j, low:high]
                total = np.float32(0.0)
                for e in range(high - low):
                    total += min(x[e], y[e])
                out[i, j] += total


def shared_masses(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum the minima of every row of one table with every row of another.

    >>> shared_masses(np.float32([[0.5, 0.5]]), np.float32([[1.0, 0.0], [0.5, 0.5]]))
    array([[0.5, 1. ]])

    Args:
        a, b: float32 (rows, entries), of the same entries.

    Returns:
        float64 (rows of a, rows of b).
    """
    out = np.zeros((len(a), len(b)))
    minima(np.ascontiguousarray(a, np.float32), np.ascontiguousarray(b, np.float32), out)
    return out
