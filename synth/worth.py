"""Worth of terms: what a program loses on other texts without one of its terms, the others refitted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.printer import show_term
from attn_dsl.eval.results import TermWorth
from attn_dsl.synth import weights as w
from attn_dsl.synth.design import Design
from attn_dsl.synth.objective import HeadRows
from attn_dsl.synth.proposer import HeadTask

ENTRIES = 15_000
"""On about how many entries of the fit rows weights are refitted."""
RIDGE = 1e-3
"""Added to the diagonal of the curvature per row, so that collinear terms have one solution."""


class _Rows:
    """A program's planes, float32 (weights, entries), on rows of one head."""

    def __init__(self, rows: HeadRows, planes: np.ndarray) -> None:
        self.rows, self.planes = rows, planes

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the program's rows with some weights."""
        out = np.empty(self.planes.shape[1], dtype=np.float32)
        w.predict(self.planes, x, self.rows.starts, out)
        return out

    def figures(self, x: np.ndarray) -> tuple[float, float]:
        """Return IoU and output R² with some weights."""
        predicted = self.predict(x)
        return self.rows.scores(predicted)[0], self.rows.output_r2(predicted)

    def curvature(self, x: np.ndarray) -> np.ndarray:
        """Return the Hessian of the cross-entropy per row."""
        count = len(x)
        gradient, hessian = np.zeros(count), np.zeros((count, count))
        w.curvature(
            self.planes, self.rows.starts, self.rows.actual, self.predict(x), gradient, hessian
        )
        whole = np.tril(hessian) + np.tril(hessian, -1).T
        return whole / len(self.rows) + RIDGE * np.eye(count)


def term_worths(task: HeadTask, select: Design, program: t.Head) -> tuple[TermWorth, ...]:
    """Measure what each term of a softmax program is worth to a head; a part of a sum is a term.

    The other weights are refitted on rows of the task by a Newton step of the cross-entropy, which has a
    closed form (the optimal brain surgeon of Hassibi and Stork, 1993); losses are on ``select``. Shares
    come from leaving out the terms one after the other, each time the one that costs least: a share is
    what the score falls by at the term's turn, over its whole fall. Of two terms that say the same, the
    one that is left carries what both do.
    """
    terms = [part for whole in program.terms for part in t.parts_of(whole)]
    if not terms:
        return ()
    program = dataclasses.replace(program, terms=tuple(terms))
    rows = int(np.searchsorted(task.rows.starts, ENTRIES, side="right")) - 1 or 1
    starts = task.rows.starts[: min(rows, len(task.rows)) + 1]
    few = HeadRows(starts, task.rows.actual[: starts[-1]])
    fitted = _Rows(few, task.design.planes(program)[:, : starts[-1]])
    held = _Rows(select.target(task.layer, task.head), select.compute(program))
    x = np.array(program.weights, dtype=np.float64)
    ends = np.cumsum([0, *(len(t.weights_of(term)) for term in terms)])
    groups = [np.arange(*pair) for pair in pairwise(ends)]
    curvature, everything = fitted.curvature(x), np.arange(len(x))
    whole = held.figures(x)
    alone = [held.figures(_without(x, curvature, everything, group)) for group in groups]
    shares = _shares(fitted, held, x, groups, curvature)
    return tuple(
        TermWorth(i + 1, show_term(term), whole[0] - alone[i][0], whole[1] - alone[i][1], shares[i])
        for i, term in enumerate(terms)
    )


def _without(
    x: np.ndarray, curvature: np.ndarray, left: np.ndarray, group: np.ndarray
) -> np.ndarray:
    """Set the weights of a group to 0, and move the others of ``left`` to where that costs least."""
    rest, found = np.setdiff1d(left, group), x.copy()
    found[group] = 0.0
    pull = curvature[np.ix_(rest, group)] @ x[group]
    found[rest] += np.linalg.solve(curvature[np.ix_(rest, rest)], pull)
    return np.clip(found, -w.LIMIT, w.LIMIT)


def _shares(
    fitted: _Rows, held: _Rows, x: np.ndarray, groups: Sequence[np.ndarray], curvature: np.ndarray
) -> list[float]:
    """Return the share of each group of weights in the score; they sum to 1, or all are 0."""
    left, losses = dict(enumerate(groups)), np.zeros(len(groups))

    def score() -> float:
        iou, output_r2 = held.figures(x)
        return held.rows.objective.score(iou, max(output_r2, 0.0))

    before = score()
    while left:
        there = np.concatenate([*left.values()])
        spread = np.zeros_like(curvature)
        spread[np.ix_(there, there)] = np.linalg.inv(curvature[np.ix_(there, there)])
        cost = {
            i: x[group] @ np.linalg.solve(spread[np.ix_(group, group)], x[group])
            for i, group in left.items()
        }
        least = min(cost, key=cost.__getitem__)
        x = _without(x, curvature, there, left.pop(least))
        now = score()
        losses[least], before = max(before - now, 0.0), now
        if left:
            curvature = fitted.curvature(x)
    total = losses.sum()
    return [float(loss / total) if total else 0.0 for loss in losses]
