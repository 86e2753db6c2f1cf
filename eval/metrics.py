"""Metrics: how near a program's attention is to a head's, text by text, and with what uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import COMPILED
from attn_dsl.eval.minsum import shared_masses
from attn_dsl.eval.score_matrix import METRICS as METRICS


@njit(**COMPILED)
def _compare(actual, predicted, n, causal, out):
    low = high = low_rest = high_rest = jsd = 0.0
    agree = 0
    at = 0
    for q in range(n):
        keys = q + 1 if causal else n
        divergence = 0.0
        best_actual = best_predicted = at
        for i in range(at, at + keys):
            a = np.float64(actual[i])
            b = np.float64(predicted[i])
            small, large = min(a, b), max(a, b)
            low += small
            high += large
            if i > at:
                low_rest += small
                high_rest += large
            middle = 0.5 * (a + b)
            if a > 0.0:
                divergence += 0.5 * a * math.log2(a / middle)
            if b > 0.0:
                divergence += 0.5 * b * math.log2(b / middle)
            if actual[i] > actual[best_actual]:
                best_actual = i
            if predicted[i] > predicted[best_predicted]:
                best_predicted = i
        jsd += math.sqrt(max(divergence, 0.0))
        agree += best_actual == best_predicted
        at += keys
    out[0] = low / high if high > 0.0 else 1.0
    out[1] = low_rest / high_rest if high_rest > 0.0 else 1.0
    out[2] = jsd / n if n else 0.0
    out[3] = (high - low) / (2.0 * n) if n else 0.0
    out[4] = agree / n if n else 1.0


def compare(actual: np.ndarray, predicted: np.ndarray, n: int, causal: bool) -> np.ndarray:
    """Compare two packed attention matrices of one text.

    >>> compare(np.float32([1, 0.5, 0.5]), np.float32([1, 1, 0]), 2, causal=True)[0].round(2)
    np.float64(0.6)

    Args:
        actual, predicted: the visible entries, row by row.
        n: tokens of the text.

    Returns:
        float64 in the order of ``METRICS``: IoU (sum of minima by sum of maxima over visible
        entries), IoU without the first column, mean Jensen-Shannon distance (base 2) and total
        variation distance of the rows, share of rows with the same strongest key.
    """
    out = np.empty(len(METRICS))
    _compare(actual, predicted, n, causal, out)
    return out


def ious(actual: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """IoU of every head with every program on one text.

    Args:
        actual: float32 (heads, entries). predicted: float32 (programs, entries).

    Returns:
        float64 (heads, programs).
    """
    shared = shared_masses(actual, predicted)
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


def bootstrap(values: np.ndarray, seed: int, resamples: int = 2_000) -> Estimate:
    """Estimate a mean over texts and its 95 % percentile interval by resampling texts.

    >>> bootstrap(np.array([0.5, 0.5, 0.5]), seed=0)
    Estimate(mean=0.5, low=0.5, high=0.5, texts=3)

    Args:
        values: one value per text.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    picks = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
    means = values[picks].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high), n)
