"""The time of a search: shared fairly, more to heads that still rise, and not overrun."""

from __future__ import annotations

import heapq
import math
from types import SimpleNamespace

import pytest

from attn_dsl.eval.results import FrontRow, HeadResult
from attn_dsl.synth.runs import budget as budgets
from attn_dsl.synth.runs.budget import Budget, rise


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(budgets, "time", clock)
    return clock


def result(*curve: tuple[int, float]) -> HeadResult:
    """A head with a front: nodes, and IoU on the select split."""
    front = tuple(
        FrontRow(n, x, x, x, math.nan, math.nan, x, 0.0, False, "p", "") for n, x in curve
    )
    return SimpleNamespace(front=front, cut_short=False, unfinished={})  # type: ignore[return-value]


def simulate(
    clock: Clock, budget: Budget, before: dict[tuple[int, int], HeadResult | None], number: int,
    slots: int, needs: float, tail: float,
) -> dict[tuple[int, int], float]:  # fmt: skip
    """Search heads that need some seconds and go on a little beyond their share; return shares."""
    left, shares = budget.begin(number, before), {}
    free = [(clock.now, slot) for slot in range(slots)]
    while left:
        clock.now, slot = heapq.heappop(free)
        share = budget.share(left[0], left, slots)
        assert share is not None
        pair = left.pop(0)
        if number > 1 and share <= 0:  # it keeps what it has
            heapq.heappush(free, (clock.now, slot))
            continue
        shares[pair] = max(0.0, share)
        took = needs
        if needs > max(0.0, share):
            took = max(0.0, share) + tail
            budget.tell_overrun(tail)
        heapq.heappush(free, (clock.now + took, slot))
    clock.now = max(end for end, _ in free)
    return shares


HEADS = [(layer, head) for layer in range(12) for head in range(12)]


def test_without_a_limit_there_is_no_share(clock: Clock) -> None:
    budget = Budget(None, clock.now, 2, 1)
    budget.begin(1, {(0, 0): None})
    assert budget.share((0, 0), [(0, 0)], 2) is None
    assert budget.remaining is None
    assert not budget.over


@pytest.mark.parametrize(
    ("slots", "tail"),
    [(1, 2.0), (2, 0.0), (2, 5.0), (7, 20.0), (200, 0.0), (200, 20.0)],
)
def test_the_limit_is_respected(clock: Clock, slots: int, tail: float) -> None:
    budget = Budget(900, clock.now, 2, len(HEADS))
    first = simulate(clock, budget, dict.fromkeys(HEADS), 1, slots, 1e9, tail)
    assert clock.now <= 1000 + 0.7 * 900 + 2 * tail
    before = {pair: result((1, 0.2), (10, 0.5)) for pair in HEADS}
    simulate(clock, budget, before, 2, slots, 1e9, tail)
    assert 1000 + 0.9 * 900 < clock.now <= 1000 + 900 + 2 * tail
    if slots < 8:
        assert sum(first.values()) > 0.85 * slots * 0.7 * (900 - 20) - tail * len(HEADS)


def test_the_first_round_shares_equally(clock: Clock) -> None:
    budget = Budget(900, clock.now, 2, len(HEADS))
    shares = simulate(clock, budget, dict.fromkeys(HEADS), 1, 2, 1e9, 0.0)
    fair = [shares[pair] for pair in HEADS[:-2]]  # the last two share what is left
    assert max(fair) < 1.1 * min(fair)


def test_what_heads_do_not_use_goes_to_the_others(clock: Clock) -> None:
    budget = Budget(900, clock.now, 2, len(HEADS))
    shares = simulate(clock, budget, dict.fromkeys(HEADS), 1, 2, 2.0, 0.0)
    assert shares[HEADS[100]] > 2 * shares[HEADS[0]]


def test_heads_that_still_rise_get_more(clock: Clock) -> None:
    assert rise(result((1, 0.2), (10, 0.4), (40, 0.7))) == pytest.approx(0.3)
    assert rise(result((1, 0.2), (10, 0.7), (40, 0.7))) == 0.0
    assert rise(result((1, 1.0))) == 1.0
    before: dict[tuple[int, int], HeadResult | None] = {
        pair: result((1, 0.2), (10, 0.4), (40, 0.7 if pair[0] % 2 else 0.4)) for pair in HEADS
    }
    budget = Budget(900, clock.now, 2, len(HEADS))
    shares = simulate(clock, budget, before, 2, 2, 1e9, 0.0)
    for pair in HEADS[:-12]:
        assert shares[pair] > 0
    assert shares[1, 0] == pytest.approx(3 * shares[0, 0], rel=0.2)


def test_where_there_is_little_time_those_that_rise_most_are_searched(clock: Clock) -> None:
    """To give each head less than it takes to write down its result would leave all the time unused."""
    before: dict[tuple[int, int], HeadResult | None] = {
        pair: result((1, 0.2), (10, 0.4 + 0.001 * number)) for number, pair in enumerate(HEADS)
    }
    budget = Budget(900, clock.now, 2, len(HEADS))
    budget.tell_overrun(20.0)
    shares = simulate(clock, budget, before, 2, 2, 1e9, 20.0)
    assert 1000 + 0.9 * 900 < clock.now <= 1000 + 900 + 20
    assert [*shares] == HEADS[: -len(shares) - 1 : -1]
    assert sorted(shares.values())[1] > 15  # one has what is left
    assert 0.8 * 2 * 880 / 40 < len(shares) <= 2 * 900 / 40


def test_heads_that_need_little_are_all_searched(clock: Clock) -> None:
    """There are 100 seconds, too few for 5 seconds each on two cores, but a second each will do."""
    budget = Budget(900, clock.now, 2, len(HEADS))
    clock.now += 790
    before: dict[tuple[int, int], HeadResult | None] = {
        pair: result((1, 0.2), (10, 0.4)) for pair in HEADS
    }
    shares = simulate(clock, budget, before, 2, 2, 1.0, 0.0)
    assert [*shares] == HEADS and min(shares.values()) >= budgets.LEAST_SHARE
    assert clock.now == pytest.approx(1790 + len(HEADS) / 2)


def test_what_was_cut_short_goes_first(clock: Clock) -> None:
    before: dict[tuple[int, int], HeadResult | None] = {
        pair: result((1, 0.2), (10, 0.4)) for pair in HEADS
    }
    cut = SimpleNamespace(**vars(before[7, 3]) | {"cut_short": True})
    before[7, 3] = cut  # type: ignore[assignment]
    budget = Budget(600, clock.now, 2, len(HEADS))
    assert budget.begin(2, before)[0] == (7, 3)
    assert budget.begin(1, dict.fromkeys(HEADS)) == HEADS


def test_when_it_is_over(clock: Clock) -> None:
    budget = Budget(900, clock.now, 1, 10)
    budget.begin(1, {(0, 0): None})
    assert not budget.over
    clock.now += 900
    assert not budget.over, "heads without a result may overrun it a little"
    clock.now += 30
    assert budget.over
