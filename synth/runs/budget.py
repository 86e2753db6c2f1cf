"""The time of a search, shared over its heads by what more time is expected to bring each.

The first round has ``FIRST`` of the time that is left when it starts, shared equally; what heads do
not use goes to those after them. Each later round has an equal part of what is then left, or as much
as gives all its heads a turn if that is more: a round that leaves heads out is the last one. A head's
share of it is half equal, half in proportion to the rise of its curve: what the larger half of its
front brought on the select split; one that did not rise any more gets the least. Heads that were cut
short are searched first, with more time for what was cut short than it had if that leaves enough for
the others, then those that get most. None gets next to nothing: where there is too little time for all,
the last ones keep what they have.
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
"""Seconds that a head is given at the least in a later round, or as many as it goes on beyond them:
to write down a result takes time, and to search for less would be a waste of it."""
AGAIN = 1.5
"""What was cut short is given so many times the seconds that it had."""
AFTERWARDS, BY_HEAD = 0.01, 0.01
"""What is kept back for tables and the report: a part of the limit, and seconds for each head …"""
MOST_AFTERWARDS = 0.1
"""… but not more than this part of it."""

Pair = tuple[int, int]


class Budget:
    """The time that a search has left.

    Args:
        limit: seconds, None for no limit.
        started: when they began to count (``time.monotonic``).
        rounds: how many rounds will share them.
        heads: how many heads there are in all.
    """

    def __init__(self, limit: float | None, started: float, rounds: int, heads: int) -> None:
        self.limit, self.rounds = limit, rounds
        self.ends = None
        if limit is not None:
            kept_back = min(AFTERWARDS * limit + BY_HEAD * heads, MOST_AFTERWARDS * limit)
            self.ends = started + limit - kept_back
        self._part_ends = self.ends
        self._least: dict[Pair, float] = {}
        self._late: list[float] = []
        self._weights: dict[Pair, float] = {}

    def begin(
        self, number: int, before: Mapping[Pair, HeadResult | None], slots: int
    ) -> list[Pair]:
        """Begin round ``number`` for some heads, given their results of the round before.

        Args:
            slots: how many heads are searched at once.

        Returns:
            The heads, in the order in which they are to be searched.
        """
        rises = {pair: rise(result) for pair, result in before.items()}
        mean = sum(rises.values()) / max(len(rises), 1)
        self._weights = {
            pair: 0.5 + 0.5 * (value / mean if mean > 0 else 1.0) for pair, value in rises.items()
        }
        self._least = {pair: _least(result) for pair, result in before.items()}
        if self.ends is not None:
            now = time.monotonic()
            left, rest = self.rounds - number, max(0.0, self.ends - now)
            part = 1.0 if not left else FIRST if number == 1 else 1 / (left + 1)
            if self._turns(slots) > rest:
                self._least = {pair: min(x, LEAST_SHARE) for pair, x in self._least.items()}
            turns = self._turns(slots) if number > 1 else 0.0
            self._part_ends = now + min(rest, max(part * rest, turns))
        if number == 1:
            return [*before]
        first = {pair for pair, result in before.items() if result and result.cut_short}
        return sorted(before, key=lambda pair: (pair not in first, -self._weights[pair]))

    def share(self, pair: Pair, left: Sequence[Pair], slots: int) -> float | None:
        """Return the seconds for the search of a head, None for no limit.

        Args:
            left: the heads that are not begun yet, this one included.
            slots: how many heads are searched at once.
        """
        if self._part_ends is None:
            return None
        now, mine = time.monotonic(), self._weights[pair]
        turns = max(1.0, sum(self._weights[other] for other in left) / (mine * slots))
        rest = self._part_ends - now - self.overrun
        fair = (self._part_ends - now) / turns - self.overrun
        return min(rest, max(fair, self._turn(pair)))

    def _turn(self, pair: Pair) -> float:
        """Return the seconds for a head that are worth it: 0 for one without any result."""
        least = self._least[pair]
        return least and max(least, self.overrun)

    def _turns(self, slots: int) -> float:
        """Return the seconds in which every head has its turn."""
        return sum(self._turn(pair) + self.overrun for pair in self._least) / slots

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


def _least(result: HeadResult | None) -> float:
    """Return the seconds that it is worth to search a head for, given its result so far."""
    if result is None:
        return 0.0
    return max(LEAST_SHARE, AGAIN * sum(result.unfinished.values()))


def rise(result: HeadResult | None) -> float:
    """Return what the larger half of a head's front brought: IoU on the select split.

    1 for a head that was not searched yet, so that all are equal.
    """
    if result is None:
        return 1.0
    front = result.front
    small = [row.iou_select for row in front if 2 * row.nodes <= front[-1].nodes]
    return max(0.0, max(row.iou_select for row in front) - max(small, default=0.0))
