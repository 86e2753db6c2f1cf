"""Sources: what gives the attention of replaced heads, from the tokens of a text alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from attn_dsl.dsl.tokens import Tokens

Head = tuple[int, int]
"""Layer and query head, both from 0."""


class SourceGroup(Protocol):
    """The attention of several heads, computed together; ``Part`` is one of them."""

    names: tuple[str, ...]  # of the heads, in order, for reports and errors
    # whether row q is the same whatever follows q, and zero after q. A model whose heads are
    # causal takes no other source.
    causal: bool

    def bundle(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return the matrices of all heads on a batch of texts.

        Returns:
            float32 (heads, texts, n, n) with n the longest text, on any device: queries by keys.
            Zero outside of a text and where a query cannot see. Gradients reach the parameters
            of a group through the model.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One head of a source group, by its number there."""

    group: SourceGroup
    number: int

    @property
    def name(self) -> str:
        """The head's name in the group."""
        return self.group.names[self.number]


def visible(lengths: Sequence[int], causal: bool) -> torch.Tensor:
    """Say what each query of a batch of texts sees, given the tokens of each.

    >>> visible([2], causal=True).tolist()
    [[[True, False], [True, True]]]

    Returns:
        bool (texts, n, n) with n the longest text.
    """
    n = max(lengths, default=0)
    inside = torch.arange(n) < torch.tensor(lengths)[:, None]
    pairs = inside[:, :, None] & inside[:, None, :]
    return pairs & torch.ones(n, n, dtype=torch.bool).tril() if causal else pairs
