"""The noise of a head's rows if they are a program's, and whether they may be.

Two queries' logits of two keys differ by as much, whichever query it is, but for the rules that hold
for some of the four pairs alone, and but for noise. What distances explain is the same in all texts,
and is taken out; of what is left, the smaller part is noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attn_dsl.synth.design import Design
from attn_dsl.synth.exact.residual import FINE
from attn_dsl.synth.weights import Rows

CLEAN = 0.02
"""Heads whose logits turn by less than this (see ``turns``) are programs without noise."""
CEILING = 0.78
"""Heads whose noise would leave a program less IoU than this are not taken for programs."""
BELIEVED = 0.87
"""Noise that would leave less is taken for less noise, and for rules that change from row to row."""
FEWEST = 100
"""How many pairs of keys it takes to say by how much logits turn."""
ALIKE = 10
"""How many turns at the same distances it takes to say what these explain."""
QUARTILE = 0.1015
"""The lower quartile of the square of a standard normal variable."""


def turns(rows: Rows, texts: np.ndarray) -> float:
    """Say by how much a head's logits change from query to query for some keys but not the next.

    In a program the difference of two queries' logits is nearly the same for many pairs of keys
    that follow each other, but for noise; in a model it never is.

    Args:
        texts: the text of each row.

    Returns:
        The lower quartile over pairs of keys; infinity where there are fewer than ``FEWEST``.
    """
    return _quartile(np.abs(_turns(rows, texts, 0.0).turn))


def noise_of_program(rows: Rows, design: Design) -> float | None:
    """Say how noisy a head's rows are if they are a program's: 0.0 for not at all.

    Returns:
        The noise (see ``noise_of``) that is believed; None where they are no program's.
    """
    if turns(rows, design.text_of_rows) < CLEAN:
        return 0.0
    noise = noise_of(rows, design)
    ceiling = ceiling_of(rows, noise)
    return None if ceiling < CEILING else believed(noise, ceiling)


def noise_of(rows: Rows, design: Design) -> float:
    """Say how noisy a program's rows are: the variance of a logarithm is this by the attention.

    So it is for draws from a distribution whose variance grows with its mean (Dirichlet, Poisson). It
    is read from the lower quartile of what changes from query to query, since rules change much else:
    where there are enough of them, of turns whose part that distances explain is known.
    """
    found = _turns(rows, design.text_of_rows, 0.5)
    explained, alike = found.explained(np.concatenate(design.rows))
    known = alike >= ALIKE
    unsure = np.where(known, np.pi / 2 / np.maximum(alike - 1, 1), 0.0)  # the median's own variance
    left = (found.turn - explained) ** 2 / (found.spread * (1 + unsure))
    return _quartile(left[known] if known.sum() > FEWEST else left) / QUARTILE


def ceiling_of(rows: Rows, noise: float) -> float:
    """Say which IoU noise (see ``noise_of``) leaves the program whose rows it was added to.

    The mean distance of an entry from its program's is that of a normal variable, sqrt(2 / pi) of its
    deviation, but never more than the attention there and in the program.
    """
    if not np.isfinite(noise):
        return 0.0
    a = rows.actual.astype(np.float64)
    apart = np.minimum(np.sqrt(2 / np.pi * noise * a), 2 * a)
    half = 0.5 * np.add.reduceat(apart, rows.starts[:-1])
    return float(np.mean((1 - half) / (1 + half)))


def believed(noise: float, ceiling: float) -> float:
    """Return noise, or as much of it as leaves a program an IoU of ``BELIEVED``.

    >>> believed(0.001, 0.9), round(believed(0.004, 0.85), 4)
    (0.001, 0.0029)

    Args:
        ceiling: the IoU that all of it leaves: what is apart grows with the root of the noise.
    """
    if ceiling >= BELIEVED:
        return noise
    most = (1 - BELIEVED) / (1 + BELIEVED)
    return noise * (most * (1 + ceiling) / (1 - ceiling)) ** 2


def _quartile(steps: np.ndarray) -> float:
    return float(np.quantile(steps, 0.25)) if len(steps) > FEWEST else float("inf")


@dataclass(frozen=True, slots=True)
class _Turns:
    """Turns of the logits of two keys between two queries of a text.

    Attributes:
        turn: float64 (turns).
        spread: the sum of 1 / attention of the four entries.
        row: the first query's row.
        keys: int64 (turns, 2), the keys.
    """

    turn: np.ndarray
    spread: np.ndarray
    row: np.ndarray
    keys: np.ndarray

    def explained(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what the four distances explain of each turn: the median of the others alike.

        Args:
            queries: the query of each row.

        Returns:
            That, 0 where fewer than ``ALIKE`` are alike; and how many are.
        """
        first, second = queries[self.row], queries[self.row + 1]
        apart = np.stack([first - self.keys[:, 0], *np.diff(self.keys).T, second - first])
        _, group, counts = np.unique(apart, axis=1, return_inverse=True, return_counts=True)
        order = np.lexsort((self.turn, group.reshape(-1)))
        begins, alike = np.repeat(np.cumsum(counts) - counts, counts), np.repeat(counts, counts)
        rank, ordered = np.arange(len(order)) - begins, self.turn[order]
        middle = [(alike - 2) // 2, (alike - 1) // 2]  # of the others
        some = [ordered[np.minimum(begins + x + (x >= rank), len(order) - 1)] for x in middle]
        explained, count = np.zeros(len(order)), np.empty(len(order), dtype=int)
        explained[order], count[order] = np.where(alike >= ALIKE, np.mean(some, axis=0), 0.0), alike
        return explained, count


def _turns(rows: Rows, texts: np.ndarray, least: float) -> _Turns:
    """Return the turns of keys that follow each other, for two queries in turn.

    Args:
        least: keys with less attention are passed over, in equal shares of the longest row.
    """
    floor = max(least / int(np.diff(rows.starts).max(initial=1)), 10 * FINE)
    found = [_turns_of(rows, int(r), floor) for r in np.flatnonzero(np.diff(texts) == 0)]
    if not found:
        return _Turns(np.zeros(0), np.zeros(0), np.zeros(0, int), np.zeros((0, 2), int))
    return _Turns(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _turns_of(rows: Rows, r: int, floor: float) -> tuple[np.ndarray, ...]:
    one = rows.actual[rows.starts[r] : rows.starts[r + 1]]
    two = rows.actual[rows.starts[r + 1] : rows.starts[r + 2]][: len(one)]
    known = np.flatnonzero((one > floor) & (two > floor))
    one, two = one[known], two[known]
    spread = 1.0 / one + 1.0 / two
    keys = np.stack([known[:-1], known[1:]], axis=1)
    turn = np.diff(np.log(two) - np.log(one))
    return turn, spread[1:] + spread[:-1], np.full(len(keys), r), keys
