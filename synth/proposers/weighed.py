"""Weighed sets: gives small programs of a head's front a set of tokens, each with its own weight.

An element costs a program one node, with or without a weight. The weights of all elements are fitted
together with the program's own, each as a plane of its own, which is a convex problem; then they
become one set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse, parse_predicate
from attn_dsl.synth import vocabulary
from attn_dsl.synth.gains import gain, key_moments
from attn_dsl.synth.pareto import front
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.proposers.greedy import name_sets, token_set
from attn_dsl.synth.rewrite import in_place
from attn_dsl.synth.runs.result import HeadResult

SMALL = 32
"""Programs of at most so many nodes are given a set …"""
PASSES = 2
"""… so often, from the second time on the new ones."""
AGAIN = 4
"""How many of the new ones."""
PLACES = 3
"""Where a set is tried, those places that promise most."""
SIZES = (8, 20)
"""How many elements it has."""
LEAST = 2.0
"""Nats over all rows that an element must promise."""
RIDGE = 2.0

_NEAR = {
    True: ("k < q", "q - k in 1..8", "q - k >= 4"),
    False: ("k != q", "abs(q - k) in 1..8", "abs(q - k) >= 4"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where a set may stand.

    Attributes:
        variable: whose token is in the set, ``q`` or ``k``.
        condition: what else must hold.
        gains: what a weight for each symbol would bring, in nats over all rows.
    """

    variable: str
    condition: t.Predicate | None
    gains: np.ndarray

    @property
    def promise(self) -> float:
        """What a small set would bring at the most."""
        return float(np.sort(self.gains)[-SIZES[0] :].sum())


@dataclass(frozen=True)
class Weigh:
    """Weighed sets for a front; see the module.

    Attributes:
        before: the head's result of the round before.
    """

    before: HeadResult
    name: str = "weighed"

    def propose(self, task: HeadTask) -> Iterator[t.Head]:
        """Yield each small program of the front with a set, and the best of those with another."""
        programs = [parse(row.program) for row in self.before.front if row.nodes <= SMALL]
        known = [
            task.fit(
                dataclasses.replace(p, name=task.name), np.array(p.weights, dtype=np.float64)
            )
            for p in programs
            if p.normaliser == "softmax" and not task.spent
        ]  # fmt: skip
        starts = known
        for _ in range(PASSES):
            made: list[Fitted] = []
            for fitted in starts:
                for place in places(task, fitted):
                    for size in SIZES:
                        if task.spent:
                            return
                        found = weighed(task, fitted, place, size)
                        if found is not None and found.nodes <= task.max_nodes:
                            made.append(found)
                            yield found.program
            best = front([*known, *made], lambda f: f.nodes, lambda f: f.iou)
            known, starts = best, [f for f in best if f in made and f.nodes <= SMALL][-AGAIN:]


def places(task: HeadTask, fitted: Fitted) -> list[Place]:
    """Return the places where a set promises most to a program."""
    found = [*_of_keys(task, fitted.predicted), *_of_queries(task, fitted.predicted)]
    return sorted(found, key=lambda place: -place.promise)[:PLACES]


def _of_keys(task: HeadTask, predicted: np.ndarray) -> Iterator[Place]:
    design, rows, causal = task.design, task.rows, task.causal
    every, width = np.arange(len(rows)), int(design.key_symbols.max(initial=0)) + 1
    near = [parse_predicate(source) for source in _NEAR[causal]]
    planes = design.planes(
        dataclasses.replace(task.empty(), terms=tuple(t.Where(0.0, p) for p in near))
    )
    ones = np.ones(design.entries, dtype=np.float32)
    held = design.conditions[: len(design.conditions) // 2].astype(np.bool_)
    options: list[tuple[t.Predicate | None, np.ndarray, np.ndarray]] = [(None, ones, every)]
    options += [(p, plane.astype(np.float32), every) for p, plane in zip(near, planes, strict=True)]
    conditions = vocabulary.conditions(causal)
    options += [
        (conditions[i], ones, np.flatnonzero(where)) for i, where in enumerate(held) if where.any()
    ]
    for condition, plane, some in options:
        moments = np.zeros((2, width))
        key_moments(
            design.key_symbols, plane, some, design.starts, rows.actual, predicted, *moments
        )  # fmt: skip
        yield Place("k", condition, _gains(task, moments))


def _of_queries(task: HeadTask, predicted: np.ndarray) -> Iterator[Place]:
    design, terms = task.design, vocabulary.terms(task.causal)
    width = int(design.key_symbols.max(initial=0)) + 1
    g, h = design.packed.row_moments(task.rows.actual, predicted)
    for j in np.flatnonzero(vocabulary.truths(task.causal)):
        moments = np.stack([np.bincount(design.query_symbols, m[j], width) for m in (g, h)])
        term = terms[j]
        assert isinstance(term, t.Where)
        yield Place("q", term.condition, _gains(task, moments))


def _gains(task: HeadTask, moments: np.ndarray) -> np.ndarray:
    known = np.array([s in task.design.symbols for s in range(moments.shape[1])])
    return gain(moments[0], moments[1], RIDGE + 1e-3 * len(task.rows)) * known


def weighed(task: HeadTask, fitted: Fitted, place: Place, size: int) -> Fitted | None:
    """Give a program a set of at most so many tokens; None where none promises enough."""
    best = np.argsort(-place.gains, kind="stable")[:size]
    chosen = best[place.gains[best] > LEAST]
    if not len(chosen):
        return None
    symbols, program = task.design.symbols, fitted.program
    sets = {d.name: d.value for d in program.sets}
    own = [in_place(term, sets) for term in program.terms]
    alone = []
    for symbol in chosen:
        inside = token_set(symbols, place.variable, np.array([symbol]))
        whole = inside if place.condition is None else t.And(place.condition, inside)
        alone.append(t.Where(None, whole))
    start = np.array([*(w or 0.0 for w in program.weights), *(0.0 for _ in alone)])
    wide = task.fit(dataclasses.replace(task.empty(), terms=(*own, *alone)), start).program
    weights = [round(float(w or 0.0), 2) for w in wide.weights[-len(alone) :]]
    kept = [(symbols[int(s)], w) for s, w in zip(chosen, weights, strict=True) if w]
    if not kept:
        return None
    terms = (*wide.terms[: len(own)], _graded(place, kept))
    made = name_sets(dataclasses.replace(task.empty(), terms=terms))
    return task.fit(made, np.array(made.weights, dtype=np.float64))


def _graded(place: Place, kept: Sequence[tuple[str, float]]) -> t.Scaled:
    """Write a set of tokens and their weights as a term."""
    token = t.Call("token", (t.Position(place.variable),))  # type: ignore[arg-type]
    literal = t.SetLiteral(tuple(x for x, _ in kept), tuple(w for _, w in kept))
    return t.Scaled(1.0, t.Weight(token, literal), place.condition)
