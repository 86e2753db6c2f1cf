"""Sampling under a grammar: token masks by llguidance, one random stream and one matcher a completion.

A completion depends on its own stream and the model's logits, not on the completions beside it.
"""

import math
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from attn_dsl.dsl.errors import InputError
from attn_dsl.synth.llm.model import Completion, ModelError, Request

SLICES = [rf'[^"\\\x00-\x1f\x7f\x85\u2028\u2029]{{1,{most}}}' for most in (4, 8, 16)]
"""What strings are made of: llguidance looks up whole groups of such tokens at once."""
LEAST = 16  # the fewest tokens that a program can be written in
SIDE_BY_SIDE = 16
"""The most completions that are written side by side: each looks at the cells of all."""
Row = tuple[int, int, int]
"""A token that is read: its slot, its position behind the prompt, and the token."""


class Writing:
    """Completions that are being written: what each may go on with, and what is drawn.

    Args:
        tokenizer: llguidance's tokenizer of the model.
        request: what is asked.
        room: tokens that the model's context has left behind the prompt.

    Raises:
        ModelError: they are too few for a program.
    """

    def __init__(self, tokenizer: Any, request: Request, room: int) -> None:
        from llguidance.numpy import allocate_token_bitmask

        if room < LEAST:
            raise ModelError(
                f"the model's context leaves {max(0, room)} tokens for a program behind its prompt; lower "
                "--prompt-tokens, or use a model with a longer context")  # fmt: skip
        self.tokenizer, self.request = tokenizer, request
        self._first = _matcher(tokenizer, request.grammar).deep_copy()
        self.begun: list[int] = self._first.compute_ff_tokens()  # every program begins so
        self._first.consume_tokens(self.begun)
        self.most = min(room, max(request.max_tokens, len(self.begun) + 1))
        self.tokens = [[*self.begun] for _ in range(request.count)]
        self.ended = [False] * request.count
        self._going: dict[int, tuple[Any, np.random.Generator]] = {}
        self._ends = frozenset(tokenizer.eos_tokens)
        self._mask = allocate_token_bitmask(1, int(tokenizer.vocab_size))

    def step(self, at: int, logits: np.ndarray) -> int | None:
        """Draw the next token of completion ``at`` from the model's logits; None when it is over."""
        if at not in self._going:
            stream = np.random.default_rng([self.request.seed, at])
            self._going[at] = self._first.deep_copy(), stream
        matcher, stream = self._going[at]
        ids = self.allowed(matcher)
        if len(self.tokens[at]) < self.most or self._ends.issuperset(ids.tolist()):
            token = int(ids[draw(logits[ids], stream.random(), self.request)])
            if token not in self._ends:
                matcher.consume_token(token)
                self.tokens[at].append(token)
                return token
            self.ended[at] = True
        del self._going[at]
        return None

    def allowed(self, matcher: Any) -> np.ndarray:
        """Return the ids of the tokens that a completion may go on with, rising."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(matcher, self._mask)
        if matcher.is_error():
            raise ModelError(f"the grammar could not be followed: {matcher.get_error()}")
        words = self._mask[0]
        used = np.flatnonzero(words)  # most words are 0
        bits = np.flatnonzero(np.unpackbits(words[used].view(np.uint8), bitorder="little"))
        ids = (used[bits >> 5] << 5) + (bits & 31)
        return ids[: np.searchsorted(ids, self.tokenizer.vocab_size)]

    def fill(self, slots: Sequence[int], numbers: Iterable[int], begin: np.ndarray,
             read: Callable[[list[Row]], Iterable[np.ndarray]],
             stop: Callable[[], bool]) -> None:  # fmt: skip
        """Write completions side by side in slots; as one ends, the next begins in its place.

        Args:
            numbers: of the completions.
            begin: the logits behind the prompt and ``begun``.
            read: reads a token in each of some slots, and returns the logits behind each.
        """
        waiting, going = deque(numbers), dict[int, int]()
        while not stop():
            for slot in slots:
                while waiting and slot not in going:
                    at = waiting.popleft()
                    if self.step(at, begin) is not None:
                        going[slot] = at
            if not going:
                return
            written = [(slot, self.tokens[at]) for slot, at in going.items()]
            rows = [(slot, len(tokens) - len(self.begun) - 1, tokens[-1]) for slot, tokens in written]
            for (slot, *_), logits in zip(rows, read(rows), strict=True):
                if self.step(going[slot], logits) is None:
                    del going[slot]

    def completions(self) -> list[Completion]:
        """Return what was written."""
        return [Completion(self.tokenizer.decode_str(tokens), len(tokens), not ended)
                for tokens, ended in zip(self.tokens, self.ended, strict=True)]  # fmt: skip


def draw(logits: np.ndarray, uniform: float, how: Request) -> int:
    """Draw one of some tokens.

    >>> draw(np.array([0.0, 5.0]), 0.5, Request("", True, 1, 0, temperature=0))
    1

    Args:
        logits: of the tokens that are allowed.
        uniform: a number drawn from [0, 1).
        how: has the temperature and the smallest share of the likeliest token's probability.

    Raises:
        ModelError: the logits are not numbers.
    """
    best = logits.max()
    if not np.isfinite(best):
        raise ModelError("the model's logits are not numbers; its file may be damaged")
    if not how.temperature:
        return int(logits.argmax())
    odds = np.exp(logits.astype(np.float64) - best)
    sums = np.cumsum(np.where(odds < how.min_p, 0.0, odds ** (1 / how.temperature)))
    return min(int(np.searchsorted(sums, uniform * sums[-1], side="right")), len(sums) - 1)


@lru_cache(maxsize=8)
def _matcher(tokenizer: Any, grammar: str) -> Any:
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer, grammar)
    if matcher.is_error():
        raise InputError(f"the grammar does not fit the model's tokenizer: {matcher.get_error()}")
    return matcher


class LocalModel(ABC):
    """A language model on this machine, whose logits are at hand, with llguidance's tokenizer."""

    fingerprint: str

    def __init__(self, name: str, context: int, tokenizer: Any) -> None:
        self.name, self.context, self.tokenizer = name, context, tokenizer
        self._lock = threading.Lock()

    @abstractmethod
    def encoded(self, prompt: str) -> list[int]:
        """Return the tokens of a prompt, as the model's chat template writes it if there is one."""

    @abstractmethod
    def write(self, writing: Writing, ids: list[int], shared: int, stop: Callable[[], bool]) -> None:
        """Read the tokens of a prompt, then write all completions, so many side by side.

        What was read of the first ``shared`` tokens is kept for the next prompt.
        """

    def count(self, text: str) -> int:
        """Count the tokens of a prompt."""
        return len(self.encoded(text))

    def complete(self, request: Request, stop: Callable[[], bool],
                 seconds: float = math.inf) -> list[Completion]:  # fmt: skip
        """Write completions side by side, from one pass over the prompt; see ``LanguageModel``."""
        ids = self.encoded(request.prompt)
        begins = self.encoded(request.prompt[: request.shared]) if request.shared else []
        shared = next((i for i, pair in enumerate(zip(ids, begins, strict=False)) if pair[0] != pair[1]),
                      min(len(ids), len(begins)))  # fmt: skip
        writing = Writing(self.tokenizer, request, self.context - len(ids))
        self.write(writing, ids + writing.begun, shared, stop)
        return writing.completions()
