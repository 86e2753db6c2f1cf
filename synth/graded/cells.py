"""Cells: the entries of a design grouped by distance, query symbol and key symbol.

A sum of graded sets by distance, such as ``weight(token(q), A) * weight(token(k), B)`` where
``q - k in 1..4``, has one value in each cell, so tables over cells are all that a fit of such
terms needs: one pass over the entries gives the gradient of every element of every set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import COMPILED, SUMS
from attn_dsl.compiler.softmax import BLOCK, block_end, exponentials
from attn_dsl.synth.design import Design

_OPTIONS = {**COMPILED, "fastmath": {*SUMS, "arcp", "nnan"}}
STEPS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 19, 25, 33, 49, 65)
"""Where the bands of distance begin; the last has no end."""
FAR = 1 << 20


@lru_cache(maxsize=2)
def bands(causal: bool) -> tuple[tuple[int, int], ...]:
    """Return the bands of ``q - k``, first and last distance of each.

    >>> bands(causal=True)[6:8]
    ((6, 6), (7, 7))
    """
    ends = [*(step - 1 for step in STEPS[1:]), FAR]
    right = tuple(zip(STEPS, ends, strict=True))
    if causal:
        return right
    return (*((-b, -a) for a, b in reversed(right[1:])), *right)


@dataclass(frozen=True, slots=True)
class Channel:
    """Which tokens a factor looks at: so many before the query, so many before the key."""

    query: int
    key: int


CHANNELS = Channel(0, 0), Channel(1, 0), Channel(0, 1)


@dataclass(frozen=True, eq=False)
class Cells:
    """See the module; the cells of several channels lie behind each other.

    Attributes:
        cell: int32 (channels, entries): the cell of each entry.
        log_distance: float32 (entries): ``log(1 + |q - k|)``.
        query, key: int32 (cells): symbols, numbered from 0.
        starts: int64 (channels, bands + 1): a channel's cells are sorted by band; where each band's
            begin.
        symbols: their strings; the empty one stands for what lies outside the text.
    """

    cell: np.ndarray
    log_distance: np.ndarray
    query: np.ndarray
    key: np.ndarray
    starts: np.ndarray
    symbols: tuple[str, ...]
    channels: tuple[Channel, ...]

    @classmethod
    def of(cls, design: Design, channels: tuple[Channel, ...] = CHANNELS) -> Cells:
        """Group the entries of a design by their token strings."""
        numbers = np.unique(np.append(design.batch.token_ids(), 0))
        widths = np.diff(design.starts)
        distance = np.repeat(np.concatenate(design.rows), widths) - design.key_places
        firsts = np.array([first for first, _ in bands(design.causal)])
        band = np.searchsorted(firsts, distance, side="right") - 1
        size = len(numbers)
        cells, queries, keys, starts = [], [], [], []
        total = 0
        for channel in channels:
            symbols = np.repeat(design.symbols_at("q", -channel.query), widths)
            query = np.searchsorted(numbers, symbols)
            key = np.searchsorted(numbers, design.symbols_at("k", -channel.key))
            distinct, cell = np.unique((band * size + query) * size + key, return_inverse=True)
            cells.append(total + cell)
            queries.append(distinct % (size * size) // size)
            keys.append(distinct % size)
            edges = np.searchsorted(distinct // (size * size), np.arange(len(firsts) + 1))
            starts.append(total + edges)
            total += len(distinct)
        return cls(
            np.array(cells, dtype=np.int32), np.log1p(np.abs(distance)).astype(np.float32),
            np.concatenate(queries).astype(np.int32), np.concatenate(keys).astype(np.int32),
            np.array(starts, dtype=np.int64), tuple(design.symbols[int(s)] for s in numbers),
            channels,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.query)

    @cached_property
    def band(self) -> np.ndarray:
        """The band of each cell, int32 (cells)."""
        sizes = np.diff(self.starts)
        bands = np.tile(np.arange(sizes.shape[1], dtype=np.int32), len(sizes))
        return np.repeat(bands, sizes.ravel())


@njit(**_OPTIONS)
def sweep(
    truths, truth_rows, truth_weights, values, value_rows, value_weights, cell, columns, log_distance,
    table, starts, actual, mix, predicted, table_gradient, truth_gradient, value_gradient,
):  # fmt: skip
    """Predict all rows and add up the gradient of the objective; return it and the shared mass.

    The score of an entry is the weighted sum of its truths and values, plus
    ``table[cell, 0] + table[cell, 1] * log_distance``. The objective is twice ``mix`` times the
    shared mass (sum of minima) less ``1 - mix`` times the cross-entropy.

    Args:
        truths, values: uint8 and float32 (planes, entries), of which some rows are taken.
        columns: int64 (channels): how many columns of the table count for a channel's cells.
        table, table_gradient: float32 (cells, 2).
        predicted: float32 (entries), written.
        truth_gradient, value_gradient: float64, added to.
    """
    rows = starts.shape[0] - 1
    residual = np.empty(BLOCK, dtype=np.float32)
    shared_all, likelihood = 0.0, 0.0
    zero, one = np.float32(0.0), np.float32(1.0)
    pull = np.float32(1.0 - mix)
    share = np.float32(2.0 * mix)
    first = 0
    while first < rows:
        last = block_end(starts, first)
        low, high = starts[first], starts[last]
        size = high - low
        if size > residual.shape[0]:
            residual = np.empty(size, dtype=np.float32)
        block = predicted[low:high]
        far = log_distance[low:high]
        block[:] = zero
        for channel in range(cell.shape[0]):
            here = cell[channel, low:high]
            if columns[channel] == 1:
                for i in range(size):
                    block[i] += table[np.uint64(here[i]), 0]
            elif columns[channel]:
                for i in range(size):
                    c = np.uint64(here[i])
                    block[i] += table[c, 0] + table[c, 1] * far[i]
        for j in range(truth_rows.shape[0]):
            w = np.float32(truth_weights[j])
            x = truths[truth_rows[j], low:high]
            for i in range(size):
                block[i] += w if x[i] != 0 else zero
        for j in range(value_rows.shape[0]):
            w = np.float32(value_weights[j])
            y = values[value_rows[j], low:high]
            for i in range(size):
                block[i] += w * y[i]
        for r in range(first, last):
            row = predicted[starts[r] : starts[r + 1]]
            top = row[0]
            for i in range(1, row.shape[0]):
                top = max(top, row[i])
            a = actual[starts[r] : starts[r + 1]]
            held = zero
            for i in range(row.shape[0]):
                x = max(row[i] - top, np.float32(-80.0))
                row[i] = x
                held += a[i] * x
            likelihood += float(held)
        exponentials(block, block)
        d = residual[:size]
        for r in range(first, last):
            p = predicted[starts[r] : starts[r + 1]]
            a = actual[starts[r] : starts[r + 1]]
            e = residual[starts[r] - low : starts[r + 1] - low]
            mass = zero
            for i in range(p.shape[0]):
                mass += p[i]
            scale = one / mass
            likelihood -= math.log(mass)
            inside = zero
            shared = zero
            for i in range(p.shape[0]):
                x = p[i] * scale
                p[i] = x
                inside += x if x < a[i] else zero
                shared += min(x, a[i])
            shared_all += float(shared)
            for i in range(p.shape[0]):
                below = one if p[i] < a[i] else zero
                e[i] = pull * (a[i] - p[i]) + share * p[i] * (below - inside)
        for channel in range(cell.shape[0]):
            here = cell[channel, low:high]
            if columns[channel] == 1:
                for i in range(size):
                    table_gradient[np.uint64(here[i]), 0] += d[i]
            elif columns[channel]:
                for i in range(size):
                    c = np.uint64(here[i])
                    table_gradient[c, 0] += d[i]
                    table_gradient[c, 1] += d[i] * far[i]
        for j in range(truth_rows.shape[0]):
            x = truths[truth_rows[j], low:high]
            s = zero
            for i in range(size):
                s += d[i] if x[i] != 0 else zero
            truth_gradient[j] += s
        for j in range(value_rows.shape[0]):
            y = values[value_rows[j], low:high]
            s = zero
            for i in range(size):
                s += d[i] * y[i]
            value_gradient[j] += s
        first = last
    return (1.0 - mix) * likelihood + 2.0 * mix * shared_all, shared_all


@njit(**_OPTIONS)
def cell_masses(predicted, cell, log_distance, mass):
    """Add up, by cell, the predicted mass and that times the squared log distance."""
    for channel in range(cell.shape[0]):
        for i in range(cell.shape[1]):
            c = cell[channel, i]
            p = predicted[i]
            mass[c, 0] += p
            mass[c, 1] += p * log_distance[i] * log_distance[i]


@njit(**_OPTIONS)
def alternate(
    query, key, low, high, slope, gradient, mass, left, right, inside, ridge, price, rounds
):
    """Find a factor that explains most of the gradient: alternating least squares, in place.

    Elements whose gain is below ``price`` become 0 in the last rounds, those that are not
    ``inside`` always. Returns the gain (nats)
    less the price of the elements that are left.
    """
    count, total = 0, 0.0
    for turn in range(2 * rounds):
        side = turn % 2
        here = right if side == 0 else left
        there = left if side == 0 else right
        mine = key if side == 0 else query
        theirs = query if side == 0 else key
        g = np.zeros(here.shape[0], dtype=np.float64)
        h = np.zeros(here.shape[0], dtype=np.float64)
        for c in range(low, high):
            w = there[theirs[c]]
            g[mine[c]] += gradient[c, slope] * w
            h[mine[c]] += mass[c, slope] * w * w
        strict = turn >= 2 * rounds - 4
        total, count, top = 0.0, 0, 0.0
        for s in range(here.shape[0]):
            x = g[s] / (h[s] + ridge)
            worth = 0.5 * g[s] * x
            if not inside[s] or (strict and worth < price):
                x = 0.0
            else:
                total += worth
                count += 1
            here[s] = x
            top = max(top, abs(x))
        if top == 0.0:
            return 0.0
        if turn < 2 * rounds - 1:
            for s in range(here.shape[0]):
                here[s] /= top
    for s in range(right.shape[0]):
        if right[s] != 0.0:
            count += 1
    return total - price * count
