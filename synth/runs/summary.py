"""Summaries: what a run explains of all its heads together, with its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attn_dsl.eval.metrics import Estimate, bootstrap
from attn_dsl.eval.results import HeadResult


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over heads.

    Attributes:
        iou: mean test IoU over heads; the interval resamples texts, all heads together.
        nodes: mean complexity.
        controls: by control, the mean test IoU over heads.
    """

    iou: Estimate
    nodes: float
    controls: dict[str, float]


def summarise(results: Sequence[HeadResult], seed: int) -> Summary:
    """Average the results of some heads, which must share their test texts."""
    by_text = np.mean([r.test_ious for r in results], axis=0)
    names = list(results[0].controls)
    return Summary(
        bootstrap(by_text, seed),
        float(np.mean([r.nodes for r in results])),
        {name: float(np.mean([r.controls[name] for r in results])) for name in names},
    )
