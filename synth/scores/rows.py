"""The rows of all heads on which scores are found, and the likelihood of a simple model of them.

The score of a key is the sum of a profile over distance, of copies of tokens, of what the key's scores
offer, of what the query's scores add at the first token, and of a product of scores of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import FAST
from attn_dsl.compiler.softmax import exponentials
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse_term
from attn_dsl.synth.design import Design

COPIES = (
    "1 where text(k) == text(q)", "1 where text(k-1) == text(q)", "1 where match(k-1, q) >= 2",
)  # fmt: skip
"""What every head may weigh besides scores: copies of the query's token, and what follows them."""


class Parts(NamedTuple):
    """What the score of a key is made of, for one head; also the gradients of it."""

    offer: np.ndarray  # float32 (tokens): what each key offers
    first: np.ndarray  # float32 (tokens): what each query adds at the first token
    query: np.ndarray  # float32 (tokens): one side of the product
    key: np.ndarray  # float32 (tokens): the other side
    distance: np.ndarray  # float32 (bins): by distance
    copies: np.ndarray  # float32 (2 ** copies): by which copies the key is


@dataclass(frozen=True, eq=False)
class RowsOfHeads:
    """The attention of many heads on the rows of a design.

    Attributes:
        actual: float32 (heads, entries).
    """

    design: Design
    actual: np.ndarray

    @cached_property
    def entry_copies(self) -> np.ndarray:
        """Which of ``COPIES`` each entry is, one bit for each, uint8."""
        visibility: t.Visibility = "causal" if self.design.causal else "bidirectional"
        terms = tuple(map(parse_term, COPIES))
        planes = self.design.compute(t.Head("copies", visibility, terms=terms)) != 0
        return (planes * (1 << np.arange(len(COPIES)))[:, None]).sum(0).astype(np.uint8)

    @cached_property
    def text_starts(self) -> np.ndarray:
        """The first row of each text, and the end, int64."""
        return np.cumsum([0, *map(len, self.design.rows)])

    def likelihood(self, head: int, text: int, parts: Parts, gradient: Parts | None) -> float:
        """Return the cross-entropy of a head's rows on a text, in nats; add up its gradient.

        Args:
            head: the number in ``actual``.
            parts, gradient: of the tokens of the text alone.
        """
        design = self.design
        low, high = self.text_starts[text], self.text_starts[text + 1]
        starts = design.starts[low : high + 1]
        here = slice(starts[0], starts[-1])
        wanted = gradient is not None
        return float(_likelihood(
            starts - starts[0], design.rows[text], self.actual[head, here], self.design.entry_bins[here],
            self.entry_copies[here], *parts, *(gradient or parts), wanted,
        ))  # fmt: skip


def in_order(work: Callable[[int], object], items: np.ndarray, threads: int) -> list:
    """Do some work on each item, on several threads; the results are in the order of the items."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


@njit(**FAST)
def _likelihood(
    starts, queries, actual, bins, copies, offer, first, query, key, distance, by_copies,
    to_offer, to_first, to_query, to_key, to_distance, to_copies, wanted,
):  # fmt: skip
    total = 0.0
    scratch = np.empty(offer.shape[0], dtype=np.float32)
    for r in range(starts.shape[0] - 1):
        low, q = starts[r], queries[r]
        p = scratch[: starts[r + 1] - low]
        own = query[q]
        for k in range(p.shape[0]):
            p[k] = offer[k] + own * key[k] + distance[bins[low + k]] + by_copies[copies[low + k]]
        p[0] += first[q]
        top = p[0]
        held = np.float32(0.0)
        for k in range(p.shape[0]):
            top = max(top, p[k])
        for k in range(p.shape[0]):
            p[k] = max(p[k] - top, np.float32(-80.0))
            held += actual[low + k] * p[k]
        exponentials(p, p)
        mass = np.float32(0.0)
        for k in range(p.shape[0]):
            mass += p[k]
        total += math.log(float(mass)) - float(held)
        if not wanted:
            continue
        scale, along = np.float32(1.0) / mass, np.float32(0.0)
        to_first[q] += p[0] * scale - actual[low]
        for k in range(p.shape[0]):
            g = p[k] * scale - actual[low + k]
            to_offer[k] += g
            along += g * key[k]
            to_key[k] += g * own
            to_distance[bins[low + k]] += g
            to_copies[copies[low + k]] += g
        to_query[q] += along
    return total
