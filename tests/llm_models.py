"""Language models for tests: the demo model with room for long prompts, as a folder and as GGUF."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from attn_dsl.eval.locate import embedded
from attn_dsl.synth.llm.grammar import proposal_grammar

CONTEXT = 4096


def save_language_model(folder: Path, context: int = CONTEXT) -> Path:
    """Save the demo model with its positions repeated, so that prompts of any length fit."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(embedded("demo"), dtype=torch.float32)
    positions = model.transformer.wpe
    positions.weight.data = positions.weight.data.repeat(-(-context // 256), 1)[:context]
    positions.num_embeddings = model.config.n_positions = context
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(embedded("demo"), model_max_length=context).save_pretrained(folder)
    return folder


def save_gguf(folder: Path, file: Path) -> Path:
    """Write a saved GPT-2 with its byte-level BPE tokenizer as a GGUF file of float32 tensors."""
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    bpe = json.loads((folder / "tokenizer.json").read_text())["model"]
    writer = gguf.GGUFWriter(file, "gpt2")
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_block_count(config["n_layer"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    end = config["eos_token_id"]
    tokens[end] = "<|endoftext|>"  # GPT-2's name, which transformers adds where it is missing
    kinds = [gguf.TokenType.CONTROL if i == end else gguf.TokenType.NORMAL for i in range(len(tokens))]
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(True)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, config["n_layer"])
    for name, values in load_file(folder / "model.safetensors").items():
        matrix = name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is not None:
            writer.add_tensor(found, (values.T.copy() if matrix else values).astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@lru_cache(maxsize=2)
def _byte_matcher(causal: bool) -> Any:
    from llguidance import LLMatcher, LLTokenizer

    return LLMatcher(LLTokenizer("byte"), proposal_grammar(causal))


def is_proposal(source: str, causal: bool = True) -> bool:
    """Say whether the grammar of proposals has a program."""
    matcher, data = _byte_matcher(causal).deep_copy(), list(source.encode("utf-8", "surrogatepass"))
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a language model that knows stories and nothing else."""
    return save_language_model(tmp_path_factory.mktemp("language_model"))


@pytest.fixture(scope="session")
def gguf_model(language_model: Path) -> Iterator[Path]:
    """The same model as a GGUF file; what is read of prompts is kept beside it."""
    pytest.importorskip("llama_cpp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(language_model.with_name("cache")))
        yield save_gguf(language_model, language_model.with_name("model.gguf"))
