"""How a language model is asked: the options of the proposer ``llm``, on the command line as well."""

import re
from dataclasses import dataclass, field, fields
from typing import Any

from attn_dsl.dsl.errors import InputError


def _option(default: Any, name: str, text: str, least: float | None = None) -> Any:
    """Return a field with its option, what it is for, and the smallest value."""
    return field(default=default, metadata={"option": name, "text": text, "least": least})


@dataclass(frozen=True, slots=True)
class Options:
    """How a language model is asked; each field is an option of ``attn-dsl fit``.

    Raises:
        InputError: a value is out of range.
    """

    model: str = _option(
        "", "--llm", "Let a language model propose programs too: a directory, a Hugging Face id, "
        "FILE.gguf, hf:REPO:FILE.gguf, URL#MODEL of a server, replay:RUN.")  # fmt: skip
    samples: int = _option(8, "--samples", "Completions for a head, all rounds together", 1)
    rounds: int = _option(1, "--llm-rounds", "Ask the model so often, from the second time on with its best "
                          "programs and where they are wrong", 1)  # fmt: skip
    prompt_tokens: int = _option(600, "--prompt-tokens", "The longest part of a prompt about one head, in "
                                 "the model's own tokens", 32)  # fmt: skip
    temperature: float = _option(1.0, "--temperature", "Of sampling; 0 takes the likeliest token always", 0)
    min_p: float = _option(0.2, "--min-p", "Tokens less likely than so many times the likeliest are never "
                           "drawn", 0)  # fmt: skip
    completion_tokens: int = _option(48, "--completion-tokens", "The longest completion, in tokens", 16)
    seconds: float = _option(0.0, "--llm-seconds", "Time for all that the model writes in a run; 0 sets no "
                             "limit.", 0)  # fmt: skip
    heads: int = _option(0, "--llm-heads", "Ask the model about so many heads, those that the search "
                         "explains least; about all if 0.", 0)  # fmt: skip
    device: str = _option("cpu", "--llm-device", "Where a transformers model runs, as in cuda")

    def __post_init__(self) -> None:
        for one in fields(self):
            least, value = one.metadata["least"], getattr(self, one.name)
            if least is not None and not value >= least:
                raise InputError(f"{one.metadata['option']} must be at least {least}, not {value}")
        if not re.fullmatch(r"cpu|(?:cuda|xpu|mps)(?::\d+)?", self.device):
            raise InputError(f"--llm-device {self.device}: write cpu, cuda, cuda:1, xpu or mps")
