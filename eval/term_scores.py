"""Scores of weighted terms on rows of attention, and their gradient.

What a term adds at an entry of row r, whose key is the token k, is

    weight * plane[entry] * values[query, r] * values[key, k]

Each factor but the first may be absent. ``values`` are looked up by token, so that an entry costs a few
multiplications.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import LEAN, SUMS
from attn_dsl.dsl.limits import TERM_LIMIT

_OPTIONS = {**LEAN, "fastmath": SUMS}
LIMIT = np.float32(TERM_LIMIT)
NO_VALUES = np.empty((0, 0), dtype=np.float32)


class Planes(NamedTuple):
    """Numbers of every entry: uint8 and float32 (planes, entries)."""

    truths: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class TermScores:
    """Terms on rows. If values are read, row r is that of the token r, and its keys are the first tokens."""

    starts: np.ndarray  # int64 (rows + 1): where each row's entries begin
    planes: Planes
    # int64 (terms, 4): the program whose score it adds to; the plane, -1 for none, from 0 on a row of
    # ``planes.values`` and from -2 downwards one of ``planes.truths``; the rows of values that are read at
    # the query and at the key, -1 for none
    terms: np.ndarray
    weights: np.ndarray  # int64 (terms): the numbers of their weights
    # float32 (rows of ``planes.values``): the largest magnitude of each; terms that may reach
    # ``TERM_LIMIT`` are then cut to it. By default none is.
    sizes: np.ndarray | None = None

    def add(self, x: np.ndarray, out: np.ndarray, values: np.ndarray = NO_VALUES) -> None:
        """Add the scores to ``out``, float32 (programs, entries); ``values`` are float32 (places, tokens)."""
        own, (ones, room, _) = x[self.weights].astype(np.float32), self._room()
        limited = self._limited(own, values)
        _add(self.terms, limited, own, values, *self.planes, self.starts, ones, room, out)

    def gradient(self, x: np.ndarray, given: np.ndarray,
                 values: np.ndarray = NO_VALUES) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Return the gradient of weights, float64, and of values, from that of the scores."""
        own = x[self.weights].astype(np.float32)
        to_own, to_values = np.zeros_like(own), np.zeros_like(values)
        _gradients(self.terms, self._limited(own, values), own, values, *self.planes, self.starts,
                   *self._room(), given, to_own, to_values)  # fmt: skip
        return np.bincount(self.weights, to_own, len(x)), to_values

    def _limited(self, own: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Say which terms may reach the limit, bool (terms)."""
        if self.sizes is None:
            return np.zeros(len(self.terms), dtype=np.bool_)
        most = np.abs(own) * np.append(self.sizes, 1.0)[np.maximum(self.terms[:, 1], -1)]
        sizes = np.append(np.abs(values).max(1, initial=0.0), 1.0)
        return most * sizes[self.terms[:, 2]] * sizes[self.terms[:, 3]] > TERM_LIMIT

    def _room(self) -> np.ndarray:
        """Return three rows to work in, the first of ones."""
        return np.ones((3, int(np.diff(self.starts).max(initial=0))), dtype=np.float32)


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
def _add(terms, limited, weights, read, truths, values, starts, ones, room, out):
    for j in range(terms.shape[0]):
        program, plane, query, key = terms[j]
        if query < 0 and key < 0 and not limited[j]:
            low, end = starts[0], starts[-1]
            if weights[j] != 0:
                _add_plane(plane, truths, values, low, weights[j], out[program, low:end])
            continue
        for r in range(starts.shape[0] - 1):
            low, count = starts[r], starts[r + 1] - starts[r]
            left = weights[j] * read[query, r] if query >= 0 else weights[j]
            if left == 0:
                continue
            made, row = room[:count], out[program, low : low + count]
            if key < 0 and not limited[j]:
                _add_plane(plane, truths, values, low, left, row)
                continue
            _on_plane(plane, truths, values, low, ones[:count], made)
            if key >= 0:
                _times(made, read[key, :count])
            if limited[j]:
                for k in range(count):
                    row[k] += min(max(left * made[k], -LIMIT), LIMIT)
            else:
                for k in range(count):
                    row[k] += left * made[k]


@njit(**_OPTIONS)
def _gradients(terms, limited, weights, read, truths, values, starts, ones, room, spare, given, to_weights,
               to_read):  # fmt: skip
    """Add up gradients; a term that is at its limit does not change with its weight and values."""
    one, zero = np.float32(1.0), np.float32(0.0)
    for j in range(terms.shape[0]):
        program, plane, query, key = terms[j]
        if query < 0 and key < 0 and not limited[j]:
            row = given[program, starts[0] : starts[-1]]
            to_weights[j] += _dot_plane(plane, truths, values, starts[0], row)
            continue
        for r in range(starts.shape[0] - 1):
            low, count = starts[r], starts[r + 1] - starts[r]
            own = read[query, r] if query >= 0 else one
            left, pull = weights[j] * own, room[:count]
            _on_plane(plane, truths, values, low, given[program, low : low + count], pull)
            if limited[j]:
                made = spare[:count]
                _on_plane(plane, truths, values, low, ones[:count], made)
                if key >= 0:
                    _times(made, read[key, :count])
                for k in range(count):
                    pull[k] = pull[k] if abs(left * made[k]) <= LIMIT else zero
            total = zero
            if key >= 0:
                right, to = read[key, :count], to_read[key, :count]
                for k in range(count):
                    total += pull[k] * right[k]
                    to[k] += left * pull[k]
            else:
                for k in range(count):
                    total += pull[k]
            to_weights[j] += own * total
            if query >= 0:
                to_read[query, r] += weights[j] * total
