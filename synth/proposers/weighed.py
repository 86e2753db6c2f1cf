"""Weighed sets: small programs of a head's front made better by terms, and by tokens with weights.

An element costs a program one node, with or without a weight. So the sets of a program are opened
(``synth/open_sets.py``); further elements, sets and terms are added where they promise most IoU
(``synth/proposers/scope.py``), all weights are adjusted together, and then what loses least IoU for its
nodes is left out again (``synth/thrift.py``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.synth.open_sets import Opened, OpenSet, opened
from attn_dsl.synth.pareto import front, thinned
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.proposers.scope import Scope
from attn_dsl.synth.runs.result import HeadResult
from attn_dsl.synth.simplify import bare
from attn_dsl.synth.thrift import shrunk

SMALL = 90
"""Programs of at most so many nodes are added to …"""
STARTS = 8
"""… so many of them …"""
PASSES = 10
"""… so often at the most, from the second time on the new ones."""
PLACES = 3
"""How many sets are added, where they promise most."""
TERMS = 6
"""How many terms of the vocabulary are added with them."""
SIZES = (16, 20, 25, 30, 35, 40, 50, 65, 90)
"""How many nodes are left at the most."""


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
        for _ in range(PASSES):
            new = [f for start in thinned(starts, _iou, STARTS) for f in weighed(task, start)]
            best = front([*best, *new], lambda f: f.nodes, _iou)
            starts = [f for f in best if f.nodes <= SMALL and any(f is x for x in new)]
        for fitted in best:
            if not fitted.settled:  # it is new
                yield dataclasses.replace(task.polish(fitted), proposer=self.name, settled=True)


def _iou(fitted: Fitted) -> float:
    return fitted.iou


def weighed(task: HeadTask, fitted: Fitted) -> Iterator[Fitted]:
    """Yield a program with its sets opened, and terms and sets added, at all sizes."""
    program, start = opened(fitted.program)
    scope = Scope(task, fitted.predicted)
    count = program.fixed
    extra = [x for x in scope.terms(TERMS) if x not in map(bare, program.terms)]
    weights, at = [*start[:count], *(0.0 for _ in extra)], count
    sets: list[OpenSet] = []
    for one in program.sets:
        more = scope.more(one)
        sets.append(dataclasses.replace(one, elements=(*one.elements, *more)))
        weights += [*start[at : at + len(one.elements)], *(0.0 for _ in more)]
        at += len(one.elements)
    new: list[OpenSet] = []
    for place in scope.places():
        value = t.Call("token", (t.Position(place.variable),))  # type: ignore[arg-type]
        one = OpenSet(value, scope.elements(place.gains), None, place.condition)
        if len(new) < PLACES and one.elements and not any(_alike(one, x) for x in (*sets, *new)):
            new.append(one)
    sizes = [size for size in SIZES if size <= task.max_nodes]
    grown = Opened(program.empty, (*program.terms, *extra), (*sets, *new))
    begin = np.array([*weights, *(0.0 for x in new for _ in x.elements)])
    for smaller, found in shrunk(task, grown, begin, sizes):
        task.evals += 1
        yield dataclasses.replace(task.measured(smaller.closed(found)), settled=False)


def _alike(one: OpenSet, other: OpenSet) -> bool:
    """Say whether two sets are of the same tokens."""
    return one.value == other.value and {*one.elements} == {*other.elements}
