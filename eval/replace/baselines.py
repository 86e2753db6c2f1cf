"""Baselines: what heads are replaced by beside their programs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from attn_dsl.compiler.program import Program
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.controls import offsets, simple_controls
from attn_dsl.eval.replace.programs import Programs
from attn_dsl.eval.replace.source import Head, Part, visible

BASELINES = ("uniform", "first token", "mean by offset", "zero")


class Zero:
    """Zero ablation: attention to nothing, so that the head adds nothing but its output's bias.

    >>> Zero(causal=True).bundle([Tokens.from_strings(["a", " b"])]).tolist()
    [[[[0.0, 0.0], [0.0, 0.0]]]]
    """

    def __init__(self, causal: bool) -> None:
        self.names: tuple[str, ...] = ("zero",)
        self.causal = causal

    def bundle(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return zeros, float32 (1, texts, n, n)."""
        n = max(map(len, texts), default=0)
        return torch.zeros(1, len(texts), n, n)


class MeanByOffset:
    """Heads' own attention, averaged over all pairs at the same distance.

    >>> mean = MeanByOffset([[0.0, 3.0, 1.0]], causal=True)  # offsets -1, 0 and 1
    >>> mean.bundle([Tokens.from_strings(["a", " b"])]).tolist()
    [[[[1.0, 0.0], [0.25, 0.75]]]]

    Args:
        masses: (heads, 2 d + 1), by offset q - k from -d to d, not negative. A pair farther apart
            than d has the mass of the farthest offset on its side.
        causal: whether a query sees only keys up to itself.
    """

    def __init__(self, masses: Sequence[Sequence[float]] | np.ndarray, causal: bool) -> None:
        self.masses = torch.as_tensor(np.asarray(masses), dtype=torch.float32)
        self.names, self.causal = ("mean by offset",) * len(self.masses), causal

    def bundle(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return the matrices, float32 (heads, texts, n, n)."""
        sees = visible([len(text) for text in texts], self.causal)
        at = torch.arange(sees.shape[-1])
        reach = self.masses.shape[1] // 2
        gaps = (at[:, None] - at[None, :]).clamp(-reach, reach) + reach
        mass = torch.where(sees, self.masses[:, None, gaps] + 1e-9, 0.0)
        return mass / mass.sum(-1, keepdim=True).clamp(min=1e-30)


def offset_masses(
    capture: Capture, texts: Sequence[int], heads: Sequence[Head]
) -> dict[Head, np.ndarray]:
    """Average the attention of heads over all pairs at the same distance in some texts.

    Returns:
        By head, its masses by offset, as ``MeanByOffset`` takes them.
    """
    longest = max((len(capture.tokens(i)) for i in texts), default=1)
    numbers = [layer * capture.heads_per_layer + head for layer, head in heads]
    sums, counts = np.zeros((len(heads), 2 * longest + 1)), np.zeros(2 * longest + 1)
    for text in texts:
        at = offsets(len(capture.tokens(text)), capture.causal) + longest
        counts += np.bincount(at, minlength=len(counts))
        for row, values in enumerate(capture.attention(text, numbers)):
            sums[row] += np.bincount(at, values, minlength=len(counts))
    return dict(zip(heads, sums / np.maximum(counts, 1.0), strict=True))


def baseline(name: str, heads: Sequence[Head], causal: bool) -> dict[Head, Part]:
    """Put a baseline that is the same for every head in the place of some heads.

    >>> [part.name for part in baseline("zero", [(0, 1), (0, 2)], causal=True).values()]
    ['zero', 'zero']
    """
    if name == "zero":
        return dict.fromkeys(heads, Part(Zero(causal), 0))
    program = Program.from_tree(simple_controls(causal)[name])
    return dict.fromkeys(heads, Part(Programs([program]), 0))
