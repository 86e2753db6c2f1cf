"""Distance bins: intervals of ``q - k``, and their predicates."""

from functools import lru_cache

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse_predicate

STEPS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 19, 25, 33, 49, 65)
"""Where the bins begin; the last has no end."""
FAR = 1 << 20


@lru_cache(maxsize=2)
def bins(causal: bool) -> tuple[tuple[int, int], ...]:
    """Return the bins of ``q - k``, first and last distance of each."""
    ends = [*(step - 1 for step in STEPS[1:]), FAR]
    right = tuple(zip(STEPS, ends, strict=True))
    if causal:
        return right
    return (*((-b, -a) for a, b in reversed(right[1:])), *right)


def spans(causal: bool) -> list[tuple[int, int]]:
    """Return the intervals of bins, end excluded, on which uses of scores are tried."""
    count = len(bins(causal))
    zero = 0 if causal else count // 2
    found = [(0, count), (zero, zero + 3), (zero + 3, zero + 10), (zero + 10, count)]
    if not causal:
        found += [(zero - 2, zero + 1), (zero - 9, zero - 2), (0, zero - 9)]
    return found


@lru_cache(maxsize=1024)
def condition(first: int, end: int, causal: bool) -> t.Predicate | None:
    """Return the predicate of an interval of bins; None for all of them."""
    low, high = bins(causal)[first][0], bins(causal)[end - 1][1]
    if low <= (0 if causal else -FAR) and high >= FAR:
        return None
    if low == high:
        return parse_predicate(f"k == q{-low:+d}")
    if high >= FAR:
        return parse_predicate("k < q" if low == 1 else f"k <= q{-low:+d}")
    if low <= (0 if causal else -FAR):
        return parse_predicate("k > q" if high == -1 else f"k >= q{-high:+d}")
    return parse_predicate(f"q - k in {low}..{high}")
