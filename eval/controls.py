"""Controls: what trivial programs explain of each head, printed beside every result.

Uniform attention, the first token, the previous token, the head's own mean by offset, and the
best of a grid of positional kernels, which is picked for each head like a program is.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan, pack
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.metrics import ious
from attn_dsl.eval.outputs import spreads, squared_errors
from attn_dsl.eval.results import CONTROLS
from attn_dsl.eval.shards import normalise_rows

DECAYS = (0.0, 0.03, 0.1, 0.3, 0.6, 1.2)
SELF = (-4.0, 0.0, 2.0)
FIRST = (0.0, 1.5, 3.0, 6.0)
SOME = 16
"""On how many texts of ``select`` kernels are picked by outputs."""


def simple_controls(causal: bool) -> dict[str, t.Head]:
    """Return the controls that are one fixed program."""
    visibility = "causal" if causal else "bidirectional"
    return {"uniform": parse(f"head uniform {visibility} linear:\n"),
            "first token": parse(f"head first {visibility} linear:\n 1 where k == 0"),
            "previous token": parse(f"head previous {visibility} linear:\n 1 where k == q-1")}  # fmt: skip


def positional_grid(causal: bool) -> list[t.Head]:
    """Return the 72 kernels: distance decay, weight on self, bonus for the first token."""
    visibility = "causal" if causal else "bidirectional"
    return [parse(f"head positional {visibility} softmax:\n -{decay} * abs(q - k)\n"
                f" {itself} where k == q\n {first} where k == 0")
            for decay, itself, first in product(DECAYS, SELF, FIRST)]  # fmt: skip


def control_scores(capture: Capture, texts: Mapping[Any, Sequence[int]],
                   heads: Sequence[int]) -> dict[str, np.ndarray]:  # fmt: skip
    """Score every control against heads on the test texts.

    Means by offset are taken over the texts of ``fit``. The positional kernel is picked on those of
    ``select``: by IoU for the IoU, and by outputs for the output R².

    Args:
        texts: the texts of each split: ``fit``, ``select``, ``test``.
        heads: numbers of heads, ``layer * heads_per_layer + head``.

    Returns:
        By control: mean IoU, and output R² (nan without values), float64 (2, heads).
    """
    simple, grid = simple_controls(capture.causal), positional_grid(capture.causal)
    picked = _pick(capture, texts["select"], heads, grid)
    means = offset_means(capture, texts["fit"], heads)
    plan = Plan([*simple.values(), *grid], Batch([capture.tokens(i) for i in texts["test"]]))
    scores = np.full((2, len(heads), len(simple) + 3, len(texts["test"])), np.nan)
    for at, text in enumerate(texts["test"]):
        every = plan.packed(at)
        by_offset = rows_by_offset(means, len(capture.tokens(text)), capture.causal)
        for row, (head, own) in enumerate(zip(heads, by_offset, strict=True)):
            predicted = np.concatenate([every[: len(simple)], own[None], every[picked[row]]])
            scores[0, row, :, at] = ious(capture.attention(text, [head]), predicted)[0]
            if capture.has_outputs:
                scores[1, row, :, at] = squared_errors(capture, text, [head], predicted)[0]
    found = np.stack([scores[0].mean(-1), np.full(scores.shape[1:3], np.nan)])
    if capture.has_outputs:
        total = spreads(capture, texts["test"], heads).sum(1, keepdims=True)
        found[1] = 1.0 - scores[1].sum(-1) / total
    found[1, :, -2] = found[1, :, -1]  # the kernel that was picked by outputs
    return {name: found[:, :, i] for i, name in enumerate(CONTROLS)}


def _pick(capture: Capture, texts: Sequence[int], heads: Sequence[int], grid: list[t.Head]) -> np.ndarray:
    """Return the places of the kernels that are best by IoU and by outputs, int64 (heads, 2)."""
    plan = Plan(grid, Batch([capture.tokens(i) for i in texts]))
    scores = np.zeros((len(heads), 2, len(grid)))
    for at, text in enumerate(texts):
        predicted = plan.packed(at)
        scores[:, 0] += ious(capture.attention(text, heads), predicted)
        if capture.has_outputs and at < SOME:
            scores[:, 1] -= squared_errors(capture, text, heads, predicted)
    return scores.argmax(-1) + len(simple_controls(capture.causal))


def offsets(n: int, causal: bool) -> np.ndarray:
    """Return q - k of every visible entry of a text of n tokens, packed."""
    return pack(np.subtract.outer(np.arange(n), np.arange(n)), causal)


def offset_means(capture: Capture, texts: Sequence[int], heads: Sequence[int]) -> np.ndarray:
    """Average the attention of heads over all pairs of tokens of some texts at the same distance.

    Returns:
        float64 (heads, 2 d + 1), by offset q - k from -d to d, where d is the length of the longest
        text of the capture.
    """
    longest = max(len(capture.tokens(i)) for i in range(capture.n_texts))
    width = 2 * longest + 1
    sums, counts = np.zeros((len(heads), width)), np.zeros(width)
    for text in texts:
        at = offsets(len(capture.tokens(text)), capture.causal) + longest
        counts += np.bincount(at, minlength=width)
        for row, values in enumerate(capture.attention(text, heads)):
            sums[row] += np.bincount(at, values, minlength=width)
    return sums / np.maximum(counts, 1.0)


def rows_by_offset(means: np.ndarray, n: int, causal: bool) -> np.ndarray:
    """Return the attention that ``offset_means`` give on n tokens, packed: float32 (heads, entries).

    A pair farther apart than d has the mass of the farthest offset on its side.
    """
    far = means.shape[1] // 2
    rows = means.astype(np.float32)[:, np.clip(offsets(n, causal), -far, far) + far] + np.float32(1e-9)
    normalise_rows(rows, n, causal)
    return rows
