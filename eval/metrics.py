"""Metrics of a text, and their means over texts with the uncertainty that the sample leaves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from attn_dsl.eval.minsum import in_lanes, minima


def ious(actual: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """IoU of every head with every program on one text.

    >>> ious(np.float32([[0.5, 0.5]]), np.float32([[1.0, 0.0], [0.5, 0.5]])).round(3)
    array([[0.333, 1.   ]])

    Args:
        actual: float32 (heads, entries). predicted: float32 (programs, entries).

    Returns:
        float64 (heads, programs).
    """
    shared = np.zeros((len(actual), len(predicted)))
    minima(in_lanes(actual), in_lanes(predicted), shared)
    whole = actual.sum(1, dtype=np.float64)[:, None] + predicted.sum(1, dtype=np.float64)[None]
    with np.errstate(invalid="ignore"):
        return np.where(whole > 0, shared / (whole - shared), 1.0)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over texts with its 95 % bootstrap interval and the number of texts.

    >>> print(Estimate(0.5, 0.45, 0.55, 60))
    0.500 [0.450, 0.550] (60 texts)
    """

    mean: float
    low: float
    high: float
    texts: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}] ({self.texts} texts)"


def bootstrap(
    values: np.ndarray, seed: int, resamples: int = 2_000, *, counts: np.ndarray | None = None,
    transform: Callable[[Any], Any] = lambda mean: mean,
) -> Estimate:  # fmt: skip
    """Estimate a mean over texts and its 95 % percentile interval by resampling texts.

    >>> bootstrap(np.array([0.5, 0.5, 0.5]), seed=0)
    Estimate(mean=0.5, low=0.5, high=0.5, texts=3)
    >>> bootstrap(np.array([2.0, 4.0]), seed=0, counts=np.array([1, 2]))
    Estimate(mean=2.0, low=2.0, high=2.0, texts=2)

    Args:
        values: one value per text.
        counts: of how many things each value is the sum, such as tokens; then the mean is that
            of a thing. By default each value is one thing.
        transform: applied to every mean, such as ``np.exp`` for a perplexity.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    picks = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
    if counts is None:
        mean, means = values.mean(), values[picks].mean(axis=1)
    else:
        mean, means = values.sum() / counts.sum(), values[picks].sum(1) / counts[picks].sum(1)
    low, high = np.quantile(transform(means), [0.025, 0.975])
    return Estimate(float(transform(mean)), float(low), float(high), n)
