"""Faults of model families that users reported: each is mended, or refused before a fit."""

from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import replace_models as models
import torch
import transformers as hf
from command_line import attn_dsl, succeed, write_texts
from replace_models import TRIED, save
from test_replace import ids_of, program, run, some

from attn_dsl.dsl.errors import InputError, WorkError
from attn_dsl.eval.capture_write import write_capture
from attn_dsl.eval.models import load_model, padded
from attn_dsl.eval.replace.context import obstacle, replace_heads
from attn_dsl.eval.replace.measure import HeldOut
from attn_dsl.eval.replace.programs import HeadSource
from attn_dsl.eval.tokenizer import Vocabulary

TEXTS = (
    "The cat sat on the mat. One day, the boy saw the cat!\n\nShe ran  to the park.",
    "She ran to the park",
    'a bird and the dog went to see the girl . "The end," she saw.\nOne day',
    "one day one day the end . The dog sat . She saw a bird . The end .",
)
LINES = "3 where line(k) == line(q)\n 2 where sentence(k) == sentence(q)\n 1 where word_index(k) < 3"


@pytest.mark.parametrize("family", TRIED)
def test_a_family_works(family: str, tmp_path: Path) -> None:
    """Replaced attention is the program's, on what heads see, and the model's output follows it."""
    loaded = load_model(str(save(tmp_path / family, family)))
    assert loaded.max_positions in (64, None)
    assert obstacle(loaded) is None
    made = write_capture(loaded, TEXTS, tmp_path / "capture", max_tokens=30)
    assert "not_replaceable" not in made.meta and made.has_outputs
    own = program("own", "3 where word(k) == word(q)\n -0.2 * abs(q - k)", visibility(loaded.causal))
    ids, matrix = torch.tensor([made.ids(0)]), torch.from_numpy(own(made.tokens(0)))
    before = run(loaded.model, ids).logits
    with replace_heads(loaded, {(0, 1): own, (1, 0): own}) as report:
        assert report.causal == loaded.causal
        out = run(loaded.model, ids, output_attentions=True)
    for layer, head in ((0, 1), (1, 0)):
        kept = matrix * seen_by(made, layer)
        expected = kept / kept.sum(-1, keepdim=True)
        torch.testing.assert_close(out.attentions[layer][0, head], expected, atol=1e-5, rtol=0)
    assert (out.logits - before).abs().max() > 1e-4
    assert torch.equal(run(loaded.model, ids).logits, before)


def visibility(causal: bool) -> str:
    return "causal" if causal else "bidirectional"


def seen_by(made: Any, layer: int) -> torch.Tensor:
    """Say at which distances any head of a layer attends, 1 or 0, (tokens, tokens)."""
    heads = [torch.from_numpy(made.matrix(0, layer, h)) for h in range(made.heads_per_layer)]
    at = torch.arange(len(heads[0]))
    gap = at[:, None] - at + len(at) - 1
    seen = torch.zeros(2 * len(at) - 1)
    seen[gap[torch.stack(heads).amax(0) > 0]] = 1
    return seen[gap]


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("convbert", r"changes by .* when a text is padded"),
        ("xlnet", "layer 0 of this xlnet model cannot be described: it reaches later tokens"),
        ("squeezebert", "do not sum to 1"),
        ("fnet", "attention of a fnet model cannot be read"),
    ],
)
def test_what_cannot_be_described_is_refused_before_the_fit(
    family: str, message: str, tmp_path: Path
) -> None:
    folder = save(tmp_path / family, family)
    with pytest.raises(InputError, match=message):
        load_model(str(folder))


def test_word_pieces_are_what_the_fit_saw(tmp_path: Path) -> None:
    """Capitals, lines and blanks are not in the ids; the capture knows them."""
    loaded = load_model(str(save(tmp_path / "bert", "bert")))
    made = write_capture(loaded, TEXTS, tmp_path / "capture", max_tokens=40)
    lines = program("lines", LINES, "bidirectional")
    ids = torch.tensor([made.ids(0)])
    untold = pytest.raises(InputError, match=r"read line, sentence, word_index.*give the texts")
    with untold, replace_heads(loaded, {(0, 1): lines}):
        run(loaded.model, ids)
    known = {made.ids(i): made.tokens(i) for i in range(made.n_texts)}
    expected = torch.from_numpy(lines(made.tokens(0)))
    rebuilt = torch.from_numpy(lines(Vocabulary(loaded.tokenizer).tokens_of(made.ids(0))))
    assert (expected - rebuilt).abs().max() > 0.1
    for more in ({"model": replace(loaded, texts=known)}, {"model": loaded, "texts": TEXTS}):
        with replace_heads(heads={(0, 1): lines}, **more):
            found = run(loaded.model, ids, output_attentions=True).attentions[0][0, 1]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_masked_word_pieces_keep_the_rest_of_their_text(tmp_path: Path) -> None:
    """The perplexity of an encoder is measured on the texts of the fit, less the masked tokens."""
    loaded = load_model(str(save(tmp_path / "bert", "bert")))
    made = write_capture(loaded, TEXTS, tmp_path / "capture", max_tokens=40)
    known = {made.ids(i): made.tokens(i) for i in range(made.n_texts)}
    held = HeldOut(replace(loaded, texts=known), list(known))
    assert held.measure({(0, 1): program("lines", LINES, "bidirectional")}).kl.sum() > 0


def test_one_replaced_model_in_several_threads() -> None:
    texts = [torch.randint(3, 300, (2, 4 + i % 20)) for i in range(90)]
    for family in ("gpt2", "bloom", "llama-sdpa"):
        model = models.model(family)
        with replace_heads(model, some(), tokenizer=models.tokenizer()):
            expected = [run(model, ids).logits for ids in texts]
            with ThreadPoolExecutor(6) as pool:
                found = [out.logits for out in pool.map(partial(run, model), texts)]
        wrong = sum(not torch.allclose(a, b, atol=1e-5) for a, b in zip(expected, found, strict=True))
        assert wrong == 0, family


def test_what_would_bring_heads_back_silently_is_refused() -> None:
    model, ids = models.model("llama-sdpa"), ids_of(TEXTS[1])
    before = run(model, ids).logits
    with replace_heads(model, some(), tokenizer=models.tokenizer()):
        for duplicate in (copy.deepcopy, pickle.dumps):
            with pytest.raises(InputError, match="cannot be copied or pickled"):
                duplicate(model)
        model.set_attn_implementation("eager")
        with pytest.raises(InputError, match="attention implementation was changed"):
            run(model, ids)
    assert torch.equal(run(model, ids).logits, before)
    assert torch.equal(run(copy.deepcopy(model), ids).logits, before)


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_low_precision_does_not_change_who_sees_what(family: str) -> None:
    """The outputs of an encoder in bfloat16 change too little with a later token to tell it."""
    torch.manual_seed(0)
    model = models.model(family)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.1)
    low = model.to(torch.bfloat16)
    kind = visibility(family == "gpt2")
    own = {(0, 1): program("own", "2 where k == q - 1\n 1 where k == 0", kind)}
    with replace_heads(low, own, tokenizer=models.tokenizer(family)) as report:
        assert report.causal == (family == "gpt2")


def test_the_decoder_of_opt_may_be_called_by_itself() -> None:
    model, ids = models.model("opt"), ids_of(TEXTS[1])
    with replace_heads(model, some(), tokenizer=models.tokenizer()):
        whole = run(model.model, ids).last_hidden_state
        assert torch.equal(run(model.model.decoder, ids).last_hidden_state, whole)


def test_padding_and_tokenizers_beyond_the_embedding(tmp_path: Path) -> None:
    """Many tokenizers got a padding token that the model never learned."""
    folder = save(tmp_path / "llama", "llama")
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<extra{i}>" for i in range(len(tokenizer), 320)])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == 320
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    loaded = load_model(str(folder))
    assert loaded.model.get_input_embeddings().weight.shape[0] == 320
    assert int(padded(loaded.model, [[5, 6, 7], [8]])["input_ids"].max()) < 320
    made = write_capture(loaded, TEXTS, tmp_path / "capture", max_tokens=30)
    with replace_heads(loaded, some()):
        run(loaded.model, torch.tensor([made.ids(0)]))


def test_a_head_of_random_weights_predicts_nothing(tmp_path: Path) -> None:
    """A checkpoint of the bare model is loaded without the head that it lacks, and that is said."""
    folder = save(tmp_path / "llama", "llama")
    models.model("llama").model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    loaded = load_model(str(folder))
    with pytest.raises(InputError, match="has no language-model head"):
        HeldOut(loaded, [[1, 2, 3]])
    reason = obstacle(loaded)
    assert reason is not None and "has no language-model head" in reason
    texts = write_texts(tmp_path / "texts.jsonl", 24)
    out = attn_dsl("fit", folder, "--text", texts, "--max-evals", 4, "--jobs", 1,
                   "--max-tokens", 16, "--heads", "L0H1", "--out", tmp_path / "run")  # fmt: skip
    assert out.code == 0 and "warning: `attn-dsl replace` will refuse this model: llama" in out.err
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "no language-model head" in told["capture_settings"]["not_replaceable"]
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    plan = succeed("fit", "--capture", tmp_path / "run" / "capture", "--dry-run")
    assert "will refuse this model: llama has no language-model head" in " ".join(plan.split())


def test_quantised_checkpoints(tmp_path: Path) -> None:
    folder = save(tmp_path / "llama", "llama")
    config = json.loads((folder / "config.json").read_text())
    quantised = {"quant_method": "gptq", "bits": 4, "group_size": 8}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantised}))
    out = attn_dsl("capture", folder, "--text", write_texts(tmp_path / "texts.jsonl", 4),
                   "--out", tmp_path / "capture")  # fmt: skip
    assert out.code == 2 and "Traceback" not in out.err
    assert "full precision" in out.err


class Beyond:
    """A source whose matrices break their promise: mass where no head sees."""

    names, causal = ("beyond",), True

    def bundle(self, texts: Any) -> torch.Tensor:
        n = len(texts[0])
        return torch.eye(n).roll(-1, 0)[None, None]


def test_the_probe_finds_attention_to_what_no_head_sees() -> None:
    with pytest.raises(WorkError, match="tokens that no head of the layer sees"):
        replace_heads(
            models.model("gpt2"), {(0, 1): HeadSource(Beyond(), 0)}, tokenizer=models.tokenizer()
        ).__enter__()
