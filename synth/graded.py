"""A graded model of a head: terms of the vocabulary plus factors made of graded token sets.

A factor adds the weight of the key's token in one set, or of the query's in another, or their
product, on an interval of distance or times the log distance. All weights move together, first
uphill in likelihood, then in IoU, and what is worth little is dropped: so one model gives
programs of every size. Sums over cells (``synth.cells``) make each step one pass over the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from attn_dsl.synth import vocabulary
from attn_dsl.synth.ascent import climb
from attn_dsl.synth.cells import (
    Cells,
    alternate,
    bands,
    cell_masses,
    factor_curvatures,
    factor_gradients,
    fill_table,
    sweep,
)  # fmt: skip
from attn_dsl.synth.gains import row_moments
from attn_dsl.synth.wide import Wide

RIDGE = 4.0
"""Pseudo-evidence (nats by squared weight) that pulls every weight towards 0."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a factor works: an interval of bands, or everywhere times the log distance."""

    first: int
    last: int
    slope: bool = False


def places(causal: bool) -> list[Place]:
    """Return the places at which factors are tried."""
    count = len(bands(causal))
    zero = 0 if causal else count // 2
    right = [(0, 1), (1, 2), (2, 3), (1, 4), (4, 8), (0, 7), (8, None), (10, None), (1, None)]
    spans = {(zero + a, count if b is None else zero + b) for a, b in right}
    if not causal:
        spans |= {(count - b, count - a) for a, b in spans} | {(zero - 3, zero + 4)}
    found = [Place(0, count), *(Place(a, b) for a, b in sorted(spans))]
    return [*found, Place(0, count, slope=True)]


@dataclass
class Model:
    """The state of a search: which terms and factors, and their weights.

    Attributes:
        terms: indices into the vocabulary.
        weights: float64, theirs.
        where: the place of each factor.
        left, right: float32 (factors, symbols): weights of query and key symbols.
        free: per factor, which of its two sides is a set; the other is 1 throughout.
    """

    cells: Cells
    terms: list[int] = field(default_factory=list)
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0))
    where: list[Place] = field(default_factory=list)
    left: np.ndarray = field(init=False)
    right: np.ndarray = field(init=False)
    free: list[tuple[bool, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left = np.zeros((0, len(self.cells.queries)), dtype=np.float32)
        self.right = np.zeros((0, len(self.cells.keys)), dtype=np.float32)

    def spans(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the first and last cell and the table column of every factor."""
        starts = self.cells.starts
        return (
            np.array([starts[w.first] for w in self.where], dtype=np.int64),
            np.array([starts[w.last] for w in self.where], dtype=np.int64),
            np.array([int(w.slope) for w in self.where], dtype=np.int64),
        )

    def add_term(self, term: int) -> None:
        """Add a term of the vocabulary, with weight 0."""
        self.terms.append(term)
        self.weights = np.append(self.weights, 0.0)

    def add_factor(self, factor: Factor) -> None:
        """Add a factor."""
        self.where.append(factor.place)
        self.left = np.concatenate([self.left, factor.left[None]])
        self.right = np.concatenate([self.right, factor.right[None]])
        self.free.append(factor.free)

    def pack(self, masks: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Return the weights of the terms and those elements that masks choose, in one array."""
        parts = self.weights, self.left[masks[0]], self.right[masks[1]]
        return np.concatenate(parts).astype(np.float64)

    def unpack(self, x: np.ndarray, masks: tuple[np.ndarray, np.ndarray]) -> None:
        """Set what ``pack`` returned."""
        terms, left = len(self.weights), int(masks[0].sum())
        self.weights = x[:terms].copy()
        self.left[masks[0]] = x[terms : terms + left]
        self.right[masks[1]] = x[terms + left :]

    def keep(self, terms: np.ndarray, factors: np.ndarray) -> None:
        """Keep only some terms and factors, given as truth values."""
        self.terms = [x for x, kept in zip(self.terms, terms, strict=True) if kept]
        self.weights = self.weights[terms]
        self.where = [x for x, kept in zip(self.where, factors, strict=True) if kept]
        self.free = [x for x, kept in zip(self.free, factors, strict=True) if kept]
        self.left, self.right = self.left[factors], self.right[factors]


@dataclass(frozen=True, eq=False)
class Factor:
    """A factor that may be added, and the gain (nats) that it promises."""

    gain: float
    place: Place
    left: np.ndarray
    right: np.ndarray
    free: tuple[bool, bool]


class Ascent:
    """Moves the weights of a model uphill on the rows of one head.

    Attributes:
        wide, small: the head's rows in the wide and the small design.
        predicted: float32 (entries): the model's rows, as of the last sweep.
        shared: the mass shared with the head, as of the last sweep.
        gradient: float32 (cells, 2): the objective's, by the table.
    """

    def __init__(self, wide: Wide, layer: int, head: int) -> None:
        self.rows_of, self.cells = wide, wide.cells
        self.wide = wide.design.target(layer, head)
        self.small = wide.small.target(layer, head)
        self.predicted = np.empty(wide.design.entries, dtype=np.float32)
        self.table = np.zeros((len(self.cells), 2), dtype=np.float32)
        self.gradient = np.zeros((len(self.cells), 2), dtype=np.float32)
        self.shared = 0.0

    @property
    def iou(self) -> float:
        """IoU over the rows, as of the last sweep."""
        return self.shared / (2 * len(self.wide) - self.shared)

    def sweep(self, model: Model, mix: float) -> tuple[float, np.ndarray]:
        """Predict the rows; return the objective and its gradient by the terms' weights."""
        c, planes = self.cells, self.rows_of.planes
        fill_table(c.query, c.key, *model.spans(), model.left, model.right, self.table)
        self.gradient[:] = 0.0
        is_value, rows = planes.of(model.terms)
        truth_gradient = np.zeros(int((~is_value).sum()))
        value_gradient = np.zeros(int(is_value.sum()))
        objective, self.shared = sweep(
            planes.truths, rows[~is_value], model.weights[~is_value], planes.values,
            rows[is_value], model.weights[is_value], c.cell, c.log_distance, self.table,
            self.wide.starts, self.wide.actual, mix, self.predicted, self.gradient,
            truth_gradient, value_gradient,
        )  # fmt: skip
        gradient = np.empty(len(model.terms))
        gradient[~is_value], gradient[is_value] = truth_gradient, value_gradient
        return objective, gradient

    def masses(self) -> np.ndarray:
        """Sum the predicted mass by cell, float32 (cells, 2)."""
        mass = np.zeros((len(self.cells), 2), dtype=np.float32)
        cell_masses(self.predicted, self.cells.cell, self.cells.log_distance, mass)
        return mass

    def term_moments(self, terms: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return gradient and curvature of terms (default: all), scaled from the small design."""
        design = self.rows_of.small
        truths = vocabulary.truths(design.causal)
        planes = design.vocabulary
        if terms is not None:
            planes, truths = planes[list(terms)], truths[list(terms)]
        g = np.zeros((len(planes), len(self.small)), dtype=np.float32)
        h = np.zeros_like(g)
        predicted = self.predicted[self.rows_of.inside]
        row_moments(planes, truths, design.starts, self.small.actual, predicted, g, h)
        share = len(self.wide) / len(self.small)
        return g.sum(1, dtype=np.float64) * share, h.sum(1, dtype=np.float64) * share

    def curvatures(self, model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the diagonal of the Hessian for terms, left and right elements."""
        c = self.cells
        left, right = np.zeros_like(model.left), np.zeros_like(model.right)
        factor_curvatures(
            c.query, c.key, *model.spans(), model.left, model.right, self.masses(), left, right
        )
        return self.term_moments(model.terms)[1] + RIDGE, left + RIDGE, right + RIDGE

    def climb(self, model: Model, steps: int, mix: float) -> None:
        """Move all weights uphill, in place, until ``steps`` sweeps are spent (L-BFGS).

        Elements that are 0 stay 0. Afterwards the last sweep is one with ``mix`` 0.
        """
        c = self.cells
        free = np.array(model.free, dtype=bool).reshape(-1, 2)
        masks = (model.left != 0) & free[:, :1], (model.right != 0) & free[:, 1:]

        def value(x: np.ndarray) -> tuple[float, np.ndarray]:
            model.unpack(x, masks)
            objective, by_term = self.sweep(model, mix)
            left, right = np.zeros_like(model.left), np.zeros_like(model.right)
            factor_gradients(
                c.query, c.key, *model.spans(), model.left, model.right, self.gradient, left,
                right,
            )  # fmt: skip
            gradient = np.concatenate([by_term, left[masks[0]], right[masks[1]]])
            return objective - 0.5 * RIDGE * float(x @ x), gradient - RIDGE * x

        self.sweep(model, 0.0)
        terms, left, right = self.curvatures(model)
        scale = np.concatenate([terms, left[masks[0]], right[masks[1]]]).astype(np.float64)
        model.unpack(climb(value, model.pack(masks), scale, steps), masks)
        self.sweep(model, 0.0)

    def factors(self, causal: bool, price: float) -> list[Factor]:
        """Return the best factor of each kind and place, given the gradient of the likelihood.

        The last sweep must have had ``mix`` 0, as it has after ``climb``.
        """
        c, g, m = self.cells, self.gradient, self.masses()
        found = []
        for place in places(causal):
            low, high = int(c.starts[place.first]), int(c.starts[place.last])
            column = int(place.slope)
            everywhere = place.last - place.first == len(c.starts) - 1 and not place.slope
            ones = np.ones(len(c.queries), np.float32), np.ones(len(c.keys), np.float32)
            here = slice(low, high)
            for side, symbols in enumerate((c.query, c.key)):
                if side == 0 and everywhere:
                    continue  # A weight that every key of a row has changes nothing.
                width = len(ones[side])
                gs = np.bincount(symbols[here], g[here, column], width)
                hs = np.bincount(symbols[here], m[here, column], width) + RIDGE
                worth = gs**2 / (2 * hs)
                kept = worth > price
                element = np.where(kept, gs / hs, 0.0).astype(np.float32)
                left, right = (element, ones[1]) if side == 0 else (ones[0], element)
                total = float((worth[kept] - price).sum())
                found.append(Factor(total, place, left, right, (side == 0, side == 1)))
            if place.slope:
                continue
            for start in range(2):
                left, right = self._start(start, len(c.queries)), np.zeros_like(ones[1])
                gain = alternate(
                    c.query, c.key, low, high, column, g, m, left, right, RIDGE, price, 5
                )
                if gain > 0:
                    scale = np.sqrt(np.abs(left).max() / np.abs(right).max())
                    found.append(Factor(gain, place, left / scale, right * scale, (True, True)))
        return found

    @staticmethod
    def _start(number: int, width: int) -> np.ndarray:
        if number == 0:
            return np.ones(width, dtype=np.float32)
        signs = np.random.default_rng(number).integers(0, 2, width)
        return (2.0 * signs - 1.0).astype(np.float32)

    def worths(self, model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what every term and element is worth, in nats, as the model stands."""
        terms, left, right = self.curvatures(model)
        return (
            0.5 * model.weights**2 * terms,
            0.5 * model.left**2 * left,
            0.5 * model.right**2 * right,
        )
