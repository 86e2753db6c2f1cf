"""Promises: how much a predicate would explain, from below, and quickly for thousands of them."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

DOUBT = 2.0
"""So many rows that say nothing are added, so that rare predicates do not promise much."""


@njit(cache=True, nogil=True, error_model="numpy")
def truth_masses(held, starts, row, weights, out):
    """Sum weights of entries where predicates hold: float32 (predicates, rows)."""
    for j in range(out.shape[0]):
        for r in range(out.shape[1]):
            out[j, r] = np.float32(0.0)
        for i in range(starts[j], starts[j + 1]):
            out[j, row[held[i]]] += weights[held[i]]


@njit(cache=True, nogil=True, error_model="numpy")
def truth_gain(actual, predicted, rows):
    """Bound from below what one weight for a predicate gains, in nats over all rows.

    With masses a of the head and m of the program on each of R rows, the best weight w gains
    max sum a w - ln(1 - m + m e^w), by Jensen at least R KL(mean a || mean m). The second-order
    estimate promises many times too much where m is small.

    >>> round(truth_gain(5.0, 1.0, 10.0), 2)
    3.68

    Args:
        actual, predicted: summed masses where the predicate holds.
        rows: how many rows they are summed over, those where it holds of some key.
    """
    m = min(max(predicted / max(rows, 1.0), 1e-6), 1.0 - 1e-6)
    a = min(max((actual + DOUBT * m) / (rows + DOUBT), 1e-6), 1.0 - 1e-6)
    return rows * (a * math.log(a / m) + (1.0 - a) * math.log((1.0 - a) / (1.0 - m)))


@njit(cache=True, nogil=True, error_model="numpy")
def truth_gains(actual, predicted, rows, least, out):
    """Compute ``truth_gain`` of every predicate under every condition; 0 where it is below ``least``.

    The divergence is at most (a - m)^2 / m (1 - m), which costs no logarithm.
    """
    for j in range(out.shape[0]):
        for c in range(out.shape[1]):
            n = rows[j, c]
            gap = actual[j, c] - predicted[j, c]
            m = min(max(predicted[j, c], 1e-6 * n), n - 1e-6 * n)
            out[j, c] = 0.0
            if n > 0 and gap * gap * n > least * m * (n - m):
                out[j, c] = truth_gain(actual[j, c], predicted[j, c], n)
