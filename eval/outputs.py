"""Output R²: how much of what a head writes into the residual stream a program's attention gives.

A head writes o_q = Σ_k A[q,k] v_k W_O at query q, a program in its place ô_q = Σ_k Â[q,k] v_k W_O. Over all
rows of all texts R² = 1 - Σ‖ô_q - o_q‖² / Σ‖o_q - ō‖², with the mean ō of the head's own outputs.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from attn_dsl.compiler.evaluate import unpack
from attn_dsl.compiler.jit import FAST
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.metrics import Estimate, resampled
from attn_dsl.eval.shards import n_entries, row_starts

SAME = 1e-9
"""Outputs whose variance is less than this share of their mean square are all the same."""


def squared_errors(capture: Capture, text: int, heads: Sequence[int], predicted: np.ndarray) -> np.ndarray:
    """Sum the squared errors of heads' outputs on a text with programs there: float64 (heads, programs).

    >>> capture = Capture.from_arrays(
    ...     [["a", " b"]], [[[[[1, 0], [0.5, 0.5]]]]], values=[[[[[0, 0], [2, 0]]]]]
    ... )
    >>> squared_errors(capture, 0, [0], np.float32([[1, 0, 1]]))
    array([[1.]])

    Args:
        heads: numbers of heads, ``layer * heads_per_layer + head``.
        predicted: float32 (programs, entries): the programs' attention, packed.
    """
    n = len(capture.tokens(text))
    starts = np.append(row_starts(n, capture.causal), n_entries(n, capture.causal))
    errors = np.zeros((len(heads), len(predicted)))
    for row, (own, head) in enumerate(zip(capture.attention(text, heads), heads, strict=True)):
        _add_errors(starts, own, predicted, capture.contributions(text, head), errors[row])
    return errors


@njit(**FAST)
def mix(weights, others, values, out):
    """Write the sum of values (keys, width) with the differences of two rows as weights."""
    out[:] = np.float32(0.0)
    for k in range(weights.shape[0]):
        weight = weights[k] - others[k]
        for c in range(out.shape[0]):
            out[c] += weight * values[k, c]


@njit(**FAST)
def _add_errors(starts, actual, predicted, values, out):
    error = np.empty(values.shape[1], dtype=np.float32)
    for r in range(starts.shape[0] - 1):
        low, high = starts[r], starts[r + 1]
        for p in range(predicted.shape[0]):
            mix(predicted[p, low:high], actual[low:high], values, error)
            squared = np.float32(0.0)
            for c in range(error.shape[0]):
                squared += error[c] * error[c]
            out[p] += squared


def spreads(capture: Capture, texts: Sequence[int], heads: Sequence[int]) -> np.ndarray:
    """Sum, for each text, the squared distances of heads' outputs from their mean over all texts.

    Returns:
        float64 (heads, texts); nan where a head's outputs are all the same.
    """
    counts = np.array([len(capture.tokens(i)) for i in texts])
    squares, sums = np.zeros((len(heads), len(texts))), []
    for at, i in enumerate(texts):
        for row, (own, head) in enumerate(zip(capture.attention(i, heads), heads, strict=True)):
            one = unpack(own, counts[at], capture.causal) @ capture.contributions(i, head)
            squares[row, at] = np.square(one, dtype=np.float64).sum()
            sums.append(one.sum(0, dtype=np.float64))
    sum_of = np.reshape(sums, (len(texts), len(heads), -1)).swapaxes(0, 1)
    mean = sum_of.sum(1, keepdims=True) / counts.sum()
    found = squares - ((2 * sum_of - counts[:, None] * mean) * mean).sum(-1)
    same = found.sum(1) <= SAME * squares.sum(1)
    return np.where(same[:, None], np.nan, np.maximum(found, 0.0))


def output_r2(errors: np.ndarray, spread: np.ndarray, seed: int, resamples: int = 2_000) -> Estimate:
    """Estimate output R², averaged over heads, and its 95 % interval by resampling texts.

    >>> output_r2(np.array([[1.0, 2.0]]), np.array([[4.0, 8.0]]), seed=0)
    0.750 [0.750, 0.750] (2 texts)

    Args:
        errors, spread: float64 (heads, texts), as from ``squared_errors`` and ``spreads``. Heads
            whose outputs are all the same are left out; without any other, the estimate is nan.
    """
    known = np.isfinite(spread).all(1)
    count = spread.shape[1]
    if not known.any():
        return Estimate(np.nan, np.nan, np.nan, count)
    every = resampled(seed, count, resamples)
    mean, *means = 1.0 - ((errors[known] @ every.T) / (spread[known] @ every.T)).mean(0)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(mean), float(low), float(high), count)
