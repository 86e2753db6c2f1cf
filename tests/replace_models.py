"""Small random models of every family in which heads can be replaced, and their tokenizer."""

from __future__ import annotations

import copy
import inspect
from functools import cache
from pathlib import Path
from typing import Any

CAUSAL = (
    *("gpt2", "gpt2-sdpa", "llama", "llama-sdpa", "mistral-wide", "qwen3", "gpt_neox", "gpt_neo"),
    *("gptj", "bloom", "falcon", "falcon-sdpa", "falcon-alibi"),
)
ENCODERS = ("bert", "bert-sdpa", "roberta")
TRIED = (
    *("qwen2", "gemma", "gemma3_text", "phi", "stablelm", "gpt_neo-local", "opt", "mpt", "xglm"),
    *("modernbert", "electra", "distilbert", "albert", "mpnet", "deberta", "deberta-v2", "roberta"),
)
"""Further families that work, with what is special about them."""
GROUPED = ("qwen2", "gemma", "stablelm", "bitnet", "diffllama")
"""Families with fewer heads of keys than of queries."""


def save(folder: Path, family: str) -> Path:
    """Save a model and a tokenizer, which has a mask token where the model is an encoder."""
    made, words = model(family), copy.deepcopy(tokenizer("bert" if family == "bert" else "gpt2"))
    if "MaskedLM" in type(made).__name__:
        words.mask_token = "<unk>"
    for part in (made, words):
        part.save_pretrained(folder)
    return folder


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
            "attention_types": [[["global", "local"], 1] if option else [["global"], 2]],
            "window_size": 8,
        },
        "gptj": {**words, **old, "rotary_dim": 4},
        "bloom": {**wide, "n_layer": 2, "n_head": 4},
        "falcon": {**usual, **places, "alibi": option == "alibi", "multi_query": False},
        "bert": rest,
        "roberta": {**rest, "max_position_embeddings": 66, "type_vocab_size": 1},
        "gemma3_text": {**grouped, "sliding_window": 8},
        "opt": {**usual, **places, "ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.3},
        "mpt": {**wide, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "expansion_ratio": 2},
        "xglm": {
            **words, **places, "d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48,
            "init_std": 0.3,
        },
        "modernbert": {**rest, "local_attention": 8, "cls_token_id": 0, "sep_token_id": 1},
        "electra": {**rest, "embedding_size": 32},
        "distilbert": {
            **wide, **places, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48
        },
        "albert": {**rest, "embedding_size": 16},
        "mpnet": {**rest, "max_position_embeddings": 66},
        "deberta-v2": {**rest, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
        "convbert": {**rest, "embedding_size": 32, "head_ratio": 1},
        "xlnet": {**words, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
        "squeezebert": {**rest, "embedding_size": 32},
    }  # fmt: skip
    name = family if family in options else name
    config = hf.AutoConfig.for_model(name, **options.get(name, grouped if name in GROUPED else rest))
    masked = name in hf.models.auto.modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    made = (hf.AutoModelForMaskedLM if masked else hf.AutoModelForCausalLM).from_config(config)
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
