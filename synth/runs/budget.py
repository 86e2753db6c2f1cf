"""The time of a search, shared equally over its heads.

What heads do not use goes to those after them. Where the time is over, heads without a result still get one
within a grace.
"""

import math
import time

GRACE = 0.03  # by how much of the limit heads that have no result yet may overrun it …
LEAST_GRACE = 5.0
"""… or by so many seconds, if that is more: a result for every head matters more then."""
KEPT_BACK = 0.1
"""Tables and the report get 1 % of the limit and 0.01 s for each head, at most this part of it."""


class Budget:
    """The time that a search has left: ``limit`` seconds since ``started``, or no limit."""

    def __init__(self, limit: float | None, started: float, heads: int) -> None:
        self.limit, self.ends, self.started, self.heads = limit, None, started, heads
        if limit is not None:
            self.ends = started + limit - min(0.01 * limit + 0.01 * heads, KEPT_BACK * limit)
        self._late: list[float] = []

    def share(self, left: int, slots: int, least: float = 0.0) -> float | None:
        """Return the seconds for the search of the next head, None for no limit.

        Args:
            left: how many heads are not begun yet, this one included.
            slots: how many run at once.
            least: what the head gets at least while there is so much; if 0, its equal share.
        """
        rest = self.remaining
        if rest is None:
            return None
        fair = rest / max(1.0, left / slots) - self.overrun
        return min(rest - self.overrun, max(fair, least and max(least, self.overrun)))

    def without(self, seconds: float) -> "Budget":
        """Return the budget of a search after which a language model has time: so many seconds, or half."""
        if self.limit is None:
            return self
        kept = min(seconds or math.inf, self.limit / 2)
        return Budget(self.limit - kept, self.started, self.heads)

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
