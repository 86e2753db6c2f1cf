"""Promises: how much a predicate would explain, from below, and quickly for thousands of them."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import COMPILED, FAST

DOUBT = 2.0
"""So many rows that say nothing are added, so that rare predicates do not promise much."""


@njit(**COMPILED)
def truth_masses(held, starts, row, weights, out):
    """Sum weights of entries where predicates hold: float32 (predicates, rows)."""
    for j in range(out.shape[0]):
        for r in range(out.shape[1]):
            out[j, r] = np.float32(0.0)
        for i in range(starts[j], starts[j + 1]):
            out[j, row[held[i]]] += weights[held[i]]


@njit(**COMPILED)
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


@njit(**COMPILED)
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


@njit(**FAST)
def row_sums(planes, starts, weights, out):
    """Sum planes times weights of entries over each row: float32 (planes, rows)."""
    for j in range(planes.shape[0]):
        for r in range(starts.shape[0] - 1):
            x, a = planes[j, starts[r] : starts[r + 1]], weights[starts[r] : starts[r + 1]]
            s = np.float32(0.0)
            for i in range(a.shape[0]):
                s += a[i] * x[i]
            out[j, r] = s


@njit(**COMPILED)
def exact_gain(actual, predicted, steps=8):
    """Return what the best weight of each predicate gains, in nats over all rows.

    >>> exact_gain(np.array([[0.5, 0.5]]), np.array([[0.1, 0.1]])).round(2)
    array([0.67])

    The weight pays half of its square, as for a prior of variance 1.

    Args:
        actual, predicted: (predicates, rows), the masses where each predicate holds.
    """
    found = np.zeros(actual.shape[0])
    for j in range(actual.shape[0]):
        target = 0.0
        for r in range(actual.shape[1]):
            target += actual[j, r]
        weight = 0.0
        for _ in range(steps):
            lift, slope, curve = math.exp(weight), target - weight, 1.0
            for r in range(actual.shape[1]):
                m = predicted[j, r]
                share = m * lift / (1.0 - m + m * lift)
                slope -= share
                curve += share * (1.0 - share)
            move = min(max(slope / curve, -2.0), 2.0)
            weight = min(max(weight + move, -12.0), 12.0)
            if abs(move) < 1e-3:
                break
        value, lift = target * weight - 0.5 * weight * weight, math.expm1(weight)
        for r in range(actual.shape[1]):
            value -= math.log1p(min(max(predicted[j, r], 0.0), 1.0) * lift)
        found[j] = max(value, 0.0)
    return found


@njit(**FAST)
def value_gain(planes, starts, actual, predicted, steps=6):
    """Return what the best weight of each value gains, in nats over all rows.

    The gain is max sum a w x - sum log sum p e^(w x); like that of a predicate the weight pays for
    its size.

    Args:
        planes: float32 (values, entries).
        actual, predicted: float32 (entries), rows that sum to 1.
    """
    found = np.zeros(planes.shape[0])
    for j in range(planes.shape[0]):
        x, weight, best, move = planes[j], 0.0, 0.0, 0.0
        largest, target = 1e-6, 0.0
        for i in range(x.shape[0]):
            largest = max(largest, abs(x[i]))
            target += actual[i] * x[i]
        for _ in range(steps):
            trial = weight + move
            value, slope, curve = target * trial - 0.5 * trial * trial, target - trial, 1.0
            for r in range(starts.shape[0] - 1):
                mass, first, second, top = 0.0, 0.0, 0.0, -1e30
                for i in range(starts[r], starts[r + 1]):
                    top = max(top, trial * x[i])
                for i in range(starts[r], starts[r + 1]):
                    p = predicted[i] * math.exp(trial * x[i] - top)
                    mass += p
                    first += p * x[i]
                    second += p * x[i] * x[i]
                mass = max(mass, 1e-30)
                value -= math.log(mass) + top
                mean = first / mass
                slope -= mean
                curve += max(second / mass - mean * mean, 0.0)
            if value < best:
                move *= 0.3
            else:
                best, weight = value, trial
                move = min(max(slope / curve, -3.0 / largest), 3.0 / largest)
            if abs(move) * largest < 0.05:
                break
        found[j] = best
    return found
