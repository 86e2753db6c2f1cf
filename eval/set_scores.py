"""Scores of terms that multiply the weights of sets' elements, and their gradient, on rows of attention.

The score of a term at an entry of row r, whose key is the token k, is

    weight * plane[entry] * queries[r] * keys[k]

Each factor but the first may be absent. ``queries`` and ``keys`` look parameters up, once for a row or a
token, so that an entry costs a few multiplications.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import LEAN, SUMS
from attn_dsl.dsl.limits import TERM_LIMIT

_OPTIONS = {**LEAN, "fastmath": SUMS}
LIMIT = np.float32(TERM_LIMIT)
NONE, ONE, FIRST = 0, 1, 2
"""Numbers that stand for the constants 0 and 1, and the number of the first parameter."""


class Rows(NamedTuple):
    """Where rows of attention stand."""

    starts: np.ndarray  # int64 (rows + 1): where each row's entries begin
    firsts: np.ndarray  # int64 (rows): the token of each row's first entry


class Planes(NamedTuple):
    """Numbers of every entry: uint8 and float32 (planes, entries)."""

    truths: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class SetScores:
    """Terms with sets, on rows."""

    rows: Rows
    planes: Planes
    # int64 (terms, 5): the program whose score it adds to; the plane, -1 for none, from 0 on a row of
    # ``planes.values`` and from -2 downwards one of ``planes.truths``; the rows of ``queries`` and ``keys``
    # that it reads, -1 for none; and how many of a row's last keys it does not see
    terms: np.ndarray
    weights: np.ndarray  # int64 (terms): the numbers of their weights
    # queries, keys: int32 (places, rows) and (places, tokens): numbers of parameters
    queries: np.ndarray
    keys: np.ndarray
    # float32 (rows of ``planes.values``): the largest magnitude of each; terms that may reach
    # ``TERM_LIMIT`` are then cut to it. By default none is.
    sizes: np.ndarray | None = None

    def _tables(self, x: np.ndarray) -> list[np.ndarray]:
        """Look all parameters up."""
        table = np.concatenate([[0.0, 1.0], x]).astype(np.float32)
        found = [np.empty(x.shape, np.float32) for x in (self.weights, self.queries, self.keys)]
        for numbers, out in zip((self.weights, self.queries, self.keys), found, strict=True):
            _gather(table, numbers.reshape(-1), out.reshape(-1))
        return found

    def _limited(self, tables: list[np.ndarray]) -> np.ndarray:
        """Say which terms may reach the limit, bool (terms)."""
        if self.sizes is None:
            return np.zeros(len(self.terms), dtype=np.bool_)
        most = np.abs(tables[0]) * np.append(self.sizes, 1.0)[np.maximum(self.terms[:, 1], -1)]
        for place, table in zip(self.terms.T[2:], tables[1:], strict=False):
            most = most * np.append(np.abs(table).max(1, initial=0.0), 1.0)[place]
        return most > TERM_LIMIT

    def _room(self) -> np.ndarray:
        """Return three rows to work in, the first of ones."""
        return np.ones((3, int(np.diff(self.rows.starts).max(initial=0))), dtype=np.float32)

    def add(self, x: np.ndarray, out: np.ndarray) -> None:
        """Add the scores of parameters to ``out``, float32 (programs, entries)."""
        tables, (ones, room, _) = self._tables(x), self._room()
        limited = self._limited(tables)
        _add(self.terms, limited, *tables, *self.planes, *self.rows, ones, room, out)

    def gradient(self, x: np.ndarray, given: np.ndarray) -> np.ndarray:
        """Return the gradient of the parameters, float64, from that of the scores, as ``out`` of ``add``."""
        tables = self._tables(x)
        outs = [np.zeros(one.shape, dtype=np.float32) for one in tables]
        _gradients(self.terms, self._limited(tables), *tables, self.queries, *self.planes, *self.rows,
                   *self._room(), given, *outs)  # fmt: skip
        found = np.zeros(FIRST + len(x))
        for numbers, sums in zip((self.weights, self.queries, self.keys), outs, strict=True):
            _scatter(numbers.reshape(-1), sums.reshape(-1), found)
        return found[FIRST:]


@njit(**LEAN)
def _gather(table, numbers, out):
    for i in range(numbers.shape[0]):
        out[i] = table[numbers[i]]


@njit(**LEAN)
def _scatter(numbers, sums, out):
    for i in range(numbers.shape[0]):
        if numbers[i] != NONE:
            out[numbers[i]] += sums[i]


@njit(**_OPTIONS)
def _on_plane(plane, truths, values, low, row, out):
    """Multiply a row by a plane; ``row`` must not be ``out``."""
    count = out.shape[0]
    if plane >= 0:
        y = values[plane, low : low + count]
        for k in range(count):
            out[k] = row[k] * y[k]
    elif plane < -1:
        x = truths[-2 - plane, low : low + count]
        for k in range(count):
            out[k] = row[k] if x[k] else np.float32(0.0)
    else:
        for k in range(count):
            out[k] = row[k]


@njit(**_OPTIONS)
def _times(out, other):
    for k in range(out.shape[0]):
        out[k] *= other[k]


@njit(**_OPTIONS)
def _add_plane(plane, truths, values, low, left, row):
    """Add a plane, times a number."""
    count = row.shape[0]
    if plane >= 0:
        y = values[plane, low : low + count]
        for k in range(count):
            row[k] += left * y[k]
    elif plane < -1:
        x = truths[-2 - plane, low : low + count]
        for k in range(count):
            row[k] += left if x[k] else np.float32(0.0)
    else:
        for k in range(count):
            row[k] += left


@njit(**_OPTIONS)
def _dot_plane(plane, truths, values, low, row):
    """Sum a row, times a plane."""
    count, total = row.shape[0], np.float32(0.0)
    if plane >= 0:
        y = values[plane, low : low + count]
        for k in range(count):
            total += row[k] * y[k]
    elif plane < -1:
        x = truths[-2 - plane, low : low + count]
        for k in range(count):
            total += row[k] if x[k] else np.float32(0.0)
    else:
        for k in range(count):
            total += row[k]
    return total


@njit(**_OPTIONS)
def _add(terms, limited, weights, queries, keys, truths, values, starts, firsts, ones, room, out):
    for j in range(terms.shape[0]):
        program, plane, query, key, hidden = terms[j]
        if query < 0 and key < 0 and hidden == 0 and not limited[j]:
            low, end = starts[0], starts[-1]
            if weights[j] != 0:
                _add_plane(plane, truths, values, low, weights[j], out[program, low:end])
            continue
        for r in range(firsts.shape[0]):
            low, first = starts[r], firsts[r]
            left = weights[j] * queries[query, r] if query >= 0 else weights[j]
            count = starts[r + 1] - low - hidden
            if left == 0 or count <= 0:
                continue
            made, row = room[:count], out[program, low : low + count]
            if key < 0 and not limited[j]:
                _add_plane(plane, truths, values, low, left, row)
                continue
            _on_plane(plane, truths, values, low, ones[:count], made)
            if key >= 0:
                _times(made, keys[key, first : first + count])
            if limited[j]:
                for k in range(count):
                    row[k] += min(max(left * made[k], -LIMIT), LIMIT)
            else:
                for k in range(count):
                    row[k] += left * made[k]


@njit(**_OPTIONS)
def _gradients(terms, limited, weights, queries, keys, inside, truths, values, starts, firsts, ones, room,
               spare, given, weights_out, queries_out, keys_out):  # fmt: skip
    """Add up gradients; a term that is at its limit does not change with its parameters."""
    one, zero = np.float32(1.0), np.float32(0.0)
    for j in range(terms.shape[0]):
        program, plane, query, key, hidden = terms[j]
        if query < 0 and key < 0 and hidden == 0 and not limited[j]:
            row = given[program, starts[0] : starts[-1]]
            weights_out[j] += _dot_plane(plane, truths, values, starts[0], row)
            continue
        for r in range(firsts.shape[0]):
            low, first = starts[r], firsts[r]
            count = starts[r + 1] - low - hidden
            if count <= 0 or (query >= 0 and inside[query, r] == NONE):
                continue
            own = queries[query, r] if query >= 0 else one
            left, pull = weights[j] * own, room[:count]
            _on_plane(plane, truths, values, low, given[program, low : low + count], pull)
            if limited[j]:
                made = spare[:count]
                _on_plane(plane, truths, values, low, ones[:count], made)
                if key >= 0:
                    _times(made, keys[key, first : first + count])
                for k in range(count):
                    pull[k] = pull[k] if abs(left * made[k]) <= LIMIT else zero
            total = zero
            if key >= 0:
                right, to = keys[key, first : first + count], keys_out[key, first : first + count]
                for k in range(count):
                    total += pull[k] * right[k]
                    to[k] += left * pull[k]
            else:
                for k in range(count):
                    total += pull[k]
            weights_out[j] += own * total
            if query >= 0:
                queries_out[query, r] += weights[j] * total
