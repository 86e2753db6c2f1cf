"""The interface of a language model: a request in, completions out."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from attn_dsl.dsl.errors import WorkError
from attn_dsl.synth.llm.grammar import proposal_grammar


class ModelError(WorkError):
    """A language model failed."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a model is asked."""

    prompt: str  # the text that is to be answered; the part that all heads share comes first
    # the visibility of the programs that it may write: see ``grammar.proposal_grammar``
    causal: bool
    count: int  # the number of completions
    seed: int  # decides everything that is drawn
    temperature: float = 1.0  # 0 takes the likeliest token always
    max_tokens: int = 384  # the longest completion
    # of the tokens that the grammar allows, those less likely than so many times the likeliest are not drawn
    min_p: float = 0.0
    shared: int = 0  # how many characters of the prompt all heads share
    other: str = ""  # the grammar of what is written instead of a program, in Lark's notation

    @property
    def grammar(self) -> str:
        """The grammar of what is written."""
        return self.other or proposal_grammar(self.causal)


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote: its text, the number of its tokens, and whether it was cut off."""

    text: str
    tokens: int
    truncated: bool


class LanguageModel(Protocol):
    """Something that writes under a grammar."""

    name: str  # for messages and records
    fingerprint: str  # tells it from every other model
    context: int  # the most tokens of a prompt and its completion together

    def count(self, text: str) -> int:
        """Count the tokens of a prompt."""
        ...

    def complete(self, request: Request, stop: Callable[[], bool],
                 seconds: float = math.inf) -> Iterable[Completion]:  # fmt: skip
        """Write the completions of a request; equal requests give equal completions, in order.

        Once ``stop`` returns True, which it does after so many seconds, the completions come as far as
        they are written. A server that fails has given those before.

        Raises:
            ModelError: the model failed, or the prompt does not fit its context.
        """
        ...
