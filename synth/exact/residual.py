"""What rules do not explain yet, as a weighted least-squares problem, exact or approximate.

Both views give each entry a pull and a mass (masses of a row sum to 1, pulls to 0), so that a
plane x promises the weight g / h and the gain g^2 / 2h, with g = sum of pull * x and h = sum over
rows of the variance of x under the mass. In the *linear* view the logits are the logarithms of the
rows up to a constant for each: exact for rows without noise; with noise, an entry counts for as much as
its logarithm is sure, and weights come out a little too small. The other view is the local problem of
cross-entropy, whose weights are right and whose rules must be near already.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import FAST
from attn_dsl.synth import weights as w
from attn_dsl.synth.exact.aside import Aside
from attn_dsl.synth.weights import Rows

PRICE = 3.0
"""Squared noise that a node must explain, times 1/2 as for one parameter of a likelihood."""
FINE = 1e-5
"""Weights of attention much below this are not precise, for they may have been kept as float16."""
FLOOR = 1e-6
"""The least noise: errors of a logit of a few thousandths do not matter."""
LEAST = 3e-6
"""Without noise, the squared error of a row's logits that a node must explain in the mean."""
HOPELESS = 2.2
"""A noisy head of which so much is left, in units of its noise, is no program …"""
DOUBTFUL = 1.75
"""… nor one of which so much is left after many rules, or few that explain little."""


@njit(**FAST)
def centre(planes, mass, starts):
    """Subtract from every row of planes its mean under the mass, in place."""
    for r in range(starts.shape[0] - 1):
        low, high = starts[r], starts[r + 1]
        for j in range(planes.shape[0]):
            m = np.float32(0.0)
            for i in range(low, high):
                m += mass[i] * planes[j, i]
            for i in range(low, high):
                planes[j, i] -= m


class Residual:
    """The residual of some planes with fitted weights.

    Args:
        rows: the head's. clean: whether they are without noise.
        noise: of rows with noise (``noise_of``), for the linear view; None for the other one.

    Attributes:
        pull, mass: float32 (entries), see the module.
        aside: what planes and logits are taken less of; None for nothing.
        least, floor: what a node must explain at the least, now and in the end.
        expected: of rows with noise, the squared residuals that noise alone leaves.
        weights: of the planes.
        loss: twice the objective: squared residuals, or cross-entropy. squared: squared residuals.
        noise: the squared residual of an entry in units of gain; prices are in this unit.
    """

    def __init__(self, rows: Rows, clean: bool, noise: float | None = None) -> None:
        self.rows, self.clean = rows, clean
        self.linear = clean or noise is not None
        self.count, self.entries = len(rows), len(rows.actual)
        self.free = max(self.entries - self.count, 1)
        self.predicted = np.empty(self.entries, dtype=np.float32)
        self.aside: Aside | None = None
        self.least = self.floor = self.expected = 0.0
        widths = np.diff(rows.starts)
        if self.linear:
            a = rows.actual.astype(np.float64)
            self.logits = np.log(np.maximum(a, 1e-12)).astype(np.float32)
            if noise is None:
                sure = a**2 / (a**2 + FINE**2)
                mass = 0.5 * sure * (a + np.repeat(1.0 / widths, widths))
            else:
                mass = a * a / (a + noise)
            sums = np.add.reduceat(mass, rows.starts[:-1])
            if noise is not None:
                of_noise = np.add.reduceat(a * noise / (a + noise), rows.starts[:-1])
                self.expected = float((of_noise / sums).sum())
            mass /= np.repeat(sums, widths)
            self.mass = mass.astype(np.float32)
            centre(self.logits[None], self.mass, rows.starts)

    @property
    def much(self) -> float:
        """How many times as much is left as noise alone leaves."""
        return self.squared / max(self.expected, 1e-9)

    @property
    def hopeless(self) -> bool:
        """Whether so much is left beside tables that exchanging rules will not make it a program."""
        return self._beside_tables > HOPELESS

    @property
    def doubtful(self) -> bool:
        """Whether so much is left beside tables that rules should explain much of it."""
        return self._beside_tables > DOUBTFUL

    @property
    def first_part(self) -> bool:
        """Whether a noisy head is in the first part of the search, where most is set aside."""
        return self.aside is not None and self.aside.places and not self.clean

    @property
    def _beside_tables(self) -> float:
        """What a noisy head leaves in the first part of the search; else 0."""
        return self.much if self.first_part else 0.0

    @property
    def price(self) -> float:
        """What a node must explain."""
        return max(self.lowest, self.least)

    @property
    def lowest(self) -> float:
        """What a node must explain in the end."""
        least = 0.5 * LEAST * self.count if self.clean else 0.0
        return max(PRICE * self.noise, least, self.floor)

    @property
    def ridge(self) -> float:
        """Keeps rare planes from promising much."""
        return 0.25 * self.noise + (1e-6 if self.linear else 0.05)

    def centred(self, planes: np.ndarray) -> np.ndarray:
        """Return planes less their rows' means."""
        found = planes.copy()
        centre(found, self.mass, self.rows.starts)
        return found

    def middle(self, planes: np.ndarray) -> np.ndarray:
        """Return planes less their rows' means and what is set aside."""
        found = self.centred(planes)
        return found if self.aside is None else self.aside.less(found)

    def solve(self, planes: np.ndarray, start: np.ndarray | None = None) -> None:
        """Fit the weights of planes and take the residual."""
        if self.linear:
            logits = self.middle(self.logits[None])[0]
            middle = self.middle(planes)
            weighted = middle * self.mass
            gram = (weighted @ middle.T).astype(np.float64) + 1e-6 * np.eye(len(planes))
            self.weights = np.linalg.solve(gram, (weighted @ logits).astype(np.float64))
            self.weights = np.clip(self.weights, -w.LIMIT, w.LIMIT)
            left = logits - self.weights.astype(np.float32) @ middle
            self.pull = self.mass * left
            self.loss = self.squared = float(self.pull @ left)
            self._planes: np.ndarray | None = planes
        else:
            self.weights, self.predicted = w.fit(planes, self.rows, start, ridge=1e-5, steps=6)
            self.look(self.predicted)
            self._planes = None
        self._iou: float | None = None

    @property
    def iou(self) -> float:
        """The IoU of the predicted rows with the head's."""
        if self._iou is None:
            if self._planes is not None:
                w.predict(self._planes, self.weights, self.rows.starts, self.predicted)
            self._iou = w.iou_of(self.rows.actual, self.predicted, self.count)
        return self._iou

    def look_around(self, planes: np.ndarray) -> None:
        """Take the linear view of cross-entropy around the rows that planes fitted to it predict.

        Its logits are those of Newton's step (working responses), by the logarithm where a row has
        much more than is predicted, for there a step would go too far.
        """
        _, predicted = w.fit(planes, self.rows, self.weights, ridge=1e-5, steps=6)
        self.mass = np.maximum(predicted, np.float32(1e-7))
        ratio = self.rows.actual / self.mass
        change = np.where(ratio < 2.0, ratio - 1.0, 1.0 + np.log(np.maximum(ratio, 1.0) / 2.0))
        self.logits = np.log(self.mass) + change.astype(np.float32)
        centre(self.logits[None], self.mass, self.rows.starts)
        self.least = self.floor = 0.0

    def look(self, predicted: np.ndarray) -> None:
        """Take the residual of predicted rows."""
        self.mass = predicted
        self.pull = self.rows.actual - predicted
        self.loss = -2.0 * float(self.rows.actual @ np.log(np.maximum(predicted, 1e-9)))
        self.squared = float((self.pull / np.maximum(predicted, 1e-3)) @ self.pull)

    @property
    def noise(self) -> float:
        """The mean squared residual of an entry."""
        return max(self.squared / self.free, FLOOR)

    def without(self, planes: np.ndarray, j: int) -> Residual:
        """Return the residual of all planes but one, the others' weights as they are."""
        other = Residual.__new__(Residual)
        other.__dict__.update(self.__dict__)
        other.weights = np.delete(self.weights, j)
        if self.linear:
            back = np.float32(self.weights[j]) * self.middle(planes[j : j + 1])[0]
            other.pull = self.pull + self.mass * back
            left = other.pull / np.maximum(self.mass, 1e-20)
            other.loss = other.squared = float(other.pull @ left)
        else:
            predicted = np.empty(self.entries, dtype=np.float32)
            w.predict(np.delete(planes, j, axis=0), other.weights, self.rows.starts, predicted)
            other.predicted = predicted
            other.look(predicted)
        return other

    def gram(self, planes: np.ndarray) -> np.ndarray:
        """Compute the planes' covariances under the mass, summed over rows."""
        middle = self.middle(planes)
        return ((middle * self.mass) @ middle.T).astype(np.float64)
