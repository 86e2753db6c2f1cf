"""Masses: softmax programs evaluated from shared planes, many programs at a time.

exp(sum of weights) is the product of their exponentials: where a predicate holds, the mass of a
pair is multiplied by a constant. What reads the key or the distance alone needs an exponential
for each token, and only values of pairs need one for each pair. Rows whose masses float32 cannot
hold are left to ``machine``.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from attn_dsl.compiler.lanes import WIDTH, holds, load, pick, spread, store, total

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}
_FAST = {**_OPTIONS, "fastmath": {"reassoc", "contract", "nsz", "arcp"}}
_FINITE = {**_OPTIONS, "fastmath": {"reassoc", "contract", "nsz", "arcp", "nnan"}}

BLOCK = 1024
"""Entries that are worked on at once, in whole rows, where planes are float32."""
SCORE_RANGE = 100.0
"""The largest magnitude of a program's weighted values of pairs: float32 keeps those to 1e-5."""
DEPTH = 60.0
"""How far below the largest of a vector its logits count; the others' masses are 0."""
CUT = np.float32(math.exp(-DEPTH) * 1.001)
LEAST = np.float32(1e-14)
"""The smallest sum of a row that is trusted: what was left out of it is far smaller."""

# Coefficients of 2**f on [-0.5, 0.5]: the Taylor series of exp(f ln 2), relative error below 2e-8.
C1, C2, C3, C4, C5, C6, C7 = (np.float32(math.log(2) ** i / math.factorial(i)) for i in range(1, 8))
LOG2E = np.float32(1 / math.log(2))


@njit(**_OPTIONS)
def block_end(starts, first):
    """Return the row that ends a block which begins at a row: at least one, at most ``BLOCK``."""
    last = first + 1
    while last < starts.shape[0] - 1 and starts[last + 1] - starts[first] <= BLOCK:
        last += 1
    return last


@njit(**_FAST)
def exponentials(scores, bits, out):
    """Compute exp of float32 scores within +-80, many at a time; ``out`` may be ``scores``."""
    for i in range(scores.shape[0]):
        y = scores[i] * LOG2E
        whole = np.floor(y + np.float32(0.5))
        f = y - whole
        p = C7
        p = p * f + C6
        p = p * f + C5
        p = p * f + C4
        p = p * f + C3
        p = p * f + C2
        p = p * f + C1
        out[i] = p * f + np.float32(1.0)
        bits[i] = (np.int32(whole) + np.int32(127)) << np.int32(23)
    powers = bits.view(np.float32)
    for i in range(scores.shape[0]):
        out[i] *= powers[i]


@njit(**_FAST)
def add_scaled(scores, plane, weight):
    """Add a weighted plane of values to the scores."""
    for i in range(scores.shape[0]):
        scores[i] += weight * plane[i]


@njit(**_FINITE)
def vectors(planes, rows, weights, starts, out):
    """Compute the exponentials of programs' weighted sums of vectors, the largest of each 1.

    Args:
        planes: float64 (planes, length).
        rows, weights, starts: per program, which planes have which weights.
        out: float32 (programs, at least length), 0 behind the vectors.
    """
    length = planes.shape[1]
    sums = np.empty(length, dtype=np.float64)
    for p in range(out.shape[0]):
        mine = out[p]
        for i in range(length):
            sums[i] = 0.0
        for j in range(starts[p], starts[p + 1]):
            weight, plane = weights[j], planes[rows[j]]
            for i in range(length):
                sums[i] += weight * plane[i]
        top = -np.inf
        for i in range(length):
            top = max(top, sums[i])
        for i in range(length):
            mine[i] = max(sums[i] - top, -DEPTH)
        for i in range(length, out.shape[1]):
            mine[i] = -DEPTH
    flat = out.reshape(-1)
    exponentials(flat, np.empty(flat.shape[0], dtype=np.int32), flat)
    for i in range(flat.shape[0]):
        flat[i] = flat[i] if flat[i] > CUT else np.float32(0.0)


@njit(**_OPTIONS)
def _products(truths, stride, rows, factors, rewards, penalties, end, first, words, masses):
    """Multiply masses by what the predicates of a program make of them, 64 entries at a time."""
    for c in range(0, words, 4):
        at = c * WIDTH
        a, b = load(masses, at), load(masses, at + WIDTH)
        d, e = load(masses, at + 2 * WIDTH), load(masses, at + 3 * WIDTH)
        for j in range(rewards, penalties):
            w = rows[j] * stride + first + c
            f = spread(factors[j])
            a = pick(holds(truths, w), a, a * f)
            b = pick(holds(truths, w + 1), b, b * f)
            d = pick(holds(truths, w + 2), d, d * f)
            e = pick(holds(truths, w + 3), e, e * f)
        for j in range(penalties, end):
            w = rows[j] * stride + first + c
            f = spread(factors[j])
            a = pick(holds(truths, w), a * f, a)
            b = pick(holds(truths, w + 1), b * f, b)
            d = pick(holds(truths, w + 2), d * f, d)
            e = pick(holds(truths, w + 3), e * f, e)
        store(masses, at, a)
        store(masses, at + WIDTH, b)
        store(masses, at + 2 * WIDTH, d)
        store(masses, at + 3 * WIDTH, e)


@njit(**_FINITE)
def _lower_rows(scores, causal, n, first, last):
    """Take the largest score of each row out; what is far below it hardly counts."""
    at = 0
    for q in range(first, last):
        count = q + 1 if causal else n
        wide = (count + WIDTH - 1) // WIDTH * WIDTH
        row = scores[at : at + wide]
        top = row[0]
        for k in range(count):
            top = max(top, row[k])
        for k in range(wide):
            row[k] = min(max(row[k] - top, np.float32(-DEPTH)), np.float32(0.0))
        at += wide


@njit(**_OPTIONS)
def evaluate_masses(
    truths, stride, truth_rows, factors, truth_starts, values, value_rows, weights, value_starts,
    keys, distances, wanted, causal, n, first, last, low, out, redo,
):  # fmt: skip
    """Evaluate rows of programs from the planes of one text.

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
        n, first, last: tokens of the text, and which rows.
        low: where those rows begin in the planes, in words.
        out: float32 (programs, entries and at least 16 more), row by row without gaps.
        redo: bool (programs, rows), set for those rows that are not done.
    """
    words = 0
    for q in range(first, last):
        words += ((q + 1 if causal else n) + WIDTH - 1) // WIDTH
    length = (words + 4) * WIDTH
    masses = np.empty(length, dtype=np.float32)
    bits = np.empty(length, dtype=np.int32)
    zero, one = spread(np.float32(0.0)), np.float32(1.0)
    for p in range(out.shape[0]):
        mine, key, distance, redone = out[p], keys[p], distances[p], redo[p]
        at, here = 0, 0
        for r in range(last - first):
            redone[r] = not wanted[p]
        if wanted[p]:
            if value_starts[p] < value_starts[p + 1]:
                part = slice(low * WIDTH, low * WIDTH + words * WIDTH)
                for i in range(length):
                    masses[i] = np.float32(0.0)
                for j in range(value_starts[p], value_starts[p + 1]):
                    add_scaled(masses[: words * WIDTH], values[value_rows[j], part], weights[j])
                _lower_rows(masses, causal, n, first, last)
                exponentials(masses, bits, masses)
            else:
                for i in range(length):
                    masses[i] = one
            j = 2 * p
            if truth_starts[j] < truth_starts[j + 2]:
                _products(
                    truths, stride, truth_rows, factors, truth_starts[j], truth_starts[j + 1],
                    truth_starts[j + 2], low, words, masses,
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
                scale = spread(one / whole)
                for c in range(chunks):
                    k = c * WIDTH
                    store(mine, at + k, load(masses, here + k) * scale)
                at += count
                here += chunks * WIDTH
        # What the last row left behind its end would count in sums over whole words.
        for i in range(at, out.shape[1]):
            mine[i] = np.float32(0.0)
