"""Shrinking: finds the simplest value that meets a condition, or a small text that fails a test."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection
from random import Random
from typing import TypeVar

import hypothesis
from hypothesis import Phase
from hypothesis.errors import Flaky, NoSuchExample
from hypothesis.strategies import SearchStrategy

from attn_dsl.dsl.tokens import Tokens
from attn_dsl.strategies import tokens

T = TypeVar("T")
SIMPLE_TOKENS = ("a", " b", ".")
"""The tokens that shrinking puts in place of others, the simplest first."""


def smallest(strategy: SearchStrategy[T], condition: Callable[[T], bool], max_examples: int = 1000,
             seed: int = 0, *, phases: tuple[Phase, ...] = (Phase.generate, Phase.shrink)) -> T:  # fmt: skip
    """Return the simplest value that is found of a strategy and meets a condition.

    >>> from attn_dsl.testing import tokens
    >>> len(smallest(tokens(), lambda drawn: len(set(drawn)) == 2))
    2

    Raises:
        hypothesis.errors.NoSuchExample: none of ``max_examples`` values meets the condition.
    """
    settings = hypothesis.settings(max_examples=max_examples, database=None, deadline=None, derandomize=False,
                                   phases=phases,
                                   suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    return hypothesis.find(strategy, condition, settings=settings, random=Random(seed))


def failing_text(test: Callable[[Tokens], object], max_examples: int, seed: int,
                 max_size: int, words: Collection[str] = ()) -> tuple[Tokens, Exception] | None:  # fmt: skip
    """Return a small text on which a test raises an exception, and the exception; None if none is found.

    ``words`` are token strings that texts may have besides the usual ones.
    """
    failures: list[tuple[Tokens, Exception]] = []

    def fails(text: Tokens) -> bool:
        try:
            test(text)
        except Exception as error:
            failures.append((text, error))
            return True
        return False

    with contextlib.suppress(NoSuchExample, Flaky):
        smallest(tokens(max_size, words=words), fails, max_examples, seed, phases=(Phase.generate,))
    if not failures:
        return None
    _shrink_text(failures[-1][0], fails)
    return failures[-1]


def _shrink_text(text: Tokens, fails: Callable[[Tokens], bool]) -> None:
    """Remove tokens, and replace tokens by simpler ones, while the test still fails."""
    strings, again = list(text.strings), True
    while again:
        again = False
        for i in reversed(range(len(strings))):
            simpler = [*itertools.takewhile(strings[i].__ne__, SIMPLE_TOKENS)]
            for changed in ([*strings[:i], *strings[i + 1 :]],
                            *([s if x == strings[i] else x for x in strings] for s in simpler),
                            *([*strings[:i], s, *strings[i + 1 :]] for s in simpler)):  # fmt: skip
                if fails(Tokens.from_strings(changed)):
                    strings, again = changed, True
                    break
