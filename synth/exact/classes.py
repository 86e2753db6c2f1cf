"""Classes of tokens: which atoms say nothing but which token is at a place, and what they say."""

from __future__ import annotations

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.synth.exact import rules as r
from attn_dsl.synth.exact.atoms import AFFIX, SHIFTS, TRUTH, Atoms
from attn_dsl.synth.exact.rules import Atom

APART = 0.02
"""An atom is one of tokens if they tell all of it but this share."""
FEWEST = 2
"""How many tokens a class has at the least."""


class Classes:
    """Finds the tokens of atoms; shared by the searches of all heads.

    Args:
        affixes: kind and string of the affixes that there may be.
    """

    def __init__(self, atoms: Atoms, affixes: list[tuple[str, str]]) -> None:
        self.atoms, self.affixes = atoms, affixes
        self._told: dict[tuple[Atom, int], np.ndarray | None] = {}
        self._at: dict[int, dict[Atom, np.ndarray]] = {}

    def told(self, atom: Atom, shift: int) -> np.ndarray | None:
        """Say of which tokens of a place an atom holds, float64 (symbols); None if they do not tell."""
        if (atom, shift) not in self._told:
            self._told[atom, shift] = self._tell(atom, shift)
        return self._told[atom, shift]

    def _tell(self, atom: Atom, shift: int) -> np.ndarray | None:
        width = self.atoms.width
        plane, symbols = r.atom_plane(self.atoms, atom), self.atoms.keys[SHIFTS.index(shift)]
        known = symbols >= 0
        count = np.bincount(symbols[known], minlength=width)
        held = np.bincount(symbols[known], plane[known], width)
        table = np.rint(held / np.maximum(count, 1))
        apart = np.abs(plane - np.append(table, 0.0)[symbols]).sum()
        return table if apart <= APART * plane.sum() else None

    def at(self, shift: int) -> dict[Atom, np.ndarray]:
        """Return the atoms that are classes of the token at a place of the key, with their tokens."""
        if shift not in self._at:
            truths = enumerate(self.atoms.truths)
            some = [Atom(TRUTH, n) for n, x in truths if _places(x) == {("k", shift)}]
            if shift == 0:
                some += [Atom(AFFIX, affix=(kind, "text", x)) for kind, x in self.affixes if x]
            found: dict[bytes, tuple[Atom, np.ndarray]] = {}
            for atom in some:
                table = self.told(atom, shift)
                if table is not None and table.sum() >= FEWEST:
                    found.setdefault(table.tobytes(), (atom, table))
            self._at[shift] = dict(found.values())
        return self._at[shift]


def _places(node: t.Node) -> set[tuple[str, int]]:
    """Return the places that a predicate speaks of."""
    return {(x.variable, x.shift) for x in node.walk() if isinstance(x, t.Position)}
