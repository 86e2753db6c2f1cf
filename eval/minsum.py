"""Scoring many programs against many heads: tiled sums of minima, the heart of IoU.

IoU of two sets of n rows that each sum to 1 is m / (2n - m), where m is the sum of the minima of
their entries. So the score of P programs and H heads is a matrix product with (min, +) in the
place of (*, +), and is computed like one: blocks of entries that stay in cache, and tiles of 4 x 4
sums that stay in registers, so that each loaded entry is used four times.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from attn_dsl.compiler.evaluate import aligned
from attn_dsl.compiler.jit import COMPILED
from attn_dsl.compiler.simd import WIDTH, load, minimum, spread, total

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
