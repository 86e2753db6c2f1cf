"""Factors: graded sets of query or key tokens, and products of both, that explain what a program lacks.

What they gain is counted to second order, from the gradient of the likelihood by the scores and the
predicted rows, less a price for each element.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.eval.set_parameters import Lookup, SetTerm
from attn_dsl.synth.graded.distance_bins import condition
from attn_dsl.synth.graded.large_sample import KEY, QUERY, LargeSample

ROUNDS = 4
"""Rounds of alternating least squares."""


@dataclass(frozen=True, eq=False)
class Factor:
    """A factor that may be added."""

    gain: float  # what it gains, in nats, less the price of its elements
    term: SetTerm  # the factor
    weights: np.ndarray  # of its parameters

    @property
    def kind(self) -> tuple[object, ...]:
        """Whose tokens it looks at: the query's, the key's or both."""
        return tuple(one.value for one in self.term.lookups)


def propose(
    sample: LargeSample, gradient: np.ndarray, predicted: np.ndarray, price: float, ridge: float
) -> list[Factor]:
    """Return the best factor of each kind, those that gain most first.

    Args:
        gradient, predicted: float32 (entries), of the likelihood and of the rows.
        price: nats that each element of a factor must gain.
        ridge: pseudo-evidence (nats by squared weight), which keeps weights of rare tokens small.
    """
    found = [*_sets(sample, gradient, predicted, price, ridge),
             *_products(sample, gradient, predicted, price, ridge)]  # fmt: skip
    kinds: dict[tuple[object, ...], Factor] = {}
    for factor in sorted(found, key=lambda f: -f.gain):
        if factor.gain > 0:
            kinds.setdefault(factor.kind, factor)
    return list(kinds.values())


def _sets(
    sample: LargeSample, gradient: np.ndarray, predicted: np.ndarray, price: float, ridge: float
) -> Iterator[Factor]:
    """Yield the best set of each side, on an interval of distances."""
    causal = sample.design.causal
    sides = zip((QUERY, KEY), sample.by_symbol(gradient), sample.by_symbol(predicted), strict=True)
    for value, g, h in sides:
        first, end, gain, weights = _best_interval(sample, g, h, price, ridge)
        if value == KEY or (first, end) != (0, len(g)):  # else all keys of a row get the same
            yield _factor(sample, gain, condition(first, end, causal), {value: weights})


def _best_interval(
    sample: LargeSample, g: np.ndarray, h: np.ndarray, price: float, ridge: float
) -> tuple[int, int, float, np.ndarray]:
    """Return the interval of bins on which a graded set gains most, its gain and its weights."""
    inside = sample.symbols != ""
    sums_g, sums_h = (np.concatenate([0 * x[:1], np.cumsum(x, 0)]) for x in (g, h))
    best = 0, 1, -1.0, np.zeros(len(inside))
    for first in range(len(g)):
        gs = sums_g[first + 1 :] - sums_g[first]
        hs = sums_h[first + 1 :] - sums_h[first] + ridge
        worth = np.where(inside, gs**2 / (2 * hs), 0.0)
        totals = np.where(worth > price, worth - price, 0.0).sum(1)
        at = int(np.argmax(totals))
        if totals[at] > best[2]:
            weights = np.where(worth[at] > price, gs[at] / hs[at], 0.0)
            best = first, first + 1 + at, float(totals[at]), weights
    return best


def _products(
    sample: LargeSample, gradient: np.ndarray, predicted: np.ndarray, price: float, ridge: float
) -> Iterator[Factor]:
    """Yield a product of two sets for each span of distances, by alternating least squares."""
    intervals, design = sample.products
    inside = sample.symbols != ""
    for start in range(2):
        x = np.zeros((len(intervals), 2, len(inside)))
        x[:, 0] = 1.0
        if start:
            x[:, 0] = 2.0 * np.random.default_rng(start).integers(0, 2, len(inside)) - 1.0
        total = np.zeros(len(x))
        for turn in range(2 * ROUNDS):
            side = 1 - turn % 2
            g = design.scores.gradient(x.ravel(), gradient[None]).reshape(x.shape)[:, side]
            h = design.scores.gradient(x.ravel(), predicted[None], squared=True)
            new = np.where(inside, g / (h.reshape(x.shape)[:, side] + ridge), 0.0)
            worth = 0.5 * g * new
            if turn >= 2 * ROUNDS - 4:
                new[worth < price] = 0.0
            total = worth.sum(1, where=new != 0)
            x[:, side] = new
            if turn < 2 * ROUNDS - 1:
                x[:, side] /= np.maximum(np.abs(new).max(1, keepdims=True), 1e-9)
        for interval, both, gain in zip(intervals, x, total, strict=True):
            sizes = np.abs(both).max(1)
            if sizes.all():
                scale = np.sqrt(sizes[0] / sizes[1])
                weights = {QUERY: both[0] / scale, KEY: both[1] * scale}
                where = condition(*interval, sample.design.causal)
                left = gain - price * np.count_nonzero(both)
                yield _factor(sample, left, where, weights)


def _factor(
    sample: LargeSample, gain: float, where: t.Predicate | None, weights: dict[t.Call, np.ndarray]
) -> Factor:
    """Make a factor at half of the weights, since its elements overlap with others."""
    lookups, values = [], []
    for value, each in weights.items():
        some = np.flatnonzero(each)
        lookups.append(Lookup(value, tuple(sample.symbols[some])))
        values.append(each[some] * 0.5 ** (1.0 / len(weights)))
    return Factor(gain, SetTerm(tuple(lookups), None, where), np.concatenate(values))
