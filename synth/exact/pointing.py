"""Pointing: finds rules of the nearest, first or last key whose token is in a set that is invented.

``k == nearest(token(k) in S)`` and its likes. Which key a row points to is decided by all tokens of
the set together, so that no sum by token says what a set explains. But what it would explain with
one token more can be told for all tokens in one pass over the entries: those that come before the key
that is pointed to now. Sets grow and shrink by single tokens, from the best tokens alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import FAST
from attn_dsl.synth.exact import rules as r
from attn_dsl.synth.exact.atoms import POINTED, Atoms
from attn_dsl.synth.exact.pointed import NONE, Pointed, pointed_at, ranks
from attn_dsl.synth.exact.residual import Residual
from attn_dsl.synth.exact.rules import Atom, Rule
from attn_dsl.synth.gains import gain

STARTS = 2
"""From how many tokens a set of each kind is grown."""
LARGEST = 40
"""How many tokens a set has at the most."""


def kinds(causal: bool) -> list[Pointed]:
    """Return all ways of pointing, without tokens; causal programs see nothing behind the query."""
    ways = [("nearest", False), ("first", False)]
    if not causal:
        ways += [("nearest", True), ("first", True), ("last", False)]
    return [Pointed(which, op, before) for which, before in ways for op in ("==", ">=")]


class Pointing:
    """Finds pointed rules that explain a residual."""

    def __init__(self, atoms: Atoms) -> None:
        self.atoms, self.kinds = atoms, kinds(atoms.causal)
        self._ranks: dict[tuple[str, bool], tuple[np.ndarray, np.ndarray]] = {}

    def best(self, left: Residual, ridge: float, price: float) -> Iterator[tuple[float, Rule]]:
        """Yield the best rule of each kind, and the gain that it promises, net of its price."""
        for kind in self.kinds:
            yield from self._grown(left, Rule(Atom(POINTED, pointed=kind)), ridge, price, [])

    def near(
        self, left: Residual, rule: Rule, ridge: float, price: float
    ) -> Iterator[tuple[float, Rule]]:
        """Yield a rule with better tokens, of its own kind and of the others, and their gains."""
        assert rule.atom.pointed is not None
        mine = list(rule.atom.pointed.symbols)
        for kind in self.kinds:
            bare = replace(rule, atom=Atom(POINTED, pointed=kind))
            yield from self._grown(left, bare, ridge, price, mine)

    def _grown(
        self, left: Residual, rule: Rule, ridge: float, price: float, begun: list[int]
    ) -> Iterator[tuple[float, Rule]]:
        """Grow sets for a rule without tokens, from those that were begun or from single tokens."""
        kind, atoms = rule.atom.pointed, self.atoms
        assert kind is not None
        pull, mass = self._values(left, rule, kind)
        rank, foremost = self._rank(kind)
        starts = [begun]
        if not begun:
            g, h = self._gains(rank, foremost, pull, mass, np.full(left.count, -1))
            worth = gain(g, h, ridge)
            order = np.argsort(-worth, kind="stable")[:STARTS]
            starts = [[int(s)] for s in order if worth[s] > price]
        found: tuple[float, list[int]] | None = None
        base = r.nodes(atoms, replace(rule, atom=replace(rule.atom, pointed=kind.of((0, 1))))) - 2
        for start in starts:
            some = self._climb(rank, foremost, pull, mass, start, ridge, price)
            net = self._worth(rank, pull, mass, some, ridge) - price * (base + len(some))
            if some and (found is None or net > found[0]):
                found = net, some
        if found is not None:
            atom = replace(rule.atom, pointed=kind.of(tuple(sorted(found[1]))))
            yield found[0], replace(rule, atom=atom)

    def _climb(
        self, rank: np.ndarray, foremost: np.ndarray, pull: np.ndarray, mass: np.ndarray,
        start: list[int], ridge: float, price: float,
    ) -> list[int]:  # fmt: skip
        """Add the token, or leave out the one, that pays most, until none does."""
        some = list(start)
        for _ in range(2 * LARGEST):
            at = pointed_at(self.atoms, some, rank)
            now = self._sums(pull, mass, at)
            g, h = self._gains(rank, foremost, pull, mass, at)
            worth = gain(now[0] + g, np.maximum(now[1] + h, 0.0), ridge)
            worth[some] = -np.inf
            held = float(gain(*now, ridge))
            best = int(np.argmax(worth))
            if len(some) < LARGEST and worth[best] > held + price:
                some.append(best)
                continue
            less = [self._worth(rank, pull, mass, [x for x in some if x != s], ridge) for s in some]
            if len(some) < 2 or max(less) <= held - price:
                break
            del some[int(np.argmax(less))]
        return some

    def _worth(
        self, rank: np.ndarray, pull: np.ndarray, mass: np.ndarray, some: list[int], ridge: float
    ) -> float:
        g, h = self._sums(pull, mass, pointed_at(self.atoms, some, rank))
        return float(gain(g, h, ridge))

    def _sums(
        self, pull: np.ndarray, mass: np.ndarray, at: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        held = at[at >= 0]
        return np.asarray(pull[held].sum()), np.asarray(mass[held].sum())

    def _gains(
        self, rank: np.ndarray, foremost: np.ndarray, pull: np.ndarray, mass: np.ndarray,
        at: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Compute by how much gradient and curvature change by each token more."""
        g, h = np.zeros(self.atoms.width), np.zeros(self.atoms.width)
        _changes(self.atoms.keys[0], rank, foremost, self.atoms.starts, pull, mass, at, g, h)
        return g, h

    def _rank(self, kind: Pointed) -> tuple[np.ndarray, np.ndarray]:
        """Order the keys of each row, and say which is the foremost of those with its token."""
        key = kind.which, kind.before
        if key not in self._ranks:
            rank = ranks(self.atoms, kind)
            foremost = np.zeros(len(rank), dtype=np.bool_)
            _foremost(self.atoms.keys[0], rank, self.atoms.starts, self.atoms.width, foremost)
            self._ranks[key] = rank, foremost
        return self._ranks[key]

    def _values(self, left: Residual, rule: Rule, kind: Pointed) -> tuple[np.ndarray, np.ndarray]:
        """Say what pointing to each entry brings: gradient and curvature, float64 (entries)."""
        pull, mass = left.pull.astype(np.float64), left.mass.astype(np.float64)
        other = replace(rule, atom=Atom())
        if other != Rule():
            x = r.plane(self.atoms, other).astype(np.float64)
            pull, mass, heavy = pull * x, mass * x, mass * x * x
        else:
            heavy = mass
        if kind.op == ">=":
            pull, mass, heavy = (_behind(a, self.atoms.starts) for a in (pull, mass, heavy))
        return pull, np.maximum(heavy - mass * mass, 0.0)


@njit(**FAST)
def _foremost(symbols, rank, starts, width, out):
    where = np.full(width, -1)
    for row in range(len(starts) - 1):
        for i in range(starts[row], starts[row + 1]):
            s = symbols[i]
            if s >= 0 and rank[i] != NONE and (where[s] < 0 or rank[i] < rank[where[s]]):
                where[s] = i
        for i in range(starts[row], starts[row + 1]):
            s = symbols[i]
            if s >= 0 and where[s] >= 0:
                out[where[s]] = True
                where[s] = -1


@njit(**FAST)
def _changes(symbols, rank, foremost, starts, pull, mass, at, g, h):
    for row in range(len(starts) - 1):
        now = at[row]
        most = NONE if now < 0 else rank[now]
        a = 0.0 if now < 0 else pull[now]
        b = 0.0 if now < 0 else mass[now]
        for i in range(starts[row], starts[row + 1]):
            if foremost[i] and rank[i] < most:
                g[symbols[i]] += pull[i] - a
                h[symbols[i]] += mass[i] - b


@njit(**FAST)
def _behind(values, starts):
    """Add up the values from each entry to the end of its row."""
    out = np.empty_like(values)
    for row in range(len(starts) - 1):
        total = 0.0
        for i in range(starts[row + 1] - 1, starts[row] - 1, -1):
            total += values[i]
            out[i] = total
    return out
