"""The time of a search, shared over its heads by what more time is expected to bring each.

The first round has ``FIRST`` of the time where others follow, shared equally; each later round has an
equal part of what is then left. In later rounds a head's share is half equal, half in proportion to what
the larger half of its front brought. Heads that were cut short are searched first. What heads do not use
goes to those after them, and where there is too little for all, the last ones keep what they have.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from attn_dsl.eval.results import HeadResult

FIRST = 0.7
"""The first round's part of the time, where others follow."""
GRACE = 0.03
"""By how much of the limit heads that have no result yet may overrun it …"""
LEAST_GRACE = 5.0
"""… or by so many seconds, if that is more: a result for every head matters more then."""
LEAST_SHARE = 5.0
"""The least seconds for a head in a later round; to write down a result takes some of them."""
KEPT_BACK = 0.1
"""Tables and the report get 1 % of the limit and 0.01 s for each head, at most this part of it."""

Pair = tuple[int, int]


class Budget:
    """The time that a search has left: ``limit`` seconds since ``started``, or no limit."""

    def __init__(self, limit: float | None, started: float, rounds: int, heads: int) -> None:
        self.limit, self.rounds = limit, rounds
        self.ends = None
        if limit is not None:
            self.ends = started + limit - min(0.01 * limit + 0.01 * heads, KEPT_BACK * limit)
        self._round_ends, self._least = self.ends, 0.0
        self._late: list[float] = []
        self._weights: dict[Pair, float] = {}

    def begin(self, number: int, before: Mapping[Pair, HeadResult | None]) -> list[Pair]:
        """Begin round ``number`` for some heads, given their results of the round before.

        Returns:
            The heads, in the order in which they are to be searched.
        """
        rises = {pair: rise(result) for pair, result in before.items()}
        mean = sum(rises.values()) / max(len(rises), 1)
        self._weights = {
            pair: 0.5 + 0.5 * (value / mean if mean > 0 else 1.0) for pair, value in rises.items()
        }
        self._least = 0.0 if number == 1 else LEAST_SHARE
        if self.ends is not None:
            now, left = time.monotonic(), self.rounds - number
            part = FIRST if number == 1 and left else 1 / (left + 1)
            self._round_ends = now + part * max(0.0, self.ends - now)
        if number == 1:
            return [*before]
        cut_short = {pair for pair, result in before.items() if result and result.cut_short}
        return sorted(before, key=lambda pair: (pair not in cut_short, -self._weights[pair]))

    def share(self, pair: Pair, left: Sequence[Pair], slots: int) -> float | None:
        """Return the seconds for the search of a head, None for no limit.

        ``left`` are the heads that are not begun yet, this one included; ``slots`` run at once.
        """
        if self._round_ends is None:
            return None
        rest, mine = self._round_ends - time.monotonic(), self._weights[pair]
        turns = max(1.0, sum(self._weights[other] for other in left) / (mine * slots))
        least = max(self._least, self.overrun) if self._least else 0.0
        return min(rest - self.overrun, max(rest / turns - self.overrun, least))

    @property
    def overrun(self) -> float:
        """How long heads go on in the mean when their time is over: the last weights, scores."""
        return sum(self._late) / len(self._late) if self._late else 0.0

    def tell_overrun(self, seconds: float) -> None:
        """Take note of how long a head that was cut short went on."""
        self._late.append(max(0.0, seconds))

    @property
    def remaining(self) -> float | None:
        """Seconds until the end of the whole search, None for no limit."""
        return None if self.ends is None else self.ends - time.monotonic()

    @property
    def over(self) -> bool:
        """Whether not even a head without any result may be begun."""
        if self.ends is None or self.limit is None:
            return False
        grace = max(GRACE * self.limit, LEAST_GRACE)
        return time.monotonic() + self.overrun > self.ends + grace


def rise(result: HeadResult | None) -> float:
    """Return what the larger half of a head's front brought: score on the select split.

    1 for a head that was not searched yet, so that all are equal.
    """
    if result is None:
        return 1.0
    front = result.front
    small = [row.score for row in front if 2 * row.nodes <= front[-1].nodes]
    return max(0.0, max(row.score for row in front) - max(small, default=0.0))
