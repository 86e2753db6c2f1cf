"""Tables: the sum of all factors in every cell, and back from cells to the factors' elements.

The factors of a channel are laid side by side, so that a cell is one product of two short vectors.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import FAST
from attn_dsl.synth.graded.factors import Model

LANES = 8
"""Vectors are padded with factors of 0 to a multiple of so many."""
Sides = list[np.ndarray]


def fill_table(model: Model, table: np.ndarray) -> None:
    """Write the sum of all factors into the table, float32 (cells, 2).

    Factor f adds ``profile[f, band] * left[f, query] * right[f, key]`` to column ``slope[f]`` of the
    cells of its channel.
    """
    cells = model.cells
    table[:] = 0.0
    for starts, column, _, sides in _groups(model):
        _fill(starts, cells.query, cells.key, *sides, table[:, column])


def gradients(model: Model, by_cell: np.ndarray) -> Sides:
    """Turn a gradient by cell, float32 (cells, 2), into that of every factor's elements."""
    return _summed(model, by_cell, power=1)


def curvatures(model: Model, mass: np.ndarray) -> Sides:
    """Return the diagonal of the cross-entropy's Hessian by the elements of the factors.

    The mass of a cell, float32 (cells, 2), stands for its variance, which is exact where masses are
    small.
    """
    return _summed(model, mass, power=2)


def _summed(model: Model, by_cell: np.ndarray, power: int) -> Sides:
    """Sum a quantity of the cells, times a power of what the other two sides are there."""
    cells = model.cells
    found = [np.zeros_like(side) for side in model.sides]
    for starts, column, some, sides in _groups(model):
        sides = [side**power for side in sides]
        sums = [np.zeros_like(side) for side in sides]
        _sum(starts, cells.query, cells.key, *sides, by_cell[:, column], *sums)
        for out, all_of in zip(found, sums, strict=True):
            out[some] = all_of.T[: len(some)]
    return found


def _groups(model: Model) -> Iterator[tuple[np.ndarray, int, np.ndarray, Sides]]:
    """Yield the factors of each channel and column.

    Returns:
        Where the channel's bands begin, the column, the factors' numbers, and their sides, transposed
        and padded: float32 (bands or symbols, lanes).
    """
    for channel, column, some in model.groups():
        lanes = -(-len(some) // LANES) * LANES
        sides = [np.zeros((side.shape[1], lanes), np.float32) for side in model.sides]
        for padded, side in zip(sides, model.sides, strict=True):
            padded[:, : len(some)] = side[some].T
        yield model.cells.starts[channel], column, some, sides


@njit(**FAST)
def _fill(starts, query, key, profile, left, right, column):
    weighed = np.empty_like(left)
    for band in range(profile.shape[0]):
        if not np.any(profile[band]):
            continue
        for s in range(left.shape[0]):
            for f in range(left.shape[1]):
                weighed[s, f] = left[s, f] * profile[band, f]
        for c in range(starts[band], starts[band + 1]):
            u, v = weighed[query[c]], right[key[c]]
            total = np.float32(0.0)
            for f in range(u.shape[0]):
                total += u[f] * v[f]
            column[c] = total


@njit(**FAST)
def _sum(
    starts, query, key, profile, left, right, column, profile_out, left_out, right_out
):  # fmt: skip
    weighed, sums = np.empty_like(left), np.empty_like(left)
    for band in range(profile.shape[0]):
        if not np.any(profile[band]):
            continue
        sums[:] = np.float32(0.0)
        for s in range(left.shape[0]):
            for f in range(left.shape[1]):
                weighed[s, f] = left[s, f] * profile[band, f]
        for c in range(starts[band], starts[band + 1]):
            x, q, k = column[c], query[c], key[c]
            u, v, to_u, to_v = weighed[q], right[k], sums[q], right_out[k]
            for f in range(u.shape[0]):
                to_u[f] += x * v[f]
                to_v[f] += x * u[f]
        for s in range(left.shape[0]):
            for f in range(left.shape[1]):
                left_out[s, f] += sums[s, f] * profile[band, f]
                profile_out[band, f] += sums[s, f] * left[s, f]
