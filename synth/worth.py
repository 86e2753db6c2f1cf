"""Worth of terms: what a program loses on other texts without one of its terms, the others refitted."""

import dataclasses
from itertools import pairwise

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.printer import show_term
from attn_dsl.eval.results import TermWorth
from attn_dsl.synth import weights as w
from attn_dsl.synth.design import Design
from attn_dsl.synth.objective import HeadRows
from attn_dsl.synth.proposer import HeadTask

ENTRIES = 15_000  # on about how many entries of the fit rows weights are refitted
RIDGE = 1e-3
"""Added to the diagonal of the curvature per row, so that collinear terms have one solution."""


def term_worths(task: HeadTask, select: Design, program: t.Head) -> tuple[TermWorth, ...]:
    """Measure what each term of a softmax program is worth to a head; a part of a sum is a term.

    The other weights are refitted on rows of the task by a step to second order (``weights.without``);
    losses are on ``select``. Shares come from leaving out the terms one after the other, each time the
    one that costs least: a share is what the score falls by at the term's turn, over its whole fall. Of
    two terms that say the same, the one that is left carries what both do.
    """
    terms = [part for whole in program.terms for part in t.parts_of(whole)]
    if not terms:
        return ()
    program = dataclasses.replace(program, terms=tuple(terms))
    rows = int(np.searchsorted(task.rows.starts, ENTRIES, side="right")) - 1 or 1
    starts = task.rows.starts[: min(rows, len(task.rows)) + 1]
    few = HeadRows(starts, task.rows.actual[: starts[-1]])
    planes, theirs = task.design.planes(program)[:, : starts[-1]], select.compute(program)
    held = select.target(task.layer, task.head)
    x = np.array(program.weights, dtype=np.float64)
    ends = np.cumsum([0, *(len(t.weights_of(term)) for term in terms)])
    left = {i: np.arange(*pair) for i, pair in enumerate(pairwise(ends))}

    def figures(x: np.ndarray) -> tuple[float, float]:
        predicted = w.predicted_rows(theirs, x, held.starts)
        return held.scores(predicted)[0], held.output_r2(predicted)

    def score(iou: float, output_r2: float) -> float:
        return held.objective.score(iou, max(output_r2, 0.0))

    def inverse(x: np.ndarray) -> np.ndarray:
        """Return the inverse of the Hessian by row, of the weights that are left; 0 for others."""
        predicted = w.predicted_rows(planes, x, starts)
        hessian = w.derivatives(planes, few, predicted)[1] / len(few) + RIDGE * np.eye(len(x))
        there, found = np.concatenate([*left.values()]), np.zeros_like(hessian)
        found[np.ix_(there, there)] = np.linalg.inv(hessian[np.ix_(there, there)])
        return found

    def without(x: np.ndarray, spread: np.ndarray, group: np.ndarray) -> np.ndarray:
        return np.clip(w.without(x, spread, group), -w.LIMIT, w.LIMIT)

    spread, whole = inverse(x), figures(x)
    alone = [figures(without(x, spread, group)) for group in left.values()]
    losses, before = np.zeros(len(terms)), score(*whole)
    while left:
        cost = {i: x[group] @ np.linalg.solve(spread[np.ix_(group, group)], x[group])
                for i, group in left.items()}  # fmt: skip
        least = min(cost, key=cost.__getitem__)
        x = without(x, spread, left.pop(least))
        now = score(*figures(x))
        losses[least], before = max(before - now, 0.0), now
        if left:
            spread = inverse(x)
    shares = losses / (losses.sum() or 1.0)
    return tuple(
        TermWorth(i + 1, show_term(term), whole[0] - alone[i][0], whole[1] - alone[i][1], float(shares[i]))
        for i, term in enumerate(terms))  # fmt: skip
