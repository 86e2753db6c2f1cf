"""Strategies of ``attn_dsl.strategies`` that draw from a plain random source, without Hypothesis.

They draw the same programs and texts some fifty times as fast. Nothing is shrunk or kept.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import wraps
from itertools import chain
from random import Random
from types import ModuleType
from typing import Any

import hypothesis


class Strategy:
    """A function of a random source; the methods are those of Hypothesis that the strategies use."""

    def __init__(self, draw: Callable[[Random], Any], options: tuple[Strategy, ...] = ()) -> None:
        self.draw, self.options = draw, options or (self,)

    def __class_getitem__(cls, of: object) -> type[Strategy]:
        return cls

    def __or__(self, other: Strategy) -> Strategy:
        return one_of(self, other)

    def map(self, function: Callable[[Any], Any]) -> Strategy:
        return Strategy(lambda random: function(self.draw(random)))


def one_of(*strategies: Any) -> Strategy:
    given = strategies[0] if isinstance(strategies[0], list) else strategies
    options = tuple(chain.from_iterable(one.options for one in given))
    return Strategy(lambda random: random.choice(options).draw(random), options)


def just(value: Any) -> Strategy:
    return Strategy(lambda random: value)


def sampled_from(values: Any) -> Strategy:
    values = tuple(values)
    return Strategy(lambda random: values[int(random.random() * len(values))])


def integers(low: int, high: int) -> Strategy:
    return Strategy(lambda random: low + int(random.random() * (high - low + 1)))


def text(max_size: int) -> Strategy:
    def char(random: Random) -> str:
        limit = random.choice((0x80, 0x80, 0x3000, 0xD800))
        return chr(random.randrange(limit))

    return lists(Strategy(char), max_size=max_size).map("".join)


def lists(element: Strategy, min_size: int = 0, max_size: int = 8, unique: bool = False) -> Strategy:
    def draw(random: Random) -> list[Any]:
        count = random.randint(min_size, max_size)
        drawn = [element.draw(random) for _ in range(count)]
        return list(dict.fromkeys(drawn)) if unique else drawn

    return Strategy(draw)


def dictionaries(keys: Strategy, values: Strategy, min_size: int, max_size: int) -> Strategy:
    return lists(tuples(keys, values), min_size, max_size).map(dict)


def tuples(*parts: Strategy) -> Strategy:
    return Strategy(lambda random: tuple(part.draw(random) for part in parts))


def builds(target: Callable[..., Any], *parts: Strategy) -> Strategy:
    return Strategy(lambda random: target(*[part.draw(random) for part in parts]))


def composite(function: Callable[..., Any]) -> Callable[..., Strategy]:
    @wraps(function)
    def made(*args: Any, **options: Any) -> Strategy:
        return Strategy(lambda random: function(lambda one: one.draw(random), *args, **options))

    return made


def nothing() -> Strategy:
    empty = Strategy(lambda random: None)
    empty.options = ()
    return empty


def none() -> Strategy:
    return just(None)


def booleans() -> Strategy:
    return sampled_from((False, True))


def strategies() -> ModuleType:
    """Return the module ``attn_dsl.strategies``, made with the strategies of this module."""
    spec = importlib.util.find_spec("attn_dsl.strategies")
    assert spec is not None and spec.loader is not None
    module, here = importlib.util.module_from_spec(spec), sys.modules[__name__]
    before = sys.modules["hypothesis.strategies"], hypothesis.strategies
    try:
        sys.modules["hypothesis.strategies"] = hypothesis.strategies = here  # type: ignore[assignment]
        spec.loader.exec_module(module)
    finally:
        sys.modules["hypothesis.strategies"], hypothesis.strategies = before
    return module


SearchStrategy = Strategy
DrawFn = Callable[[Strategy], Any]
