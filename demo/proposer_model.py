"""The proposer's network: a small Llama, written for fast training on one CPU core, and its exports.

Weights are float32, the passes over them bfloat16 but for attention. ``export`` writes them in float16
for ``transformers`` (``LlamaForCausalLM``) and as GGUF for llama.cpp.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from proposer_tokenizer import BEGIN, END, UNKNOWN
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

THETA, EPS = 10_000.0, 1e-5
PROMPT = "compact"
"""Which prompt the model was trained on, as its files say."""


def config_of(vocabulary: int, width: int, layers: int, inner: int, context: int) -> LlamaConfig:
    """Describe the network for ``transformers``: heads of 32, embeddings used for output as well."""
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=width // 32, num_key_value_heads=width // 32, head_dim=32,
        max_position_embeddings=context, rms_norm_eps=EPS, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        bos_token_id=1, eos_token_id=2, attn_dsl_prompt=PROMPT,
    )  # fmt: skip


class Network(torch.nn.Module):
    """A Llama whose projections of a layer are joined."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        d, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers

        def matrix(rows: int, columns: int, scale: float = 1.0) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.randn(rows, columns) * scale * columns**-0.5)

        self.embedding = torch.nn.Parameter(torch.randn(config.vocab_size, d) * 0.04)
        self.norm = torch.nn.Parameter(torch.ones(d))
        depth = (2 * layers) ** -0.5
        self.blocks = torch.nn.ModuleList()
        for _ in range(layers):
            block = torch.nn.Module()
            block.first, block.second = (torch.nn.Parameter(torch.ones(d)) for _ in range(2))
            block.qkv, block.out = matrix(3 * d, d), matrix(d, d, depth)
            block.gate_up, block.down = matrix(2 * inner, d), matrix(d, inner, depth)
            with torch.no_grad():  # like attends to like from the start
                block.qkv[d : 2 * d] = block.qkv[:d]
            self.blocks.append(block)

    def forward(self, ids: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Return the logits after some tokens, float32 (wanted, vocabulary).

        Args:
            ids: int64 (batch, length), shorter ones filled up at the end.
            wanted: bool (batch, length).
        """
        low = torch.bfloat16 if ids.device.type == "cpu" else torch.float32
        length, heads = ids.shape[1], self.config.num_attention_heads
        size = self.config.head_dim
        angle = torch.arange(length)[:, None] / THETA ** (torch.arange(0, size, 2) / size)
        angle = angle.to(ids.device).repeat(1, 2)
        cos, sin = angle.cos(), angle.sin()
        sin[:, : size // 2] *= -1
        table = self.embedding.to(low)
        h = F.embedding(ids, table)
        for block in self.blocks:
            n = F.rms_norm(h, h.shape[-1:], block.first.to(low), EPS)
            qkv = F.linear(n, block.qkv.to(low)).float()
            qkv = qkv.view(*ids.shape, 3, heads, size).permute(2, 0, 3, 1, 4)
            qk, v = qkv[:2], qkv[2]
            q, k = qk * cos + qk.roll(size // 2, -1) * sin
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            mixed = mixed.transpose(1, 2).reshape(h.shape).to(low)
            h = h + F.linear(mixed, block.out.to(low))
            n = F.rms_norm(h, h.shape[-1:], block.second.to(low), EPS)
            gate, up = F.linear(n, block.gate_up.to(low)).chunk(2, -1)
            h = h + F.linear(F.silu(gate) * up, block.down.to(low))
        h = F.rms_norm(h[wanted], h.shape[-1:], self.norm.to(low), EPS)
        return F.linear(h, table).float()

    def named_tensors(self) -> dict[str, torch.Tensor]:
        """Return the weights under the names that ``transformers`` has for them."""
        found = {"model.embed_tokens.weight": self.embedding, "model.norm.weight": self.norm}
        for i, block in enumerate(self.blocks):
            at = f"model.layers.{i}."
            query, key, value = block.qkv.chunk(3)
            gate, up = block.gate_up.chunk(2)
            found |= {
                f"{at}input_layernorm.weight": block.first,
                f"{at}post_attention_layernorm.weight": block.second,
                f"{at}self_attn.q_proj.weight": query, f"{at}self_attn.k_proj.weight": key,
                f"{at}self_attn.v_proj.weight": value, f"{at}self_attn.o_proj.weight": block.out,
                f"{at}mlp.gate_proj.weight": gate, f"{at}mlp.up_proj.weight": up,
                f"{at}mlp.down_proj.weight": block.down,
            }  # fmt: skip
        return {name: x.detach() for name, x in found.items()}


def export(network: Network, tokenizer: PreTrainedTokenizerFast, out: Path, facts: dict) -> None:
    """Write ``proposer/`` and ``proposer.gguf`` into a folder, both in float16.

    Args:
        facts: what ``proposer/training.json`` is to say of the training.
    """
    tensors = {name: x.to(torch.float16) for name, x in network.named_tensors().items()}
    model = LlamaForCausalLM(network.config).to(torch.float16)
    missing = model.load_state_dict(tensors, strict=False)
    if missing.unexpected_keys or set(missing.missing_keys) - {"lm_head.weight"}:
        raise RuntimeError(f"weights and architecture do not fit: {missing}")
    model.generation_config.pad_token_id = 0
    model.save_pretrained(out / "proposer")
    tokenizer.save_pretrained(out / "proposer")
    (out / "proposer" / "training.json").write_text(
        json.dumps(facts, indent=1) + "\n", encoding="utf-8"
    )
    write_gguf(tensors, network.config, tokenizer, out / "proposer.gguf")


def write_gguf(
    tensors: dict[str, torch.Tensor], config: LlamaConfig, tokenizer: PreTrainedTokenizerFast,
    path: Path,
) -> None:  # fmt: skip
    """Write weights and tokenizer as GGUF."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("attn-dsl proposer")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(THETA)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_string("attn_dsl.prompt", PROMPT)
    names, scores, kinds = vocabulary_of(tokenizer)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(names)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in tensors.items():
        array = tensor.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # llama.cpp rotates neighbours
            heads = config.num_attention_heads
            array = array.reshape(heads, 2, config.head_dim // 2, -1).swapaxes(1, 2)
            array = np.ascontiguousarray(array).reshape(tensor.shape)
        if array.ndim == 1:
            array = array.astype(np.float32)
        writer.add_tensor(known.get_name(name, try_suffixes=(".weight",)), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def vocabulary_of(tokenizer: PreTrainedTokenizerFast) -> tuple[list[str], list[float], list[int]]:
    """Return the tokens as llama.cpp's SentencePiece vocabulary has them: string, score and type."""
    import gguf

    added = {i for i, token in tokenizer.added_tokens_decoder.items() if not token.special}
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    types = gguf.TokenType
    control = {BEGIN: types.CONTROL, END: types.CONTROL, UNKNOWN: types.UNKNOWN}
    kinds, scores = [], []
    for i, name in enumerate(names):
        is_byte = name.startswith("<0x") and name.endswith(">") and len(name) == 6
        kind = control.get(name, types.BYTE if is_byte else types.NORMAL)
        kinds.append(int(types.USER_DEFINED if i in added else kind))
        scores.append(-float(i))
    return names, scores, kinds
