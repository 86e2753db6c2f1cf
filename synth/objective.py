"""The objective: how well predicted rows stand for a head's, and which way they become better."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import FAST, FINITE
from attn_dsl.eval.outputs import SAME, mix


@dataclass(frozen=True, slots=True)
class Objective:
    """What a search asks of programs: weights of their attention and of their outputs.

    >>> round(OBJECTIVES["both"].score(iou=0.6, output_r2=0.3), 3)
    0.531
    """

    attention: float  # weight of the IoU
    output: float  # weight of the output R²
    # score on the select split that a node must bring for a larger program to be chosen
    price: float

    def score(self, iou: float, output_r2: float) -> float:
        """Return the weighted mean of IoU and output R²; the IoU where there is no output R²."""
        if not self.output or math.isnan(output_r2):
            return iou
        return (self.attention * iou + self.output * output_r2) / (self.attention + self.output)


OBJECTIVES = {"attention": Objective(1.0, 0.0, 0.001), "output": Objective(0.0, 0.5, 0.002),
              "both": Objective(1.0, 0.3, 0.0016)}  # fmt: skip
"""The objectives by name."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What keys contribute to the outputs of some rows."""

    values: np.ndarray  # float32 (tokens, width), of each token (``Capture.contributions``)
    firsts: np.ndarray  # int64 (rows): the token of each row's first entry
    spread: float  # summed squared distance of the rows' outputs from their mean

    @classmethod
    def of(cls, values: np.ndarray, firsts: np.ndarray, starts: np.ndarray,
           actual: np.ndarray) -> Self | None:  # fmt: skip
        """Make them for rows of attention; None if the outputs of all rows are the same."""
        keys = np.arange(starts[-1]) - np.repeat(starts[:-1] - firsts, np.diff(starts))
        outputs = np.add.reduceat(values[keys] * actual[:, None], starts[:-1])
        spread = float(np.square(outputs - outputs.mean(0, dtype=np.float64)).sum())
        same = spread <= SAME * float(np.square(outputs).sum())
        return None if same else cls(values, firsts, spread)


_NO_OUTPUTS = Outputs(np.empty((0, 0), np.float32), np.empty(0, np.int64), math.nan)


@dataclass(frozen=True, slots=True)
class HeadRows:
    """Rows of one head's attention matrices laid behind each other."""

    starts: np.ndarray  # int64 (rows + 1): where each row's entries start
    actual: np.ndarray  # float32 (entries): a head's weights there
    outputs: Outputs | None = None  # what its keys contribute; None where it does not count
    objective: Objective = OBJECTIVES["attention"]  # what its programs are scored by

    def __len__(self) -> int:
        return len(self.starts) - 1

    def scores(self, predicted: np.ndarray) -> tuple[float, float]:
        """Return the IoU of predicted rows with the head's, and their score by the objective."""
        shared = _shared_mass(self.actual, predicted)
        iou = float(shared / (2 * len(self) - shared))  # each row sums to 1
        return iou, self.objective.score(iou, self.output_r2(predicted))

    def output_r2(self, predicted: np.ndarray) -> float:
        """Return the share of the variance of the outputs that predicted rows explain."""
        return self.output_residual(predicted, np.empty(0, dtype=np.float32), 0.0)

    def output_residual(self, predicted: np.ndarray, residual: np.ndarray, weight: float) -> float:
        """Add the gradient of ``weight`` times rows times R² by the scores; return R².

        Without outputs nothing is added, and R² is nan.
        """
        if self.outputs is None:
            return math.nan
        scale, outputs = weight * len(self) / self.outputs.spread, self.outputs
        error = _output_residual(self.starts, outputs.firsts, self.actual, predicted, outputs.values, scale,
                                 residual)  # fmt: skip
        return float(1.0 - error / outputs.spread)

    def row_scores(self, predicted: np.ndarray) -> np.ndarray:
        """Return the part of each row in the objective: weighted mass less squared error of output."""
        outputs, scale = self.outputs or _NO_OUTPUTS, 0.0
        if self.outputs is not None:
            scale = self.objective.output * len(self) / self.outputs.spread
        return _row_scores(self.starts, outputs.firsts, self.actual, predicted, outputs.values,
                           np.float32(self.objective.attention), np.float32(scale))  # fmt: skip

    def likelihood_aim(self, predicted: np.ndarray) -> np.ndarray:
        """Return the aim of which ``aim - predicted`` is the gradient of likelihood and outputs by scores."""
        out = self.actual.copy()
        self.output_residual(predicted, out, self.objective.output)
        return out


@njit(**FINITE)
def _shared_mass(actual, predicted):
    """Sum the minima of two sets of rows; IoU over rows is m / (2 rows - m)."""
    total = 0.0
    for i in range(actual.shape[0]):
        total += min(actual[i], predicted[i])
    return total


@njit(**FAST)
def _row_scores(starts, firsts, actual, predicted, values, weight, scale):
    out = np.empty(starts.shape[0] - 1)
    error = np.empty(values.shape[1], dtype=np.float32)
    for r in range(out.shape[0]):
        a = actual[starts[r] : starts[r + 1]]
        p = predicted[starts[r] : starts[r + 1]]
        shared, squared = np.float32(0.0), np.float32(0.0)
        for k in range(a.shape[0]):
            shared += min(a[k], p[k])
        if scale != 0.0:
            mix(p, a, values[firsts[r] : firsts[r] + a.shape[0]], error)
            for c in range(error.shape[0]):
                squared += error[c] * error[c]
        out[r] = weight * shared - scale * squared
    return out


@njit(**FAST)
def _output_residual(starts, firsts, actual, predicted, values, scale, residual):
    """Return the summed squared error of the outputs; add -``scale`` times its gradient by scores."""
    error, total = np.empty(values.shape[1], dtype=np.float32), 0.0
    twice = np.float32(2.0 * scale)
    for r in range(starts.shape[0] - 1):
        low, high = starts[r], starts[r + 1]
        p, v = predicted[low:high], values[firsts[r] : firsts[r] + high - low]
        mix(p, actual[low:high], v, error)
        squared = np.float32(0.0)
        for c in range(error.shape[0]):
            squared += error[c] * error[c]
        total += float(squared)
        if scale == 0.0:
            continue
        d, mean = residual[low:high], np.float32(0.0)
        for k in range(p.shape[0]):
            along = np.float32(0.0)
            for c in range(error.shape[0]):
                along += error[c] * v[k, c]
            step = twice * p[k] * along
            d[k] -= step
            mean += step
        for k in range(p.shape[0]):
            d[k] += p[k] * mean
    return total
