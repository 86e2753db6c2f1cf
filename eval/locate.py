"""Finding models: a directory or a hub id, its configuration, and the class that loads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_dsl.dsl.errors import InputError, did_you_mean
from attn_dsl.eval.files import first_line


@dataclass(frozen=True, slots=True)
class Located:
    """A model that was found and can be read, before anything but its configuration is loaded.

    Attributes:
        place: the directory or the hub's id, for transformers.
        folder: the directory, None for a model of the hub.
        options: further arguments of ``from_pretrained``.
        config: its configuration.
        loader: the class that loads its weights.
        causal: whether a token attends only to itself and what precedes it.
    """

    place: str
    folder: Path | None
    options: dict[str, Any]
    config: Any
    loader: Any
    causal: bool


def locate(model: str, *, weights: bool = True) -> Located:
    """Find a model in a local directory or on the hub and read its configuration.

    Args:
        weights: whether a local directory must hold weights as well.

    Raises:
        InputError: as :func:`load_model`, all but what weights and tokenizer can lack.
    """
    from transformers import AutoConfig

    folder, place, options = find(model)
    if folder is not None:
        _check_folder(folder, weights)
    try:
        config = AutoConfig.from_pretrained(place, **options)
    except Exception as error:
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            raise InputError(
                f"{model} needs code of its own to be run, which attn-dsl does not do; use a "
                "model of an architecture that transformers has"
            ) from error
        raise InputError(f"{model}: its config.json cannot be used: {first_line(error)}") from error
    loader, causal = _loader(config, model)
    return Located(place, folder, options, config, loader, causal)


def find(model: str, *, local: bool = False) -> tuple[Path | None, str, dict[str, Any]]:
    """Find a model; nothing of it is read.

    Args:
        local: look on this machine only, and ask no hub.

    Returns:
        The directory (None for a hub id); for ``from_pretrained``, place and further arguments.

    Raises:
        InputError: there is no such directory, or the hub does not give such a model.
    """
    folder = _local_folder(model)
    local = local or folder is not None
    options = {"local_files_only": True} if local else _hub_options(model)
    return folder, str(folder or model), {**options, "trust_remote_code": False}


def _local_folder(model: str) -> Path | None:
    """Return the directory that a model name means, None for a hub id."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(
            f"{model} is a file; give the directory that holds config.json and the weights"
        )
    looks_local = model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model
    if not looks_local and model and not model.endswith("/"):
        return None
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = did_you_mean(path.name, siblings) or "give a local directory or a hub id such as `gpt2`"
    raise InputError(f"{model or 'the empty name'} is not a directory; {hint}")


def _check_folder(folder: Path, weights: bool) -> None:
    """Make sure that a directory holds a configuration and weights that are safe to read."""
    names = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if "config.json" not in names:
        raise InputError(
            f"{folder} holds no config.json; give the directory that `model.save_pretrained` wrote"
        )
    if weights and not any(name.endswith(".safetensors") for name in names):
        found = f" but {pickles[0]}, a pickle, which can run code when read" if pickles else ""
        raise InputError(
            f"{folder} holds no weights in model.safetensors or model-00001-of-*.safetensors{found}; "
            "save the model again with `save_pretrained`, which writes safetensors"
        )


def _hub_options(model: str) -> dict[str, Any]:
    """Ask the hub for a model once, so that a wrong name or no network is told at once."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub import errors as hub

    try:
        cached = isinstance(try_to_load_from_cache(model, "config.json"), str)
    except hub.HFValidationError as error:
        raise InputError(
            f"{model} is neither a directory nor a hub id (`name` or `owner/name`)"
        ) from error
    try:
        return {"revision": HfApi().model_info(model, timeout=10).sha}
    except hub.GatedRepoError:
        problem = "is gated: accept its terms on its page of the hub, then run `hf auth login`"
    except hub.RepositoryNotFoundError:
        problem = (
            "is not a directory, and the hub knows no model of that name, or it is private; check "
            "the name, or run `hf auth login` for a private one"
        )
    except Exception as error:  # what the network raises has no common class
        problem = (
            "is not a directory, and the hub cannot be reached to look for the id "
            f"({type(error).__name__}); check the network and HF_HUB_OFFLINE, or give a local "
            "directory"
        )
    if not cached:
        raise InputError(f"{model} {problem}")
    return {"local_files_only": True}


def _loader(config: Any, model: str) -> tuple[Any, bool]:
    """Choose the class that loads a model, and say whether its attention is causal."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    family = config.model_type
    name = (getattr(config, "architectures", None) or [""])[0]
    masked = family in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    decodes = family in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if getattr(config, "is_encoder_decoder", False):
        problem = f"an encoder-decoder model ({family}), with two stacks of layers"
    elif masked and not getattr(config, "is_decoder", False):
        whole = name.endswith("ForMaskedLM")
        return transformers.AutoModelForMaskedLM if whole else transformers.AutoModel, False
    elif decodes or name.endswith(("ForCausalLM", "LMHeadModel")):
        return transformers.AutoModelForCausalLM, True
    else:
        problem = (
            f"a {family} model, neither a causal language model nor an encoder with a "
            "masked-word objective"
        )
    raise InputError(
        f"{model} is {problem}; use a decoder like GPT-2 or Llama, or an encoder like BERT"
    )


def max_positions(config: Any) -> int | None:
    """Return how many tokens fit by the configuration; ``models.position_limit`` tries it."""
    stated = getattr(config, "max_position_embeddings", None)
    return int(stated or getattr(config, "max_seq_len", None) or 0) or None
