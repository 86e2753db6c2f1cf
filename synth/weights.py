"""Weights: the exact fit of a fixed structure to a head's rows, a convex problem.

With ``softmax`` the cross-entropy between a head's rows and a program's is convex in the weights
(multinomial logistic regression with a design that all rows share), so Newton's method finds
the one minimum in a few steps. Design matrices are planes: (weights, entries), row by row.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import FAST
from attn_dsl.compiler.softmax import softmax_rows
from attn_dsl.synth.objective import HeadRows

LIMIT = 50.0  # fitted weights stay within this magnitude: a logit of 50 is certainty
STEPS = 12  # the most Newton steps


def predict(planes: np.ndarray, weights: np.ndarray, starts: np.ndarray, out: np.ndarray) -> float:
    """Write the softmax rows of a weighted sum of planes; return the sum of log normalisers."""
    np.dot(weights.astype(np.float32), planes, out=out)
    return float(softmax_rows(starts, out))


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


def derivatives(planes: np.ndarray, rows: HeadRows, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def fit_weights(planes: np.ndarray, rows: HeadRows, ridge: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
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
