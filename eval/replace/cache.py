"""Caches: which tokens a key-value cache holds, while heads are replaced.

Programs read tokens, a cache holds keys and values. A layer of ids is added to each cache of the
model: whatever crops, repeats or reorders the cache (beam search) does so with its ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from attn_dsl.dsl.errors import InputError

_NAME = "attn_dsl_tokens"


def cache_among(values: Iterable[Any]) -> Any:
    """Find the cache among the arguments of a forward pass, or among what it returned; None: none.

    It is found by its type, since releases of ``transformers`` differ in what they call it.
    """
    from transformers import Cache

    return next((value for value in values if isinstance(value, Cache)), None)


def ids_in(cache: Any) -> torch.Tensor | None:
    """Return the ids that a cache holds, int64 (texts, tokens); None for an empty cache.

    Raises:
        InputError: the cache was filled where nobody noted its tokens.
    """
    length = int(cache.get_seq_length()) if cache is not None else 0
    if length == 0:
        return None
    layer = getattr(cache, _NAME, None)
    if layer is None or layer.get_seq_length() != length:
        raise InputError(
            f"the key-value cache holds {length} tokens that were read before heads were replaced, "
            "and the programs do not know them; start with an empty cache inside of the context"
        )
    ids: torch.Tensor = layer.keys[:, 0, :, 0]
    return ids


def note(cache: Any, ids: torch.Tensor) -> None:
    """Note the ids that a cache holds, int64 (texts, tokens)."""
    from transformers.cache_utils import DynamicLayer

    layer = getattr(cache, _NAME, None)
    if layer is None:
        layer = DynamicLayer()
        setattr(cache, _NAME, layer)
        cache.layers.append(layer)
    layer.is_initialized = False
    layer.update(ids[:, None, :, None], ids[:, None, :, None])


def forget(cache: Any) -> None:
    """Turn a cache into what it was."""
    cache.layers.remove(cache.__dict__.pop(_NAME))
