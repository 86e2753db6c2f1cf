"""Softmax: programs evaluated from shared planes of a text, many programs at a time.

The mass of a pair is the exponential of its score; divided by the sum of its row it is the weight.
A sum of scores is a product of masses. So a predicate multiplies a mass by a constant, and what
reads the key or the distance alone needs an exponential for each token, not for each pair. Where
all masses of a row are too small for float32, the row is left to ``interpreter``.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import FINITE, LEAN
from attn_dsl.compiler.simd import (
    WIDTH,
    exponential,
    holds,
    largest,
    load,
    maximum,
    minimum,
    pick,
    spread,
    store,
    total,
)

BLOCK = 1024
"""Entries that are worked on at once, in whole rows, where planes are float32."""
SCORE_RANGE = 100.0
"""The largest magnitude of a program's weighted values of pairs: float32 keeps those to 1e-5."""
DEPTH = 60.0
"""How far below the largest of a vector its logits count; the others' masses are 0."""
CUT = np.float32(math.exp(-DEPTH) * 1.001)
LEAST = np.float32(1e-14)
"""The smallest sum of a row that is trusted: what was left out of it is far smaller."""
LOWEST = np.float32(-1e30)
"""Below all scores."""
AHEAD = 8
"""Words of truth values that are worked on at once: there must be as many behind the last."""
TAILS = np.array([(1 << count) - 1 for count in range(WIDTH + 1)], dtype=np.uint16)
"""Truth values of the first so many lanes."""


@njit(**LEAN)
def block_end(starts, first):
    """Return the row that ends a block which begins at a row: at least one, at most ``BLOCK``."""
    last = first + 1
    while last < starts.shape[0] - 1 and starts[last + 1] - starts[first] <= BLOCK:
        last += 1
    return last


@njit(**LEAN)
def exponentials(scores, out):
    """Compute exp of float32 scores within +-80; ``out`` may be ``scores``."""
    size = scores.shape[0]
    if size < WIDTH:
        for i in range(size):
            out[i] = np.float32(math.exp(scores[i]))
        return
    # the last lanes may overlap those before them, and so are read before these are written
    last = exponential(load(scores, size - WIDTH))
    for i in range(0, size - WIDTH, WIDTH):
        store(out, i, exponential(load(scores, i)))
    store(out, size - WIDTH, last)


@njit(**FINITE)
def vectors(planes, rows, weights, starts, sums, out):
    """Compute the exponentials of programs' weighted sums of vectors, the largest of each 1.

    Args:
        planes: float64 (planes, length).
        rows, weights, starts: per program, which planes have which weights.
        sums: float64 (length), room to work in.
        out: float32 (programs, at least length), 0 behind the vectors.
    """
    length, width = planes.shape[1], out.shape[1]
    cut, zero = spread(CUT), spread(np.float32(0.0))
    for p in range(out.shape[0]):
        mine = out[p]
        for i in range(length, width):
            mine[i] = np.float32(-DEPTH if starts[p] < starts[p + 1] else 0.0)
        if starts[p] == starts[p + 1]:
            for i in range(length):
                mine[i] = np.float32(1.0)
            continue
        weight, plane = weights[starts[p]], planes[rows[starts[p]]]
        for i in range(length):
            sums[i] = weight * plane[i]
        for j in range(starts[p] + 1, starts[p + 1]):
            weight, plane = weights[j], planes[rows[j]]
            for i in range(length):
                sums[i] += weight * plane[i]
        top = -np.inf
        for i in range(length):
            top = max(top, sums[i])
        for i in range(length):
            mine[i] = max(sums[i] - top, -DEPTH)
        for i in range(0, width, WIDTH):
            # what is at the bottom becomes 0
            store(mine, i, maximum(exponential(load(mine, i)) - cut, zero))


@njit(**LEAN)
def _scaled(masses, truths, at, held, other):
    """Multiply four vectors of masses by one factor where a predicate holds, else by another."""
    a, b, c, d = masses
    a = a * pick(holds(truths, at), held, other)
    b = b * pick(holds(truths, at + 1), held, other)
    c = c * pick(holds(truths, at + 2), held, other)
    return a, b, c, d * pick(holds(truths, at + 3), held, other)


@njit(**LEAN)
def _products(truths, stride, rows, factors, rewards, penalties, end, first, words, fresh, masses):
    """Multiply masses by a factor for each predicate; they are 1 so far if ``fresh``."""
    one = spread(np.float32(1.0))
    for word in range(0, words, AHEAD):
        m = masses[word * WIDTH :]
        low = high = one, one, one, one
        if not fresh:
            low = load(m, 0), load(m, WIDTH), load(m, 2 * WIDTH), load(m, 3 * WIDTH)
            high = load(m, 4 * WIDTH), load(m, 5 * WIDTH), load(m, 6 * WIDTH), load(m, 7 * WIDTH)
        for j in range(rewards, penalties):
            w, x = rows[j] * stride + first + word, spread(factors[j])
            low, high = _scaled(low, truths, w, one, x), _scaled(high, truths, w + 4, one, x)
        for j in range(penalties, end):
            w, x = rows[j] * stride + first + word, spread(factors[j])
            low, high = _scaled(low, truths, w, x, one), _scaled(high, truths, w + 4, x, one)
        store(m, 0, low[0])
        store(m, WIDTH, low[1])
        store(m, 2 * WIDTH, low[2])
        store(m, 3 * WIDTH, low[3])
        store(m, 4 * WIDTH, high[0])
        store(m, 5 * WIDTH, high[1])
        store(m, 6 * WIDTH, high[2])
        store(m, 7 * WIDTH, high[3])


@njit(**LEAN)
def _powers(values, rows, weights, start, end, low, tails, causal, n, first, last, masses):
    """Compute the exponentials of a program's weighted values of pairs, the largest of a row 1."""
    floor, zero, least = spread(np.float32(-DEPTH)), spread(np.float32(0)), spread(LOWEST)
    here = 0
    for q in range(first, last):
        count = q + 1 if causal else n
        end_of_row = here + (count + WIDTH - 1) // WIDTH * WIDTH
        most = least
        for at in range(here, end_of_row, WIDTH):
            score = spread(weights[start]) * load(values[rows[start]], low + at)
            for j in range(start + 1, end):
                score = score + spread(weights[j]) * load(values[rows[j]], low + at)
            store(masses, at, score)
            inside = holds(tails, min(count - (at - here), WIDTH))
            most = maximum(most, pick(inside, score, least))
        top = spread(largest(most))
        for at in range(here, end_of_row, WIDTH):
            score = minimum(maximum(load(masses, at) - top, floor), zero)
            store(masses, at, exponential(score))
        here = end_of_row


@njit(**LEAN)
def evaluate_masses(
    truths, stride, truth_rows, factors, truth_starts, values, value_rows, weights, value_starts,
    keys, distances, wanted, program, causal, n, first, last, low, masses, out, redo,
):  # fmt: skip
    """Evaluate rows of programs from the planes of one text; return whether some are left.

    A mass is the product of an entry of a vector of the keys, one of a vector of the distances,
    the exponential of weighted values of pairs, and a factor for each predicate of pairs: below 1
    where a penalty holds, or where a reward does not. So no mass is above 1.

    Args:
        truths, stride: uint16, bits of all planes, and the words of a plane.
        truth_rows, factors, truth_starts: per program, first its rewards, then its penalties.
        values, value_rows, weights, value_starts: the same for values of pairs.
        keys, distances: float32 (programs, ...), the vectors of each program.
        wanted: which programs to evaluate.
        program: the first program to evaluate; ``out`` tells how many.
        n, first, last: tokens of the text, and which rows.
        low: where those rows begin in the planes, in words.
        masses: float32, room for the rows, each from a new word on, and for ``AHEAD`` words more.
        out: float32 (programs, entries and at least 16 more), row by row without gaps.
        redo: bool (programs, rows), set for those rows that are not done.
    """
    words = 0
    for q in range(first, last):
        words += ((q + 1 if causal else n) + WIDTH - 1) // WIDTH
    zero, one, tails = spread(np.float32(0.0)), np.float32(1.0), TAILS
    left = False
    for i in range(out.shape[0]):
        p = program + i
        mine, key, distance, redone = out[i], keys[p], distances[p], redo[i]
        at, here = 0, 0
        redone[: last - first] = not wanted[p]
        left |= not wanted[p]
        if wanted[p]:
            fresh = value_starts[p] == value_starts[p + 1]
            if not fresh:
                _powers(
                    values, value_rows, weights, value_starts[p], value_starts[p + 1], low * WIDTH,
                    tails, causal, n, first, last, masses,
                )  # fmt: skip
            j = 2 * p
            if fresh or truth_starts[j] < truth_starts[j + 2]:
                _products(
                    truths, stride, truth_rows, factors, truth_starts[j], truth_starts[j + 1],
                    truth_starts[j + 2], low, words, fresh, masses,
                )  # fmt: skip
            for q in range(first, last):
                count, behind, rows = q + 1 if causal else n, n - 1 - q, zero
                for k in range(0, count, WIDTH):
                    mass = load(masses, here + k) * (load(key, k) * load(distance, behind + k))
                    store(masses, here + k, mass)
                    rows = rows + mass
                whole = total(rows)
                redone[q - first] = not whole >= LEAST
                left |= redone[q - first]
                scale = spread(one / whole)
                for k in range(0, count, WIDTH):
                    store(mine, at + k, load(masses, here + k) * scale)
                at += count
                here += (count + WIDTH - 1) // WIDTH * WIDTH
        # What the last row left behind its end would count in sums over whole words.
        mine[at:] = np.float32(0.0)
    return left
