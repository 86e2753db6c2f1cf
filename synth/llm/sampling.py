"""Constrained sampling: masks from llguidance, one random stream and one matcher per completion.

A completion depends on its own stream and the model's logits alone, not on which others are drawn
beside it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from attn_dsl.dsl.errors import InputError
from attn_dsl.synth.llm.model import Completion, ModelError, Sampling

SLICES = [
    r'[^"\\\x00-\x1f\x7f\x85\u2028\u2029]{1,4}',
    r'[^"\\\x00-\x1f\x7f\x85\u2028\u2029]{1,8}',
    r'[^"\\\x00-\x1f\x7f\x85\u2028\u2029]{1,16}',
]
"""What strings are made of: llguidance looks up whole groups of tokens instead of each."""


class Writing:
    """Completions that are being written: what each may go on with, and what is drawn.

    Args:
        tokenizer: llguidance's, of the model.
        grammar: in Lark's notation.
        count, seed: how many, and what decides what is drawn.
        sampling: how.
        most: the most tokens of each, if the context is shorter than ``sampling`` asks for.
    """

    def __init__(
        self, tokenizer: Any, grammar: str, count: int, seed: int, sampling: Sampling, most: int
    ) -> None:
        from llguidance.numpy import allocate_token_bitmask

        self._first = _matcher(tokenizer, grammar)
        self._matchers: dict[int, Any] = {}
        self.tokenizer, self.sampling = tokenizer, sampling
        self.tokens: list[list[int]] = [[] for _ in range(count)]
        self.logprobs = np.zeros(count)
        self.ended = np.zeros(count, dtype=bool)
        self.most = min(most, sampling.max_tokens)
        self._seed = seed
        self._draws: dict[int, np.ndarray] = {}
        self._size = int(tokenizer.vocab_size)
        self._ends = frozenset(tokenizer.eos_tokens)
        self._mask = allocate_token_bitmask(1, self._size)

    def step(self, at: int, logits: np.ndarray) -> int | None:
        """Draw the next token of a completion; None when it is over.

        Args:
            at: which completion.
            logits: float32 (vocabulary): the model's, of what follows.
        """
        if at not in self._matchers:
            self._matchers[at] = self._first.deep_copy()
            self._draws[at] = np.random.default_rng([self._seed, at]).random(self.most + 1)
        ids = self.allowed(at)
        number = len(self.tokens[at])
        if number >= self.most and not self._ends.issuperset(ids.tolist()):
            del self._matchers[at], self._draws[at]
            return None
        chosen, logprob = draw(logits[ids], float(self._draws[at][number]), self.sampling)
        token = int(ids[chosen])
        self.logprobs[at] += logprob
        if token in self._ends:
            self.ended[at] = True
            del self._matchers[at], self._draws[at]
            return None
        if not self._matchers[at].consume_token(token):
            raise ModelError(f"the grammar refused a token: {self._matchers[at].get_error()}")
        self.tokens[at].append(token)
        return token

    def allowed(self, at: int) -> np.ndarray:
        """Return the tokens that a completion may go on with."""
        ids = set_bits(self.mask(at))
        return ids[: np.searchsorted(ids, self._size)]

    def mask(self, at: int) -> np.ndarray:
        """Return the same as bits, int32, the least significant one first."""
        from llguidance.numpy import fill_next_token_bitmask

        matcher = self._matchers[at]
        fill_next_token_bitmask(matcher, self._mask)
        if matcher.is_error():
            raise ModelError(f"the grammar could not be followed: {matcher.get_error()}")
        return self._mask[0]

    def completions(self) -> list[Completion]:
        """Return what was written."""
        return [
            Completion(
                self.tokenizer.decode_str(tokens), float(logprob), len(tokens), not bool(ended)
            )
            for tokens, logprob, ended in zip(self.tokens, self.logprobs, self.ended, strict=True)
        ]


def set_bits(words: np.ndarray) -> np.ndarray:
    """Return the numbers of the bits that are set, rising; most words of a mask are 0.

    >>> set_bits(np.array([5, 0, -(2**31)], dtype=np.int32))
    array([ 0,  2, 95])

    Args:
        words: int32, the least significant bit first.
    """
    used = np.flatnonzero(words)
    if 4 * len(used) > len(words):
        return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))
    bits = np.unpackbits(words[used].view(np.uint8), bitorder="little")
    found = np.flatnonzero(bits)
    return (used[found >> 5] << 5) + (found & 31)


def draw(logits: np.ndarray, uniform: float, sampling: Sampling) -> tuple[int, float]:
    """Draw one of some tokens; return which, and the logarithm of its probability among them.

    >>> draw(np.array([0.0, 5.0]), 0.5, Sampling(temperature=0))[0]
    1

    Args:
        logits: of the tokens that are allowed.
        uniform: a number drawn from [0, 1).
    """
    x = logits.astype(np.float64)
    if not np.isfinite(x.max()):
        raise ModelError("the model's logits are not numbers; its file may be damaged")
    x -= x.max()
    total = np.log(np.exp(x).sum())
    if sampling.temperature == 0 or len(x) == 1:
        best = int(x.argmax())
        return best, float(x[best] - total)
    p = np.exp(x / sampling.temperature)
    if sampling.min_p:
        p[p < sampling.min_p] = 0.0
    if sampling.top_p < 1:
        order = np.argsort(-p, kind="stable")
        sums = np.cumsum(p[order])
        p[order[int(np.searchsorted(sums, sampling.top_p * sums[-1])) + 1 :]] = 0.0
    sums = np.cumsum(p)
    chosen = int(np.searchsorted(sums, uniform * sums[-1], side="right"))
    return min(chosen, len(x) - 1), float(x[min(chosen, len(x) - 1)] - total)


@lru_cache(maxsize=8)
def _matcher(tokenizer: Any, grammar: str) -> Any:
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer, grammar)
    if matcher.is_error():
        raise InputError(f"the grammar does not fit the model's tokenizer: {matcher.get_error()}")
    return matcher
