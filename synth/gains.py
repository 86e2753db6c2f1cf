"""Gains: how much each candidate term would lower the cross-entropy, to second order.

For a plane x, head rows a and predicted rows p, the gradient is g = sum (a - p) x and the
curvature h = sum over rows of the variance of x under p; one Newton step gains g^2 / 2h.
"""

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import FINITE
from attn_dsl.eval.term_scores import Planes


def moments(planes: Planes, numbers: np.ndarray, starts: np.ndarray, residual: np.ndarray,
            predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return the gradient and the curvature of some planes, summed over rows, float64 (planes).

    Args:
        numbers: int64 (planes), as in ``TermScores.terms``.
        residual: float32 (entries), the gradient by the scores.
    """
    found = np.zeros((2, len(numbers)))
    for some, every, places in (
        (numbers < 0, planes.truths, -2 - numbers),
        (numbers >= 0, planes.values, numbers),
    ):
        sums = np.zeros((2, int(some.sum())))
        _moments(every, places[some], starts, residual, predicted, sums)
        found[:, some] = sums
    return found[0], found[1]


@njit(**FINITE)
def _moments(planes, places, starts, residual, predicted, out):
    for j in range(places.shape[0]):
        for r in range(starts.shape[0] - 1):
            x = planes[places[j], starts[r] : starts[r + 1]]
            p, d = predicted[starts[r] : starts[r + 1]], residual[starts[r] : starts[r + 1]]
            g, m, s = np.float32(0.0), np.float32(0.0), np.float32(0.0)
            for i in range(x.shape[0]):
                y = np.float32(x[i])
                v = p[i] * y
                g += d[i] * y
                m += v
                s += v * y
            out[0, j] += g
            out[1, j] += max(s - m * m, np.float32(0.0))


def gain(gradient: np.ndarray, curvature: np.ndarray, ridge: float) -> np.ndarray:
    """Second-order gain of one more weight; ``ridge`` keeps rare planes from promising much."""
    return gradient**2 / (2.0 * (curvature + ridge))
