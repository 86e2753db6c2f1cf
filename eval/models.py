"""Models: loading a transformers model so that the attention of every head can be read."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.files import file_hash, first_line
from attn_dsl.eval.locate import EMBEDDED, Located, find, locate, max_positions

DTYPES = ("float32", "bfloat16", "float16")
"""The dtypes that models run in."""
_OTHERS = ((7, 10, 6, 11, 8, 12), (9, 5, 11, 7))
"""Ids of the two texts that a model is tried on; no id is that before it plus 1."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model with its tokenizer, and what reports say about it."""

    model: Any  # the transformers model, in evaluation mode, eager attention
    tokenizer: Any
    name: str  # the hub's id, or the name of the directory or GGUF file
    source: str  # what loads it again, from any directory
    # the hub's commit, SHA-256 of a GGUF file, or of configuration and weights of a directory
    revision: str
    family: str  # the architecture (``gpt2``, ``llama``, ``gpt_neox``, ``bert`` …)
    causal: bool  # whether a token attends only to itself and what precedes it
    n_layers: int
    n_heads: int  # query heads of each layer
    max_positions: int | None  # the most tokens that the model takes; None where nothing bounds it
    # by ids, the tokens of texts that heads were fitted on; replacement reads them
    texts: dict[tuple[int, ...], Tokens] = field(default_factory=dict)

    def check_length(self, count: int, what: str) -> None:
        """Refuse, as an InputError, what has more tokens than the model takes."""
        if self.max_positions is not None and count > self.max_positions:
            raise InputError(f"{what} has {count} tokens, and {self.name} takes {self.max_positions}; "
                             "shorten it")  # fmt: skip

    def ids_of(self, text: str, what: str) -> list[int]:
        """Return the ids of a text; an InputError if it has fewer than two, or more than the model takes."""
        ids = list(self.tokenizer(text).input_ids)
        if len(ids) < 2 or not text.strip():
            raise InputError(f"{what} is too short; give at least two tokens")
        self.check_length(len(ids), what)
        return ids


def load_model(model: str, *, device: str = "cpu", dtype: str = "float32") -> LoadedModel:
    """Load a model and its tokenizer.

    >>> loaded = load_model("openai-community/gpt2")
    >>> loaded.family, loaded.causal, loaded.n_layers, loaded.n_heads
    ('gpt2', True, 12, 12)

    Weights are read from safetensors or GGUF, and dequantised; code that comes with a model is
    never run. Decoders are loaded with their language-model head, for perplexity.

    Args:
        model: a hub id (``name`` or ``owner/name``), a local directory, ``FILE.gguf``,
            ``hf:REPO:FILE.gguf``, or the name of an embedded model (``eval.locate.EMBEDDED``).
        device: where the model runs, as in ``cuda``.
        dtype: of weights and activations, one of ``DTYPES``.

    Raises:
        InputError: the model, its weights or tokenizer cannot be had, the attention of this kind
            of model cannot be read, or there is no such device or dtype.
    """
    _check_placement(device, dtype)
    found = locate(model)
    tokenizer, network = load_tokenizer(found), _weights(found, model, dtype, device)
    family = found.config.model_type
    if found.folder is not None and model not in EMBEDDED and not model.startswith("hf:"):
        model = str(Path(model).expanduser().absolute())  # found from every directory
    n_layers, n_heads = _probe(network, model, family, found.causal)
    return LoadedModel(model=network, tokenizer=tokenizer, name=found.name, source=model,
                       revision=_revision(found), family=family, causal=found.causal, n_layers=n_layers,
                       n_heads=n_heads, max_positions=position_limit(network))  # fmt: skip


def _check_placement(device: str, dtype: str) -> None:
    """Make sure that a device is there and takes numbers of a dtype."""
    import torch

    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype}: write one of {', '.join(DTYPES)}")
    try:
        torch.zeros(1, device=device, dtype=getattr(torch, dtype)).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"--device {device} cannot be used with {dtype} ({first_line(error)}); try cpu, or "
                         "cuda on a machine with a GPU") from None  # fmt: skip


def load_tokenizer(model: str | Located, *, local: bool = False) -> Any:
    """Load the tokenizer of a model; ``local``: from this machine only.

    Raises:
        InputError: there is no such model, or it has no tokenizer.
    """
    from transformers import AutoTokenizer

    if isinstance(model, Located):
        name, place, options = model.name, model.place, {**model.options, "config": model.config}
    else:
        name, (_, place, options) = model, find(model)
    options = options | {"local_files_only": True} if local else options
    looked = "looked for tokenizer.json, tokenizer.model and vocab files"
    if "gguf_file" in options:
        looked = "rebuilt from the GGUF file; give the model's directory or hub id, which have it"
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
    except Exception as error:
        raise InputError(f"{name}: no tokenizer can be loaded ({looked}): {first_line(error)}") from error
    # a directory without tokenizer files can give a tokenizer that knows nothing
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(f"{name}: no tokenizer: {looked}; save it beside the weights with "
                         "`tokenizer.save_pretrained`")  # fmt: skip
    return tokenizer


def _weights(found: Located, model: str, dtype: str, device: str) -> Any:
    """Load the weights, refusing pickles and checkpoints that leave layers at random."""
    import torch
    from safetensors import SafetensorError
    from transformers.utils import logging

    was = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        network, info = found.loader.from_pretrained(
            found.place, config=found.config, dtype=getattr(torch, dtype), use_safetensors=True,
            attn_implementation="eager", output_loading_info=True, **found.options)  # fmt: skip
        if "gguf_file" in found.options:  # dequantised by now, which lets it be moved
            network.hf_quantizer, network.is_quantized = None, False
            del network.config.quantization_config
        network.to(device)
    except SafetensorError as error:
        raise InputError(f"{model}: a safetensors file is damaged or cut off ({first_line(error)}); copy or "
                         "download it again") from error  # fmt: skip
    except ImportError as error:
        raise InputError(
            f"{model}: its weights are quantised, or need a package that is not there "
            f"({first_line(error)}); use the checkpoint in full precision") from error  # fmt: skip
    except Exception as error:  # what a configuration that makes no sense can lead to
        raise InputError(f"{model}: its weights cannot be loaded: {first_line(error)}") from error
    finally:
        if was:
            logging.enable_progress_bar()
    own = f"{network.base_model_prefix}." if body(network) is not network else ""
    inside = [key for key in sorted(info["missing_keys"]) if key.startswith(own)]
    if lacking := [key for key in inside if "pooler" not in key]:
        raise InputError(f"{model}: the checkpoint lacks {len(lacking)} weights that the configuration asks "
                         f"for, such as {lacking[0]}; config.json and the weights do not belong together, or "
                         "a part of them is not there")  # fmt: skip
    # a head on top that the checkpoint lacks would predict at random
    return (network if len(inside) == len(info["missing_keys"]) else body(network)).eval()


def _probe(network: Any, model: str, family: str, causal: bool) -> tuple[int, int]:
    """Run two short texts and count layers and heads; refuse what gives no whole matrix of each."""
    import torch

    texts = [[i % ids_known(network) for i in text] for text in _OTHERS]
    try:
        with torch.inference_mode():
            both, alone = (body(network)(**padded(network, chosen), output_attentions=True).attentions or []
                           for chosen in (texts, texts[1:]))  # fmt: skip
    except (AttributeError, TypeError, ValueError):
        both, alone = [], []
    except (RuntimeError, IndexError) as error:
        raise InputError(f"{model}: it cannot be run on a few words: {first_line(error)}") from error
    shapes = {None if matrix is None else tuple(matrix.shape) for matrix in alone}
    shape = shapes.pop() if len(shapes) == 1 else None
    if shape is None or shape[2:] != (4, 4):
        raise InputError(f"{model}: attention of a {family} model cannot be read: transformers gives no "
                         "matrix per head for every layer; attn-dsl works with models like GPT-2, Llama, "
                         "GPT-NeoX, BERT")  # fmt: skip
    slack, problem = 1e-3 if network.dtype == torch.float32 else 3e-2, ""
    for layer, (one, beside) in enumerate(zip(alone, both, strict=True)):
        found, off = one.float(), float((one - beside[1:, :, :4, :4]).float().abs().max())
        if float((found.sum(-1) - 1).abs().max()) > slack:
            problem = "its rows do not sum to 1: part of them goes elsewhere than to tokens"
        elif causal and float(found.triu(1).max()) > slack:
            problem = "it reaches later tokens, though this is a causal language model"
        elif not off <= slack:
            problem = f"it changes by {off:.2g} when a text is padded to the length of another one"
        if problem:
            raise InputError(
                f"{model}: attention in layer {layer} of this {family} model cannot be described: "
                f"{problem}; attn-dsl works with models like GPT-2, Llama, GPT-NeoX, BERT")  # fmt: skip
    return len(alone), shape[1]


def position_limit(network: Any) -> int | None:
    """Return how many tokens a model takes, None where nothing bounds it.

    Where positions are looked up in a table, the first ones may not be for tokens.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    limits = [max_positions(network.config) or 0]

    class Tables(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.nn.functional.embedding:
                places, rows = args[0].reshape(-1, args[0].shape[-1])[0], len(args[1])
                if len(places) > 1 and bool((places.diff() == 1).all()) and rows >= limits[0]:
                    limits.append(rows - int(places[0]))
            return func(*args, **(kwargs or {}))

    with torch.inference_mode(), Tables():
        body(network)(**padded(network, [[i % ids_known(network) for i in _OTHERS[0]]]))
    return min(filter(None, limits), default=None)


def ids_known(network: Any) -> int:
    """Return how many token ids a model has an embedding for."""
    return int(network.get_input_embeddings().weight.shape[0])


def body(network: Any) -> Any:
    """Return the stack of layers of a model, as ``GPT2Model``, without the head on top of it."""
    return getattr(network, network.base_model_prefix, None) or network


def padded(network: Any, texts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return what a model reads several texts from, padded on the right, on its device."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    own = getattr(network.config, "pad_token_id", None)
    value = own if own is not None and 0 <= own < ids_known(network) else 0
    rows = [torch.tensor(text) for text in texts]
    ids = pad_sequence(rows, batch_first=True, padding_value=value)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return {"input_ids": ids.to(network.device), "attention_mask": mask.to(network.device)}


def free_bytes(device: Any) -> int:
    """Return the free memory of a device, in bytes; that of the machine where it shares it."""
    import psutil
    import torch

    of_its_own = getattr(getattr(torch, torch.device(device).type, None), "mem_get_info", None)
    return int(of_its_own(device)[0] if of_its_own else psutil.virtual_memory().available)


def _revision(found: Located) -> str:
    """Return the hub's commit, or the hash of a GGUF file or of a directory's model."""
    if found.folder is None:
        return str(getattr(found.config, "_commit_hash", None) or "unknown")
    if file := found.options.get("gguf_file"):
        return file_hash(found.folder / file)
    settings = json.loads((found.folder / "config.json").read_text(encoding="utf-8"))
    settings.pop("transformers_version", None)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in sorted(found.folder.glob("*.safetensors")):
        digest.update(file_hash(path).encode())
    return digest.hexdigest()
