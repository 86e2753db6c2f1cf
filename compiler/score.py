"""Score matrices: IoU of many programs with many heads over many texts, fused with evaluation.

Programs are evaluated in groups whose rows stay in cache and are compared with all heads there,
so that no program's matrix goes to memory.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np

from attn_dsl.compiler.evaluate import Plan
from attn_dsl.compiler.minsum import minima

GROUP_BYTES = 1 << 19
"""How much of the programs' rows is made before it is compared: within a second-level cache."""


def score_text(plan: Plan, text: int, heads: np.ndarray) -> np.ndarray:
    """Score all programs of a plan against heads on one text.

    Args:
        heads: float32 (heads, entries): packed attention, rows summing to 1.

    Returns:
        float64 (heads, programs): IoU over the visible entries of the text.
    """
    heads = np.ascontiguousarray(heads, dtype=np.float32)
    whole = heads.sum(1, dtype=np.float64)[:, None]
    out = np.empty((len(heads), plan.size))
    group = max(8, GROUP_BYTES // max(4 * heads.shape[1], 1))
    for first, rows in plan.groups(text, group):
        shared = np.zeros((len(heads), len(rows)))
        minima(heads, rows, shared)
        both = whole + rows.sum(1, dtype=np.float64)[None]
        with np.errstate(invalid="ignore"):
            here = np.where(both > 0, shared / (both - shared), 1.0)
        out[:, first : first + len(rows)] = here
    return out


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
