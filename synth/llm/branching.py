"""Completions that branch off one prompt, in transformers: its keys and values are kept once.

Every completion attends to the prompt's cells and to its own. For the former one product of
matrices does for all completions; copies of the prompt for each would have to be made, kept and read
at every step.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, Cache, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "attn_dsl_branching"
"""What the attention is called in models that use it."""
KINDS = frozenset({"llama", "qwen2", "qwen3", "mistral"})
"""Architectures whose attention is a softmax of scaled products, and nothing more."""


class BranchLayer(DynamicLayer):  # type: ignore[misc]
    """The cells of one layer: the prompt's, (1, heads, tokens, width), and the completions' own."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.prompt = keys[0], values[0]

    def get_seq_length(self) -> int:
        """Return how many tokens each completion has before it, those of the prompt included."""
        return int(self.prompt[0].shape[-2] + super().get_seq_length())


def branched(prompt: DynamicCache) -> Cache:
    """Return a cache of completions that have nothing yet but a prompt in common."""
    return Cache(layers=[BranchLayer(layer.keys, layer.values) for layer in prompt.layers])


class _Current(threading.local):
    cache: Cache | None = None


_current = _Current()


@contextlib.contextmanager
def using(cache: Cache) -> Iterator[None]:
    """Let attention look at the prompt of a cache as well."""
    _current.cache = cache
    try:
        yield
    finally:
        _current.cache = None


def attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None, scaling: float | None = None, **more: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Attend to the prompt of the current cache and to the completions' own keys.

    Args:
        query: (completions, heads, 1, width); each sees all keys that there are.
        key, value: (completions, heads of keys, own tokens, width).

    Returns:
        (completions, 1, heads, width).
    """
    if _current.cache is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
    prompt_keys, prompt_values = _current.cache.layers[module.layer_idx].prompt
    count, heads, _, width = query.shape
    groups = key.shape[1]
    q = query[:, :, 0].reshape(count, groups, heads // groups, width)
    q = q * (width**-0.5 if scaling is None else scaling)
    together = q.transpose(0, 1).reshape(groups, -1, width)
    first = (together @ prompt_keys.transpose(1, 2)).float()
    first = first.reshape(groups, count, heads // groups, -1).transpose(0, 1)
    own = (q @ key.transpose(2, 3)).float()
    top = torch.maximum(first.amax(-1, keepdim=True), own.amax(-1, keepdim=True))
    first, own = (first - top).exp(), (own - top).exp()
    total = first.sum(-1, keepdim=True) + own.sum(-1, keepdim=True)
    mass = first.transpose(0, 1).reshape(groups, -1, first.shape[-1]).to(value.dtype)
    out = (mass @ prompt_values).reshape(groups, count, heads // groups, width).transpose(0, 1)
    out = (out + own.to(value.dtype) @ value) / total.to(value.dtype)
    return out.reshape(count, 1, heads, width), None


def can_branch(config: Any) -> bool:
    """Say whether a model's attention is of the kind that is computed here."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    sliding = getattr(config, "use_sliding_window", True) and getattr(
        config, "sliding_window", None
    )
    return config.model_type in KINDS and kinds == {"full_attention"} and not sliding


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
