"""Weighed sets: small programs of a head's front made better by terms, and by tokens with weights.

An element costs a program one node, with or without a weight, and so does a step of a table. So the
sets and tables of a program are opened (``synth/open_sets.py``); further elements, steps, sets and
terms are added where they promise most IoU (``synth/proposers/scope.py``), all weights are adjusted
together, and then what loses least IoU for its nodes is left out again (``synth/thrift.py``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.synth.open_sets import Opened, OpenSet, opened
from attn_dsl.synth.open_tables import OpenTable
from attn_dsl.synth.pareto import front, thinned
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.proposers.scope import BOUNDS, DISTANCE, Scope
from attn_dsl.synth.rewrite import bare
from attn_dsl.synth.thrift import shrunk

SMALL = 90
"""Programs of at most so many nodes are added to …"""
PASSES = 3
"""… so often for each effort above 1, each once: those of the front, and of that without it …"""
FRONTS = 2
"""… (so many fronts; what is best at first is not what ends best) …"""
STARTS = 8
"""… so many of each front in a pass."""
PLACES = 3
"""How many sets are added, where they promise most …"""
SLOPES = 1
"""… and how many that multiply a distance or another value by a weight for the query's token."""
TABLES = 2
"""How many tables of the distance are added, in every second pass from the first on."""
TERMS = 6
"""How many terms of the vocabulary are added with them."""
SIZES = (16, 20, 25, 30, 35, 40, 50, 65, 90)
"""How many nodes are left at the most."""


@dataclass(frozen=True)
class Weigh:
    """Weighed sets for a front; see the module.

    Attributes:
        effort: of the settings, how often the front is gone through.
    """

    effort: int = 2
    name: str = "weighted_sets"

    def propose(self, task: HeadTask) -> Iterator[Fitted]:
        """Yield small programs with sets, adjusted, that are better than the front."""
        rows = () if task.before is None else task.before.front
        programs = [parse(row.program) for row in rows if row.nodes <= SMALL]
        best = [
            task.measured(dataclasses.replace(p, name=task.name), self.name)
            for p in programs
            if p.normaliser == "softmax"
        ]
        done: set[t.Head] = set()
        for number in range(PASSES * max(1, self.effort - 1)):
            starts = [
                fitted
                for one in _fronts(best)
                for fitted in thinned([f for f in one if f.program not in done], _iou, STARTS)
                if fitted.nodes <= SMALL
            ]
            done |= {fitted.program for fitted in starts}
            tables = 0 if number % 2 else TABLES
            new = [f for x in starts if not task.spent for f in weighed(task, x, tables)]
            best = [fitted for one in _fronts([*best, *new]) for fitted in one]
        for fitted in front(best, _nodes, _iou):
            if not fitted.settled:  # it is new
                yield dataclasses.replace(task.polish(fitted), proposer=self.name, settled=True)


def _iou(fitted: Fitted) -> float:
    return fitted.iou


def _nodes(fitted: Fitted) -> int:
    return fitted.nodes


def _fronts(items: Sequence[Fitted]) -> Iterator[list[Fitted]]:
    """Yield the front, then that of what is not on it."""
    left = {fitted.program: fitted for fitted in items}
    for _ in range(FRONTS):
        best = front(list(left.values()), _nodes, _iou)
        yield best
        for fitted in best:
            del left[fitted.program]


def weighed(task: HeadTask, fitted: Fitted, tables: int = 0) -> Iterator[Fitted]:
    """Yield a program with its sets and tables opened, and terms, sets and tables added, at all sizes.

    Args:
        tables: how many tables of the distance are added.
    """
    program, start = opened(fitted.program)
    scope = Scope(task, fitted.predicted)
    extra = [x for x in scope.terms(TERMS) if x not in map(bare, program.terms)]
    weights = [*start[: program.fixed], *(0.0 for _ in extra)]
    sets: list[OpenSet | OpenTable] = []
    parts = np.split(start[program.fixed :], np.cumsum(program.counts)[:-1])
    for one, known in zip(program.sets, parts, strict=False):
        if isinstance(one, OpenTable):
            finer = BOUNDS[task.causal] if one.value == DISTANCE[task.causal] else ()
            one, values = one.finer([*known], finer)
        else:
            more = scope.more(one)
            one = dataclasses.replace(one, elements=(*one.elements, *more))
            values = [*known, *(0.0 for _ in more)]
        sets.append(one)
        weights += values
    new = list(_added(scope, sets, tables))
    grown = Opened(program.empty, (*program.terms, *extra), (*sets, *new))
    begin = np.array([*weights, *(0.0 for one in new for _ in one.elements)])
    sizes = [size for size in SIZES if size <= task.max_nodes]
    yield from shrunk(task, grown, begin, sizes, "weighted_sets")


def _added(
    scope: Scope, known: Sequence[OpenSet | OpenTable], tables: int
) -> Iterator[OpenSet | OpenTable]:
    """Yield tables and sets that promise most, unless they are there already."""
    there = [(one.value, one.condition) for one in known if isinstance(one, OpenTable)]
    yield from (x for x in scope.tables(tables) if (x.value, x.condition) not in there)
    sets = [(one.value, one.factor, {*one.elements}) for one in known if isinstance(one, OpenSet)]
    for places, most in ((scope.places(), PLACES), (scope.slopes(), SLOPES)):
        before = len(sets)
        for place in places:
            if len(sets) == before + most:
                break
            value = t.Call("token", (place.position,))
            one = OpenSet(value, scope.elements(place.gains), place.factor, place.condition)
            if one.elements and (value, one.factor, {*one.elements}) not in sets:
                sets.append((value, one.factor, {*one.elements}))
                yield one
