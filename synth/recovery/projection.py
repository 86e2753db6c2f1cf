"""Projection onto the complement of tables of the key's token, its distance and its place.

Rules about these add up to one table each and are told apart when the other rules are known. These are
found while any table is allowed: planes and logits are taken less their weighted least-squares fit by
all tables (Frisch and Waugh 1933), by conjugate gradients.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import FAST
from attn_dsl.synth.recovery.predicates import FAR, SHIFTS, Bank

STEPS, EXACT = 24, 1e-7
"""How many steps are taken at the most, and the share of the first slope at which they end."""


class Projection:
    """Takes planes less what tables of the key's token, and perhaps of ``places``, explain of them."""

    def __init__(self, bank: Bank, mass: np.ndarray, places: bool) -> None:
        self.mass, self.starts, self.places = mass, bank.starts, places
        scales = bank.scales[:2] if places else []
        sizes = [bank.width + 1] * len(SHIFTS) + [FAR + 1 - scale.low for scale in scales]
        begins = np.cumsum([0, *sizes])
        columns = [
            *(bank.places["key", shift] for shift in SHIFTS),
            *(scale.columns for scale in scales),
        ]
        numbers = [x + at for x, at in zip(columns, begins, strict=False)]
        self.columns = np.ascontiguousarray(np.stack(numbers, axis=1).astype(np.int32))
        self.size = int(begins[-1])
        self.diagonal = np.maximum(_gather(self.columns, mass, np.zeros(self.size)), 1e-9)

    def rest(self, plane: np.ndarray) -> np.ndarray:
        """Return what is left of a centred plane, float32 (entries)."""
        left, change = plane.astype(np.float32), np.empty(len(plane), dtype=np.float32)
        slope = _gather(self.columns, self.mass * left, np.zeros(self.size))
        move = down = slope / self.diagonal
        rate = first = float(slope @ down)
        for _ in range(STEPS):
            if rate <= max(EXACT * first, 1e-19):
                break
            _spread(self.columns, move.astype(np.float32), self.mass, self.starts, change)
            left -= np.float32(rate / max(float((self.mass * change) @ change), 1e-19)) * change
            slope = _gather(self.columns, self.mass * left, np.zeros(self.size))
            down = slope / self.diagonal
            before, rate = rate, float(slope @ down)
            move = down + (rate / before) * move
        return left


@njit(**FAST)
def _spread(columns, table, mass, starts, out):
    """Write the tables' sum at every entry, less its mean under the mass by row."""
    for r in range(starts.shape[0] - 1):
        m = np.float32(0.0)
        for i in range(starts[r], starts[r + 1]):
            s = np.float32(0.0)
            for c in range(columns.shape[1]):
                s += table[columns[i, c]]
            out[i] = s
            m += s * mass[i]
        for i in range(starts[r], starts[r + 1]):
            out[i] -= m


@njit(**FAST)
def _gather(columns, values, out):
    """Add up values by the numbers of their entries' columns."""
    for i in range(columns.shape[0]):
        for c in range(columns.shape[1]):
            out[columns[i, c]] += values[i]
    return out
