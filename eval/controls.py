"""Controls: what trivial programs explain of each head, printed beside every result.

Uniform attention, the first token, the previous token, the head's own mean by offset, and the
best of a grid of positional kernels, which is picked for each head like a program is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan, pack
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.eval.metrics import ious
from attn_dsl.eval.shards import normalise_rows

if TYPE_CHECKING:
    from attn_dsl.eval.capture import Capture

DECAYS = (0.0, 0.03, 0.1, 0.3, 0.6, 1.2)
SELF = (-4.0, 0.0, 2.0)
FIRST = (0.0, 1.5, 3.0, 6.0)
NAMES = ("uniform", "first token", "previous token", "mean by offset", "positional grid")
"""The controls, in the order in which they are reported."""


def simple_controls(causal: bool) -> dict[str, t.Head]:
    """Return the controls that are one fixed program."""
    visibility = "causal" if causal else "bidirectional"
    return {
        "uniform": parse(f"head uniform {visibility} linear:\n"),
        "first token": parse(f"head first {visibility} linear:\n 1 where k == 0"),
        "previous token": parse(f"head previous {visibility} linear:\n 1 where k == q-1"),
    }


def positional_grid(causal: bool) -> list[t.Head]:
    """Return the 72 kernels: distance decay, weight on self, bonus for the first token.

    >>> len(positional_grid(causal=True))
    72
    """
    visibility = "causal" if causal else "bidirectional"
    return [
        parse(
            f"head positional {visibility} softmax:\n -{decay} * abs(q - k)\n"
            f" {itself} where k == q\n {first} where k == 0"
        )
        for decay, itself, first in product(DECAYS, SELF, FIRST)
    ]


def control_ious(
    capture: Capture, texts: Mapping[Any, Sequence[int]], heads: Sequence[int]
) -> dict[str, np.ndarray]:
    """Score every control against heads on the test texts.

    Args:
        capture: the heads' attention.
        texts: the texts of each split: ``fit``, ``select``, ``test``.
        heads: numbers of heads, ``layer * heads_per_layer + head``.

    Returns:
        By control: IoU, float64 (heads, test texts). What is fitted (mean by offset) is fitted
        on ``fit``, what is picked (the positional kernel) on ``select``.
    """
    simple, grid = simple_controls(capture.causal), positional_grid(capture.causal)
    scores: dict[str, np.ndarray] = {}
    for split in ("select", "test"):
        programs = grid if split == "select" else [*grid, *simple.values()]
        plan = Plan(programs, Batch([capture.tokens(i) for i in texts[split]]))
        scores[split] = np.zeros((len(heads), len(programs), len(texts[split])))
        for at, text in enumerate(texts[split]):
            scores[split][:, :, at] = ious(capture.attention(text, heads), plan.packed(at))
    picked = scores["select"].sum(-1).argmax(1)
    found = {name: scores["test"][:, len(grid) + i] for i, name in enumerate(simple)}
    found["mean by offset"] = _mean_by_offset(capture, texts, heads)
    found["positional grid"] = scores["test"][np.arange(len(heads)), picked]
    return {name: found[name] for name in NAMES}


def offsets(n: int, causal: bool) -> np.ndarray:
    """Return q - k of every visible entry of a text of n tokens, packed."""
    return pack(np.subtract.outer(np.arange(n), np.arange(n)), causal)


def offset_means(
    capture: Capture, texts: Sequence[int], heads: Sequence[int]
) -> tuple[np.ndarray, int]:
    """Average the attention of heads over all pairs of tokens at the same distance.

    Args:
        texts: those that are averaged over.
        heads: numbers of heads, ``layer * heads_per_layer + head``.

    Returns:
        float64 (heads, 2 d + 1), by offset q - k from -d to d; and d, the longest text of the
        capture.
    """
    longest = max(len(capture.tokens(i)) for i in range(capture.n_texts))
    width = 2 * longest + 1
    sums, counts = np.zeros((len(heads), width)), np.zeros(width)
    for text in texts:
        at = offsets(len(capture.tokens(text)), capture.causal) + longest
        counts += np.bincount(at, minlength=width)
        for row, values in enumerate(capture.attention(text, heads)):
            sums[row] += np.bincount(at, values, minlength=width)
    return sums / np.maximum(counts, 1.0), longest


def _mean_by_offset(
    capture: Capture, texts: Mapping[Any, Sequence[int]], heads: Sequence[int]
) -> np.ndarray:
    means, longest = offset_means(capture, texts["fit"], heads)
    mean = means.astype(np.float32) + np.float32(1e-9)
    out = np.empty((len(heads), len(texts["test"])))
    for column, text in enumerate(texts["test"]):
        n = len(capture.tokens(text))
        predicted = mean[:, offsets(n, capture.causal) + longest]
        normalise_rows(predicted, n, capture.causal)
        for row, actual in enumerate(capture.attention(text, heads)):
            out[row, column] = ious(actual[None], predicted[row : row + 1])[0, 0]
    return out
