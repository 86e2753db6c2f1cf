"""Names of language models: what kind of model each stands for, and how it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.shipped import proposer_dir
from attn_dsl.synth.llm.model import LanguageModel

NAMED = "a directory, a Hugging Face id, FILE.gguf, hf:REPO:FILE.gguf, URL#MODEL or replay:RUN"
"""How a model is named."""


def open_model(spec: str | None, *, device: str = "cpu") -> LanguageModel:
    """Open a language model by its name.

    >>> open_model("../shared/models/stories260k.gguf").prompt
    'page'

    Args:
        spec: see ``NAMED``; None for the one that ships.
        device: for transformers: ``cpu``, ``cuda``.

    Raises:
        InputError: there is no such model, or a package is missing; says how to install it.
    """
    check_spec(spec)
    kind, where = kind_of(spec)
    if kind == "gguf":
        from attn_dsl.synth.llm.llamacpp import LlamaCpp

        return LlamaCpp(where)
    if kind == "server":
        from attn_dsl.synth.llm.server import Server

        return Server(where)
    if kind == "replay":
        raise InputError(f"--llm {spec}: completions are replayed by a run, not opened as a model")
    from attn_dsl.synth.llm.hf import Transformers

    return Transformers(where, device=device)


def kind_of(spec: str | None) -> tuple[Literal["gguf", "server", "replay", "transformers"], str]:
    """Say what kind of model is named, and where it is.

    >>> kind_of("http://localhost:8080/v1#coder")
    ('server', 'http://localhost:8080/v1#coder')
    >>> kind_of("hf:org/repo:model.gguf")[0], kind_of("org/repo")[0]
    ('gguf', 'transformers')
    """
    if spec is None:
        return "transformers", str(proposer_dir())
    if spec.startswith(("http://", "https://")):
        return "server", spec
    if spec.startswith("replay:"):
        return "replay", spec.removeprefix("replay:")
    if spec.startswith("hf:") or spec.endswith(".gguf") or Path(spec).is_file():
        return "gguf", spec
    return "transformers", spec


def absolute(spec: str | None) -> str | None:
    """Name a model such that it is found from everywhere on this file system.

    >>> absolute("org/repo"), absolute("/models/coder.gguf")
    ('org/repo', '/models/coder.gguf')
    """
    if spec is None:
        return None
    kind, where = kind_of(spec)
    path = Path(where).expanduser()
    if kind == "server" or not path.exists():
        return spec
    return f"{'replay:' if kind == 'replay' else ''}{path.resolve()}"


_EXTRAS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "gguf": (("llama_cpp", "llm"),),
    "server": (("openai", "openai"),),
    "transformers": (),
    "replay": (),
}


def check_spec(spec: str | None) -> None:
    """Refuse what cannot be a model, before any work is done; nothing is loaded.

    Raises:
        InputError: a file or directory is missing, or a package is.
    """
    import importlib.util

    kind, where = kind_of(spec)
    said = "" if spec is None else f" {spec}"
    for module, extra in _EXTRAS[kind]:
        if importlib.util.find_spec(module) is None:
            raise InputError(
                f"--llm{said} needs {module.replace('_', '-')}: pip install 'attn-dsl[{extra}]'"
            )
    path = Path(where)
    if kind == "gguf" and where.startswith("hf:"):
        if where.count(":") != 2 or not all(where.split(":")):
            raise InputError(
                f"--llm {where}: write hf:REPO:FILE.gguf, as in hf:org/repo:model.gguf"
            )
    elif kind == "gguf":
        if not path.is_file():
            raise InputError(f"--llm {where}: no such file; a model is {NAMED}")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise InputError(
                    f"--llm {where}: not a GGUF file (it does not begin with GGUF); a model is {NAMED}"
                )
    elif kind == "replay":
        if not (path / "llm").is_dir():
            raise InputError(
                f"--llm replay:{where}: no completions are kept there (no folder {path / 'llm'}); name "
                "a run that was made with --llm"
            )
    elif kind == "transformers":
        if spec is None and not path.is_dir():
            raise InputError(f"the model that ships is missing ({path}); install attn-dsl again")
        looks_local = where.startswith((".", "/", "~")) or where.count("/") != 1
        if path.is_dir() and not (path / "config.json").is_file():
            raise InputError(f"--llm {where}: a directory without config.json; a model is {NAMED}")
        if not path.is_dir() and looks_local:
            raise InputError(f"--llm {where}: no such directory; a model is {NAMED}")
