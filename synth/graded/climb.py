"""The ascent of a graded model: its rows predicted, and all its weights moved uphill together.

Sums over cells (``synth.cells``) make each step one pass over the rows, whatever the number of
elements in the sets of the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attn_dsl.synth import vocabulary
from attn_dsl.synth.gains import row_moments
from attn_dsl.synth.graded.ascent import climb
from attn_dsl.synth.graded.cells import cell_masses, sweep
from attn_dsl.synth.graded.factors import Model
from attn_dsl.synth.graded.losses import change, group_losses, row_losses
from attn_dsl.synth.graded.tables import curvatures, fill_table, gradients
from attn_dsl.synth.graded.wide import Wide


class Ascent:
    """Moves the weights of a model uphill on the rows of one head.

    Attributes:
        wide, small: the head's rows in the wide and the small design.
        predicted: float32 (entries): the model's rows, as of the last sweep.
        shared: the mass shared with the head, as of the last sweep.
        gradient: float32 (cells, 2): the objective's, by the table.
        ridge: pseudo-evidence (nats by squared weight) that pulls every weight towards 0.
    """

    def __init__(self, wide: Wide, layer: int, head: int, ridge: float) -> None:
        self.rows_of, self.cells = wide, wide.cells
        self.wide = wide.design.target(layer, head)
        self.small = wide.small.target(layer, head)
        self.predicted = np.empty(wide.design.entries, dtype=np.float32)
        self.table = np.zeros((len(self.cells), 2), dtype=np.float32)
        self.gradient = np.zeros((len(self.cells), 2), dtype=np.float32)
        self.shared = 0.0
        self.ridge = ridge

    @property
    def iou(self) -> float:
        """IoU over the rows, as of the last sweep."""
        return self.shared / (2 * len(self.wide) - self.shared)

    def sweep(
        self, model: Model, mix: float, *, everywhere: bool = False
    ) -> tuple[float, np.ndarray]:
        """Predict the rows; return the objective and its gradient by the terms' weights.

        Args:
            everywhere: take the gradient also in cells of channels that have no factor.
        """
        c, planes = self.cells, self.rows_of.planes
        columns = np.full(len(c.cell), 2 if everywhere else 0)
        np.maximum.at(columns, model.channel, 1 + model.slope)
        fill_table(model, self.table)
        self.gradient[:] = 0.0
        is_value, rows = planes.of(model.terms)
        truth_gradient = np.zeros(int((~is_value).sum()))
        value_gradient = np.zeros(int(is_value.sum()))
        objective, self.shared = sweep(
            planes.truths, rows[~is_value], model.weights[~is_value], planes.values,
            rows[is_value], model.weights[is_value], c.cell, columns, c.log_distance,
            self.table, self.wide.starts, self.wide.actual, mix, self.predicted, self.gradient,
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
        predicted = self.predicted[self.rows_of.inside]
        if terms is None:
            g, h = design.packed.row_moments(self.small.actual, predicted)
        else:
            planes, truths = design.vocabulary[list(terms)], vocabulary.truths(design.causal)
            g = np.zeros((len(planes), len(self.small)), dtype=np.float32)
            h = np.zeros_like(g)
            row_moments(
                planes, truths[list(terms)], design.starts, self.small.actual, predicted, g, h
            )
        share = len(self.wide) / len(self.small)
        return g.sum(1, dtype=np.float64) * share, h.sum(1, dtype=np.float64) * share

    def curvatures(self, model: Model) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the diagonal of the Hessian for terms and for the sides of factors."""
        sides = curvatures(model, self.masses())
        return self.term_moments(model.terms)[1] + self.ridge, [side + self.ridge for side in sides]

    def worths(self, model: Model) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the shared mass that is lost without each term and element, as of the last sweep."""
        cells, planes = self.cells, self.rows_of.planes
        rows = self.wide.starts, self.wide.actual, self.predicted
        by_row = np.empty(len(self.wide), dtype=np.float32)
        terms = np.zeros(len(model.terms))
        for j, (value, at) in enumerate(zip(*planes.of(model.terms), strict=True)):
            plane = planes.values[at] if value else planes.truths[at]
            row_losses(change(model.weights[j] * plane), *rows, by_row)
            terms[j] = by_row.sum(dtype=np.float64)
        sides = [np.zeros(side.shape) for side in model.sides]
        groups = cells.band, cells.query, cells.key
        for channel, slope, some in model.groups():
            cell = cells.cell[channel]
            queries = cells.query[cell[self.wide.starts[:-1]]]
            inside = {side: groups[side][cell] for side in (0, 2) if model.free[some, side].any()}
            for f in some:
                bands, left, right = (x[f][g] for x, g in zip(model.sides, groups, strict=True))
                score = bands * left * right
                far = cells.log_distance
                without = change(score[cell] * far) if slope else change(score)[cell]
                for side, group in inside.items():
                    if model.free[f, side]:
                        group_losses(without, group, *rows, sides[side][f])
                if model.free[f, 1]:  # All entries of a row have the same query.
                    row_losses(without, *rows, by_row)
                    sides[1][f] = np.bincount(queries, by_row, len(sides[1][f]))
        return terms, sides

    def climb(self, model: Model, steps: int, mix: float) -> None:
        """Move all weights uphill, in place, until ``steps`` sweeps are spent (L-BFGS).

        Elements that are 0 stay 0. Afterwards the last sweep is one with ``mix`` 0.
        """
        masks = model.masks()
        count = len(model.weights)
        ends = np.cumsum([count, *(int(mask.sum()) for mask in masks)])

        def unpack(x: np.ndarray) -> None:
            model.weights = x[:count].copy()
            for side, mask, low, high in zip(model.sides, masks, ends, ends[1:], strict=False):
                side[mask] = x[low:high]

        def pack(terms: np.ndarray, sides: list[np.ndarray]) -> np.ndarray:
            parts = [terms, *(side[mask] for side, mask in zip(sides, masks, strict=True))]
            return np.concatenate(parts).astype(np.float64)

        def value(x: np.ndarray) -> tuple[float, np.ndarray]:
            unpack(x)
            objective, by_term = self.sweep(model, mix)
            slopes = pack(by_term, gradients(model, self.gradient)) - self.ridge * x
            return objective - 0.5 * self.ridge * float(x @ x), slopes

        self.sweep(model, 0.0)
        start, scale = pack(model.weights, model.sides), pack(*self.curvatures(model))
        unpack(climb(value, start, scale, steps))
        self.sweep(model, 0.0)
