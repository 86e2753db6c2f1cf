"""Scope: which terms, sets and elements would raise the IoU of a program, to second order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse_predicate
from attn_dsl.synth import vocabulary
from attn_dsl.synth import weights as w
from attn_dsl.synth.gains import gain, key_moments, row_moments
from attn_dsl.synth.open_sets import OpenSet
from attn_dsl.synth.open_tables import OpenTable
from attn_dsl.synth.proposer import HeadTask
from attn_dsl.synth.proposers.greedy import Greedy, narrow
from attn_dsl.synth.rewrite import bare

ELEMENTS = 16
"""How many elements a set is given at the most."""
LEAST = 0.02
"""What an element must promise, as a share of what the best one does."""
RIDGE = 2.0

STEPS = 5
"""How many steps of a table count for what it promises."""
_FAR = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 32, 48, 64, 96)
BOUNDS = {True: _FAR, False: (*(1 - x for x in reversed(_FAR[:16])), *_FAR[:16])}
"""Where the steps of tables may begin."""
DISTANCE = {
    True: t.Arithmetic("-", t.Position("q"), t.Position("k")),
    False: t.Arithmetic("-", t.Position("k"), t.Position("q")),
}

KEYS = t.Position("k"), t.Position("k", -1), t.Position("k", 1)
QUERIES = t.Position("q"), t.Position("q", -1)
"""Whose tokens sets may hold; under conditions of the query, the key's own."""
_NEAR = {
    True: ("k < q", "q - k in 1..8", "q - k >= 4"),
    False: ("k != q", "abs(q - k) in 1..8", "abs(q - k) >= 4"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where a set of tokens may stand.

    Attributes:
        position: whose token is in the set.
        condition: what else must hold.
        gains: what a weight for each symbol would bring.
        factor: what the weights are multiplied by, None for nothing.
    """

    position: t.Position
    condition: t.Predicate | None
    gains: np.ndarray
    factor: t.Factor | None = None

    @property
    def promise(self) -> float:
        """What a small set would bring at the most."""
        return float(np.sort(self.gains)[-8:].sum())


class Scope:
    """What would raise the IoU of a program, by gradient and curvature of what it has not.

    Args:
        task: the head.
        predicted: float32 (entries): the program's rows.
    """

    def __init__(self, task: HeadTask, predicted: np.ndarray) -> None:
        self.task, self.predicted = task, predicted
        self.aim = w.aim(task.rows, predicted)
        self.rows = task.design.packed.row_moments(self.aim, predicted)
        self.width = task.design.width
        self.ridge = RIDGE + 1e-3 * len(task.rows)
        self.known = np.array([bool(task.design.symbols.get(s)) for s in range(self.width)])
        self.ones = np.ones(task.design.entries, dtype=np.float32)

    def terms(self, count: int) -> list[t.Term]:
        """Return terms of the vocabulary, alone or under a condition, that promise most by node."""
        causal = self.task.causal
        terms, conditions = vocabulary.terms(causal), vocabulary.conditions(causal)
        sizes, more = (np.array(x) for x in vocabulary.sizes(causal))
        (g, h), held = self.rows, self.task.design.conditions
        alone = gain(g.sum(1), h.sum(1), self.ridge)
        narrowed = gain(Greedy.by_condition(held, g), Greedy.by_condition(held, h), self.ridge) / (
            sizes[:, None] + 1 + more
        )
        rates = np.concatenate([(alone / sizes)[:, None], narrowed], axis=1)
        best = np.argsort(-rates, axis=None, kind="stable")[:count]
        found = []
        for j, c in zip(*np.unravel_index(best, rates.shape), strict=True):
            term = terms[int(j)]
            found.append(bare(narrow(term, conditions[int(c) - 1]) if c else term))
        return found

    def elements(self, gains: np.ndarray) -> tuple[str, ...]:
        """Return the symbols that promise most."""
        best = np.argsort(-gains, kind="stable")[:ELEMENTS]
        some = best[gains[best] > LEAST * gains[best[0]]]
        return tuple(self.task.design.symbols[int(s)] for s in some)

    def more(self, one: OpenSet) -> tuple[str, ...]:
        """Return elements that an open set may have besides."""
        match one.value:
            case t.Call("token", (t.Position(variable) as place,)):
                around = one.around(self.task.empty())
                plane = self.task.design.planes(around)[0] if around.terms else self.ones
                of = self.of_keys if variable == "k" else self.of_queries
                gains = of(plane, place)
                symbols = self.task.design.symbols
                gains[[s for s, x in symbols.items() if x in one.elements]] = 0.0
                return self.elements(gains)
        return ()

    def places(self) -> list[Place]:
        """Return the places of a set, those that promise most first."""
        found = [*self._key_places(), *self._query_places()]
        return sorted(found, key=lambda place: -place.promise)

    def tables(self, count: int) -> list[OpenTable]:
        """Return tables of the distance, alone or under a condition, that promise most by node."""
        causal, rows = self.task.causal, self.task.rows
        distance = dataclasses.replace(self.task.empty(), terms=(t.Scaled(None, DISTANCE[causal]),))
        gap = self.task.design.planes(distance)[0]
        steps, n = len(BOUNDS[causal]) + 1, len(rows)
        step = np.searchsorted(BOUNDS[causal], gap, side="right")
        place = np.repeat(np.arange(n) * steps, np.diff(rows.starts)) + step
        g, mass = (
            np.bincount(place, x, n * steps).reshape(-1, steps).T.astype(np.float32)
            for x in (self.aim - self.predicted, self.predicted)
        )
        held, moments = self.task.design.conditions, (g, mass * (1 - mass))
        first, second = (
            np.concatenate([x.sum(1, keepdims=True), Greedy.by_condition(held, x)], axis=1)
            for x in moments
        )
        best = np.sort(gain(first, second, self.ridge), axis=0)[-STEPS:].sum(0)
        sizes = np.append(0, 1 + np.array(vocabulary.sizes(causal)[1])) + 4 + STEPS
        conditions = (None, *vocabulary.conditions(causal))
        order = np.argsort(-best / sizes, kind="stable")[:count]
        return [OpenTable(DISTANCE[causal], BOUNDS[causal], conditions[int(c)]) for c in order]

    def slopes(self) -> list[Place]:
        """Return the places of sets of query tokens that multiply a value, as ``places`` does."""
        terms, found = vocabulary.terms(self.task.causal), []
        for j in np.flatnonzero(~vocabulary.truths(self.task.causal)):
            term = terms[j]
            assert isinstance(term, t.Scaled) and not isinstance(term.value, t.Product)
            gains = self._by_query([m[j] for m in self.rows], QUERIES[0])
            found.append(Place(QUERIES[0], term.condition, gains, term.value))
        return sorted(found, key=lambda place: -place.promise)

    def _key_places(self) -> Iterator[Place]:
        design, causal = self.task.design, self.task.causal
        near = [parse_predicate(source) for source in _NEAR[causal]]
        program = t.Head(
            "near", self.task.empty().visibility, "softmax", tuple(t.Where(None, p) for p in near)
        )
        places = (None, self.ones), *zip(near, design.planes(program), strict=True)
        for place in KEYS:
            for condition, plane in places:
                yield Place(place, condition, self.of_keys(plane, place))
        conditions = vocabulary.conditions(causal)
        held = design.conditions[: len(conditions) // 2].astype(np.bool_)
        for i, where in enumerate(held):
            if where.any():
                gains = self.of_keys(self.ones, KEYS[0], np.flatnonzero(where))
                yield Place(KEYS[0], conditions[i], gains)

    def _query_places(self) -> Iterator[Place]:
        terms = vocabulary.terms(self.task.causal)
        for j in np.flatnonzero(vocabulary.truths(self.task.causal)):
            term = terms[j]
            assert isinstance(term, t.Where)
            moments = [m[j] for m in self.rows]
            for place in QUERIES:
                yield Place(place, term.condition, self._by_query(moments, place))

    def of_keys(
        self, plane: np.ndarray, place: t.Position = KEYS[0], some: np.ndarray | None = None
    ) -> np.ndarray:
        """Return what a weight for each token at a key would bring where a plane holds, on some rows."""
        rows, moments = self.task.rows, np.zeros((2, self.width))
        some = np.arange(len(rows)) if some is None else some
        symbols = self.task.design.symbols_at("k", place.shift)
        key_moments(symbols, plane, some, rows.starts, self.aim, self.predicted, *moments)
        return self._gains(moments)

    def of_queries(self, plane: np.ndarray, place: t.Position = QUERIES[0]) -> np.ndarray:
        """Return what a weight for each token at a query would bring, times a plane."""
        found = np.empty((2, 1, len(self.task.rows)), dtype=np.float32)
        no, starts = np.zeros(1, dtype=np.bool_), self.task.rows.starts
        row_moments(plane[None], no, starts, self.aim, self.predicted, *found)
        return self._by_query([m[0] for m in found], place)

    def _by_query(self, rows: list[np.ndarray], place: t.Position) -> np.ndarray:
        symbols = self.task.design.symbols_at("q", place.shift)
        return self._gains(np.stack([np.bincount(symbols, m, self.width) for m in rows]))

    def _gains(self, moments: np.ndarray) -> np.ndarray:
        return gain(moments[0], moments[1], self.ridge) * self.known
