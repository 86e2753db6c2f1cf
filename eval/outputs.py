"""Output R²: how much of what a head writes into the residual stream a program's attention gives.

A head writes o_q = Σ_k A[q,k] v_k W_O at query q, a program in its place ô_q = Σ_k Â[q,k] v_k W_O. Over all
rows of all texts R² = 1 - Σ‖ô_q - o_q‖² / Σ‖o_q - ō‖², with the mean ō of the head's own outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from attn_dsl.compiler.evaluate import unpack
from attn_dsl.eval.metrics import Estimate

if TYPE_CHECKING:
    from attn_dsl.eval.capture import Capture

SAME = 1e-9
"""Outputs whose variance is less than this share of their mean square are all the same."""


def squared_errors(
    actual: np.ndarray, predicted: np.ndarray, contributions: np.ndarray, causal: bool
) -> np.ndarray:
    """Sum the squared errors of a head's outputs on a text with programs in its place.

    >>> head, program = np.float32([1, 0.5, 0.5]), np.float32([[1, 0, 1]])
    >>> squared_errors(head, program, np.float32([[0, 0], [2, 0]]), causal=True)
    array([1.])

    Args:
        actual: float32 (entries): the head's attention, packed.
        predicted: float32 (programs, entries).
        contributions: float32 (n, width), as from ``Capture.contributions``.

    Returns:
        float64 (programs,).
    """
    off = unpack(predicted - actual, len(contributions), causal) @ contributions
    return np.square(off).sum((1, 2), dtype=np.float64)


def spreads(capture: Capture, texts: Sequence[int], number: int) -> np.ndarray:
    """Sum, for each text, the squared distances of a head's outputs from their mean over all texts.

    Args:
        number: of the head, ``layer * heads_per_layer + head``.

    Returns:
        float64 (texts,); nan where the outputs are all the same.

    Raises:
        InputError: the capture has no values.
    """
    outputs = []
    for i in texts:
        contributions = capture.contributions(i, number)
        (own,) = capture.attention(i, [number])
        outputs.append(
            (unpack(own, len(contributions), capture.causal) @ contributions).astype(float)
        )
    mean = np.concatenate(outputs).mean(0)
    found = np.array([np.square(one - mean).sum() for one in outputs])
    size = sum(float(np.square(one).sum()) for one in outputs)
    return found if found.sum() > SAME * size else np.full(len(texts), np.nan)


def output_r2(
    errors: np.ndarray, spread: np.ndarray, seed: int, resamples: int = 2_000
) -> Estimate:
    """Estimate output R², averaged over heads, and its 95 % interval by resampling texts.

    >>> output_r2(np.array([[1.0, 2.0]]), np.array([[4.0, 8.0]]), seed=0)
    Estimate(mean=0.75, low=0.75, high=0.75, texts=2)

    Args:
        errors, spread: float64 (heads, texts), as from ``squared_errors`` and ``spreads``. Heads
            whose outputs are all the same are left out.

    Returns:
        The estimate; nan where no head is left.
    """
    known = np.isfinite(spread).all(1)
    count = spread.shape[1]
    if not known.any():
        return Estimate(np.nan, np.nan, np.nan, count)
    picks = np.random.default_rng(seed).integers(0, count, size=(resamples, count))
    times = np.array([np.bincount(pick, minlength=count) for pick in picks], dtype=np.float64)
    every = np.concatenate([np.ones((1, count)), times])
    mean, *means = 1.0 - ((errors[known] @ every.T) / (spread[known] @ every.T)).mean(0)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(mean), float(low), float(high), count)
