"""A split: its texts, and programs scored on them against one head, over all visible entries."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl import tree as t
from attn_dsl.eval import outputs
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.metrics import ious
from attn_dsl.eval.score_matrix import METRICS, measure_texts


@dataclass(frozen=True, slots=True)
class HeadScores:
    """Programs beside a head; errors and spreads of outputs are nan without values."""

    ious: np.ndarray  # float64 (programs, texts)
    errors: np.ndarray  # float64 (programs, texts), squared errors of the outputs
    spreads: np.ndarray  # float64 (texts), squares of the head's outputs about their mean

    @property
    def output_r2(self) -> np.ndarray:
        """The output R² of each program over all texts; nan where it is not known."""
        found: np.ndarray = 1.0 - self.errors.sum(1) / self.spreads.sum()
        return found


class Split:
    """The texts of one split, encoded once for all programs that are scored on them."""

    def __init__(self, capture: Capture, texts: Sequence[int]) -> None:
        self.capture, self.texts = capture, tuple(texts)
        self.batch = Batch([capture.tokens(i) for i in texts])

    def __len__(self) -> int:
        return len(self.texts)

    def compare(self, programs: Sequence[t.Head], number: int) -> HeadScores:
        """Score programs against a head, given by number, by IoU and, with values, by outputs."""
        capture, shape = self.capture, (len(programs), len(self.texts))
        found, errors, spreads = np.empty(shape), np.full(shape, np.nan), np.full(shape[1], np.nan)
        if programs:
            plan = Plan(programs, self.batch)
            if capture.has_outputs:
                spreads = outputs.spreads(capture, self.texts, [number])[0]
            for at, text in enumerate(self.texts):
                actual, predicted = capture.attention(text, [number]), plan.packed(at)
                found[:, at] = ious(actual, predicted)[0]
                if capture.has_outputs:
                    errors[:, at] = outputs.squared_errors(capture, text, [number], predicted)[0]
        return HeadScores(found, errors, spreads)

    def metrics(self, program: t.Head, number: int) -> dict[str, np.ndarray]:
        """Score one program by every metric, each float64 (texts,)."""
        plan = Plan([program], self.batch)
        found = [*measure_texts(plan, lambda i: self.capture.attention(self.texts[i], [number]))]
        return {name: np.array([one[name][0, 0] for one in found]) for name in METRICS}
