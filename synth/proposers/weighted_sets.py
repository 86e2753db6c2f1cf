"""Weighted sets: small programs of a head's front made better by terms, and by tokens with weights.

An element costs a program one node, with or without a weight, and so does a step of a table. So the
elements and steps of a program become parameters (``eval/set_parameters.py``); further elements, steps,
sets and terms are added where they gain most IoU (``candidate_gains.py``), all parameters are moved
together, and then what loses least IoU for its nodes is left out again (``synth/pruning.py``).
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.eval.set_parameters import DISTANCE, Lookup, SetProgram, SetTerm, set_program
from attn_dsl.synth.pareto import front, thinned
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.proposers.candidate_gains import BOUNDS, CandidateGains
from attn_dsl.synth.pruning import shrunk
from attn_dsl.synth.simplify import bare

SMALL = 90
"""Programs of at most so many nodes are added to …"""
PASSES = 3
"""… so often for each effort above 1, each once: those of the front, and of that without it …"""
FRONTS = 2
"""… (so many fronts; what is best at first is not what ends best) …"""
STARTS = 8
"""… so many of each front in a pass."""
PLACES = 3
"""How many sets are added, where they gain most …"""
SLOPES = 1
"""… and how many that multiply a distance or another value by a weight for the query's token."""
TABLES = 2
"""How many tables of the distance are added, in every second pass from the first on."""
TERMS = 6
"""How many terms of the vocabulary are added with them."""
SIZES = (16, 20, 25, 30, 35, 40, 50, 65, 90)
"""How many nodes are left at the most."""


@dataclass(frozen=True)
class WeightedSets:
    """Weighted sets for a front; see the module.

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
            new = [f for x in starts if not task.spent for f in weighted(task, x, tables)]
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


def weighted(task: HeadTask, fitted: Fitted, tables: int = 0) -> Iterator[Fitted]:
    """Yield a program with elements, terms, sets and tables added, at all sizes.

    Args:
        tables: how many tables of the distance are added.
    """
    program, start = set_program(fitted.program)
    gains = CandidateGains(task, fitted.predicted)
    extra = [x for x in gains.terms(TERMS) if x not in map(bare, program.terms)]
    x = [*start[: program.fixed], *(0.0 for _ in extra)]
    sets: list[SetTerm] = []
    for term, at in program.parts():
        if isinstance(term, SetTerm):
            grown, values = _grown(gains, term, start[at], task.causal)
            sets.append(grown)
            x += values
    new = list(_added(gains, sets, tables))
    x += [0.0] * sum(map(len, new))
    larger = SetProgram(program.empty, (*program.terms, *extra), (*sets, *new))
    sizes = [size for size in SIZES if size <= task.max_nodes]
    yield from shrunk(task, larger, np.array(x), sizes, "weighted_sets")


def _grown(
    gains: CandidateGains, term: SetTerm, weights: np.ndarray, causal: bool
) -> tuple[SetTerm, list[float]]:
    """Return a term with more elements or steps, and its weights."""
    if term.steps:
        (known,) = term.lookups
        bounds = sorted({*known.elements, *BOUNDS[causal]})
        values = [0.0, *weights]
        finer = SetTerm((Lookup(DISTANCE[causal], tuple(bounds)),), None, term.condition)
        return finer, [values[bisect_right(known.elements, bound)] for bound in bounds]
    lookups: list[Lookup] = []
    values = []
    for i, (one, part) in enumerate(zip(term.lookups, term.split(weights), strict=True)):
        more = gains.more(term, i, weights)
        lookups.append(Lookup(one.value, (*one.elements, *more)))
        values += [*part, *(0.0 for _ in more)]
    return dataclasses.replace(term, lookups=tuple(lookups)), values


def _added(gains: CandidateGains, known: Sequence[SetTerm], tables: int) -> Iterator[SetTerm]:
    """Yield tables and sets that gain most, unless they are there already."""
    there = {x.condition for x in known if x.steps}
    yield from (x for x in gains.tables(tables) if x.condition not in there)
    sets = [_what(x) for x in known if not x.steps]
    for places, most in ((gains.places(), PLACES), (gains.slopes(), SLOPES)):
        before = len(sets)
        for place in places:
            if len(sets) == before + most:
                break
            elements = gains.elements(place.gains)
            value = t.Call("token", (place.position,))
            one = SetTerm((Lookup(value, elements),), place.factor, place.condition)
            if elements and _what(one) not in sets:
                sets.append(_what(one))
                yield one


def _what(term: SetTerm) -> tuple[object, ...]:
    """Return what makes two sets the same, whatever the order of their elements."""
    return term.factor, *((one.value, {*one.elements}) for one in term.lookups)
