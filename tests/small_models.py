"""Small random models of every tested family, with a tokenizer trained on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from llm_models import save_gguf

_CORPUS = [
    "the cat sat on the mat and the dog ran to the park .",
    "she saw a bird . one day the boy and the girl went to see the end .",
] * 4


def save_model(folder: Path, family: str) -> Path:
    """Save a model of 2 layers x 4 heads and 64 positions, and its tokenizer."""
    import torch
    import transformers as hf

    torch.manual_seed(0)
    tokenizer = _tokenizer(family)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48}
    depth = {"num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    positions = {"max_position_embeddings": 64}
    # weights far larger than usual, so that attention is peaked and differs from head to head
    wide = {"initializer_range": 0.5}
    if family == "gpt2":
        gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
        config = hf.GPT2Config(vocab_size=len(tokenizer), **gpt2, **ids, **wide)
        network = hf.GPT2LMHeadModel(config)
    elif family == "llama":
        config = hf.LlamaConfig(**sizes, **depth, **ids, **positions, **wide, num_key_value_heads=2)
        network = hf.LlamaForCausalLM(config)
    elif family == "gpt_neox":
        network = hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**sizes, **depth, **ids, **positions, **wide))
    elif family == "bert":
        network = hf.BertForMaskedLM(hf.BertConfig(**sizes, **depth, **ids, **positions, **wide))
    else:
        config = hf.RobertaConfig(
            **sizes, **depth, **ids, **wide, max_position_embeddings=66, type_vocab_size=1
        )
        network = hf.RobertaModel(config)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(family: str):  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>", "<unk>"]
    if family == "bert":
        backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    backend.train_from_iterator(_CORPUS, trainer)
    end = " </s>" if family in ("bert", "roberta") else ""
    backend.post_processor = TemplateProcessing(
        single="<s> $A" + end, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the directory of a saved small model of a family, made when first asked for."""
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("models")
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = save_model(root / f"small-{family}", family)
        return made[family]

    return get


@pytest.fixture(scope="session")
def small_gguf(small_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the small GPT-2 as a GGUF file."""
    return save_gguf(small_model("gpt2"), tmp_path_factory.mktemp("gguf") / "small.gguf")
