"""Stability: whether the search would have chosen the same program on other texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attn_dsl.synth.pareto import choose
from attn_dsl.synth.proposer import Fitted, HeadTask

RESAMPLINGS = 5


def stability(task: HeadTask, found: Sequence[Fitted], price: float) -> float:
    """Return the share of five resamplings of the fit texts on which the same program is chosen.

    Texts are drawn with replacement. All programs that the search tried compete again, with the
    weights they have, by their IoU on the drawn texts less the price of their nodes; the search
    itself is not repeated, so this is an upper bound of how often it would end at the same program.
    """
    per_text = np.array([len(rows) for rows in task.design.rows], dtype=np.float64)
    first = task.rows.starts[np.r_[0, np.cumsum(per_text[:-1], dtype=np.int64)]]
    shared = np.array([
        np.add.reduceat(np.minimum(task.rows.actual, f.predicted), first, dtype=np.float64)
        for f in found
    ])  # fmt: skip
    sizes = [fitted.nodes for fitted in found]
    rng = np.random.default_rng(task.seed)
    draws = [np.ones(len(per_text))]
    for _ in range(RESAMPLINGS):
        drawn = rng.integers(0, len(per_text), len(per_text))
        draws.append(np.bincount(drawn, minlength=len(per_text)).astype(np.float64))
    chosen = []
    for weights in draws:
        mass = shared @ weights
        ious = mass / (2 * float(weights @ per_text) - mass)
        chosen.append(choose(list(ious), sizes, price))
    return float(np.mean([other == chosen[0] for other in chosen[1:]]))
