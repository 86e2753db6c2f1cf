"""Text planes: the planes of many programs on one text, each in the form of its ``Kind``.

A TRUTH plane is bits, sixteen keys to a word, each row from a new word on. A VALUE plane is float32
in the same layout. Planes by key and by distance are vectors; of these, only the exponential of each
program's weighted sum is kept.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from attn_dsl.compiler.code import Code, Kind
from attn_dsl.compiler.interpreter import fill_plane, room, run_row
from attn_dsl.compiler.jit import COMPILED
from attn_dsl.compiler.simd import WIDTH, word
from attn_dsl.compiler.softmax import AHEAD, SCORE_RANGE, vectors
from attn_dsl.dsl.limits import TERM_LIMIT

KEY, DISTANCE, TRUTH, VALUE = map(int, (Kind.KEY, Kind.DISTANCE, Kind.TRUTH, Kind.VALUE))


@dataclass(frozen=True, slots=True)
class TextPlanes:
    """The planes of the programs of a code on some rows of one text."""

    truths: np.ndarray  # uint16 (planes * words), the bits of the TRUTH planes, concatenated
    values: np.ndarray  # float32 (planes, 16 * words), the VALUE planes
    words: int  # the number of words of a plane
    # float32 (programs, …), exp of each program's weighted sum of its planes by key, and by
    # distance. The index of a distance is ``n - 1 - (q - k)``, so that a row of keys reads it in
    # order.
    keys: np.ndarray
    distances: np.ndarray
    quick: np.ndarray  # bool (programs), whether float32 is exact enough for the program


def text_planes(code: Code, n: int, start: int, arrays: tuple, first: int = 0) -> TextPlanes:
    """Compute the planes of a text on the rows from ``first`` on; the arguments are as in ``parts``."""
    words = row_words(n, code.causal) - row_words(first, code.causal, n)
    stride = words + AHEAD
    counts = np.bincount(code.places[:, 0], minlength=len(Kind))
    _, keys, distances, truths, values = counts.tolist()
    length = max(-(-n // WIDTH), 1) * WIDTH + WIDTH
    gaps = n if code.causal else max(2 * n - 1, 0)
    made = TextPlanes(np.zeros(truths * stride, dtype=np.uint16),
                      np.zeros((values, stride * WIDTH), dtype=np.float32), stride,
                      np.empty((code.size, length), dtype=np.float32),
                      np.empty((code.size, max(-(-gaps // WIDTH), 1) * WIDTH + WIDTH), dtype=np.float32),
                      np.empty(code.size, dtype=np.bool_))  # fmt: skip
    _fill(code.instructions, code.row_nodes, code.plane_rows, code.functions(2 * n), code.places, code.causal,
          n, first, start, arrays, np.empty((keys, n)), np.empty((distances, gaps)), made.truths, stride,
          made.values, code.terms[Kind.KEY], code.terms[Kind.DISTANCE], code.terms[Kind.VALUE], code.linear,
          made.keys, made.distances, made.quick)  # fmt: skip
    return made


def row_words(rows: int, causal: bool, n: int | None = None) -> int:
    """Return the number of words of the first ``rows`` rows of a text of ``n`` tokens.

    ``n`` is by default ``rows``. A row of the query q has a new word for each 16 keys.
    """
    if not causal:
        return rows * -(-(rows if n is None else n) // WIDTH)
    whole, rest = divmod(rows, WIDTH)
    return WIDTH * whole * (whole + 1) // 2 + rest * (whole + 1)


@njit(**COMPILED)
def _refuse(planes, terms, limit, quick):
    """Set ``quick`` to False for programs with a term above TERM_LIMIT, or terms that sum above ``limit``."""
    rows, weights, starts = terms
    sizes = np.zeros(planes.shape[0])
    for p in range(planes.shape[0]):
        for i in range(planes.shape[1]):
            sizes[p] = max(sizes[p], abs(planes[p, i]))
    for p in range(quick.shape[0]):
        whole = 0.0
        for j in range(starts[p], starts[p + 1]):
            size = abs(weights[j]) * sizes[rows[j]]
            whole += size
            if size > TERM_LIMIT:
                quick[p] = False
        if whole > limit:
            quick[p] = False


@njit(**COMPILED)
def _fill(instructions, row_nodes, planes, functions, places, causal, n, first, start, columns, by_key,
          by_distance, truths, stride, values, key_terms, distance_terms, value_terms, linear, keys_out,
          distances_out, quick):  # fmt: skip
    """Compute the planes, and exp of each program's weighted sums by key and by distance."""
    registers = room(instructions, n)
    every = np.arange(instructions.shape[0])
    # The last row has all keys and all distances q - k >= 0; the first row has those below 0.
    for ahead in range(0, 1 if causal else n, max(n - 1, 1)):
        q = n - 1 - ahead
        if q < 0:
            break
        run_row(instructions, every, registers, q, n, start, columns)
        for p in range(planes.shape[0]):
            slot = places[p, 1]
            if places[p, 0] == KEY:
                fill_plane(planes[p], functions, registers, n, by_key[slot])
            elif places[p, 0] == DISTANCE:
                fill_plane(planes[p], functions, registers, n, by_distance[slot, ahead : ahead + n])
    at = 0
    for q in range(first, n):
        keys = q + 1 if causal else n
        words = (keys + WIDTH - 1) // WIDTH
        run_row(instructions, row_nodes, registers, q, keys, start, columns)
        for p in range(planes.shape[0]):
            if places[p, 0] == TRUTH:
                one = registers[planes[p, 0]]
                base = places[p, 1] * stride + at
                if planes[p, 1] < 0:
                    for w in range(words):
                        truths[base + w] = word(one, w * WIDTH)
                else:
                    other = registers[planes[p, 1]]
                    for w in range(words):
                        truths[base + w] = word(one, w * WIDTH) & word(other, w * WIDTH)
            elif places[p, 0] == VALUE:
                here = values[places[p, 1], at * WIDTH : at * WIDTH + keys]
                fill_plane(planes[p], functions, registers, keys, here)
        at += words
    quick[:] = ~linear
    sums = np.empty(max(by_key.shape[1], by_distance.shape[1]))
    _refuse(by_key, key_terms, np.inf, quick)
    vectors(by_key, key_terms, sums, keys_out)
    _refuse(by_distance, distance_terms, np.inf, quick)
    vectors(by_distance, distance_terms, sums, distances_out)
    _refuse(values, value_terms, SCORE_RANGE, quick)


@njit(**COMPILED)
def spread_rows(packed, first, causal, n, out):
    """Copy packed rows, from query ``first`` on, to ``out``, (programs, rows, n or more)."""
    for p in range(packed.shape[0]):
        at = 0
        for row in range(out.shape[1]):
            keys = first + row + 1 if causal else n
            out[p, row, :keys] = packed[p, at : at + keys]
            at += keys
