"""Softmax: programs evaluated from shared planes of a text, many programs at a time.

exp(sum of weights) is the product of their exponentials: where a predicate holds, the mass of a
pair is multiplied by a constant. What reads the key or the distance alone needs an exponential
for each token, and only values of pairs need one for each pair. Rows whose masses float32 cannot
hold are left to ``interpreter``.
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
def _products(truths, stride, rows, factors, rewards, penalties, end, first, words, fresh, masses):
    """Multiply masses by what the predicates of a program make of them, eight words at a time.

    ``fresh``: the masses are all 1 so far, whatever the array holds.
    """
    one = spread(np.float32(1.0))
    for word in range(0, words, AHEAD):
        at = word * WIDTH
        if fresh:
            a, b, c, d, e, f, g, h = one, one, one, one, one, one, one, one
        else:
            a, b = load(masses, at), load(masses, at + WIDTH)
            c, d = load(masses, at + 2 * WIDTH), load(masses, at + 3 * WIDTH)
            e, f = load(masses, at + 4 * WIDTH), load(masses, at + 5 * WIDTH)
            g, h = load(masses, at + 6 * WIDTH), load(masses, at + 7 * WIDTH)
        for j in range(rewards, penalties):
            w = rows[j] * stride + first + word
            x = spread(factors[j])
            a = pick(holds(truths, w), a, a * x)
            b = pick(holds(truths, w + 1), b, b * x)
            c = pick(holds(truths, w + 2), c, c * x)
            d = pick(holds(truths, w + 3), d, d * x)
            e = pick(holds(truths, w + 4), e, e * x)
            f = pick(holds(truths, w + 5), f, f * x)
            g = pick(holds(truths, w + 6), g, g * x)
            h = pick(holds(truths, w + 7), h, h * x)
        for j in range(penalties, end):
            w = rows[j] * stride + first + word
            x = spread(factors[j])
            a = pick(holds(truths, w), a * x, a)
            b = pick(holds(truths, w + 1), b * x, b)
            c = pick(holds(truths, w + 2), c * x, c)
            d = pick(holds(truths, w + 3), d * x, d)
            e = pick(holds(truths, w + 4), e * x, e)
            f = pick(holds(truths, w + 5), f * x, f)
            g = pick(holds(truths, w + 6), g * x, g)
            h = pick(holds(truths, w + 7), h * x, h)
        store(masses, at, a)
        store(masses, at + WIDTH, b)
        store(masses, at + 2 * WIDTH, c)
        store(masses, at + 3 * WIDTH, d)
        store(masses, at + 4 * WIDTH, e)
        store(masses, at + 5 * WIDTH, f)
        store(masses, at + 6 * WIDTH, g)
        store(masses, at + 7 * WIDTH, h)


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

    A program's masses are the products of a vector of the keys, a vector of the distances, the
    exponential of what it makes of values of pairs, and a factor for each predicate of pairs:
    below 1 where a penalty holds, or where a reward does not. So no mass is above 1, and where a
    row's sum is too small for float32 it is left to be done again.

    Args:
        truths, stride: uint16, bits of all planes, and the words of a plane.
        truth_rows, factors, truth_starts: per program, first its rewards, then its penalties;
            int64 (2 * programs + 1).
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
        for r in range(last - first):
            redone[r] = not wanted[p]
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
                count = q + 1 if causal else n
                behind = n - 1 - q
                chunks = (count + WIDTH - 1) // WIDTH
                rows = zero
                for c in range(chunks):
                    k = c * WIDTH
                    mass = load(masses, here + k) * (load(key, k) * load(distance, behind + k))
                    store(masses, here + k, mass)
                    rows = rows + mass
                whole = total(rows)
                redone[q - first] = not whole >= LEAST
                left |= redone[q - first]
                scale = spread(one / whole)
                for c in range(chunks):
                    k = c * WIDTH
                    store(mine, at + k, load(masses, here + k) * scale)
                at += count
                here += chunks * WIDTH
        # What the last row left behind its end would count in sums over whole words.
        for i in range(at, out.shape[1]):
            mine[i] = np.float32(0.0)
    return left
