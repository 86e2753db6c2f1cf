"""What cannot be replaced is refused before anything is changed, with the reason and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import replace_models as models
import torch
from replace_models import cache_in, cached
from test_replace import ids_of, program, programs, run

import attn_dsl
from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.replace.context import replace_heads

COPIES = programs()["copies"]


def refused(model: Any, heads: Any, match: str, **more: Any) -> None:
    """Entering must fail, and leave the model as it was."""
    more = more or {"tokenizer": models.tokenizer()}
    before = model.config._attn_implementation
    with pytest.raises(InputError, match=match), replace_heads(model, heads, **more):
        pytest.fail("it was let in")
    assert model.config._attn_implementation == before
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_heads_that_do_not_exist() -> None:
    model = models.model("llama")
    refused(model, {(2, 0): COPIES}, "no head L2H0: the model has 2 layers")
    refused(model, {(0, 4): COPIES}, "no head L0H4")
    refused(model, {(-1, 0): COPIES}, "no head")


def test_programs_that_see_what_follows() -> None:
    model = models.model("gpt2")
    both = program("both", "1 where k == q+1", "bidirectional")
    refused(model, {(0, 0): both}, "both for L0H0 is bidirectional")
    ahead = attn_dsl.parse("head a causal:\n 1 where text_final(k)", allow_lookahead=True)
    refused(model, {(0, 0): ahead}, r"looks ahead \(text_final\)")


def test_holes_and_things_that_are_no_programs(tmp_path: Path) -> None:
    model = models.model("gpt2")
    refused(model, {(0, 0): attn_dsl.parse("head a causal:\n ? where k == q")}, "weights to be")
    refused(model, {(0, 0): 3}, "L0H0: a int cannot stand")
    refused(model, {(0, 0): tmp_path / "none.attn"}, "no such file")


def test_a_model_without_a_tokenizer() -> None:
    model = models.model("gpt2")
    refused(model, {(0, 0): COPIES}, "does not say where it comes from", tokenizer=None)
    model.config._name_or_path = model.name_or_path = "./nowhere"
    refused(model, {(0, 0): COPIES}, "no tokenizer for the model ./nowhere", tokenizer=None)


def test_a_tokenizer_of_another_model() -> None:
    import transformers as hf

    small = hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=4, n_positions=32))
    refused(small, {(0, 0): COPIES}, "do not belong together")


def test_models_that_cannot_be_reached() -> None:
    import transformers as hf

    refused_ = {"tokenizer": models.tokenizer()}
    with pytest.raises(InputError, match="no transformers model"):
        replace_heads(torch.nn.Linear(2, 2), {(0, 0): COPIES}, **refused_).__enter__()
    t5 = hf.T5ForConditionalGeneration(
        hf.T5Config(vocab_size=320, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=4)
    )
    refused(t5, {(0, 0): COPIES}, "cross-attention")
    mamba = hf.MambaForCausalLM(
        hf.MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=1, state_size=4)
    )
    refused(mamba, {(0, 0): COPIES}, "attention of a mamba model cannot be reached")


def test_inputs_that_programs_cannot_read() -> None:
    model, ids = models.model("llama"), ids_of("the cat sat")
    outside = cache_in(run(model, ids, use_cache=True))
    with replace_heads(model, {(0, 0): COPIES}, tokenizer=models.tokenizer()):
        with pytest.raises(InputError, match="without input_ids"), torch.no_grad():
            model(inputs_embeds=model.get_input_embeddings()(ids))
        with pytest.raises(InputError, match="neither one 0 or 1 per token"):
            run(model, ids, attention_mask=torch.ones(1, 1, *[ids.shape[1]] * 2).bool())
        with pytest.raises(InputError, match="longer than the model's context of 64"):
            run(model, ids.repeat(1, 40))
        with pytest.raises(InputError, match="read before heads were replaced"):
            run(model, ids, **cached(model, outside))
        with pytest.raises(InputError, match="several texts are packed"):
            run(model, torch.tensor([[5, 6, 7, 8]]), position_ids=torch.tensor([[0, 1, 0, 1]]))
        states = torch.zeros(1, 2, 32)
        angles = model.model.rotary_emb(states, torch.arange(2)[None])
        with pytest.raises(InputError, match="outside of a forward pass"):
            model.model.layers[0].self_attn(states, angles, None)
        run(model, ids)  # and all goes on as before
