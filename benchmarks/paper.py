"""The paper's way of computing, written from its description, as the other side of comparisons.

A program is a Python function with loops over query and key that fills a NumPy matrix in float64;
IoU clips both matrices and sums their element-wise minima and maxima.
"""

from __future__ import annotations

import numpy as np

STOPS = {".", "!", "?"}


def program(tokens: list[str]) -> np.ndarray:
    """A typical program: previous token, repeated tokens, stops and the first token, normalised."""
    n = len(tokens)
    out = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            weight = 0.1
            if j == 0:
                weight += 1.0
            if j == i - 1:
                weight += 2.0
            if j > 0 and tokens[j - 1].strip().lower() == tokens[i].strip().lower():
                weight += 3.0
            if tokens[j].strip() in STOPS:
                weight += 0.5
            out[i, j] = weight
        out[i] /= out[i].sum()
    return out


def iou(actual: np.ndarray, predicted: np.ndarray) -> float:
    """IoU of two matrices."""
    a, b = np.clip(actual, 0.0, 1.0), np.clip(predicted, 0.0, 1.0)
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())
