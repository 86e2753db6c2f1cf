"""Language models behind one interface: a prompt and a grammar in, completions out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from attn_dsl.dsl.errors import InputError, WorkError

PromptKind = Literal["compact", "page"]
PROMPT_KEY = "attn_dsl_prompt"
"""In a transformers model's config.json: which prompt it was trained on."""
GGUF_PROMPT_KEY = "attn_dsl.prompt"
"""The same in the metadata of a GGUF file."""
PROMPTS: tuple[PromptKind, ...] = ("compact", "page")


class ModelError(WorkError):
    """A language model could not be used or gave nothing that can be used; says what to do.

    ``done`` has the completions that came before.
    """

    done: Sequence[Completion] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote.

    Attributes:
        text: without the prompt.
        logprob: natural logarithm of its probability under the model, among the tokens that the
            grammar allowed; None where a server does not tell.
        tokens: how many.
        truncated: it did not come to its end: it may be cut at a term, or be no program.
    """

    text: str
    logprob: float | None
    tokens: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: 0 takes the likeliest token always.
        top_p: the likeliest tokens are drawn from that have this probability together.
        min_p: tokens that are less likely than this share of the likeliest are not drawn.
        max_tokens: the longest completion.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    max_tokens: int = 384

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("--temperature", self.temperature, 0, 10),
            ("--top-p", self.top_p, 0, 1),
            ("--min-p", self.min_p, 0, 1),
        ):
            if not low <= value <= high:
                raise InputError(f"{name} must lie between {low} and {high}, not {value:g}")
        if self.top_p == 0:
            raise InputError("--top-p must be above 0; --temperature 0 takes the likeliest token")
        if self.max_tokens < 16:
            raise InputError(f"--completion-tokens must be at least 16, not {self.max_tokens}")


class LanguageModel(Protocol):
    """Something that writes texts which follow a grammar."""

    @property
    def name(self) -> str:
        """What it is called in messages and records."""
        ...

    @property
    def fingerprint(self) -> str:
        """What tells it from another model."""
        ...

    @property
    def prompt(self) -> PromptKind:
        """Which prompt it wants."""
        ...

    @property
    def context(self) -> int:
        """The most tokens that it reads and writes together."""
        ...

    def count(self, text: str) -> int:
        """Count the tokens of a prompt."""
        ...

    def complete(
        self, prompt: str, grammar: str, count: int, seed: int, sampling: Sampling,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[Completion]:  # fmt: skip
        """Write completions of a prompt that follow a grammar in Lark's notation.

        The same arguments give the same completions, in the same order. When ``stop`` says so, what
        is not finished comes truncated.

        Raises:
            ModelError: it failed, or the prompt does not fit.
        """
        ...


def room(model: LanguageModel, sampling: Sampling) -> int:
    """Return how many tokens a prompt may have such that a completion still fits.

    A short context is shared: at most half of it is kept for the completion.
    """
    return model.context - min(sampling.max_tokens, model.context // 2)


def too_long(name: str, tokens: int, context: int) -> ModelError:
    """Say that a prompt leaves no room for a program."""
    return ModelError(
        f"{name}: the prompt has {tokens} tokens, and the model's context is {context}, which leaves "
        "too little for a program; lower --prompt-tokens, or use a model with a longer context"
    )


def left_over(name: str, tokens: int, context: int, sampling: Sampling) -> int:
    """Return how many tokens a completion may have behind a prompt.

    >>> left_over("mine", 300, 512, Sampling())
    212

    Raises:
        ModelError: they are too few for a program.
    """
    most = context - tokens
    if most < min(16, sampling.max_tokens):
        raise too_long(name, tokens, context)
    return most
