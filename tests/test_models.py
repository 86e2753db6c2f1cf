"""Loading models of every tested family, and refusing what cannot be read."""

from __future__ import annotations

import json

import pytest

from attn_dsl.dsl.errors import InputError
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
    import huggingface_hub

    def unreachable(self, *args, **kwargs):
        raise ConnectionError("no network")

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
    import huggingface_hub

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
