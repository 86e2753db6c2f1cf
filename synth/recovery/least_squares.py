"""The logits of a head's rows as a least-squares problem, and the weights of rules that solve it.

A program's logits are the logarithms of its rows but for a constant in each row. So planes and logits
are taken less their means by row, and an entry counts by its attention. A further plane x would gain
g^2 / 2h, where g is the sum of the weighted residual times x, and h the sum of the rows' variances of x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from attn_dsl.synth import weights as w
from attn_dsl.synth.recovery.predicates import Bank
from attn_dsl.synth.recovery.projection import Projection
from attn_dsl.synth.recovery.rules import Rule, cost

FINE = 1e-5
"""Weights of attention much below this may have been kept as float16 and are not precise."""
LEAST, SOLVED = 3e-6, 4e-7
"""Mean squared error of a row's logits: what a node must explain, and where nothing is left."""
RIDGE, KEPT = 1e-6, 160
"""What is added to variances, and how many planes of rules are kept."""


@dataclass(frozen=True)
class Residual:
    """What rules leave, times the entries' weights ``mass``; and the price of nodes and of rarity."""

    pull: np.ndarray
    mass: np.ndarray
    ridge: float
    price: float


@dataclass(frozen=True)
class Model:
    """Rules with their best weights.

    Attributes:
        planes: float32 (rules, entries), centred by row and projected.
        inverse: of the planes' covariances.
        residual: of the logits, float32 (entries). loss: its weighted squares.
    """

    rules: tuple[Rule, ...]
    planes: np.ndarray
    weights: np.ndarray
    inverse: np.ndarray
    residual: np.ndarray
    loss: float

    def total(self, price: float) -> float:
        """Half of what is unexplained, and the price of all nodes."""
        return 0.5 * self.loss + price * sum(map(cost, self.rules))


class Problem:
    """The logits of a head, from which tables are projected out.

    They are of tokens, with ``places`` also of distances and positions; none if that is None.
    """

    def __init__(self, bank: Bank, rows: w.Rows, places: bool | None = None) -> None:
        self.bank, self.rows = bank, rows
        a, widths = rows.actual.astype(np.float64), np.diff(rows.starts)
        mass = a**2 / (a**2 + FINE**2) * (a + np.repeat(1.0 / widths, widths))
        mass /= np.repeat(np.add.reduceat(mass, rows.starts[:-1]), widths)
        self.mass = mass.astype(np.float32)
        self.projection = None if places is None else Projection(bank, self.mass, places)
        self.logits = self._projected(np.log(np.maximum(a, 1e-12)).astype(np.float32))
        self._plane = lru_cache(KEPT)(lambda rule: self._projected(bank.plane(rule)))

    def model(self, rules: Sequence[Rule]) -> Model:
        """Give rules their best weights."""
        none = np.empty((0, len(self.mass)), dtype=np.float32)
        planes = np.stack([self._plane(rule) for rule in rules]) if rules else none
        heavy = planes * self.mass
        gram = (heavy @ planes.T).astype(np.float64) + RIDGE * np.eye(len(rules))
        inverse = np.linalg.inv(gram)
        weights = np.clip(inverse @ (heavy @ self.logits), -w.LIMIT, w.LIMIT)
        residual = self.logits - weights.astype(np.float32) @ planes
        loss = float((self.mass * residual) @ residual)
        return Model(tuple(rules), planes, weights, inverse, residual, loss)

    def residual(self, model: Model, price: float, without: int | None = None) -> Residual:
        """Return what a model leaves, perhaps without one of its rules and the others as they are."""
        left = model.residual
        if without is not None:
            left = left + np.float32(model.weights[without]) * model.planes[without]
        return Residual(self.mass * left, self.mass, 0.25 * self._error(model) + RIDGE, price)

    def price(self, model: Model) -> float:
        """Return the gain that a node must bring at the least."""
        return max(3.0 * self._error(model), 0.5 * LEAST * len(self.rows))

    def _error(self, model: Model) -> float:
        return max(model.loss / max(len(self.mass) - len(self.rows), 1), 1e-6)

    def _projected(self, plane: np.ndarray) -> np.ndarray:
        """Return a plane less its mean in every row and less what tables explain of it."""
        means = np.add.reduceat(plane * self.mass, self.rows.starts[:-1])
        centred = plane - np.repeat(means, np.diff(self.rows.starts))
        return centred if self.projection is None else self.projection.rest(centred)
