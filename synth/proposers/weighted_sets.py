"""Weighted sets: small programs of a head's front made better by terms, and by tokens with weights.

An element costs a program one node, with or without a weight, and so does a step of a table. So the
elements and steps of a program become parameters (``eval/set_parameters.py``); further elements, steps,
sets and terms are added where they raise the score most (``candidate_gains.py``), all parameters are moved
together, and then what loses least score for its nodes is left out again (``synth/pruning.py``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.eval.set_parameters import Lookup, SetProgram, SetTerm, TableTerm, set_program
from attn_dsl.synth.pareto import front, thinned
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.proposers.candidate_gains import BOUNDS, CandidateGains
from attn_dsl.synth.pruning import shrunk
from attn_dsl.synth.rewrite import bare

SMALL = 90
"""Programs of at most so many nodes are added to …"""
PASSES = 3
"""… so often for each effort above 1, each once …"""
STARTS = 8
"""… so many of the front in a pass."""
PLACES = 3
"""How many sets are added, where they gain most."""
TABLES = 2
"""How many tables of the distance are added, in every second pass from the first on."""
TERMS = 6
"""How many terms of the vocabulary are added with them."""
SIZES = (16, 20, 25, 30, 35, 40, 50, 65, 90)
"""How many nodes are left at the most."""


@dataclass(frozen=True)
class WeightedSets:
    """Weighted sets for a front; see the module."""

    effort: int = 2  # of the settings, how often the front is gone through
    name: str = "weighted_sets"

    def propose(self, task: HeadTask) -> Iterator[Fitted]:
        """Yield small programs with sets, adjusted, that are better than the front."""
        rows = () if task.before is None else task.before.front
        programs = [parse(row.program) for row in rows if row.nodes <= SMALL]
        known = [
            task.measured(dataclasses.replace(p, name=task.name), self.name)
            for p in programs
            if p.normaliser == "softmax"
        ]
        best = front(known)
        done: set[t.Head] = set()
        for number in range(PASSES * max(1, self.effort - 1)):
            fresh = [f for f in best if f.program not in done and f.nodes <= SMALL]
            starts = thinned(fresh, STARTS)
            done |= {fitted.program for fitted in starts}
            new = [
                f
                for x in starts
                if not task.spent
                for f in weighted(task, x, 0 if number % 2 else TABLES)
            ]
            best = front([*best, *new])
        for fitted in best:
            if not fitted.settled:  # it is new
                yield dataclasses.replace(task.polish(fitted), proposer=self.name, settled=True)


def weighted(task: HeadTask, fitted: Fitted, tables: int = 0) -> Iterator[Fitted]:
    """Yield a program with elements, steps, terms, sets and some tables added, at all sizes."""
    program, start = set_program(fitted.program)
    gains = CandidateGains(task, fitted.predicted)
    extra = [x for x in gains.terms(TERMS) if x not in map(bare, program.terms)]
    x = [*start[: program.fixed], *(0.0 for _ in extra)]
    sets: list[SetTerm | TableTerm] = []
    for term, at in program.parts():
        if isinstance(term, TableTerm):
            known = dict(zip(term.bounds, start[at], strict=True))
            bounds = tuple(sorted({*term.bounds, *BOUNDS[task.causal]}))
            sets.append(TableTerm(term.value, bounds, term.condition))
            x += [known.get(bound, 0.0) for bound in bounds]
        if isinstance(term, SetTerm):
            lookups: list[Lookup] = []
            for i, (one, part) in enumerate(zip(term.lookups, term.split(start[at]), strict=True)):
                more = gains.more(term, i, start[at])
                lookups.append(Lookup(one.value, (*one.elements, *more)))
                x += [*part, *(0.0 for _ in more)]
            sets.append(dataclasses.replace(term, lookups=tuple(lookups)))
    there = {one.condition for one in sets if isinstance(one, TableTerm)}
    new: list[SetTerm | TableTerm] = [
        one for one in gains.tables(tables) if one.condition not in there
    ]
    seen = [_what(one) for one in sets if isinstance(one, SetTerm)]
    most = len(new) + PLACES
    for place in gains.places():
        value = t.Call("token", (place.position,))
        term = SetTerm((Lookup(value, gains.elements(place.gains)),), None, place.condition)
        if len(term) and _what(term) not in seen:
            seen.append(_what(term))
            new.append(term)
        if len(new) == most:
            break
    x += [0.0] * sum(map(len, new))
    larger = SetProgram(program.empty, (*program.terms, *extra), (*sets, *new))
    sizes = [size for size in SIZES if size <= task.max_nodes]
    yield from shrunk(task, larger, np.array(x), sizes, "weighted_sets")


def _what(term: SetTerm) -> tuple[object, ...]:
    """Return what makes two set terms the same, whatever their conditions and the order of elements."""
    return term.factor, *((one.value, {*one.elements}) for one in term.lookups)
