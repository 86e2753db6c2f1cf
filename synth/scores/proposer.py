"""The proposer of shared scores: grows a program of their uses and terms of the vocabulary, and prunes it."""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.synth import search_terms
from attn_dsl.synth.gains import gain, moments
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.pruning import REGROWN, pruned, written
from attn_dsl.synth.rewrite import bare, in_place
from attn_dsl.synth.scores.gains import ScoreGains
from attn_dsl.synth.sparse_design import SparseDesign, TermPlanes

SIZES = 190, 140, 100, 75, 55, 45, 35, 28, 22, 17, 13
"""How many nodes the programs have at the most."""
GROW, SETTLE, ADJUST = 8, 20, 10
"""How often the rows are predicted while weights are moved: after each addition, when the program is
complete, and at each size."""
GROWTH = 0.4  # the most of a limited time in which a program is grown; the rest is for pruning
LEAST = 4.0  # nats that a term must gain to be added


@dataclass(frozen=True)
class SharedScores:
    """Proposes programs that use shared scores; see the module."""

    scores: ScoreGains  # on the rows of the design
    use: t.Use
    planes: TermPlanes  # of the terms of the vocabulary, on the same rows
    starts: tuple[t.Head, ...] = ()  # what it grows programs from; from nothing if there is none
    rounds: int = 16
    terms: int = 2  # terms of the vocabulary that are added at once, beside a use of each kind
    ridge: float = 1.0
    name: str = "scores"

    def propose(self, task: HeadTask) -> Iterator[t.Head | Fitted]:
        """Yield the programs that it starts from, and those that grow from each."""
        for start in self.starts:
            yield dataclasses.replace(start, name=task.name)
        for start in self.starts or (task.empty(),):
            yield from self.from_start(start, task)

    def from_start(self, start: t.Head, task: HeadTask) -> Iterator[Fitted]:
        """Yield a program at every size, the largest first."""
        room = (self.rounds + sum(size < REGROWN for size in SIZES)) * (self.terms + 3)
        start = in_place(start)
        terms = tuple(dict.fromkeys(bare(part) for term in start.terms for part in t.parts_of(term)))
        empty = dataclasses.replace(task.empty(), uses=(self.use,), scores=start.scores,
                                    functions=start.functions)  # fmt: skip
        planes = TermPlanes(task.design, terms, empty, (room, room), self.planes)
        begun = dataclasses.replace(empty, terms=terms)
        design, x = SparseDesign(planes, task.rows, begun, self.ridge), np.zeros(len(begun.weights))
        x = design.maximise(x, SETTLE, 0.0, lambda: task.spent)
        began = time.monotonic()
        for _ in range(self.rounds):
            if task.deadline is not None:
                passed, whole = time.monotonic() - began, task.deadline - began
                if passed > GROWTH * whole:  # without pruning there are no small programs
                    task.short = True
                    break
            design, x = self.grown(task, design, x)
        x = design.maximise(x, SETTLE, 0.0, lambda: task.spent)
        sizes = [size for size in SIZES if size <= task.max_nodes]
        grown = partial(self.grown, task)
        for smaller, found in pruned(design, x, sizes, lambda: task.spent, ADJUST, grown):
            task.evals += 1
            yield task.measured(written(smaller.program, found))

    def grown(self, task: HeadTask, design: SparseDesign, x: np.ndarray) -> tuple[SparseDesign, np.ndarray]:
        """Add the terms and uses of scores that gain most, and move all weights."""
        design.value(x, 0.0)
        predicted, there = design.predicted, design.program.terms
        aim = task.rows.likelihood_aim(predicted)
        extra = self.best_terms(task, predicted, aim, there)
        uses: dict[tuple[bool, bool], t.Term] = {}
        for one in self.scores.best(aim - predicted, predicted, 2.0, 4):
            if one.gain >= LEAST and one.term not in there:
                uses.setdefault(one.kind, one.term)
        extra += uses.values()
        if not extra or task.spent:
            return design, x
        design = design.with_terms((*there, *extra))
        x = np.append(x, np.zeros(len(extra)))
        task.evals += 1
        x = design.maximise(x, GROW, 0.0, lambda: task.spent)
        return design, x

    def best_terms(self, task: HeadTask, predicted: np.ndarray, aim: np.ndarray,
                   there: tuple[t.Term, ...]) -> list[t.Term]:  # fmt: skip
        """Return the terms of the vocabulary that gain most likelihood."""
        every = search_terms.terms(task.causal)  # of one weight each
        numbers = np.concatenate(self.planes.numbers(every))
        found = moments(self.planes.arrays, numbers, task.rows.starts, aim - predicted, predicted)
        alone = gain(*found, 2.0 + 1e-3 * len(task.rows))
        order = np.argsort(-alone, kind="stable")
        terms = [bare(every[j]) for j in order if alone[j] > LEAST]
        return [term for term in terms if term not in there][: self.terms]
