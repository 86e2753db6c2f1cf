"""Models: loading a transformers model so that the attention of every head can be read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.files import file_hash, first_line
from attn_dsl.eval.locate import Located, find, locate, max_positions

_HEADS_ON_TOP = ("lm_head", "cls.", "embed_out", "pooler", "classifier", "score", "decoder")
"""Weights that a checkpoint of the bare model lacks, and that attention does not need."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model with its tokenizer, and what reports say about it.

    Attributes:
        model: the transformers model, float32, in evaluation mode, eager attention.
        tokenizer: its tokenizer.
        name: the hub's id, or the name of the local directory.
        source: what the caller asked for, to load it again.
        revision: the hub's commit, or SHA-256 of configuration and weights of a directory.
        family: the architecture (``gpt2``, ``llama``, ``gpt_neox``, ``bert`` …).
        causal: whether a token attends only to itself and what precedes it.
        n_layers: how many layers.
        n_heads: how many query heads each layer has.
        max_positions: the most tokens that the model takes; None where nothing bounds it.
    """

    model: Any
    tokenizer: Any
    name: str
    source: str
    revision: str
    family: str
    causal: bool
    n_layers: int
    n_heads: int
    max_positions: int | None

    def check_length(self, count: int, what: str) -> None:
        """Refuse, as an InputError, what has more tokens than the model takes."""
        if self.max_positions is not None and count > self.max_positions:
            raise InputError(
                f"{what} has {count} tokens, and {self.name} takes {self.max_positions}; shorten it"
            )


def load_model(model: str) -> LoadedModel:
    """Load a model and its tokenizer from the hub or a local directory.

    >>> loaded = load_model("openai-community/gpt2")
    >>> loaded.family, loaded.causal, loaded.n_layers, loaded.n_heads
    ('gpt2', True, 12, 12)

    Weights are read from safetensors only, in float32; code that comes with a model is never
    run. Decoders are loaded with their language-model head, so that they can be used for
    perplexity after heads are replaced.

    Args:
        model: a hub id (``name`` or ``owner/name``) or a local directory.

    Raises:
        InputError: the directory or a file in it is missing; the hub does not know the id, does
            not give it or cannot be reached; there are no safetensors weights or no tokenizer;
            the attention of this kind of model cannot be read.
    """
    found = locate(model)
    network, tokenizer = _weights(found, model), _tokenizer(found.place, model, found.options)
    family = found.config.model_type
    n_layers, n_heads = _probe(network, model, family)
    return LoadedModel(
        model=network, tokenizer=tokenizer,
        name=model if found.folder is None else found.folder.resolve().name, source=model,
        revision=_revision(found.config, found.folder), family=family, causal=found.causal,
        n_layers=n_layers, n_heads=n_heads, max_positions=max_positions(found.config),
    )  # fmt: skip


def load_tokenizer(model: str, *, local: bool = False) -> Any:
    """Load the tokenizer of a model from the hub or a local directory, without its weights.

    Args:
        local: take it from this machine only, and ask no hub.

    Raises:
        InputError: the directory is missing, the hub does not know the id, or has no tokenizer.
    """
    _, place, options = find(model, local=local)
    return _tokenizer(place, model, options)


def _tokenizer(place: str, model: str, options: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    looked = "looked for tokenizer.json, tokenizer.model and vocab files"
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
    except Exception as error:
        raise InputError(
            f"{model}: no tokenizer can be loaded ({looked}): {first_line(error)}"
        ) from error
    # a directory without tokenizer files can give a tokenizer that knows nothing
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(
            f"{model}: no tokenizer: {looked}; save it beside the weights with "
            "`tokenizer.save_pretrained`"
        )
    return tokenizer


def _weights(found: Located, model: str) -> Any:
    """Load the weights, refusing pickles and checkpoints that leave layers at random."""
    import torch
    from safetensors import SafetensorError

    try:
        network, info = found.loader.from_pretrained(
            found.place, dtype=torch.float32, attn_implementation="eager", use_safetensors=True,
            output_loading_info=True, **found.options,
        )  # fmt: skip
    except SafetensorError as error:
        raise InputError(
            f"{model}: a safetensors file is damaged or cut off ({first_line(error)}); copy or "
            "download it again"
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(f"{model}: its weights cannot be loaded: {first_line(error)}") from error
    lacking = [key for key in sorted(info["missing_keys"]) if not key.startswith(_HEADS_ON_TOP)]
    if lacking:
        raise InputError(
            f"{model}: the checkpoint lacks {len(lacking)} weights that the configuration asks "
            f"for, such as {lacking[0]}; config.json and the weights do not belong together"
        )
    return network.eval()


def _probe(network: Any, model: str, family: str) -> tuple[int, int]:
    """Run a few tokens and count layers and heads; refuse what gives no whole matrix."""
    import torch

    size = int(network.get_input_embeddings().weight.shape[0])
    ids = torch.arange(5, 9).remainder(size)[None]
    try:
        with torch.inference_mode():
            maps = body(network)(input_ids=ids, output_attentions=True).attentions or []
    except (AttributeError, TypeError, ValueError):
        maps = []
    shapes = {None if matrix is None else tuple(matrix.shape) for matrix in maps}
    shape = shapes.pop() if len(shapes) == 1 else None
    if shape is None or shape[2:] != (4, 4):
        raise InputError(
            f"{model}: attention of a {family} model cannot be read: transformers gives no matrix "
            "per head for every layer; attn-dsl works with models like GPT-2, Llama, GPT-NeoX, BERT"
        )
    if any(float((matrix.sum(-1) - 1).abs().max()) > 1e-3 for matrix in maps):
        raise InputError(
            f"{model}: the rows of its attention do not sum to 1 (a {family} model keeps part "
            "of the attention outside of the tokens); attn-dsl cannot describe such heads"
        )
    return len(maps), shape[1]


def body(network: Any) -> Any:
    """Return the stack of layers of a model, as ``GPT2Model``, without the head on top of it."""
    return getattr(network, network.base_model_prefix, None) or network


def padded(loaded: LoadedModel, texts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return what a model reads several texts from, padded on the right, on its device."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    padding = loaded.tokenizer.pad_token_id or getattr(loaded.model.config, "pad_token_id", 0) or 0
    rows = [torch.tensor(text) for text in texts]
    marks = [torch.ones_like(row) for row in rows]
    ids = pad_sequence(rows, batch_first=True, padding_value=int(padding))
    mask = pad_sequence(marks, batch_first=True)
    device = loaded.model.device
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def _revision(config: Any, folder: Path | None) -> str:
    """Return the hub's commit, or the hash of a directory's configuration and weights."""
    if folder is None:
        return str(getattr(config, "_commit_hash", None) or "unknown")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings.pop("transformers_version", None)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(file_hash(path).encode())
    return digest.hexdigest()
