"""The interface of a language model: a request in, completions out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from attn_dsl.dsl.errors import WorkError


class ModelError(WorkError):
    """A language model failed."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a model is asked.

    Attributes:
        prompt: the text that is to be answered.
        causal: the visibility of the programs that it may write: see ``grammar.proposal_grammar``.
        count: the number of completions.
        seed: decides everything that is drawn.
        temperature: 0 takes the likeliest token always.
        max_tokens: the longest completion.
    """

    prompt: str
    causal: bool
    count: int
    seed: int
    temperature: float = 1.0
    max_tokens: int = 384


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote: its text, the number of its tokens, and whether it was cut off."""

    text: str
    tokens: int
    truncated: bool


class LanguageModel(Protocol):
    """Something that writes programs.

    Attributes:
        name: for messages and records.
        fingerprint: tells it from every other model.
        context: the most tokens of a prompt and its completion together.
    """

    name: str
    fingerprint: str
    context: int

    def count(self, text: str) -> int:
        """Count the tokens of a prompt."""
        ...

    def complete(self, request: Request, stop: Callable[[], bool]) -> Iterable[Completion]:
        """Write the completions of a request; equal requests give equal completions, in order.

        Once ``stop`` returns True, the completions come as far as they are written. A server that
        fails has given those before.

        Raises:
            ModelError: the model failed, or the prompt does not fit its context.
        """
        ...
