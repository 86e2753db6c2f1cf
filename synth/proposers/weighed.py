"""Weighed sets: gives small programs of a head's front sets of tokens, each with its own weight.

An element costs a program one node, with or without a weight. So the sets of a program are opened
(``synth/open_sets.py``), further elements and sets are added where they promise most, all weights are
fitted together, and then what is worth least for its nodes is left out (``synth/thrift.py``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse, parse_predicate
from attn_dsl.synth import vocabulary
from attn_dsl.synth.gains import gain, key_moments, row_moments
from attn_dsl.synth.open_sets import Opened, OpenSet, opened
from attn_dsl.synth.pareto import front, thinned
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.runs.result import HeadResult
from attn_dsl.synth.thrift import shrunk

SMALL = 90
"""Programs of at most so many nodes are given sets …"""
STARTS = 5
"""… so many of them …"""
PASSES = 2
"""… so often, from the second time on the new ones."""
PLACES = 3
"""Where a set is tried, those places that promise most."""
ELEMENTS = 16
"""How many elements a new set has before what is worth least is left out, and an old one more."""
SIZES = (16, 20, 24, 28, 32, 36, 40, 44, 48)
"""How many nodes are left at the most."""
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
        return float(np.sort(self.gains)[-8:].sum())


@dataclass(frozen=True)
class Weigh:
    """Weighed sets for a front; see the module.

    Attributes:
        before: the head's result of the round before.
    """

    before: HeadResult
    name: str = "weighed"

    def propose(self, task: HeadTask) -> Iterator[Fitted]:
        """Yield small programs with sets, adjusted, that are better than the front."""
        programs = [parse(row.program) for row in self.before.front if row.nodes <= SMALL]
        best = [
            task.measured(dataclasses.replace(p, name=task.name), self.name)
            for p in programs
            if p.normaliser == "softmax"
        ]
        starts = best
        made: list[Fitted] = []
        for _ in range(PASSES):
            new = [f for start in thinned(starts, _iou, STARTS) for f in weighed(task, start)]
            made += new
            best = front([*best, *new], lambda f: f.nodes, _iou)
            starts = [f for f in best if f.nodes <= SMALL and any(f is x for x in new)]
        for fitted in best:
            if any(fitted is x for x in made) and fitted.nodes <= task.max_nodes:
                yield dataclasses.replace(task.polish(fitted), proposer=self.name, settled=True)


def _iou(fitted: Fitted) -> float:
    return fitted.iou


def weighed(task: HeadTask, fitted: Fitted) -> Iterator[Fitted]:
    """Yield a program with its sets opened and others added, at all sizes."""
    program, start = opened(fitted.program)
    terms = len(start) - sum(len(x.elements) for x in program.sets)
    sets: list[OpenSet] = []
    weights, at = list(start[:terms]), terms
    for one in program.sets:
        more = _more(task, one, fitted.predicted)
        sets.append(dataclasses.replace(one, elements=(*one.elements, *more)))
        weights += [*start[at : at + len(one.elements)], *(0.0 for _ in more)]
        at += len(one.elements)
    new: list[OpenSet] = []
    for place in places(task, fitted):
        value = t.Call("token", (t.Position(place.variable),))  # type: ignore[arg-type]
        one = OpenSet(value, chosen(task, place.gains), None, place.condition)
        if len(new) < PLACES and one.elements and not any(_alike(one, x) for x in (*sets, *new)):
            new.append(one)
    sizes = [size for size in SIZES if size <= task.max_nodes]
    grown = Opened(program.empty, program.terms, (*sets, *new))
    begin = np.array([*weights, *(0.0 for x in new for _ in x.elements)])
    for smaller, found in shrunk(task, grown, begin, sizes) if grown.sets else ():
        if smaller.sets:
            task.evals += 1
            yield dataclasses.replace(task.measured(smaller.closed(found)), settled=False)


def _alike(one: OpenSet, other: OpenSet) -> bool:
    """Say whether two sets are of the same tokens."""
    shared = len({*one.elements} & {*other.elements})
    return one.value == other.value and shared == max(len(one.elements), len(other.elements))


def _more(task: HeadTask, one: OpenSet, predicted: np.ndarray) -> tuple[str, ...]:
    """Return elements that an open set may have besides."""
    match one.value:
        case t.Call("token", (t.Position(variable, 0),)):
            around = one.around(task.empty())
            plane = task.design.planes(around)[0] if around.terms else _ones(task)
            if variable == "k":
                moments = _by_key(task, plane, np.arange(len(task.rows)), predicted)
            else:
                moments = _by_query(task, plane, predicted)
            gains = _gains(task, moments)
            gains[[s for s, x in task.design.symbols.items() if x in one.elements]] = 0.0
            return chosen(task, gains)
    return ()


def chosen(task: HeadTask, gains: np.ndarray) -> tuple[str, ...]:
    """Return the symbols that promise most."""
    best = np.argsort(-gains, kind="stable")[:ELEMENTS]
    return tuple(task.design.symbols[int(s)] for s in best[gains[best] > LEAST])


def places(task: HeadTask, fitted: Fitted) -> list[Place]:
    """Return the places of a set, those that promise most to a program first."""
    found = [*_of_keys(task, fitted.predicted), *_of_queries(task, fitted.predicted)]
    return sorted(found, key=lambda place: -place.promise)


def _of_keys(task: HeadTask, predicted: np.ndarray) -> Iterator[Place]:
    design, rows, causal = task.design, task.rows, task.causal
    every = np.arange(len(rows))
    near = [parse_predicate(source) for source in _NEAR[causal]]
    planes = design.planes(
        dataclasses.replace(task.empty(), terms=tuple(t.Where(0.0, p) for p in near))
    )
    held = design.conditions[: len(design.conditions) // 2].astype(np.bool_)
    options: list[tuple[t.Predicate | None, np.ndarray, np.ndarray]] = [(None, _ones(task), every)]
    options += [(p, plane, every) for p, plane in zip(near, planes, strict=True)]
    conditions = vocabulary.conditions(causal)
    options += [
        (conditions[i], options[0][1], np.flatnonzero(where))
        for i, where in enumerate(held)
        if where.any()
    ]
    for condition, plane, some in options:
        yield Place("k", condition, _gains(task, _by_key(task, plane, some, predicted)))


def _of_queries(task: HeadTask, predicted: np.ndarray) -> Iterator[Place]:
    design, terms = task.design, vocabulary.terms(task.causal)
    width = int(design.key_symbols.max(initial=0)) + 1
    g, h = design.packed.row_moments(task.rows.actual, predicted)
    for j in np.flatnonzero(vocabulary.truths(task.causal)):
        moments = np.stack([np.bincount(design.query_symbols, m[j], width) for m in (g, h)])
        term = terms[j]
        assert isinstance(term, t.Where)
        yield Place("q", term.condition, _gains(task, moments))


def _ones(task: HeadTask) -> np.ndarray:
    return np.ones(task.design.entries, dtype=np.float32)


def _by_key(
    task: HeadTask, plane: np.ndarray, some: np.ndarray, predicted: np.ndarray
) -> np.ndarray:
    """Return gradient and curvature by the key's symbol."""
    design, rows = task.design, task.rows
    moments = np.zeros((2, int(design.key_symbols.max(initial=0)) + 1))
    key_moments(design.key_symbols, plane, some, design.starts, rows.actual, predicted, *moments)
    return moments


def _by_query(task: HeadTask, plane: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return gradient and curvature by the query's symbol."""
    design, rows = task.design, task.rows
    found = np.empty((2, 1, len(rows)), dtype=np.float32)
    no = np.zeros(1, dtype=np.bool_)
    row_moments(plane[None], no, design.starts, rows.actual, predicted, *found)
    width = int(design.key_symbols.max(initial=0)) + 1
    return np.stack([np.bincount(design.query_symbols, x[0], width) for x in found])


def _gains(task: HeadTask, moments: np.ndarray) -> np.ndarray:
    known = np.array([s in task.design.symbols for s in range(moments.shape[1])])
    return gain(moments[0], moments[1], RIDGE + 1e-3 * len(task.rows)) * known
