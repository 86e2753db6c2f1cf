"""L1 paths: which of a program's terms to keep, at every number of terms.

The cross-entropy plus lambda * sum of s|w| is minimised for lambda from where all weights are 0
down to a thousandth of that, each from the minimum before (Friedman, Hastie and Tibshirani 2010),
by Newton steps whose quadratic model is minimised coordinate by coordinate (Lee, Sun and Saunders
2014). Where weights are 0 their terms can go; what is left is fitted again without the penalty.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import COMPILED
from attn_dsl.dsl import tree as t
from attn_dsl.synth import weights as w
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.rewrite import drop_unused, in_place
from attn_dsl.synth.vocabulary import size
from attn_dsl.synth.weights import Rows

FEW = 16
"""Programs of at most so many terms lose them one by one."""
STEPS = 40
"""How many penalties a path has."""
LAST = 1e-3
"""The last one, as a part of the first."""
NEWTON = 8
"""How many Newton steps one penalty takes at the most."""
EXACT = 1e-6
"""Nats by row below which a step is the last."""


@dataclass(frozen=True, slots=True)
class Point:
    """The minimum for one penalty: lambda, the weights, and the cross-entropy by row."""

    penalty: float
    weights: np.ndarray
    loss: float

    @property
    def support(self) -> tuple[int, ...]:
        """The weights other than 0."""
        return tuple(np.flatnonzero(self.weights).tolist())


def path(
    planes: np.ndarray, rows: Rows, scales: np.ndarray | None = None, steps: int = STEPS
) -> Iterator[Point]:
    """Yield the minima of the penalised cross-entropy, the largest penalty first.

    Args:
        planes: float32 (weights, entries).
        rows: a head's rows.
        scales: what each weight's magnitude costs; by default as much as the plane varies within
            rows, so that the scale of a term makes no difference.
        steps: how many penalties.
    """
    count = len(rows)
    weights = np.zeros(len(planes))
    predicted = np.empty(planes.shape[1], np.float32)
    w.predict(planes, weights, rows.starts, predicted)
    if scales is None:
        scales = spreads(planes, rows, predicted)
    scales = np.maximum(scales, 1e-9)
    target = (planes @ rows.actual).astype(np.float64) / count
    gradient = (planes @ predicted).astype(np.float64) / count - target
    largest = float(np.max(np.abs(gradient) / scales, initial=0.0))
    if largest == 0.0:
        return
    for penalty in largest * np.geomspace(1.0, LAST, steps):
        weights, loss = _descend(planes, rows, target, scales * penalty, weights, predicted)
        yield Point(float(penalty), weights.copy(), loss)


def _descend(
    planes: np.ndarray, rows: Rows, target: np.ndarray, prices: np.ndarray, weights: np.ndarray,
    predicted: np.ndarray,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """Minimise the penalised cross-entropy from some weights; return them and the cross-entropy."""
    count = len(rows)

    def evaluate(x: np.ndarray) -> tuple[float, float]:
        normalisers = w.predict(planes, x, rows.starts, predicted)
        loss = float(normalisers / count - x @ target)
        return loss, loss + float(prices @ np.abs(x))

    loss, value = evaluate(weights)
    for _ in range(NEWTON):
        gradient = (planes @ predicted).astype(np.float64) / count - target
        violated = np.abs(gradient) > prices * (1 + 1e-4)
        active = np.flatnonzero((weights != 0) | violated)
        if not len(active):
            break
        hessian = curvature(planes[active], rows, predicted)
        move = np.zeros_like(weights)
        aim = coordinates(hessian, gradient[active], weights[active], prices[active])
        move[active] = aim - weights[active]
        scale, before = 1.0, value
        while scale > 1e-3:
            trial = np.clip(weights + scale * move, -w.LIMIT, w.LIMIT)
            now, penalised = evaluate(trial)
            if penalised < value:
                weights, loss, value = trial, now, penalised
                break
            scale *= 0.5
        if before - value < EXACT:
            break
    loss, _ = evaluate(weights)
    return weights, loss


def curvature(planes: np.ndarray, rows: Rows, predicted: np.ndarray) -> np.ndarray:
    """Return the Hessian of the cross-entropy by row, (weights, weights)."""
    size = len(planes)
    unused, hessian = np.zeros(size), np.zeros((size, size))
    w.curvature(planes, rows.starts, rows.actual, predicted, unused, hessian)
    full: np.ndarray = np.tril(hessian) + np.tril(hessian, -1).T
    return full / len(rows) + 1e-6 * np.eye(size)


def spreads(planes: np.ndarray, rows: Rows, predicted: np.ndarray) -> np.ndarray:
    """Return how much each plane varies within rows, under a program's rows."""
    mean = np.add.reduceat(planes * predicted, rows.starts[:-1], axis=1)
    squares = np.add.reduceat(planes * planes * predicted, rows.starts[:-1], axis=1)
    found: np.ndarray = np.sqrt(np.maximum(squares - mean * mean, 0.0).mean(1))
    return found.astype(np.float64)


@njit(**COMPILED)
def coordinates(hessian, gradient, start, prices, sweeps=100):
    """Minimise g (x - x0) + (x - x0) H (x - x0) / 2 + sum of prices |x|, one x after the other."""
    x = start.copy()
    slope = gradient.copy()
    for _ in range(sweeps):
        largest = 0.0
        for j in range(x.shape[0]):
            h = hessian[j, j]
            free = h * x[j] - slope[j]
            new = 0.0
            if free > prices[j]:
                new = (free - prices[j]) / h
            elif free < -prices[j]:
                new = (free + prices[j]) / h
            change = new - x[j]
            if change != 0.0:
                x[j] = new
                for i in range(x.shape[0]):
                    slope[i] += hessian[i, j] * change
                largest = max(largest, abs(change) * math.sqrt(h))
        if largest < 1e-6:
            break
    return x


def supports(program: t.Head, planes: np.ndarray, rows: Rows) -> list[tuple[int, ...]]:
    """Return which terms of a program a path keeps, each choice once, in the order of the path.

    A weight pays in proportion to the nodes of its term.

    Args:
        planes: those of the program's weights, on some rows.
        rows: the head's attention there.
    """
    groups = np.repeat(np.arange(len(program.terms)), [len(t.weights_of(x)) for x in program.terms])
    uniform = np.empty(planes.shape[1], np.float32)
    w.predict(planes, np.zeros(len(planes)), rows.starts, uniform)
    scales = spreads(planes, rows, uniform) * sizes(program)[groups]
    found: dict[tuple[int, ...], None] = {}
    for point in path(planes, rows, scales):
        kept = tuple(sorted(set(groups[list(point.support)].tolist())))
        if 0 < len(kept) < len(program.terms):
            found.setdefault(kept)
    return list(found)


def prune(task: HeadTask, program: t.Head) -> list[Fitted]:
    """Fit a program with fewer and fewer of its terms.

    Of many terms an L1 path chooses, of few (``FEW``) what is dropped is chosen one by one, which
    is as good there, and sooner (`docs/synthesis.md` has the comparison).

    Returns:
        The fitted programs, the smallest first.
    """
    if len(program.terms) <= FEW:
        return eliminate(task, program)
    found: dict[tuple[int, ...], Fitted] = {}
    for kept in supports(program, task.design.planes(program), task.rows):
        if task.spent:
            break
        terms = tuple(program.terms[i] for i in kept)
        found[kept] = task.fit(drop_unused(dataclasses.replace(program, terms=terms)))
    return sorted(found.values(), key=lambda f: f.nodes)


def eliminate(task: HeadTask, program: t.Head) -> list[Fitted]:
    """Fit a program without its least useful terms, dropped one by one.

    Least useful is what loses least by node: about w^2 / 2 (H^-1) nats are lost without weight w, H
    the Hessian (optimal brain surgeon; Hassibi and Stork 1993).

    Returns:
        The fitted programs, the smallest first.
    """
    found: list[Fitted] = []
    fitted = task.fit(program)
    while len(program.terms) > 1 and not task.spent:
        planes = task.design.planes(program)
        inverse = np.linalg.pinv(curvature(planes, task.rows, fitted.predicted), hermitian=True)
        weights = np.array(fitted.program.weights, dtype=np.float64)
        ends = np.cumsum([len(t.weights_of(x)) for x in program.terms])
        parts = np.split(np.arange(len(weights)), ends[:-1])
        losses = np.array([
            0.5 * weights[x] @ np.linalg.pinv(inverse[np.ix_(x, x)], hermitian=True) @ weights[x]
            for x in parts
        ])  # fmt: skip
        least = int(np.argmin((losses / sizes(program)).round(12)))
        terms = program.terms[:least] + program.terms[least + 1 :]
        program = drop_unused(dataclasses.replace(program, terms=terms))
        fitted = task.fit(program, np.delete(weights, parts[least]))
        found.append(fitted)
    return found[::-1]


def sizes(program: t.Head) -> np.ndarray:
    """Return the nodes of a program's terms, sets counted where they are used."""
    sets = {d.name: d.value for d in program.sets}
    return np.array([size(in_place(term, sets)) for term in program.terms], dtype=np.float64)
