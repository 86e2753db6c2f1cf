"""Weights: the exact fit of a fixed structure to a head's rows, a convex problem.

With ``softmax`` the cross-entropy between a head's rows and a program's is convex in the weights
(multinomial logistic regression with a design that all rows share), so Newton's method finds
the one minimum in a few steps. Design matrices are planes: (weights, entries), row by row.
"""

import math
from collections.abc import Sequence

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import FAST, FINITE
from attn_dsl.compiler.softmax import block_end, exponentials
from attn_dsl.synth.objective import HeadRows

LIMIT = 50.0  # fitted weights stay within this magnitude: a logit of 50 is certainty
STEPS = 12  # the most Newton steps


@njit(**FINITE)
def _add_scaled(scores, plane, weight):
    for i in range(scores.shape[0]):
        scores[i] += weight * plane[i]


@njit(**FINITE)
def predict(planes, weights, starts, out):
    """Compute the softmax rows of a weighted sum of planes; return the sum of log normalisers.

    Whole rows are worked on in blocks that stay in cache, plane by plane.
    """
    rows = starts.shape[0] - 1
    total = 0.0
    first = 0
    while first < rows:
        last = block_end(starts, first)
        low, high = starts[first], starts[last]
        block = out[low:high]
        block[:] = np.float32(0.0)
        for j in range(planes.shape[0]):
            _add_scaled(block, planes[j, low:high], np.float32(weights[j]))
        for r in range(first, last):
            row = out[starts[r] : starts[r + 1]]
            top = row[0]
            for i in range(1, row.shape[0]):
                top = max(top, row[i])
            for i in range(row.shape[0]):
                row[i] = max(row[i] - top, np.float32(-80.0))
            total += top
        exponentials(block, block)
        for r in range(first, last):
            row = out[starts[r] : starts[r + 1]]
            mass = np.float32(0.0)
            for i in range(row.shape[0]):
                mass += row[i]
            scale = np.float32(1.0) / mass
            for i in range(row.shape[0]):
                row[i] *= scale
            total += math.log(mass)
        first = last
    return total


@njit(**FAST)
def _add_derivatives(planes, starts, actual, predicted, gradient, hessian):
    """Add the gradient and the lower half of the Hessian of the cross-entropy over all rows."""
    t = planes.shape[0]
    mean = np.empty(t)
    weighted = np.empty((t, 1), dtype=np.float32)
    for r in range(starts.shape[0] - 1):
        low, high = starts[r], starts[r + 1]
        n = high - low
        if weighted.shape[1] < n:
            weighted = np.empty((t, n), dtype=np.float32)
        p = predicted[low:high]
        a = actual[low:high]
        for j in range(t):
            x = planes[j, low:high]
            m = np.float32(0.0)
            g = np.float32(0.0)
            for i in range(n):
                v = p[i] * x[i]
                weighted[j, i] = v
                m += v
                g += a[i] * x[i]
            mean[j] = m
            gradient[j] += m - g
        for j in range(t):
            y = weighted[j]
            for l in range(j + 1):
                x = planes[l, low:high]
                s = np.float32(0.0)
                for i in range(n):
                    s += y[i] * x[i]
                hessian[j, l] += s - mean[j] * mean[l]


def predicted_rows(planes: np.ndarray, weights: Sequence[float | None] | np.ndarray,
                   starts: np.ndarray) -> np.ndarray:  # fmt: skip
    """Return the softmax rows of a weighted sum of planes, float32 (entries)."""
    found = np.empty(planes.shape[1], dtype=np.float32)
    predict(planes, np.array(weights, dtype=np.float64), starts, found)
    return found


def derivatives(planes: np.ndarray, rows: HeadRows,
                predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return the gradient and Hessian of the cross-entropy, summed over all rows."""
    count = len(planes)
    gradient, hessian = np.zeros(count), np.zeros((count, count))
    _add_derivatives(planes, rows.starts, rows.actual, predicted, gradient, hessian)
    return gradient, np.tril(hessian) + np.tril(hessian, -1).T


def without(x: np.ndarray, inverse: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """Set some weights to 0, and move the others by the inverse Hessian to make up to second order.

    This is the optimal brain surgeon of Hassibi and Stork (1993).
    """
    found = x - inverse[:, gone] @ np.linalg.solve(inverse[np.ix_(gone, gone)], x[gone])
    found[gone] = 0.0
    return found


def fit(planes: np.ndarray, rows: HeadRows, ridge: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
    """Find the weights of planes that minimise the cross-entropy to a head's rows; return these as well."""
    t, count = len(planes), len(rows)
    w = np.zeros(t)
    predicted = np.empty(planes.shape[1], dtype=np.float32)
    target = (planes @ rows.actual).astype(np.float64)

    def loss(weights: np.ndarray) -> float:
        normalisers = predict(planes, weights, rows.starts, predicted)
        return (normalisers - weights @ target) / count + 0.5 * ridge * float(weights @ weights)

    value = loss(w)
    for _ in range(STEPS if t else 0):
        gradient, hessian = derivatives(planes, rows, predicted)
        hessian = hessian / count + (ridge + 1e-9) * np.eye(t)
        gradient = gradient / count + ridge * w
        move = np.linalg.solve(hessian, gradient)
        decrement = float(gradient @ move)
        scale, accepted = 1.0, False
        while scale > 1e-3:
            trial = np.clip(w - scale * move, -LIMIT, LIMIT)
            now = loss(trial)
            if now <= value - 1e-4 * scale * decrement or now < value - 1e-12:
                accepted = True
                break
            scale *= 0.5
        if not accepted:
            break
        gained, w, value = value - now, trial, now
        if gained < 1e-6:
            break
    predict(planes, w, rows.starts, predicted)
    return w, predicted


def rounded(weights: np.ndarray, digits: int = 2) -> np.ndarray:
    """Round weights to significant digits."""
    return np.array([float(f"{w:.{digits}g}") for w in weights])
