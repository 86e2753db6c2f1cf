"""The rows of all heads on which scores are found, and the likelihood of a simple model of them.

The score of a key is the sum of a profile over distance, of copies of tokens, of what the key's scores
offer, of what the query's scores add at the first token, and of a product of scores of both.
"""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import FAST
from attn_dsl.compiler.softmax import exponentials
from attn_dsl.dsl.parser import parse_term
from attn_dsl.synth.design import Design

COPIES = ("1 where text(k) == text(q)", "1 where text(k-1) == text(q)", "1 where match(k-1, q) >= 2")
"""What every head may weigh besides scores: copies of the query's token, and what follows them."""


class Parts(NamedTuple):
    """What the score of a key is made of, for all heads; also the gradients of it. All are float32."""

    offer: np.ndarray  # (heads, tokens): what each key offers
    first: np.ndarray  # (heads, tokens): what each query adds at the first token
    query: np.ndarray  # (heads, tokens): one side of the product
    key: np.ndarray  # (heads, tokens): the other side
    distance: np.ndarray  # (heads, bins): by distance
    copies: np.ndarray  # (heads, 2 ** copies): by which copies the key is


@dataclass(frozen=True, eq=False)
class RowsOfHeads:
    """The attention of many heads on the rows of a design, and what predicates say of its tokens."""

    design: Design
    actual: np.ndarray  # float32 (heads, entries)
    values: np.ndarray  # float32 (tokens, predicates), of every predicate at every token

    @cached_property
    def entry_copies(self) -> np.ndarray:
        """Which of ``COPIES`` each entry is, one bit for each, uint8."""
        program = dataclasses.replace(self.design.empty, terms=tuple(map(parse_term, COPIES)))
        planes = self.design.compute(program) != 0
        return (planes * (1 << np.arange(len(COPIES)))[:, None]).sum(0).astype(np.uint8)

    @cached_property
    def text_starts(self) -> np.ndarray:
        """The first row of each text, and the end, int64."""
        return np.cumsum([0, *map(len, self.design.rows)])

    def add_gradient(self, texts: np.ndarray, parts: Parts, gradient: Parts, threads: int) -> None:
        """Add up the gradient of the summed cross-entropy of all heads' rows on some texts.

        Args:
            parts, gradient: of the tokens of these texts, one text behind the other.
            threads: heads are shared out over them; the result does not depend on them.
        """
        design = self.design
        firsts = np.cumsum([0, *design.batch.sizes[texts][:-1]])
        rows = np.array([[self.text_starts[i], self.text_starts[i + 1]] for i in texts])

        def some(heads: np.ndarray) -> None:
            _add_gradient(heads, rows, firsts, design.starts, design.queries, self.actual, design.entry_bins,
                          self.entry_copies, *parts, *gradient)  # fmt: skip

        shares = np.array_split(np.arange(len(self.actual)), threads)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(some, shares))

    def losses(self, heads: np.ndarray, parts: Parts, uses: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Return the summed cross-entropy of the rows of some heads if one score were lower, float64.

        Args:
            parts: of all heads, with the score as it is.
            uses: float32 (roles, heads), of the score by all heads, by the first four of ``Parts``.
            change: float32 (tokens), how much lower the score is.
        """
        design, found = self.design, np.zeros(len(heads))
        _losses(heads, design.starts, design.firsts, design.queries, self.actual, design.entry_bins,
                self.entry_copies, uses, change, *parts, found)  # fmt: skip
        return found


@njit(**FAST)
def _add_gradient(heads, rows, firsts, starts, queries, actual, bins, copies, offer, first, query, key,
                  distance, by_copies, to_offer, to_first, to_query, to_key, to_distance,
                  to_copies):  # fmt: skip
    scratch = np.empty(offer.shape[1], dtype=np.float32)
    for h in heads:
        for j in range(rows.shape[0]):
            at = firsts[j]
            for r in range(rows[j, 0], rows[j, 1]):
                low, q = starts[r], at + queries[r]
                p = scratch[: starts[r + 1] - low]
                a = actual[h, low : starts[r + 1]]
                own = query[h, q]
                _logits(p, offer[h, at:], own, key[h, at:], distance[h], bins[low:], by_copies[h],
                        copies[low:], first[h, q])  # fmt: skip
                exponentials(p, p)
                mass = np.float32(0.0)
                for k in range(p.shape[0]):
                    mass += p[k]
                scale, along = np.float32(1.0) / mass, np.float32(0.0)
                to_first[h, q] += p[0] * scale - a[0]
                for k in range(p.shape[0]):
                    g = p[k] * scale - a[k]
                    to_offer[h, at + k] += g
                    along += g * key[h, at + k]
                    to_key[h, at + k] += g * own
                    to_distance[h, bins[low + k]] += g
                    to_copies[h, copies[low + k]] += g
                to_query[h, q] += along


@njit(**FAST)
def _losses(heads, starts, firsts, queries, actual, bins, copies, uses, change, offer, first, query, key,
            distance, by_copies, losses):  # fmt: skip
    scratch = np.empty((2, offer.shape[1]), dtype=np.float32)
    for i, h in enumerate(heads):
        for r in range(firsts.shape[0]):
            low, at, size = starts[r], firsts[r], starts[r + 1] - starts[r]
            q, likely, mass = at + queries[r], np.float32(0.0), np.float32(0.0)
            own = query[h, q] - uses[2, h] * change[q]
            p, lowered, by = scratch[0, :size], scratch[1, :size], uses[0, h] + own * uses[3, h]
            for k in range(size):
                lowered[k] = offer[h, at + k] - by * change[at + k]
            _logits(p, lowered, own, key[h, at:], distance[h], bins[low:], by_copies[h], copies[low:],
                    first[h, q] - uses[1, h] * change[q])  # fmt: skip
            for k in range(size):
                likely += actual[h, low + k] * p[k]
            exponentials(p, p)
            for k in range(size):
                mass += p[k]
            losses[i] += math.log(mass) - likely


@njit(**FAST)
def _logits(out, offer, own, key, distance, bins, by_copies, copies, first):
    """Write the scores of a row's keys, less the largest of them."""
    for k in range(out.shape[0]):
        out[k] = offer[k] + own * key[k] + distance[bins[k]] + by_copies[copies[k]]
    out[0] += first
    top = out[0]
    for k in range(out.shape[0]):
        top = max(top, out[k])
    for k in range(out.shape[0]):
        out[k] = max(out[k] - top, np.float32(-80.0))
