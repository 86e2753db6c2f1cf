"""Small language models for tests: random weights, a tokenizer made for the purpose."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from attn_dsl.dsl.printer import show_term
from attn_dsl.eval.shipped import stories_path
from attn_dsl.synth import vocabulary

BYTES = [f"<0x{i:02X}>" for i in range(256)]


def texts() -> list[str]:
    """What tokenizers are trained on: stories, and terms of the language."""
    lines = stories_path().read_text(encoding="utf-8").splitlines()[:200]
    return [*(json.loads(line)["text"] for line in lines), *map(show_term, vocabulary.terms(True))]


def byte_fallback_tokenizer(texts: Sequence[str], size: int = 2_000) -> Any:
    """Train a tokenizer of the kind that Llama has: words with a mark for the blank, and bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    whole = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    whole.normalizer = normalizers.Replace(" ", "▁")
    whole.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    special = ["<unk>", "<s>", "</s>", *BYTES]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    whole.train_from_iterator(texts, trainer)
    plain = json.loads(whole.to_str())
    plain["added_tokens"] = [a for a in plain["added_tokens"] if a["content"] not in BYTES]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(plain)), unk_token="<unk>", bos_token="<s>",
        eos_token="</s>",
    )  # fmt: skip


def save_language_model(folder: Path, *, context: int = 4096, prompt: str = "page") -> Path:
    """Save a Llama of two layers with random weights, that knows nothing."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_fallback_tokenizer(texts())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=context,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        attn_dsl_prompt=prompt,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model with random weights."""
    return save_language_model(tmp_path_factory.mktemp("language_model"))
