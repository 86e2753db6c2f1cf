"""Gains: how much each candidate term would lower the cross-entropy, to second order.

For a plane x, head rows a and predicted rows p, the gradient is g = sum (a - p) x and the
curvature h = sum over rows of the variance of x under p; one Newton step gains g^2 / 2h.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from attn_dsl.compiler.masses import BLOCK, block_end

_OPTIONS = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz"},
}


@njit(**_OPTIONS)
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


@njit(**_OPTIONS)
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
