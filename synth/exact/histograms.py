"""Histograms: gradient and curvature of many planes at once, by row, by number or by symbol.

For pulls and masses as in ``residual``. Cumulative sums of the histograms of a scale are the moments
of all its thresholds.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import FAST
from attn_dsl.compiler.softmax import block_end


@njit(**FAST)
def truth_moments(planes, starts, pull, mass, g, h):
    """Compute gradient and curvature of planes of 0 and 1 by row, (rows, planes)."""
    rows = starts.shape[0] - 1
    first = 0
    while first < rows:
        last = block_end(starts, first)
        for j in range(planes.shape[0]):
            for row in range(first, last):
                low, high = starts[row], starts[row + 1]
                x = planes[j, low:high]
                d, p = pull[low:high], mass[low:high]
                a = np.float32(0.0)
                m = np.float32(0.0)
                for i in range(high - low):
                    y = np.float32(x[i])
                    a += y * d[i]
                    m += y * p[i]
                g[row, j] = a
                h[row, j] = m * (np.float32(1.0) - m)
        first = last


@njit(**FAST)
def value_moments(planes, starts, pull, mass, g, h):
    """Compute gradient and curvature of planes by row, (rows, planes)."""
    for row in range(starts.shape[0] - 1):
        low, high = starts[row], starts[row + 1]
        for j in range(planes.shape[0]):
            a = np.float32(0.0)
            m = np.float32(0.0)
            s = np.float32(0.0)
            for i in range(low, high):
                x = planes[j, i]
                a += x * pull[i]
                m += x * mass[i]
                s += x * x * mass[i]
            g[row, j] = a
            h[row, j] = max(s - m * m, np.float32(0.0))


@njit(**FAST)
def histograms(codes, first, starts, pull, mass, g, m):
    """Add up pull and mass by row and by the number of every scale, (rows, columns)."""
    for row in range(starts.shape[0] - 1):
        for f in range(codes.shape[0]):
            for i in range(starts[row], starts[row + 1]):
                j = first[f] + codes[f, i]
                g[row, j] += pull[i]
                m[row, j] += mass[i]


@njit(**FAST)
def symbol_moments(symbols, plane, starts, pull, mass, g, h):
    """Add up gradient and curvature of a plane times each symbol's indicator."""
    one = np.zeros(g.shape[0], dtype=np.float32)
    two = np.zeros(g.shape[0], dtype=np.float32)
    for row in range(starts.shape[0] - 1):
        low, high = starts[row], starts[row + 1]
        for i in range(low, high):
            x = plane[i]
            s = symbols[i]
            if x != 0.0 and s >= 0:
                g[s] += x * pull[i]
                one[s] += x * mass[i]
                two[s] += x * x * mass[i]
        for i in range(low, high):
            s = symbols[i]
            if s >= 0 and two[s] != 0.0:
                h[s] += two[s] - one[s] * one[s]
                one[s] = np.float32(0.0)
                two[s] = np.float32(0.0)


@njit(**FAST)
def row_moments(plane, starts, pull, mass, g, h):
    """Compute gradient and curvature of one plane by row."""
    for row in range(starts.shape[0] - 1):
        a = np.float32(0.0)
        m = np.float32(0.0)
        s = np.float32(0.0)
        for i in range(starts[row], starts[row + 1]):
            x = plane[i]
            a += x * pull[i]
            m += x * mass[i]
            s += x * x * mass[i]
        g[row] = a
        h[row] = max(s - m * m, np.float32(0.0))
