"""Minimal examples: the simplest value that meets a condition, the smallest text that fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

import hypothesis
from hypothesis.errors import Flaky, NoSuchExample
from hypothesis.strategies import SearchStrategy

from attn_dsl.dsl.tokens import Tokens
from attn_dsl.strategies import tokens

T = TypeVar("T")
SIMPLE = ("a", " b", ".")
"""What takes the place of a counterexample's tokens where it stays one."""


def smallest(
    strategy: SearchStrategy[T],
    condition: Callable[[T], bool],
    max_examples: int = 1000,
    seed: int = 0,
) -> T:
    """Return the simplest value of a strategy that meets a condition.

    >>> from attn_dsl.testing import tokens
    >>> len(smallest(tokens(), lambda drawn: len(set(drawn)) == 2))
    2

    Raises:
        hypothesis.errors.NoSuchExample: none of the values tried meets it.
    """
    settings = _settings(max_examples, [hypothesis.Phase.generate, hypothesis.Phase.shrink])
    return hypothesis.find(strategy, condition, settings=settings, random=Random(seed))


def failing_text(
    test: Callable[[Tokens], None], max_examples: int, seed: int, max_size: int
) -> tuple[Tokens, Exception] | None:
    """Find a small text on which a test raises, and what it raises there."""
    failures: list[tuple[Tokens, Exception]] = []

    def fails(text: Tokens) -> bool:
        try:
            test(text)
        except Exception as error:
            failures.append((text, error))
            return True
        return False

    settings = _settings(max_examples, [hypothesis.Phase.generate])
    with contextlib.suppress(NoSuchExample, Flaky):
        hypothesis.find(tokens(max_size=max_size), fails, settings=settings, random=Random(seed))
    if not failures:
        return None
    _shrink(failures[-1][0], fails)
    return failures[-1]


def _shrink(text: Tokens, fails: Callable[[Tokens], bool]) -> None:
    """Leave out tokens, and put simpler ones in their place, as long as the test fails."""
    strings, again = list(text.strings), True
    while again:
        again = False
        for i in reversed(range(len(strings))):
            rank = SIMPLE.index(strings[i]) if strings[i] in SIMPLE else len(SIMPLE)
            simpler = SIMPLE[:rank]
            for changed in (
                [*strings[:i], *strings[i + 1 :]],
                *([s if x == strings[i] else x for x in strings] for s in simpler),
                *([*strings[:i], s, *strings[i + 1 :]] for s in simpler),
            ):
                if fails(Tokens.from_strings(changed)):
                    strings, again = changed, True
                    break


def _settings(max_examples: int, phases: Sequence[hypothesis.Phase]) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=max_examples, database=None, deadline=None, derandomize=False,
        phases=phases, suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
