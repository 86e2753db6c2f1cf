"""The graded proposer: grows a program of graded sets on many rows, and prunes it to every size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.eval.set_parameters import SetProgram
from attn_dsl.synth import vocabulary
from attn_dsl.synth import weights as w
from attn_dsl.synth.gains import gain
from attn_dsl.synth.graded.factors import propose
from attn_dsl.synth.graded.large_sample import LargeSample
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.pruning import pruned
from attn_dsl.synth.rewrite import bare, name_sets
from attn_dsl.synth.sparse_design import SparseDesign

SIZES = 4000, 2500, 1500, 800, 380, 190, 100, 55, 30, 16
"""How many nodes the programs have at the most."""
GROW, SETTLE, ADJUST = 10, 30, 12
"""How often the rows are predicted while parameters are moved: after each addition, when the program is
complete, and at each size."""
LEAST = 4.0
"""Nats that a term of the vocabulary must gain to be added."""
MIX = 0.9
"""How much of the objective is the score when a program of some size is adjusted (``SparseDesign``)."""
INLINE = 12
"""Sets of up to so many elements are written in place, larger ones get a name."""


@dataclass(frozen=True, slots=True)
class Style:
    """How a program is grown."""

    ridge: float  # pulls weights to 0; where it is strong, few elements carry what many would
    price: float  # nats that an element of a set must gain to be in a new factor
    mix: float  # what additions should explain: 0 likelihood, 1 the score
    factors: int  # how many are added at once, each of another kind
    terms: int  # how many terms of the vocabulary are added with them


SMALL = Style(4.0, 1.0, mix=0.0, factors=1, terms=3)
LARGE = Style(0.3, 0.1, mix=0.9, factors=3, terms=6)
LARGE_NODES = 380
"""Programs that may have so many nodes and more are grown large."""


@dataclass(frozen=True)
class Graded:
    """Proposes programs of graded sets; see the module."""

    sample: LargeSample  # the rows that the weights are moved on
    rounds: int = 12  # how often factors and terms are added
    name: str = "graded"

    def propose(self, task: HeadTask) -> Iterator[Fitted]:
        """Yield a program at every size, the largest first."""
        whole, start = self.grow(task, LARGE if task.max_nodes >= LARGE_NODES else SMALL)
        start = whole.maximise(start, SETTLE, 0.0, lambda: task.spent)
        sizes = [size for size in SIZES if size <= task.max_nodes]
        for design, x in pruned(whole, start, sizes, lambda: task.spent, ADJUST, MIX):
            task.evals += 1
            short = np.append(w.rounded(x[: design.program.fixed]), x[design.program.fixed :])
            yield task.measured(name_sets(design.program.written(short), INLINE))

    def grow(self, task: HeadTask, style: Style) -> tuple[SparseDesign, np.ndarray]:
        """Add factors and terms, those that gain most."""
        rows = self.sample.design.target(task.layer, task.head)
        program, x = SetProgram(task.empty()), np.zeros(0)
        design = SparseDesign(self.sample.planes, rows, program, style.ridge)
        for _ in range(self.rounds):
            if task.spent:
                break
            design.value(x, 0.0)
            extra = self.best_terms(task, design, style.terms)
            design.value(x, style.mix)
            rows.output_residual(design.predicted, design.residual, rows.objective.output)
            factors = propose(
                self.sample, design.residual, design.predicted, style.price, style.ridge
            )[: style.factors]
            at = program.fixed
            x = np.concatenate(
                [x[:at], np.zeros(len(extra)), x[at:], *(f.weights for f in factors)]
            )
            terms = (*program.terms, *extra)
            program = SetProgram(program.empty, terms, (*program.sets, *(f.term for f in factors)))
            design = design.with_program(program)
            x = design.maximise(x, GROW, 0.0, lambda: task.spent)
            task.evals += 1
        return design, x

    def best_terms(self, task: HeadTask, design: SparseDesign, count: int) -> list[t.Term]:
        """Return the terms of the vocabulary that gain most likelihood on the small design."""
        predicted = design.predicted[self.sample.inside]
        share = len(design.rows) / len(task.rows)
        moments = task.design.packed.row_moments(task.rows.likelihood_aim(predicted), predicted)
        g, h = (one.sum(1, dtype=np.float64) * share for one in moments)
        alone = gain(g, h, 2.0 + 1e-3 * len(design.rows))
        order = np.argsort(-alone, kind="stable")
        terms = [bare(vocabulary.terms(task.causal)[j]) for j in order if alone[j] > LEAST]
        return [term for term in terms if term not in design.program.terms][:count]
