"""Pareto fronts: the best program at every size, and the one that is chosen of them."""

import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TypeVar

T = TypeVar("T")


def front(items: Sequence[T], size: Callable[[T], int] = attrgetter("nodes"),
          score: Callable[[T], float] = attrgetter("score"), least: float = 0.0) -> list[T]:  # fmt: skip
    """Return the items that score better, by ``least``, than all that are not larger; smallest first.

    Items whose score is not a number are left out.

    >>> front([(5, 0.5), (9, 0.4), (9, 0.7), (20, 0.8)], lambda x: x[0], lambda x: x[1])
    [(5, 0.5), (9, 0.7), (20, 0.8)]
    """
    kept: list[T] = []
    items = [item for item in items if not math.isnan(score(item))]
    for item in sorted(items, key=lambda x: (size(x), -score(x))):
        if not kept or score(item) > score(kept[-1]) + least:
            kept.append(item)
    return kept


def thinned(items: Sequence[T], count: int, score: Callable[[T], float] = attrgetter("score")) -> list[T]:
    """Return at most so many items of a front: those go first that improve least on the one before.

    >>> thinned([(1, 0.2), (5, 0.5), (6, 0.51), (9, 0.7)], 3, lambda x: x[1])
    [(1, 0.2), (5, 0.5), (9, 0.7)]

    The first and the last stay.
    """
    kept = list(items)
    while len(kept) > max(count, 2):
        steps = [score(kept[i]) - score(kept[i - 1]) for i in range(1, len(kept) - 1)]
        del kept[1 + min(range(len(steps)), key=steps.__getitem__)]
    return kept


def choose(scores: Sequence[float], sizes: Sequence[int], price: float) -> int:
    """Return which row of a front to take: the best score less a price for every node.

    A score that is not a number is worse than any other.
    """
    known = [-math.inf if math.isnan(score) else score for score in scores]
    return max(range(len(scores)), key=lambda i: (known[i] - price * sizes[i], -sizes[i]))


def gains_by_node(scores: Sequence[float], sizes: Sequence[int]) -> list[float]:
    """Return by how much each row of a front improves on the one before, by node (as in PySR).

    >>> gains_by_node([0.2, 0.6], [1, 5])
    [0.0, 0.274653]

    The gain is measured in -d log(error) / d nodes, with error = 1 - score.
    """
    rows = [0.0]
    for i in range(1, len(scores)):
        before, now = (max(1.0 - scores[j], 1e-9) for j in (i - 1, i))
        step = max(sizes[i] - sizes[i - 1], 1)
        rows.append(round(math.log(before / now) / step, 6))
    return rows
