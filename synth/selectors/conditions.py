"""Conditions: predicates of a query and a key, made of quantities of positions, and how they are written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

import numpy as np

from attn_dsl.dsl.printer import quote

PAIRS, THIRDS = 80, 12
"""How many conditions, of those that hold for the fewest other pairs and of the shortest, are tried in
twos; and how many of the shortest as a third."""
MOST, TRIED = 0.98, 3
"""The share of other pairs that a condition may hold for, and how many programs are fitted at a level."""
FLIPPED = {"<=": ">=", ">=": "<=", "==": "==", "!=": "!="}
Bools = np.ndarray


@dataclass(frozen=True)
class Quantity:
    """An integer of a position."""

    text: str  # in the language, with ``{i}`` for the position
    name: str = ""  # the function that it may be written as; "" for a feature
    needs: tuple[Quantity, ...] = ()  # the functions that its text uses
    least: int = 0  # its least value

    def at(self, variable: str) -> str:
        """Write it at a position."""
        return f"{self.name}({variable})" if self.name else self.text.format(i=variable)


@dataclass(frozen=True)
class Condition:
    """A predicate of a query and a key that holds for all pairs that are wanted."""

    text: str
    quantities: tuple[Quantity, ...]
    holds: Bools  # for each of the other pairs

    @property
    def size(self) -> int:
        """How long it is with its functions written out, in characters."""
        return len(self.text) + sum(len(one.text) for one in self.quantities if one.name)


NOTHING = Quantity("0")


def best(conditions: Sequence[Condition]) -> list[Condition]:
    """Return the shortest of one to three conditions that hold for no other pair; else the nearest."""
    found = sorted(conditions, key=lambda one: (one.holds.sum(), one.size))
    exact = [one for one in found if not one.holds.any()]
    several = list({one.holds.tobytes(): one for one in reversed(found) if one.holds.any()}.values())[::-1]
    several = [*several[:PAIRS], *sorted(several[PAIRS:], key=lambda one: one.size)[:PAIRS]]
    holds = np.array([one.holds for one in several], dtype=np.float32)

    def together(*more: Condition) -> list[Condition]:
        inside = holds[:, np.logical_and.reduce([one.holds for one in more])] if more else holds
        if not several:
            return []
        none = np.argwhere(np.triu(inside @ inside.T == 0, 1)).tolist()
        return [joined((several[i], several[j], *more)) for i, j in none]

    both = together()
    if not exact and not both:
        both = [one for third in sorted(several, key=lambda one: one.size)[:THIRDS]
                for one in together(third)]  # fmt: skip
    return sorted(exact + both, key=lambda one: one.size)[:TRIED] or found[:1]


def joined(conditions: Sequence[Condition]) -> Condition:
    """Return a condition that holds for no other pair: that some hold."""
    text = " and ".join(one.text for one in conditions)
    return Condition(text, tuple(q for one in conditions for q in one.quantities), np.zeros(1, dtype=bool))


def bounds(
    inside: np.ndarray, outside: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield ranges that some differences are in for all pairs that are wanted.

    Args:
        inside, outside: (differences, pairs): for the pairs that are wanted, and for others.

    Yields:
        the sign (see ``between``), the lowest and the highest value (differences), for which other pairs a
        difference is in the range (differences, pairs), and whether it is for few enough (differences).
    """
    low, high = inside.min(1), inside.max(1)
    under, over = outside < low[:, None], outside > high[:, None]
    yield "<=", low, high, ~over, over.mean(1) > 1 - MOST
    yield ">=", low, high, ~under, under.mean(1) > 1 - MOST
    either = under | over
    yield "==", low, high, ~either, (either.mean(1) > 1 - MOST) & under.any(1) & over.any(1)
    for value in (-1, 0, 1):
        equal = outside == value
        same = np.full(len(low), value)
        yield "!=", same, same, ~equal, equal.any(1) & (inside != value).all(1)


def within(at: str, chosen: Set[str], every: Set[str], most: int) -> str:
    """Write that the token at a position is one of some; "" if it always is, or for more than ``most``."""
    left = every - chosen
    fewer = left if len(left) < len(chosen) else chosen
    if not left or len(fewer) > most:
        return ""
    listed = ", ".join(map(quote, sorted(fewer)))
    if len(fewer) == 1:
        return f"text({at}) {'!=' if fewer is left else '=='} {listed}"
    return f"text({at}) {'not ' * (fewer is left)}in {{{listed}}}"


def bracketed(text: str) -> str:
    """Write an integer as a factor."""
    return f"({text})" if re.search(r" [-+%] ", re.sub(r"\(.*\)", "", text)) else text


def between(one: Quantity, other: Quantity, at: str, sign: str, low: int, high: int) -> str:
    """Write that the difference of two quantities is in a range.

    Args:
        at: the variables of the two: "kq", "kk" or "qq".
        sign: ``<=`` and ``>=`` if only ``high`` or ``low`` bounds it, ``==`` if both do, ``!=`` if the
            difference is not ``low``, which is ``high``.
    """
    mine, yours = one.at(at[0]), other.at(at[1])
    if mine == yours == "0":
        return ""
    if mine == "0":
        return alone(yours, FLIPPED[sign], -high, -low, other.least)
    if yours == "0":
        return alone(mine, sign, low, high, one.least)
    if sign == "==" and low != high:
        return f"{mine} - {bracketed(yours)} in {low}..{high}"
    by = low if sign == ">=" else high
    if (sign, by) in (("<=", -1), (">=", 1)):
        return f"{mine} {sign[0]} {yours}"
    return f"{mine} {sign} {yours}" + (f" {'-' if by < 0 else '+'} {abs(by)}" if by else "")


def alone(text: str, sign: str, low: int, high: int, least: int) -> str:
    """Write that a quantity is in a range; ``least`` is its least value."""
    if sign == "<=" and high == least:
        sign, low = "==", high
    if sign == "==" and (low < high or low < 0):
        return f"{text} in {low}..{high}"
    value = low if sign == ">=" else high
    if value < 0:  # whole numbers have no sign
        return f"{text} < 0" if (sign, value) == ("<=", -1) else ""
    return f"{text} {sign} {value}"
