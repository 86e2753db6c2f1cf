"""The time of a search: shared fairly, and not overrun."""

from __future__ import annotations

import heapq

import pytest

from attn_dsl.synth.runs import budget as budgets
from attn_dsl.synth.runs.budget import Budget
from attn_dsl.synth.runs.heads import LEAST_AGAIN


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


def simulate(
    clock: Clock, budget: Budget, slots: int, needs: float, tail: float, least: float = 0.0
) -> list[float]:
    """Search heads that need some seconds and go on a little beyond their share; return shares."""
    shares = []
    free = [(clock.now, slot) for slot in range(slots)]
    for left in range(HEADS, 0, -1):
        clock.now, slot = heapq.heappop(free)
        share = budget.share(left, slots, least)
        assert share is not None
        if least and share <= 0:  # it keeps what it has
            heapq.heappush(free, (clock.now, slot))
            continue
        shares.append(max(0.0, share))
        took = needs
        if needs > shares[-1]:
            took = shares[-1] + tail
            budget.tell_overrun(tail)
        heapq.heappush(free, (clock.now + took, slot))
    clock.now = max(end for end, _ in free)
    return shares


HEADS = 144


def test_without_a_limit_there_is_no_share(clock: Clock) -> None:
    budget = Budget(None, clock.now, 1)
    assert budget.share(1, 2) is None
    assert budget.remaining is None
    assert not budget.over


@pytest.mark.parametrize(
    ("slots", "tail"),
    [(1, 2.0), (2, 0.0), (2, 5.0), (7, 20.0), (200, 0.0), (200, 20.0)],
)
def test_the_limit_is_respected(clock: Clock, slots: int, tail: float) -> None:
    shares = simulate(clock, Budget(900, clock.now, HEADS), slots, 1e9, tail)
    assert 1000 + 0.9 * 900 < clock.now <= 1000 + 900 + 2 * tail
    if slots < 8:
        assert sum(shares) > 0.85 * slots * (900 - 20) - tail * HEADS


def test_heads_share_equally(clock: Clock) -> None:
    fair = simulate(clock, Budget(900, clock.now, HEADS), 2, 1e9, 0.0)[:-2]
    assert max(fair) < 1.1 * min(fair), "the last two share what is left"


def test_what_heads_do_not_use_goes_to_the_others(clock: Clock) -> None:
    shares = simulate(clock, Budget(900, clock.now, HEADS), 2, 2.0, 0.0)
    assert shares[100] > 2 * shares[0]


def test_where_there_is_little_time_few_heads_are_searched_again(clock: Clock) -> None:
    """To give each head less than it takes to write down its result would leave all the time unused."""
    budget = Budget(900, clock.now, HEADS)
    budget.tell_overrun(20.0)
    shares = simulate(clock, budget, 2, 1e9, 20.0, LEAST_AGAIN)
    assert 1000 + 0.9 * 900 < clock.now <= 1000 + 900 + 20
    assert sorted(shares)[1] > 15  # one has what is left
    assert 0.8 * 2 * 880 / 40 < len(shares) <= 2 * 900 / 40


def test_heads_that_need_little_are_all_searched_again(clock: Clock) -> None:
    """There are 100 seconds, too few for 5 seconds each on two cores, but a second each will do."""
    budget = Budget(900, clock.now, HEADS)
    clock.now += 790
    shares = simulate(clock, budget, 2, 1.0, 0.0, LEAST_AGAIN)
    assert len(shares) == HEADS and min(shares) >= LEAST_AGAIN
    assert clock.now == pytest.approx(1790 + HEADS / 2)


def test_when_it_is_over(clock: Clock) -> None:
    budget = Budget(900, clock.now, 10)
    assert not budget.over
    clock.now += 900
    assert not budget.over, "heads without a result may overrun it a little"
    clock.now += 30
    assert budget.over
