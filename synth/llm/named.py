"""Names of language models: what kind of model each stands for, and how it is opened."""

import importlib.util
from pathlib import Path

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.locate import find, looks_local
from attn_dsl.synth.llm.model import LanguageModel

NAMED = "a directory, a Hugging Face id, FILE.gguf, hf:REPO:FILE.gguf, URL#MODEL or replay:RUN"
"""How a model is named."""
EXTRAS = {"gguf": ("llama_cpp", "llm"), "server": ("openai", "openai")}
"""By kind, the module that it needs and the extra of attn-dsl that brings it."""


def open_model(spec: str, *, device: str = "cpu") -> LanguageModel:
    """Open a language model by its name, as ``NAMED`` says; ``device`` is for transformers.

    Raises:
        InputError: there is no such model, or a package is missing; says how to install it.
        ModelError: its server does not answer.
    """
    check_spec(spec)
    kind, where = kind_of(spec)
    if kind == "gguf":
        from attn_dsl.synth.llm.llamacpp import LlamaCpp

        return LlamaCpp(where)
    if kind == "server":
        from attn_dsl.synth.llm.server import Server

        return Server(where)
    from attn_dsl.synth.llm.hf import Transformers

    return Transformers(where, device=device)


def kind_of(spec: str) -> tuple[str, str]:
    """Say what kind of model is named, and where it is.

    >>> kind_of("http://localhost:8080/v1#coder")
    ('server', 'http://localhost:8080/v1#coder')
    >>> kind_of("hf:org/repo:model.gguf")[0], kind_of("org/repo")[0], kind_of("replay:runs/first")
    ('gguf', 'transformers', ('replay', 'runs/first'))
    """
    if spec.startswith(("http://", "https://")):
        return "server", spec
    if spec.startswith("replay:"):
        return "replay", spec.removeprefix("replay:")
    return "gguf" if spec.startswith("hf:") or spec.endswith(".gguf") else "transformers", spec


def absolute(spec: str) -> str:
    """Name a model such that it is found from everywhere on this file system."""
    where = kind_of(spec)[1]
    path = Path(where).expanduser()
    return spec.replace(where, str(path.resolve())) if where and path.exists() else spec


def check_spec(spec: str) -> None:
    """Refuse what cannot be a model, before any work is done; nothing is loaded.

    Raises:
        InputError: no model is named, a file or directory is missing, or a package is.
    """
    kind, where = kind_of(spec)
    module, extra = EXTRAS.get(kind, ("", ""))
    if not spec:
        raise InputError(f"--proposers llm asks a language model: name one by --llm MODEL, {NAMED}")
    if module and importlib.util.find_spec(module) is None:
        package = module.replace("_", "-")
        raise InputError(f"--llm {spec}: needs {package}: pip install 'attn-dsl[{extra}]'")
    if spec.startswith("hf:") and spec.count(":") != 2:
        raise InputError(f"--llm {spec}: write hf:REPO:FILE.gguf, as in hf:org/repo:model.gguf")
    if kind in ("gguf", "transformers") and looks_local(where):
        find(where)  # the hub is asked when the model is opened
    elif kind == "replay" and not Path(where, "llm").expanduser().is_dir():
        raise InputError(f"--llm {spec}: no completions are kept there; name a run with some")
