"""Replaced heads attend to what their programs say, in every family, and afterwards all is as before."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replace_models as models
import torch
import transformers
from replace_models import CAUSAL, ENCODERS, cache_in, cached

import attn_dsl
from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.models import load_model
from attn_dsl.eval.replace.baselines import MeanByOffset, Zero, baseline
from attn_dsl.eval.replace.context import replace_heads
from attn_dsl.eval.replace.source import Part
from attn_dsl.eval.replace.tunable import Tunable
from attn_dsl.eval.vocabulary import Vocabulary

TEXTS = (
    "the cat sat on the mat. One day, the boy saw the cat",
    "she ran to the park",
    "a bird and the dog went to see the girl .",
)


def program(name: str, terms: str, visibility: str = "causal") -> attn_dsl.Program:
    return attn_dsl.parse(f"head {name} {visibility}:\n {terms}")


def programs(visibility: str = "causal") -> dict[str, attn_dsl.Program]:
    return {
        "copies": program("copies", "4 where text(k-1) == text(q)\n 1 where k == q", visibility),
        "words": program("words", "3 where word(k) == word(q)\n -0.2 * abs(q - k)", visibility),
        "first": program("first", "5 where k == 0\n 2 where word_start(k)", visibility),
    }


def some(visibility: str = "causal") -> dict[tuple[int, int], attn_dsl.Program]:
    """Programs for one head of the first layer, and for all of the second, one of them twice."""
    p = programs(visibility)
    return {
        (0, 2): p["copies"], (1, 0): p["words"], (1, 1): p["first"], (1, 2): p["words"],
        (1, 3): p["copies"],
    }  # fmt: skip


def ids_of(text: str, family: str = "gpt2") -> torch.Tensor:
    return models.tokenizer(family)(text, return_tensors="pt").input_ids


def matrices(ids: torch.Tensor, heads: dict[tuple[int, int], Any], family: str) -> dict:
    tokens = Vocabulary(models.tokenizer(family)).tokens_of(ids[0].tolist())
    return {place: torch.from_numpy(p(tokens)) for place, p in heads.items()}


def run(model: Any, ids: torch.Tensor, **more: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=ids, **more)


@pytest.mark.parametrize("family", [*CAUSAL, *ENCODERS])
def test_attention_is_the_programs_and_afterwards_all_is_as_before(family: str) -> None:
    model, name = models.model(family), family.partition("-")[0]
    tokenizer = models.tokenizer(name)
    ids = ids_of(TEXTS[0], name)
    before = run(model, ids).logits
    implementation = model.config._attn_implementation
    heads = some("causal" if family in CAUSAL else "bidirectional")
    kept = run(model, ids, output_attentions=True).attentions
    with replace_heads(model, heads, tokenizer=tokenizer) as report:
        assert report.heads == tuple(sorted(heads))
        assert report.identity <= (1e-5 if name == "falcon" else 0.0)
        assert report.attention <= 1e-5
        assert report.causal == (family in CAUSAL)
        out = run(model, ids, output_attentions=True)
        assert torch.equal(run(model, ids).logits, run(model, ids).logits)
    expected = matrices(ids, heads, name)
    for (layer, head), matrix in expected.items():
        torch.testing.assert_close(out.attentions[layer][0, head], matrix, atol=1e-6, rtol=0)
    # outside of the context sdpa gives none, and Falcon's takes its mask for numbers to add
    if kept and kept[0] is not None and family != "falcon-sdpa":
        for head in (0, 1, 3):
            torch.testing.assert_close(out.attentions[0][0, head], kept[0][0, head])
    assert (out.logits - before).abs().max() > 1e-3
    assert torch.equal(run(model, ids).logits, before)
    assert model.config._attn_implementation == implementation


@pytest.mark.parametrize("family", [*CAUSAL, *ENCODERS])
def test_a_forward_pass_made_by_hand(family: str) -> None:
    """The layer's output is the programs' matrices times its values, and nothing else."""
    model, name = models.model(family), family.partition("-")[0]
    ids = ids_of(TEXTS[0], name)
    visibility = "causal" if family in CAUSAL else "bidirectional"
    p = list(programs(visibility).values())
    heads = {(0, head): p[head % 3] for head in range(4)}
    values, mixed = hooks(model, name)
    with replace_heads(model, heads, tokenizer=models.tokenizer(name)):
        values.clear()
        mixed.clear()
        run(model, ids)
    found = matrices(ids, heads, name)
    v = values[0]
    by_head = v.repeat_interleave(4 // v.shape[1], dim=1)
    expected = torch.stack([found[0, h] @ by_head[0, h] for h in range(4)], dim=1)
    torch.testing.assert_close(mixed[0][0], expected.flatten(1), atol=1e-5, rtol=1e-4)


def hooks(model: Any, name: str) -> tuple[list, list]:
    """Record a first layer's values (1, heads, tokens, width), and what its output module reads."""
    values: list[torch.Tensor] = []
    mixed: list[torch.Tensor] = []
    layers = dict(model.named_modules())
    where = {
        "gpt2": ("transformer.h.0.attn", "c_attn", "c_proj"),
        "gpt_neo": ("transformer.h.0.attn.attention", "v_proj", "out_proj"),
        "gptj": ("transformer.h.0.attn", "v_proj", "out_proj"),
        "bloom": ("transformer.h.0.self_attention", "query_key_value", "dense"),
        "falcon": ("transformer.h.0.self_attention", "query_key_value", "dense"),
        "gpt_neox": ("gpt_neox.layers.0.attention", "query_key_value", "dense"),
        "bert": ("bert.encoder.layer.0.attention", "self.value", "output.dense"),
        "roberta": ("roberta.encoder.layer.0.attention", "self.value", "output.dense"),
    }
    at, source, last = where.get(name, ("model.layers.0.self_attn", "v_proj", "o_proj"))

    def take(_: Any, __: Any, out: torch.Tensor) -> None:
        if name == "gpt2":
            out = out[..., -32:]
        if name in ("bloom", "falcon", "gpt_neox"):  # query, key and value of each head in turn
            out = out.view(*out.shape[:2], 4, 3, 8)[..., 2, :].flatten(2)
        values.append(out.view(*out.shape[:2], -1, 8).transpose(1, 2))

    layers[f"{at}.{source}"].register_forward_hook(take)
    layers[f"{at}.{last}"].register_forward_pre_hook(lambda _, args: mixed.append(args[0]))
    return values, mixed


@pytest.mark.parametrize("family", [*CAUSAL, "mistral"])
@pytest.mark.parametrize("how", ["greedy", "sampling", "beams"])
def test_generation_with_a_cache_is_recomputation(family: str, how: str) -> None:
    model, name = models.model(family), family.partition("-")[0]
    ids = ids_of(TEXTS[2], name)
    more: dict[str, Any] = {"max_new_tokens": 14, "min_new_tokens": 14, "do_sample": False}
    more |= {"sampling": {"do_sample": True}, "beams": {"num_beams": 3}}.get(how, {})
    with replace_heads(model, some(), tokenizer=models.tokenizer(name)):
        results = []
        for use_cache in (True, False):
            torch.manual_seed(1)
            results.append(model.generate(ids, use_cache=use_cache, pad_token_id=1, **more))
    assert torch.equal(*results)
    assert results[0].shape[1] == ids.shape[1] + 14


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral-wide", "bloom"])
def test_a_cache_step_by_step(family: str) -> None:
    """One token at a time, several at once, and after the cache was cropped."""
    model = models.model(family)
    ids = ids_of(TEXTS[0])[:, :7]
    with replace_heads(model, some(), tokenizer=models.tokenizer()):
        whole = run(model, ids).logits
        out = run(model, ids[:, :2], use_cache=True)
        parts = [out.logits]
        for start, end in ((2, 3), (3, 6), (6, 7)):
            out = run(model, ids[:, start:end], **cached(model, cache_in(out)))
            parts.append(out.logits)
        torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=1e-4)
        cache = cache_in(out)
        twin = copy.deepcopy(cache)
        cache.crop(-3)
        other = torch.tensor([[20, 21, 22]])
        again = run(model, other, **cached(model, cache)).logits
        full = run(model, torch.cat([ids[:, :4], other], 1)).logits
        torch.testing.assert_close(again, full[:, 4:], atol=1e-4, rtol=1e-4)
        longer = run(model, other, **cached(model, twin)).logits
        full = run(model, torch.cat([ids, other], 1)).logits
        torch.testing.assert_close(longer, full[:, 7:], atol=1e-4, rtol=1e-4)
    assert type(cache) is type(twin) is transformers.DynamicCache


@pytest.mark.parametrize("family", ["gpt2", "gpt2-sdpa", "llama", "bloom", "falcon", "bert"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(family: str, side: str) -> None:
    model, name = models.model(family), family.partition("-")[0]
    visibility = "bidirectional" if family == "bert" else "causal"
    texts = [ids_of(text, name)[0] for text in TEXTS]
    longest = max(map(len, texts))
    ids = torch.full((3, longest), 1)
    mask = torch.zeros(3, longest, dtype=torch.long)
    for i, text in enumerate(texts):
        here = slice(longest - len(text), None) if side == "left" else slice(len(text))
        ids[i, here], mask[i, here] = text, 1
    more = {}
    if name not in ("bloom", "bert"):  # BLOOM's positions come from the mask, BERT's are the places
        more["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    if family == "bert" and side == "left":
        more["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    with replace_heads(model, some(visibility), tokenizer=models.tokenizer(name)):
        found = run(model, ids, attention_mask=mask, **more).logits
        for i, text in enumerate(texts):
            alone = run(model, text[None]).logits[0]
            torch.testing.assert_close(found[i][mask[i] == 1], alone, atol=2e-4, rtol=1e-4)


def test_generation_of_a_padded_batch() -> None:
    model, tokenizer = models.model("llama"), models.tokenizer()
    texts = [ids_of(text)[0] for text in TEXTS]
    longest = max(map(len, texts))
    ids = torch.stack([torch.cat([torch.full((longest - len(t),), 1), t]) for t in texts])
    mask = torch.stack([(torch.arange(longest) >= longest - len(t)).long() for t in texts])
    more = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False, "pad_token_id": 1}
    with replace_heads(model, some(), tokenizer=tokenizer):
        found = model.generate(ids, attention_mask=mask, **more)
        for i, text in enumerate(texts):
            alone = model.generate(text[None], **more)
            assert torch.equal(found[i, longest:], alone[0, len(text) :])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_a_static_cache_whose_mask_is_made_ahead(family: str) -> None:
    model, ids = models.model(family), ids_of(TEXTS[2])
    more = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False, "pad_token_id": 1}
    with replace_heads(model, some(), tokenizer=models.tokenizer()):
        grows = model.generate(ids, **more)
        fixed = model.generate(ids, cache_implementation="static", disable_compile=True, **more)
    assert torch.equal(grows, fixed)


def test_a_mask_with_holes() -> None:
    model, ids = models.model("gpt2"), ids_of(TEXTS[0])[:, :6]
    mask = torch.tensor([[1, 0, 1, 1, 0, 1]])
    positions = torch.tensor([[0, 0, 1, 2, 2, 3]])
    real = mask[0] == 1
    with replace_heads(model, some(), tokenizer=models.tokenizer()):
        found = run(model, ids, attention_mask=mask, position_ids=positions).logits[0, real]
        alone = run(model, ids[:, real]).logits[0]
    torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)


def test_a_sliding_window_cuts_what_a_program_reaches() -> None:
    model, ids = models.model("mistral"), ids_of(" ".join(TEXTS))
    far = {(1, 1): program("far", "9 where k == 0"), (1, 2): program("level", "1 where k == q+9")}
    kept = run(model, ids, output_attentions=True).attentions[0]
    with replace_heads(model, far, tokenizer=models.tokenizer()):
        out = run(model, ids, output_attentions=True).attentions
    n = ids.shape[1]
    gap = torch.arange(n)[:, None] - torch.arange(n)
    for head in (1, 2):
        matrix = out[1][0, head]
        assert not matrix[(gap >= 8) | (gap < 0)].any()
        torch.testing.assert_close(matrix.sum(-1), torch.ones(n))
    torch.testing.assert_close(out[0], kept)


def test_contexts_nest() -> None:
    model, ids, p = models.model("llama"), ids_of(TEXTS[0]), programs()
    own = {"tokenizer": models.tokenizer()}
    before = run(model, ids).logits
    with replace_heads(model, {(0, 1): p["copies"], (1, 1): p["first"]}, **own):
        outer = run(model, ids).logits
        with replace_heads(model, {(0, 2): p["words"]}, **own) as report:
            assert report.heads == ((0, 2),)
            inner = run(model, ids).logits
            with pytest.raises(InputError, match="L0H1 is replaced already"):
                replace_heads(model, {(0, 1): p["words"]}, **own).__enter__()
        assert torch.equal(run(model, ids).logits, outer)
        assert model.config._attn_implementation != "eager"
    assert torch.equal(run(model, ids).logits, before)
    both = {(0, 1): p["copies"], (0, 2): p["words"], (1, 1): p["first"]}
    with replace_heads(model, both, **own):
        torch.testing.assert_close(run(model, ids).logits, inner, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama-sdpa", "bloom", "falcon-sdpa"])
def test_an_exception_leaves_nothing_behind(family: str) -> None:
    model, name = models.model(family), family.partition("-")[0]
    ids = ids_of(TEXTS[0], name)
    before, implementation = run(model, ids).logits, model.config._attn_implementation

    def fails() -> None:
        with replace_heads(model, some(), tokenizer=models.tokenizer(name)):
            if name != "bloom":  # its positions have no end
                with pytest.raises(InputError):
                    run(model, ids.repeat(1, 20))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert torch.equal(run(model, ids).logits, before)
    assert model.config._attn_implementation == implementation
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_autocast_and_low_precision() -> None:
    model, ids = models.model("llama"), ids_of(TEXTS[0])
    own = {"tokenizer": models.tokenizer()}
    with replace_heads(model, some(), **own):
        exact = run(model, ids).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = run(model, ids).logits
    assert (found.float() - exact).abs().max() < 0.1 * exact.abs().max()
    low = model.to(torch.bfloat16)
    with replace_heads(low, some(), **own) as report:
        assert report.attention <= 1e-4
        found = run(low, ids).logits
    assert (found.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_training_reaches_the_weights_of_programs() -> None:
    model, ids, p = models.model("llama"), ids_of(TEXTS[0]), programs()
    tunable = Tunable([p["copies"], p["words"]])
    heads = {(0, 1): Part(tunable, 0), (1, 3): Part(tunable, 1)}
    for weight in model.parameters():
        weight.requires_grad_(False)
    with replace_heads(model, heads, tokenizer=models.tokenizer()):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        gradient = tunable.weights.grad.clone()
        step = 1e-2
        for i in range(len(tunable.weights)):
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    tunable.weights[i] += sign * step
                    sides.append(float(model(input_ids=ids, labels=ids).loss))
                    tunable.weights[i] -= sign * step
            slope = (sides[0] - sides[1]) / (2 * step)
            assert float(gradient[i]) == pytest.approx(slope, abs=2e-3)
    assert gradient.abs().max() > 1e-4


@pytest.mark.parametrize("name", ["uniform", "first token", "zero"])
def test_controls(name: str) -> None:
    model, ids = models.model("gpt2"), ids_of(TEXTS[0])
    n = ids.shape[1]
    with replace_heads(
        model, baseline(name, [(1, h) for h in range(4)], True), tokenizer=models.tokenizer()
    ):
        found = run(model, ids, output_attentions=True).attentions[1][0]
        more = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 1}
        assert torch.equal(
            model.generate(ids, **more), model.generate(ids, use_cache=False, **more)
        )
    expected = {
        "uniform": torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None],
        "first token": torch.eye(n)[[0] * n],
        "zero": torch.zeros(n, n),
    }[name]
    for head in range(4):
        torch.testing.assert_close(found[head], expected)


def test_a_mean_by_offset_and_a_zero_beside_programs() -> None:
    model, ids = models.model("gpt2"), ids_of(TEXTS[0])
    mean = Part(MeanByOffset([[0, 0, 2, 1, 1]], causal=True), 0)
    heads = {(1, 0): Part(Zero(causal=True), 0), (1, 1): mean, (1, 2): programs()["words"]}
    with replace_heads(model, heads, tokenizer=models.tokenizer()):
        found = run(model, ids, output_attentions=True).attentions[1][0]
    assert not found[0].any()
    np.testing.assert_allclose(found[1][1, :2], [1 / 3, 2 / 3], atol=1e-6)
    np.testing.assert_allclose(found[1].sum(-1), 1, atol=1e-5)


def test_a_causal_program_may_stand_in_an_encoder() -> None:
    model = models.model("bert")
    ids = ids_of(TEXTS[0], "bert")
    with replace_heads(
        model, {(0, 0): programs()["first"]}, tokenizer=models.tokenizer("bert")
    ) as report:
        assert not report.causal
        found = run(model, ids, output_attentions=True).attentions[0][0, 0]
    assert not found.triu(1).any()


@pytest.mark.shared
def test_a_real_model_with_a_program_in_a_head(shared: Path) -> None:
    loaded = load_model(str(shared / "models" / "stories260k"))
    ids = loaded.tokenizer("Once upon a time, there was a girl", return_tensors="pt").input_ids
    before = run(loaded.model, ids).logits
    heads = {(layer, head): programs()["words"] for layer in (1, 4) for head in (0, 5)}
    more: dict[str, Any] = {"max_new_tokens": 40, "do_sample": False, "pad_token_id": 0}
    with replace_heads(loaded, heads) as report:
        assert report.identity == 0.0
        out = run(loaded.model, ids, output_attentions=True)
        cached = loaded.model.generate(ids, **more)
        assert torch.equal(cached, loaded.model.generate(ids, use_cache=False, **more))
    tokens = Vocabulary(loaded.tokenizer).tokens_of(ids[0].tolist())
    expected = torch.from_numpy(programs()["words"](tokens))
    for layer, head in heads:
        torch.testing.assert_close(out.attentions[layer][0, head], expected, atol=1e-6, rtol=0)
    assert torch.equal(run(loaded.model, ids).logits, before)
