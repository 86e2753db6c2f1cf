"""Losses: the mass that a model would no longer share with a head without one of its parts.

To leave out a part multiplies the entries of the unnormalised rows by its *change*, ``exp(-score)`` of
the score that the part adds there. IoU over rows is m / (2 rows - m) of the shared mass m.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import COMPILED, SUMS

_OPTIONS = {**COMPILED, "fastmath": {*SUMS, "arcp"}}
LIMIT = 60.0
"""Scores are kept within this magnitude."""


def change(score: np.ndarray) -> np.ndarray:
    """Return what leaving out a score multiplies the unnormalised rows by, float32 (entries)."""
    return np.exp(np.clip(-score, -LIMIT, LIMIT).astype(np.float32))


@njit(**_OPTIONS)
def row_losses(change, starts, actual, predicted, losses):
    """Write what each row loses if all of its entries change.

    Args:
        change, actual, predicted: float32 (entries).
        losses: float32 (rows).
    """
    for r in range(starts.shape[0] - 1):
        p = predicted[starts[r] : starts[r + 1]]
        a = actual[starts[r] : starts[r + 1]]
        e = change[starts[r] : starts[r + 1]]
        mass = np.float32(0.0)
        for i in range(p.shape[0]):
            mass += p[i] * e[i]
        scale = np.float32(1.0) / mass
        lost = np.float32(0.0)
        for i in range(p.shape[0]):
            lost += min(p[i], a[i]) - min(p[i] * e[i] * scale, a[i])
        losses[r] = lost


@njit(**_OPTIONS)
def group_losses(change, group, starts, actual, predicted, losses):
    """Add up what is lost if the entries of one group change, for each group by itself.

    What the other entries of a row lose by its new sum is taken to first order.

    Args:
        group: int32 (entries): the group of each entry.
        losses: float64 (groups).
    """
    one, zero = np.float32(1.0), np.float32(0.0)
    more = np.zeros(losses.shape[0], dtype=np.float32)
    mine = np.zeros(losses.shape[0], dtype=np.float32)
    for r in range(starts.shape[0] - 1):
        low, high = starts[r], starts[r + 1]
        inside = zero
        for i in range(low, high):
            p, g = predicted[i], group[i]
            below = p if p < actual[i] else zero
            more[g] += p * (change[i] - one)
            mine[g] += below
            inside += below
        for i in range(low, high):
            p, a, g = predicted[i], actual[i], group[i]
            scale = one / (one + more[g])
            losses[g] += min(p, a) - min(p * change[i] * scale, a)
        for i in range(low, high):
            g = group[i]
            losses[g] += (inside - mine[g]) * (one - one / (one + more[g]))
            more[g] = zero
            mine[g] = zero
