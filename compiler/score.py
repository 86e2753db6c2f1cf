"""Score matrices: IoU of many programs with many heads over many texts, fused with evaluation.

Programs are evaluated in groups whose rows stay in cache and are compared with all heads there,
so that no program's matrix goes to memory.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np

from attn_dsl.compiler.evaluate import Plan
from attn_dsl.compiler.minsum import in_lanes, minima


def score_text(plan: Plan, text: int, heads: np.ndarray) -> np.ndarray:
    """Score all programs of a plan against heads on one text.

    Args:
        heads: float32 (heads, entries): packed attention, rows summing to 1.

    Returns:
        float64 (heads, programs): IoU over the visible entries of the text.
    """
    whole = heads.sum(1, dtype=np.float64)
    shared, sums = np.zeros((len(heads), plan.size)), np.zeros(plan.size)
    block = None
    for part in plan.parts(text):
        if part.block != block:
            block = part.block
            actual = in_lanes(heads[:, block.entries])
        found = np.zeros((len(heads), len(part.rows)))
        minima(actual, part.rows, found)
        shared[:, part.programs] += found
        sums[part.programs] += part.rows.sum(1, dtype=np.float64)
    both = whole[:, None] + sums
    with np.errstate(invalid="ignore"):
        return np.where(both > 0, shared / (both - shared), 1.0)


def score_matrix(
    plan: Plan, heads: Callable[[int], np.ndarray], executor: Executor | None = None
) -> np.ndarray:
    """Average the scores of all programs against all heads over the texts of a plan's batch.

    >>> from attn_dsl.compiler.batch import Batch
    >>> from attn_dsl.dsl.parser import parse
    >>> from attn_dsl.dsl.tokens import Tokens
    >>> plan = Plan([parse("head u causal:\\n")], Batch([Tokens.from_strings(["a", " b"])]))
    >>> score_matrix(plan, lambda text: np.float32([[1, 0.5, 0.5]]))
    array([[1.]])

    Args:
        heads: for a text's number, the packed attention of all heads, as ``score_text`` takes it.
        executor: where texts are scored side by side; threads do, for the work holds no lock.

    Returns:
        float64 (heads, programs).
    """

    def one(text: int) -> np.ndarray:
        return score_text(plan, text, heads(text))

    plan.prepare()
    scores = map(one, range(len(plan.batch))) if executor is None else executor.map(
        one, range(len(plan.batch))
    )  # fmt: skip
    total = None
    for score in scores:
        total = score if total is None else total + score
    if total is None:
        raise ValueError("there are no texts to score on")
    return total / len(plan.batch)
