"""Small random models of every family in which heads can be replaced, and their tokenizer."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

CAUSAL = (
    *("gpt2", "gpt2-sdpa", "llama", "llama-sdpa", "mistral-wide", "qwen3", "gpt_neox", "gpt_neo"),
    *("gptj", "bloom", "falcon", "falcon-sdpa", "falcon-alibi"),
)
ENCODERS = ("bert", "bert-sdpa", "roberta")


@cache
def tokenizer(family: str = "gpt2") -> Any:
    """Return a tokenizer trained on a few sentences."""
    from small_models import _tokenizer

    return _tokenizer(family)


def model(family: str) -> Any:
    """Return a new model of 2 layers x 4 heads and 64 positions, in evaluation mode."""
    import torch
    import transformers as hf

    torch.manual_seed(0)
    name, _, option = family.partition("-")
    words = {"vocab_size": 320, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    wide = {**words, "initializer_range": 0.3, "hidden_size": 32}
    usual = {**wide, "num_hidden_layers": 2, "num_attention_heads": 4}
    places = {"max_position_embeddings": 64}
    rest = {**usual, **places, "intermediate_size": 48}
    grouped = {**rest, "num_key_value_heads": 2, "head_dim": 8}
    old = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    options: dict[str, dict[str, Any]] = {
        "gpt2": {**usual, "n_positions": 64},
        "llama": grouped,
        "mistral": {**grouped, "sliding_window": 32 if option == "wide" else 8},
        "qwen3": grouped,
        "gpt_neox": rest,
        "gpt_neo": {
            **wide, **places, "num_layers": 2, "num_heads": 4,
            "attention_types": [[["global"], 2]],
        },
        "gptj": {**words, **old, "rotary_dim": 4},
        "bloom": {**wide, "n_layer": 2, "n_head": 4},
        "falcon": {**usual, **places, "alibi": option == "alibi", "multi_query": False},
        "bert": rest,
        "roberta": {**rest, "max_position_embeddings": 66, "type_vocab_size": 1},
    }  # fmt: skip
    config = hf.AutoConfig.for_model(name, **options[name])
    kind = hf.AutoModelForMaskedLM if family in ENCODERS else hf.AutoModelForCausalLM
    made = kind.from_config(config)
    implementation = "sdpa" if option == "sdpa" else "eager"
    for part in made.modules():
        if hasattr(part, "config"):
            part.config._attn_implementation = implementation
    return made.eval()


def cached(model: Any, cache: Any) -> dict[str, Any]:
    """Give a model a cache by the name that its release of transformers has for it."""
    known = inspect.signature(model.forward).parameters
    return {"cache" if "cache" in known else "past_key_values": cache}


def cache_in(output: Any) -> Any:
    """Find the cache that a forward pass returned."""
    from transformers import Cache

    return next(x for x in output.values() if isinstance(x, Cache))
