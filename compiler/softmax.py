"""Softmax: evaluates many softmax programs at once, from planes of a text that they share.

The *mass* of a pair is exp(score); the mass divided by the sum over its row is the weight. A sum of
scores is a product of masses: a true predicate multiplies the mass by a constant, and planes by key
or by distance need one exponential per token, not per pair. Rows whose masses are all too small for
float32 are left to ``interpreter``.
"""

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

SCORE_RANGE = 100.0
"""Limit on the sum of |weight| * |value| over planes of kind VALUE: float32 is exact to 1e-5 here."""
DEPTH = 60.0  # logits more than this below the largest of their vector have mass 0
CUT = np.float32(math.exp(-DEPTH) * 1.001)
LEAST = np.float32(1e-14)
"""Rows with a smaller sum of masses are evaluated again: the masses cut to 0 may matter."""
LOWEST = np.float32(-1e30)  # a number below all scores
AHEAD = 8
"""Words of truth values in one step of a loop; arrays have so many more words at their end."""
TAILS = np.array([(1 << count) - 1 for count in range(WIDTH + 1)], dtype=np.uint16)
"""Entry i is the word whose first i lanes are true."""


@njit(**LEAN)
def exponentials(scores, out):
    """Write exp of float32 scores within +-80 to ``out``, which may be ``scores``."""
    size = scores.shape[0]
    if size < WIDTH:
        for i in range(size):
            out[i] = np.float32(math.exp(scores[i]))
        return
    # the last vector may overlap the one before it, so it is read before that one is written
    last = exponential(load(scores, size - WIDTH))
    for i in range(0, size - WIDTH, WIDTH):
        store(out, i, exponential(load(scores, i)))
    store(out, size - WIDTH, last)


@njit(**FINITE)
def softmax_rows(starts, scores):
    """Turn rows of scores into their softmax, in place; return the sum of their log normalisers."""
    total = 0.0
    for r in range(starts.shape[0] - 1):
        row = scores[starts[r] : starts[r + 1]]
        top, mass = row[0], np.float32(0.0)
        for i in range(1, row.shape[0]):
            top = max(top, row[i])
        for i in range(row.shape[0]):
            row[i] = max(row[i] - top, np.float32(-80.0))
        exponentials(row, row)
        for i in range(row.shape[0]):
            mass += row[i]
        scale = np.float32(1.0) / mass
        for i in range(row.shape[0]):
            row[i] *= scale
        total += top + math.log(mass)
    return total


@njit(**FINITE)
def vectors(planes, terms, sums, out):
    """Compute exp of the weighted sum of planes of each program, scaled so that the largest entry is 1.

    Args:
        planes: float64 (planes, length), planes by key or by distance.
        terms: as in ``Code.terms``.
        sums: float64 (length), scratch space.
        out: float32 (programs, length or more), 0 after ``length``.
    """
    rows, weights, starts = terms
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
            # so logits at -DEPTH have mass 0
            store(mine, i, maximum(exponential(load(mine, i)) - cut, zero))


@njit(**LEAN)
def _scaled(masses, truths, at, held, other):
    """Multiply four vectors of masses by ``held`` where a predicate holds, else by ``other``."""
    a, b, c, d = masses
    a = a * pick(holds(truths, at), held, other)
    b = b * pick(holds(truths, at + 1), held, other)
    c = c * pick(holds(truths, at + 2), held, other)
    return a, b, c, d * pick(holds(truths, at + 3), held, other)


@njit(**LEAN)
def _products(truths, stride, rows, factors, rewards, penalties, end, first, words, fresh, masses):
    """Multiply masses by the factor of each predicate; if ``fresh``, they start at 1."""
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
    """Compute exp of the weighted planes of kind VALUE of a program, the largest of each row being 1."""
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
def evaluate_masses(truths, stride, truth_terms, values, value_terms, keys, distances, wanted, program,
                    causal, n, first, last, low, masses, out, redo):  # fmt: skip
    """Evaluate rows of programs from the planes of one text; return whether any row must be redone.

    A mass is the product of an entry by key, an entry by distance, the exponential of the weighted
    VALUE planes, and a factor for each predicate of pairs: below 1 where a penalty holds, and where
    a reward does not. So no mass is above 1.

    Args:
        truths, stride, values, keys, distances, wanted: see ``text_planes.TextPlanes``.
        truth_terms, value_terms: as in ``Code.terms``.
        program: the first program to evaluate; ``out`` has one row per program.
        n, first, last: the number of tokens of the text, and the range of rows.
        low: the first word of these rows in the planes.
        masses: float32, scratch space for the rows, each from a new word on, + ``AHEAD`` words.
        out: float32 (programs, entries + 16 or more), the rows without gaps between them.
        redo: bool (programs, rows), set to the rows that must be redone.
    """
    truth_rows, factors, truth_starts = truth_terms
    value_rows, weights, value_starts = value_terms
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
                _powers(values, value_rows, weights, value_starts[p], value_starts[p + 1], low * WIDTH, tails,
                        causal, n, first, last, masses)  # fmt: skip
            j = 2 * p
            if fresh or truth_starts[j] < truth_starts[j + 2]:
                _products(truths, stride, truth_rows, factors, truth_starts[j], truth_starts[j + 1],
                          truth_starts[j + 2], low, words, fresh, masses)  # fmt: skip
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
        # The last row was written in whole vectors; later sums need zeros after its end.
        mine[at:] = np.float32(0.0)
    return left
