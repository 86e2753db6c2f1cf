"""Pointed keys: the nearest, first or last key whose token is in a set, as planes of entries."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import FAST
from attn_dsl.synth.exact.atoms import Atoms

NONE = np.iinfo(np.int32).max
"""The rank of a key that is never pointed to."""


@dataclass(frozen=True, slots=True)
class Pointed:
    """A key that is found by its token: ``k == nearest(token(k) in ... and k < q)``.

    Attributes:
        which: "nearest", "first" or "last". op: "==" or ">=", of ``k`` and what is found.
        before: whether only keys before the query count.
        symbols: the tokens.
    """

    which: str
    op: str
    before: bool
    symbols: tuple[int, ...] = ()

    def of(self, symbols: tuple[int, ...]) -> Pointed:
        """Return the same with other tokens."""
        return dataclasses.replace(self, symbols=symbols)


def ranks(atoms: Atoms, pointed: Pointed) -> np.ndarray:
    """Order the keys of each row, int32 (entries): the least is pointed to, ``NONE`` never.

    As in the language, the query's own place is left out.
    """
    query = atoms.places_of_queries[atoms.row]
    if pointed.which == "nearest":
        rank = 2 * np.abs(query - atoms.places) + (atoms.places > query)
    else:
        rank = atoms.places if pointed.which == "first" else -atoms.places
    others = atoms.places < query if pointed.before else atoms.places != query
    return np.where(others, rank, NONE).astype(np.int32)


def pointed_at(atoms: Atoms, symbols: Sequence[int], rank: np.ndarray) -> np.ndarray:
    """Say which entry each row points to, int64 (rows); -1 for none."""
    chosen = np.zeros(atoms.width, dtype=np.bool_)
    chosen[list(symbols)] = True
    at = np.empty(len(atoms.starts) - 1, dtype=np.int64)
    _point(atoms.keys[0], chosen, rank, atoms.starts, at)
    return at


def pointed_plane(atoms: Atoms, pointed: Pointed) -> np.ndarray:
    """Compute the plane of a pointed rule, float32 (entries); without a key, -1 is pointed to."""
    at = pointed_at(atoms, pointed.symbols, ranks(atoms, pointed))
    found = np.zeros(len(atoms.row), dtype=np.float32)
    if pointed.op == "==":
        found[at[at >= 0]] = 1.0
        return found
    first = np.where(at < 0, atoms.starts[:-1], at)
    return (np.arange(len(found)) >= first[atoms.row]).astype(np.float32)


@njit(**FAST)
def _point(symbols, chosen, rank, starts, at):
    for row in range(len(starts) - 1):
        best, where = NONE, -1
        for i in range(starts[row], starts[row + 1]):
            if rank[i] < best and symbols[i] >= 0 and chosen[symbols[i]]:
                best, where = rank[i], i
        at[row] = where
