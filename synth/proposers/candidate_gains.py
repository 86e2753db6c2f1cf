"""Candidate gains: which terms, sets and elements would raise the score of a program, to second order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse_predicate
from attn_dsl.eval.set_parameters import DISTANCE, SetTerm, TableTerm
from attn_dsl.synth import vocabulary
from attn_dsl.synth.gains import gain, key_moments, row_moments
from attn_dsl.synth.proposer import HeadTask
from attn_dsl.synth.proposers.greedy import Greedy, narrow
from attn_dsl.synth.rewrite import bare

ELEMENTS = 16
"""How many elements a set is given at the most."""
LEAST = 0.02
"""What an element must gain, as a share of what the best one does."""
RIDGE = 2.0
STEPS = 5
"""How many steps of a table count for what it gains."""
_FAR = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 32, 48, 64, 96)
BOUNDS = {True: _FAR, False: (*(1 - x for x in reversed(_FAR[:16])), *_FAR[:16])}
"""Where the steps of tables may begin."""
KEYS = t.Position("k"), t.Position("k", -1), t.Position("k", 1)
QUERIES = t.Position("q"), t.Position("q", -1)
"""Whose tokens sets may hold; under conditions of the query, the key's own."""
_NEAR = {
    True: ("k < q", "q - k in 1..8", "q - k >= 4"),
    False: ("k != q", "abs(q - k) in 1..8", "abs(q - k) >= 4"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where a set of tokens may stand."""

    position: t.Position  # whose token is in the set
    gains: np.ndarray  # what a weight for each symbol would gain
    condition: t.Predicate | None = None  # what else must hold

    @property
    def best_gain(self) -> float:
        """What a small set would gain at the most."""
        return float(np.sort(self.gains)[-8:].sum())


class CandidateGains:
    """What would raise the score of a program, by gradient and curvature of what it has not.

    Args:
        task: the head.
        predicted: float32 (entries): the program's rows.
    """

    def __init__(self, task: HeadTask, predicted: np.ndarray) -> None:
        self.task, self.predicted, self.design = task, predicted, task.design
        self.aim = task.rows.aim(predicted)
        self.moments = task.design.packed.row_moments(self.aim, predicted)
        self.ridge = RIDGE + 1e-3 * len(task.rows)
        self.known = np.arange(task.design.width) > 0  # 0 is what stands outside of a text
        self.ones = np.ones(task.design.entries, dtype=np.float32)

    def terms(self, count: int) -> list[t.Term]:
        """Return terms of the vocabulary, alone or under a condition, that gain most by node."""
        causal = self.task.causal
        terms, conditions = vocabulary.terms(causal), vocabulary.conditions(causal)
        sizes, more = (np.array(x) for x in vocabulary.sizes(causal))
        nodes = sizes[:, None] + np.append(0, 1 + more)
        g, h = map(self._by_condition, self.moments)
        rates = gain(g, h, self.ridge) / nodes
        best = np.argsort(-rates, axis=None, kind="stable")[:count]
        found = []
        for j, c in zip(*np.unravel_index(best, rates.shape), strict=True):
            term = terms[int(j)]
            found.append(bare(narrow(term, conditions[int(c) - 1]) if c else term))
        return found

    def tables(self, count: int) -> list[TableTerm]:
        """Return tables of the distance, alone or under a condition, that gain most by node."""
        causal, rows, bounds = self.task.causal, self.task.rows, BOUNDS[self.task.causal]
        distance = dataclasses.replace(self.task.empty(), terms=(t.Scaled(None, DISTANCE[causal]),))
        step = np.searchsorted(bounds, self.design.planes(distance)[0], side="right")
        steps, n = len(bounds) + 1, len(rows)
        place = np.repeat(np.arange(n) * steps, np.diff(rows.starts)) + step
        g, mass = (
            np.bincount(place, x, n * steps).reshape(-1, steps).T.astype(np.float32)
            for x in (self.aim - self.predicted, self.predicted)
        )
        gains = gain(self._by_condition(g), self._by_condition(mass * (1 - mass)), self.ridge)
        best = np.sort(gains, axis=0)[-STEPS:].sum(0)
        sizes = np.append(0, 1 + np.array(vocabulary.sizes(causal)[1])) + 4 + STEPS
        conditions = (None, *vocabulary.conditions(causal))
        order = np.argsort(-best / sizes, kind="stable")[:count]
        return [TableTerm(DISTANCE[causal], bounds, conditions[int(c)]) for c in order]

    def _by_condition(self, moments: np.ndarray) -> np.ndarray:
        """Sum moments of rows over all of them, and over those where each condition holds."""
        held = Greedy.by_condition(self.design.conditions, moments)
        return np.concatenate([moments.sum(1, keepdims=True), held], axis=1)

    def elements(self, gains: np.ndarray) -> tuple[str, ...]:
        """Return the symbols that gain most."""
        best = np.argsort(-gains, kind="stable")[:ELEMENTS]
        some = best[gains[best] > LEAST * gains[best[0]]]
        return tuple(self.design.symbols[int(s)] for s in some)

    def more(self, term: SetTerm, number: int, weights: np.ndarray) -> tuple[str, ...]:
        """Return further elements for one of the sets of a term; none if it is not of tokens.

        Args:
            weights: of the term's parameters.
        """
        one = term.lookups[number]
        if one.value.name != "token":
            return ()
        around = term.plain
        if len(term.lookups) == 2:
            other = 1 - number
            rest = SetTerm((term.lookups[other],), None, term.condition)
            around = rest.written([*term.split(weights)][other])
        plane = self.ones
        if around is not None:
            plane = self.design.planes(dataclasses.replace(self.task.empty(), terms=(around,)))[0]
        of = self.of_keys if one.position.variable == "k" else self.of_queries
        gains = of(plane, one.position)
        gains[[s for s, x in self.design.symbols.items() if x in one.elements]] = 0.0
        return self.elements(gains)

    def places(self) -> list[Place]:
        """Return the places of a set, those that gain most first."""
        found = [*self._key_places(), *self._query_places()]
        return sorted(found, key=lambda place: -place.best_gain)

    def _key_places(self) -> Iterator[Place]:
        causal = self.task.causal
        near = _near(causal)
        program = dataclasses.replace(
            self.task.empty(), terms=tuple(t.Where(None, one) for one in near)
        )
        for position in KEYS:
            yield Place(position, self.of_keys(self.ones, position))
            for condition, plane in zip(near, self.design.planes(program), strict=True):
                yield Place(position, self.of_keys(plane, position), condition)
        conditions = vocabulary.conditions(causal)
        held = self.design.conditions[: len(conditions) // 2].astype(np.bool_)
        for i, where in enumerate(held):
            if where.any():
                gains = self.of_keys(self.ones, KEYS[0], np.flatnonzero(where))
                yield Place(KEYS[0], gains, conditions[i])

    def _query_places(self) -> Iterator[Place]:
        terms = vocabulary.terms(self.task.causal)
        for j in np.flatnonzero(vocabulary.truths(self.task.causal)):
            for position in QUERIES:
                gains = self._by_query([m[j] for m in self.moments], position)
                yield Place(position, gains, terms[j].condition)

    def of_keys(
        self, plane: np.ndarray, place: t.Position = KEYS[0], some: np.ndarray | None = None
    ) -> np.ndarray:
        """Return what a weight for each token at a key would gain where a plane holds, on some rows."""
        rows, moments = self.task.rows, np.zeros((2, self.design.width))
        some = np.arange(len(rows)) if some is None else some
        symbols = self.design.symbols_at("k", place.shift)
        key_moments(symbols, plane, some, rows.starts, self.aim, self.predicted, *moments)
        return gain(moments[0], moments[1], self.ridge) * self.known

    def of_queries(self, plane: np.ndarray, place: t.Position = QUERIES[0]) -> np.ndarray:
        """Return what a weight for each token at a query would gain, times a plane."""
        found = np.empty((2, 1, len(self.task.rows)), dtype=np.float32)
        no, starts = np.zeros(1, dtype=np.bool_), self.task.rows.starts
        row_moments(plane[None], no, starts, self.aim, self.predicted, *found)
        return self._by_query([m[0] for m in found], place)

    def _by_query(self, moments: Sequence[np.ndarray], place: t.Position) -> np.ndarray:
        symbols = self.design.symbols_at("q", place.shift)
        g, h = (np.bincount(symbols, m, self.design.width) for m in moments)
        return gain(g, h, self.ridge) * self.known


@lru_cache(maxsize=2)
def _near(causal: bool) -> tuple[t.Predicate, ...]:
    return tuple(parse_predicate(source) for source in _NEAR[causal])
