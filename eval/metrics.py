"""Metrics of a text, and their means over texts with the uncertainty that the sample leaves."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from attn_dsl.eval.distances import in_lanes, minima


def ious(actual: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """IoU of every head with every program on one text, float64 (heads, programs).

    >>> ious(np.float32([[0.5, 0.5]]), np.float32([[1.0, 0.0], [0.5, 0.5]])).round(3)
    array([[0.333, 1.   ]])
    """
    shared = np.zeros((len(actual), len(predicted)))
    minima(in_lanes(actual), in_lanes(predicted), shared)
    whole = actual.sum(1, dtype=np.float64)[:, None] + predicted.sum(1, dtype=np.float64)[None]
    with np.errstate(invalid="ignore"):
        return np.where(whole == 0, 1.0, shared / (whole - shared))  # what is not a number stays so


def variation(difference: np.ndarray) -> np.ndarray:
    """Return the total variation between rows of two matrices, of which one is taken from the other.

    >>> variation(np.array([[0.5, -0.5], [0.0, 0.0]]))
    array([0.5, 0. ])
    """
    return np.asarray(np.abs(difference).sum(-1) / 2)


def decimal(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """Write a number for people: a true minus, an en dash where there is none, nothing below -10.

    >>> decimal(0.71249), decimal(0.5, 1, sign=True), decimal(-13_000), decimal(math.nan)
    ('0.712', '+0.5', '< −10', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if value < -10:
        return "< −10"
    return f"{value:{'+z' if sign else 'z'}.{digits}f}".replace("-", "−")


@dataclass(frozen=True, slots=True, repr=False)
class Estimate:
    """A mean over texts with its 95 % bootstrap interval and the number of texts.

    >>> Estimate(0.5, 0.45, 0.55, 60)
    0.500 [0.450, 0.550] (60 texts)
    """

    mean: float
    low: float
    high: float
    texts: int

    def __repr__(self) -> str:
        return f"{self.with_interval} ({self.texts} texts)"

    @property
    def with_interval(self) -> str:
        """The mean and its interval, as in ``0.500 [0.450, 0.550]``; an en dash if not known."""
        mean, low, high = map(decimal, (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]" if math.isfinite(self.mean) else mean

    def named(self, name: str) -> dict[str, float | None]:
        """Return mean and interval as columns; None where they are not known.

        >>> Estimate(0.5, 0.45, 0.55, 60).named("iou")
        {'iou': 0.5, 'iou_low': 0.45, 'iou_high': 0.55}
        """
        values = {name: self.mean, f"{name}_low": self.low, f"{name}_high": self.high}
        return {key: x if math.isfinite(x) else None for key, x in values.items()}


def bootstrap(values: np.ndarray, seed: int, resamples: int = 2_000, *, counts: np.ndarray | None = None,
              transform: Callable[[Any], Any] = lambda mean: mean) -> Estimate:  # fmt: skip
    """Estimate a mean over texts and its 95 % percentile interval by resampling texts.

    >>> bootstrap(np.array([0.5, 0.5, 0.5]), seed=0)
    0.500 [0.500, 0.500] (3 texts)
    >>> bootstrap(np.array([2.0, 4.0]), seed=0, counts=np.array([1, 2]))
    2.000 [2.000, 2.000] (2 texts)

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
    times = resampled(seed, n, resamples)
    mean, *means = times @ values / (n if counts is None else times @ counts)
    low, high = np.quantile(transform(np.array(means)), [0.025, 0.975])
    return Estimate(float(transform(mean)), float(low), float(high), n)


@lru_cache(maxsize=4)
def resampled(seed: int, count: int, resamples: int) -> np.ndarray:
    """Return how often each of some texts is drawn, float64 (1 + resamples, count); once in row 0."""
    picks = np.random.default_rng(seed).integers(0, count, size=(resamples, count))
    places = picks + count * np.arange(resamples)[:, None]
    times = np.bincount(places.ravel(), minlength=resamples * count).reshape(resamples, count)
    return np.concatenate([np.ones((1, count)), times])
