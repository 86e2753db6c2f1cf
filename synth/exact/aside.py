"""What a key's token, its distance and its place explain by themselves, set aside.

Rules about these add up to one table each and can be told apart only once the other rules are known.
While any table is allowed, the others are found in peace: planes and logits are taken less their
projections on all tables (Frisch and Waugh 1933), by conjugate gradients.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import FAST
from attn_dsl.synth.exact.atoms import Atoms

STEPS = 24
"""How many steps of conjugate gradients a projection takes at the most."""
EXACT = 1e-7
"""The share of a plane's variance below which the rest of its projection does not matter."""
ROUGH = 6
"""How many steps it takes for what is left to be about right."""
KEPT = 128
"""How many projected planes are kept."""


class Aside:
    """Takes planes less what tables of the key's token, by shift, and word can explain of them.

    Args:
        atoms: those of the rows.
        mass: float32 (entries), the weights of the entries; those of a row sum to 1.
        places: whether tables of ``q - k`` and of ``k`` are allowed as well.
    """

    def __init__(self, atoms: Atoms, mass: np.ndarray, places: bool = True) -> None:
        self.mass, self.starts, self.places = mass, atoms.starts, places
        width = atoms.width
        shifted = [k + i * width * (k >= 0) for i, k in enumerate(atoms.keys)]
        columns = [*shifted, atoms.words + len(shifted) * width]
        at = len(columns) * width
        for number in (0, 1) if places else ():
            scale = atoms.scales[number]
            columns.append(atoms.codes[number].astype(np.int32) + at)
            at += scale.high - scale.low + 1
        self.columns = np.ascontiguousarray(np.stack(columns, axis=1).astype(np.int32))
        self.size = at
        diagonal = np.zeros(at)
        _gather(self.columns, mass, diagonal)
        self.diagonal = np.maximum(diagonal, 1e-9)
        self._known: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def less(self, planes: np.ndarray) -> np.ndarray:
        """Return centred planes less their projections, float32 (planes, entries)."""
        found = [self._less(plane) for plane in planes]
        return np.stack(found) if found else planes.copy()

    def roughly(self, plane: np.ndarray) -> np.ndarray:
        """Return about what is left of a centred plane, float32 (entries): a little too much."""
        return self._project(plane, ROUGH)

    def _less(self, plane: np.ndarray) -> np.ndarray:
        key = hashlib.blake2b(plane.tobytes(), digest_size=16).digest()
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        self._known[key] = left = self._project(plane, STEPS)
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return left

    def _project(self, plane: np.ndarray, steps: int) -> np.ndarray:
        left = plane.astype(np.float32)
        slope = self._slope(left)
        down = slope / self.diagonal
        move, rate = down, float(slope @ down)
        enough, change = EXACT * rate, np.empty_like(left)
        for _ in range(steps):
            if rate <= max(enough, 1e-19):
                break
            _spread(self.columns, move.astype(np.float32), self.mass, self.starts, change)
            curved = float((self.mass * change) @ change)
            if curved <= 0.0:
                break
            left -= np.float32(rate / curved) * change
            slope = self._slope(left)
            down = slope / self.diagonal
            before, rate = rate, float(slope @ down)
            move = down + (rate / before) * move
        return left

    def _slope(self, left: np.ndarray) -> np.ndarray:
        """Return how much less would be left by a change of each number of the tables."""
        out = np.zeros(self.size)
        _gather(self.columns, self.mass * left, out)
        return out


@njit(**FAST)
def _spread(columns, table, mass, starts, out):
    """Write the tables' sum at every entry, less its mean under the mass by row."""
    for r in range(starts.shape[0] - 1):
        m = np.float32(0.0)
        for i in range(starts[r], starts[r + 1]):
            s = np.float32(0.0)
            for c in range(columns.shape[1]):
                if columns[i, c] >= 0:
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
            if columns[i, c] >= 0:
                out[columns[i, c]] += values[i]
