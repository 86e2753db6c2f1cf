"""Planes: what the weights of many programs multiply on one text, each kind in its own form.

Truths of pairs are bits, sixteen keys to a word, each row from a new word on; values of pairs are
float32 laid out the same way. What reads the key or the distance alone is one vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numba import njit

from attn_dsl.compiler.bytecode import Code
from attn_dsl.compiler.jit import COMPILED
from attn_dsl.compiler.kernel_graph import Stage
from attn_dsl.compiler.lanes import WIDTH, word
from attn_dsl.compiler.machine import fill_plane, match_table, room, run_row
from attn_dsl.compiler.masses import AHEAD
from attn_dsl.compiler.reads import needed, plane_stages, stages
from attn_dsl.dsl.limits import MATCH_LIMIT


class Kind(IntEnum):
    """How a plane is kept."""

    NONE = 0  # the same for a whole row: softmax takes it out
    KEY = 1
    DISTANCE = 2
    TRUTH = 3
    VALUE = 4


KEY, DISTANCE, TRUTH, VALUE = (
    int(Kind.KEY), int(Kind.DISTANCE), int(Kind.TRUTH), int(Kind.VALUE),
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Where the planes of some programs are kept.

    Attributes:
        places: int64 (planes, 2): the ``Kind`` of each, and its number among those.
        counts: how many planes there are of each kind.
        pairs: int64, the registers that are computed for every row.
    """

    places: np.ndarray
    counts: np.ndarray
    pairs: np.ndarray


_KINDS = {
    Stage.CONSTANT: Kind.NONE, Stage.QUERY: Kind.NONE, Stage.KEY: Kind.KEY,
    Stage.DISTANCE: Kind.DISTANCE,
}  # fmt: skip


def layout(code: Code) -> Layout:
    """Decide how the planes of some programs are kept."""
    registers = stages(code)
    kinds = np.array([
        _KINDS.get(Stage(read), Kind.TRUTH if plane.truth else Kind.VALUE)
        for read, plane in zip(plane_stages(code, registers), code.planes, strict=True)
    ], dtype=np.int64)  # fmt: skip
    numbers = np.zeros(len(kinds), dtype=np.int64)
    for kind in Kind:
        numbers[kinds == kind] = np.arange((kinds == kind).sum())
    rows = code.plane_arrays[0][kinds >= Kind.TRUTH]
    roots = rows[:, [0, 1, 3]].ravel()
    pairs = needed(code, roots[roots >= 0])
    pairs = pairs[~np.isin(registers[pairs], (Stage.CONSTANT, Stage.KEY))]
    return Layout(
        np.stack([kinds, numbers], axis=1), np.bincount(kinds, minlength=len(Kind)), pairs
    )


@dataclass(frozen=True)
class Planes:
    """The planes of one text.

    Attributes:
        n: its tokens.
        keys: float64 (planes, n).
        distances: float64 (planes, distances): by ``n - 1 - (q - k)``, so that a row lies in order.
        truths: uint16 (planes * words): bits, plane after plane.
        values: float32 (planes, 16 * words).
        words: how many words a plane of truths has.
    """

    n: int
    keys: np.ndarray
    distances: np.ndarray
    truths: np.ndarray
    values: np.ndarray
    words: int


def text_planes(code: Code, where: Layout, n: int, start: int, arrays: tuple) -> Planes:
    """Compute the planes of one text.

    Args:
        n, start: its tokens, and where they begin in the columns.
        arrays: columns, pads, tokens and whether ``match`` is used; see ``Plan``.
    """
    words = row_words(n, code.causal)
    stride = words + AHEAD
    _, keys, distances, truths, values = where.counts.tolist()
    made = Planes(
        n,
        np.empty((keys, n)),
        np.empty((distances, n if code.causal else max(2 * n - 1, 0))),
        np.zeros(truths * stride, dtype=np.uint16),
        np.zeros((values, stride * WIDTH), dtype=np.float32),
        stride,
    )
    if n:
        _fill(
            code.instructions, where.pairs, *code.plane_arrays, where.places, code.causal, n, start,
            *arrays, made.keys, made.distances, made.truths, stride, made.values,
        )  # fmt: skip
    return made


def row_words(n: int, causal: bool) -> int:
    """Count the words of all rows of a text.

    >>> row_words(17, causal=True)
    18
    """
    whole, rest = divmod(n, WIDTH)
    if not causal:
        return n * (whole + (rest > 0))
    return WIDTH * whole * (whole + 1) // 2 + rest * (whole + 1)


@njit(**COMPILED)
def _fill(
    code, pairs, planes, functions, places, causal, n, start, settled, known, opened, marks, tokens,
    needs_match, keys_out, distances_out, truths, stride, values,
):  # fmt: skip
    registers = room(code, n)
    every = np.arange(code.shape[0])
    match = match_table(tokens[start : start + n] if needs_match else tokens[:0], MATCH_LIMIT)
    # The last row has all keys, and all distances back; the first has those ahead.
    for ahead in range(0, 1 if causal else n, max(n - 1, 1)):
        q = n - 1 - ahead
        run_row(code, every, registers, q, n, start, settled, known, opened, marks, match)
        for p in range(planes.shape[0]):
            slot = places[p, 1]
            if places[p, 0] == KEY:
                fill_plane(planes[p], functions, registers, n, keys_out[slot])
            elif places[p, 0] == DISTANCE:
                fill_plane(
                    planes[p], functions, registers, n, distances_out[slot, ahead : ahead + n]
                )
    at = 0
    for q in range(n):
        keys = q + 1 if causal else n
        words = (keys + WIDTH - 1) // WIDTH
        run_row(code, pairs, registers, q, keys, start, settled, known, opened, marks, match)
        for p in range(planes.shape[0]):
            if places[p, 0] == TRUTH:
                first = registers[planes[p, 0]]
                base = places[p, 1] * stride + at
                if planes[p, 1] < 0:
                    for w in range(words):
                        truths[base + w] = word(first, w * WIDTH)
                else:
                    second = registers[planes[p, 1]]
                    for w in range(words):
                        truths[base + w] = word(first, w * WIDTH) & word(second, w * WIDTH)
            elif places[p, 0] == VALUE:
                here = values[places[p, 1], at * WIDTH : at * WIDTH + keys]
                fill_plane(planes[p], functions, registers, keys, here)
        at += words


@njit(**COMPILED)
def typed_planes(
    code, planes, functions, slots, causal, n, start, settled, known, opened, marks, tokens,
    needs_match, truths, values,
):  # fmt: skip
    """Compute the planes of one text: truths as bytes, values as float32.

    ``slots`` (planes, 2) says whether a plane is a truth (0) or a value (1), and which row it is.
    """
    registers = room(code, n)
    every = np.arange(code.shape[0])
    match = match_table(tokens[start : start + n] if needs_match else tokens[:0], MATCH_LIMIT)
    at = 0
    for q in range(n):
        keys = q + 1 if causal else n
        run_row(code, every, registers, q, keys, start, settled, known, opened, marks, match)
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
                fill_plane(planes[p], functions, registers, keys, values[slot, at : at + keys])
        at += keys
