"""Factors: products of a profile over distance and graded sets of query and key tokens.

A factor adds ``profile[band] * left[query token] * right[key token]`` to a score; what it does not
look at is 1 throughout. ``propose`` finds those that explain most of what a model gets wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from attn_dsl.synth.graded.cells import Cells, alternate

ROUNDS = 6
"""Rounds of alternating least squares."""


@dataclass(frozen=True, eq=False)
class Factor:
    """A factor that may be added.

    Attributes:
        gain: what it promises, in nats, less the price of its elements.
        channel: which tokens it looks at (``Cells.channels``).
        slope: whether it is multiplied by the log distance.
        sides: profile (bands), left and right (symbols), float32.
        free: which of the three may move; the others are constants.
    """

    gain: float
    channel: int
    slope: bool
    sides: tuple[np.ndarray, np.ndarray, np.ndarray]
    free: tuple[bool, bool, bool]


@dataclass
class Model:
    """The state of a search: which terms and factors, and their weights.

    Attributes:
        terms: indices into the vocabulary.
        weights: float64, theirs.
        channel, slope: int64 (factors).
        sides: profile, left and right of all factors, float32 (factors, bands or symbols).
        free: bool (factors, 3).
    """

    cells: Cells
    terms: list[int] = field(default_factory=list)
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0))
    channel: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    slope: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    free: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), dtype=bool))
    sides: list[np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        widths = (self.cells.starts.shape[1] - 1, *[len(self.cells.symbols)] * 2)
        self.sides = [np.zeros((0, width), dtype=np.float32) for width in widths]

    def __len__(self) -> int:
        """Count the factors."""
        return len(self.channel)

    def groups(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield each channel and slope that there is, and the numbers of its factors."""
        for channel in range(len(self.cells.channels)):
            for slope in (0, 1):
                some = np.flatnonzero((self.channel == channel) & (self.slope == slope))
                if len(some):
                    yield channel, slope, some

    def masks(self) -> list[np.ndarray]:
        """Say which elements of each side move: the free ones that are not 0."""
        return [(side != 0) & self.free[:, i, None] for i, side in enumerate(self.sides)]

    def add_term(self, term: int) -> None:
        """Add a term of the vocabulary, with weight 0."""
        self.terms.append(term)
        self.weights = np.append(self.weights, 0.0)

    def add_factor(self, factor: Factor) -> None:
        """Add a factor."""
        self.channel = np.append(self.channel, factor.channel)
        self.slope = np.append(self.slope, int(factor.slope))
        self.free = np.concatenate([self.free, [factor.free]])
        self.sides = [
            np.concatenate([all_of, one[None].astype(np.float32)])
            for all_of, one in zip(self.sides, factor.sides, strict=True)
        ]

    def keep(self, terms: np.ndarray, factors: np.ndarray) -> None:
        """Keep only some terms and factors, given as truth values."""
        self.terms = [x for x, kept in zip(self.terms, terms, strict=True) if kept]
        self.weights = self.weights[terms]
        self.channel, self.slope = self.channel[factors], self.slope[factors]
        self.free = self.free[factors]
        self.sides = [side[factors] for side in self.sides]


def propose(
    cells: Cells, gradient: np.ndarray, mass: np.ndarray, causal: bool, price: float, ridge: float,
    profiles: bool,
) -> list[Factor]:  # fmt: skip
    """Return the best factor of each kind.

    Args:
        gradient, mass: float32 (cells, 2), of the likelihood (``Ascent``).
        price: nats that each element of a factor must promise.
        ridge: pseudo-evidence (nats by squared weight), which keeps weights of rare tokens small.
        profiles: whether a factor may have a weight for every band.
    """
    inside = np.array([symbol != "" for symbol in cells.symbols])
    width, count = len(cells.symbols), cells.starts.shape[1] - 1
    found = []
    for number, channel in enumerate(cells.channels):
        starts = cells.starts[number]
        here = slice(starts[0], starts[-1])
        band = np.repeat(np.arange(count), np.diff(starts))
        for side, symbols in enumerate((cells.query, cells.key)):
            if number > 0 and (channel.query, channel.key)[side] == 0:
                continue  # The first channel has it.
            at = band * width + symbols[here]
            for column in (0, 1):
                g, h = (
                    np.bincount(at, x[here, column], count * width).reshape(count, width)
                    for x in (gradient, mass)
                )
                if column == 1:
                    g, h = g.sum(0, keepdims=True), h.sum(0, keepdims=True)
                for gain, profile, element, free in _by_distance(
                    g, h, inside, price, ridge, profiles
                ):
                    if column == 0 and side == 0 and profile.all() and not free:
                        continue  # Every key of a row would have the same weight.
                    ones = np.ones(width, dtype=np.float32)
                    sides = (element, ones) if side == 0 else (ones, element)
                    profile = np.ones(count) if column == 1 else profile
                    found.append(
                        Factor(
                            gain, number, column == 1, (profile, *sides),
                            (free, side == 0, side == 1),
                        )
                    )  # fmt: skip
        for first, last in _spans(causal, count, number):
            for start in range(2):
                left, right = _start(start, width), np.zeros(width, dtype=np.float32)
                gain = alternate(
                    cells.query, cells.key, starts[first], starts[last], 0, gradient, mass, left,
                    right, inside, ridge, price, ROUNDS,
                )  # fmt: skip
                if gain > 0:
                    scale = np.float32(np.sqrt(np.abs(left).max() / np.abs(right).max()))
                    profile = np.zeros(count)
                    profile[first:last] = 1.0
                    sides = (left / scale, right * scale)
                    found.append(
                        Factor(gain, number, False, (profile, *sides), (False, True, True))
                    )
    return found


def _spans(causal: bool, count: int, channel: int) -> list[tuple[int, int]]:
    """Return the intervals of bands on which products of two sets are tried."""
    zero = 0 if causal else count // 2
    spans = [(0, count), (zero, zero + 3), (zero + 3, zero + 10), (zero + 10, count)]
    if not causal:
        spans += [(zero - 2, zero + 1), (zero - 9, zero - 2), (0, zero - 9)]
    return spans if channel == 0 else spans[:1]


def _by_distance(
    g: np.ndarray, h: np.ndarray, inside: np.ndarray, price: float, ridge: float, profiles: bool
) -> list[tuple[float, np.ndarray, np.ndarray, bool]]:
    """Find a graded set for the best interval of bands, and one with a profile over bands.

    Returns:
        For each: the gain less the price, profile, element weights, whether the profile is free.
    """
    count = len(g)
    best: tuple[float, np.ndarray, np.ndarray, bool] | None = None
    sums_g, sums_h = (np.concatenate([0 * x[:1], np.cumsum(x, 0)]) for x in (g, h))
    for first in range(count):
        gs = sums_g[first + 1 :] - sums_g[first]
        hs = sums_h[first + 1 :] - sums_h[first] + ridge
        worth = np.where(inside, gs**2 / (2 * hs), 0.0)
        totals = np.where(worth > price, worth - price, 0.0).sum(1)
        at = int(np.argmax(totals))
        if best is None or totals[at] > best[0]:
            profile = np.zeros(count)
            profile[first : first + at + 1] = 1.0
            element = np.where(worth[at] > price, gs[at] / hs[at], 0.0)
            best = float(totals[at]), profile, element.astype(np.float32), False
    assert best is not None
    if count == 1 or not profiles:
        return [best]
    profile, element = np.ones(count), np.zeros(g.shape[1])
    profile[np.argmax((g**2 / (h + ridge)).sum(1))] = 3.0
    for turn in range(ROUNDS):
        gs, hs = profile @ g, (profile**2) @ h + ridge
        element = np.where(inside, gs / hs, 0.0)
        if turn >= ROUNDS - 2:
            element[gs**2 / (2 * hs) < price] = 0.0
        gs, hs = g @ element, h @ element**2 + ridge
        profile = gs / hs
        if turn >= ROUNDS - 2:
            profile[gs**2 / (2 * hs) < 8 * price] = 0.0
        top = np.abs(profile).max()
        if top == 0.0:
            return [best]
        if turn < ROUNDS - 1:
            profile /= top
    top = max(float(np.abs(element).max()), 1e-9)
    scale = np.sqrt(np.abs(profile).max() / top)
    total = float((gs**2 / (2 * hs))[profile != 0].sum())
    total -= price * (9 * np.count_nonzero(profile) + np.count_nonzero(element))
    return [best, (total, profile / scale, (element * scale).astype(np.float32), True)]


def _start(number: int, width: int) -> np.ndarray:
    if number == 0:
        return np.ones(width, dtype=np.float32)
    signs = np.random.default_rng(number).integers(0, 2, width)
    return (2.0 * signs - 1.0).astype(np.float32)
