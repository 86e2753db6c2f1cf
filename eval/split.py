"""A split: its texts, and programs scored on them against one head, over all visible entries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl import tree as t
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.metrics import ious
from attn_dsl.eval.score_matrix import METRICS, measure_text


class Split:
    """The texts of one split, encoded once for all programs that are scored on them."""

    def __init__(self, capture: Capture, texts: Sequence[int]) -> None:
        self.capture, self.texts = capture, tuple(texts)
        self.batch = Batch([capture.tokens(i) for i in texts])

    def __len__(self) -> int:
        return len(self.texts)

    def ious(self, programs: Sequence[t.Head], number: int) -> np.ndarray:
        """Score programs by IoU against a head, float64 (programs, texts).

        Args:
            number: of the head, ``layer * heads_per_layer + head``.
        """
        out = np.empty((len(programs), len(self.texts)))
        if programs:
            plan = Plan(programs, self.batch)
            for at, text in enumerate(self.texts):
                actual = self.capture.attention(text, [number])
                out[:, at] = ious(actual, plan.packed(at))[0]
        return out

    def metrics(self, program: t.Head, number: int) -> dict[str, np.ndarray]:
        """Score one program by every metric, each float64 (texts,)."""
        plan = Plan([program], self.batch)
        found = [
            measure_text(plan, at, self.capture.attention(text, [number]))
            for at, text in enumerate(self.texts)
        ]
        return {name: np.array([one[name][0, 0] for one in found]) for name in METRICS}
