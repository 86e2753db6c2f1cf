"""Masses: softmax programs evaluated from shared planes, many programs at a time.

exp(sum of weights) is the product of their exponentials: where a predicate holds, the mass of a
pair is multiplied by a constant. So only values (log distance and the like) need an exponential
for each pair, and planes of truth values are one byte a pair. Work goes in blocks of whole rows
that stay in cache. Programs whose weights could overflow float32 are left to ``machine``.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from attn_dsl.compiler.machine import fill_plane, match_table, run_row
from attn_dsl.dsl.features import MATCH_LIMIT

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}
_FAST = {**_OPTIONS, "fastmath": {"reassoc", "contract", "nsz", "arcp"}}

BLOCK = 1024
"""Entries that are worked on at once, in whole rows: so many bytes of each plane of truths."""
TRUTH_RANGE = 60.0
"""The largest sum of magnitudes of a program's weights of predicates: exp(60) fits float32."""
VALUE_RANGE = 16.0
"""The largest magnitude of a program's weighted values: float32 keeps exp of it to 1e-6."""

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


@njit(**_OPTIONS)
def typed_planes(
    code, planes, rates, slots, causal, n, start, settled, known, opened, marks, tokens,
    needs_match, truths, values,
):  # fmt: skip
    """Compute the planes of one text: truths as bytes, values as float32.

    ``slots`` (planes, 2) says whether a plane is a truth (0) or a value (1), and which row it is.
    """
    registers = np.empty((code.shape[0], n), dtype=np.int32)
    row = np.empty(n, dtype=np.float64)
    match = match_table(tokens[start : start + n] if needs_match else tokens[:0], MATCH_LIMIT)
    at = 0
    for q in range(n):
        keys = q + 1 if causal else n
        run_row(code, registers, q, keys, start, settled, known, opened, marks, match)
        for p in range(planes.shape[0]):
            slot = slots[p, 1]
            if slots[p, 0] == 0:
                register, condition = planes[p, 0], planes[p, 1]
                if condition < 0:
                    for k in range(keys):
                        truths[slot, at + k] = registers[register, k] != 0
                else:
                    for k in range(keys):
                        both = registers[register, k] & registers[condition, k]
                        truths[slot, at + k] = both != 0
            else:
                fill_plane(planes[p], rates[p], registers, keys, row)
                for k in range(keys):
                    values[slot, at + k] = row[k]
        at += keys


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
def _multiply(masses, holds, factor):
    """Multiply the masses of those pairs for which a predicate holds."""
    for i in range(masses.shape[0]):
        masses[i] *= factor if holds[i] != 0 else np.float32(1.0)


@njit(**_FAST)
def _multiply_four(masses, a, b, c, d, fa, fb, fc, fd):
    """Multiply the masses by the factors of four predicates at once."""
    one = np.float32(1.0)
    for i in range(masses.shape[0]):
        left = (fa if a[i] != 0 else one) * (fb if b[i] != 0 else one)
        right = (fc if c[i] != 0 else one) * (fd if d[i] != 0 else one)
        masses[i] *= left * right


@njit(**_FAST)
def add_scaled(scores, plane, weight):
    """Add a weighted plane of values to the scores."""
    for i in range(scores.shape[0]):
        scores[i] += weight * plane[i]


@njit(**_FAST)
def _normalise_rows(masses, lengths, first, last, out):
    """Divide the rows of a block by their sums."""
    at = 0
    for r in range(first, last):
        n = lengths[r]
        total = np.float32(0.0)
        for i in range(at, at + n):
            total += masses[i]
        scale = np.float32(1.0) / total
        for i in range(at, at + n):
            out[i] = masses[i] * scale
        at += n


@njit(**_FAST)
def evaluate_masses(
    truths, values, truth_rows, factors, truth_starts, value_rows, weights, value_starts, wanted,
    lengths, out,
):  # fmt: skip
    """Evaluate programs from the planes of one text into ``out`` float32 (programs, entries).

    Args:
        truths, values: uint8 and float32 (planes, entries).
        truth_rows, factors, truth_starts: per program, which truths multiply its masses by what.
        value_rows, weights, value_starts: per program, which values have which weights.
        wanted: which programs to evaluate; the rows of the others are left as they are.
        lengths: entries of each row of the matrix.
    """
    longest = max(BLOCK, lengths.max() if lengths.shape[0] > 0 else 0)
    masses = np.empty(longest, dtype=np.float32)
    scores = np.empty(longest, dtype=np.float32)
    bits = np.empty(longest, dtype=np.int32)
    row, at = 0, 0
    while row < lengths.shape[0]:
        last, size = row, 0
        while last < lengths.shape[0] and (size == 0 or size + lengths[last] <= BLOCK):
            size += lengths[last]
            last += 1
        for p in range(out.shape[0]):
            if not wanted[p]:
                continue
            m = masses[:size]
            if value_starts[p] < value_starts[p + 1]:
                s = scores[:size]
                s[:] = np.float32(0.0)
                for j in range(value_starts[p], value_starts[p + 1]):
                    add_scaled(s, values[value_rows[j], at : at + size], weights[j])
                exponentials(s, bits[:size], m)
            else:
                m[:] = np.float32(1.0)
            j, end = truth_starts[p], truth_starts[p + 1]
            while j + 4 <= end:
                _multiply_four(
                    m, truths[truth_rows[j], at : at + size],
                    truths[truth_rows[j + 1], at : at + size],
                    truths[truth_rows[j + 2], at : at + size],
                    truths[truth_rows[j + 3], at : at + size],
                    factors[j], factors[j + 1], factors[j + 2], factors[j + 3],
                )  # fmt: skip
                j += 4
            while j < end:
                _multiply(m, truths[truth_rows[j], at : at + size], factors[j])
                j += 1
            _normalise_rows(m, lengths, row, last, out[p, at : at + size])
        row = last
        at += size
