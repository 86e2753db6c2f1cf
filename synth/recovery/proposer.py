"""The proposer ``recovery``: finds the program of a head whose matrices a program made.

Rules that no table of the key's token, distance and position explains are found first, then those of
distance and position, then those of the key. Rows that the program gets wrong are added to the sample,
and the search goes on (Solar-Lezama et al. 2006).
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.synth.design import Design
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.recovery.candidates import Candidates
from attn_dsl.synth.recovery.least_squares import Model, Problem
from attn_dsl.synth.recovery.predicates import Bank
from attn_dsl.synth.recovery.rules import program
from attn_dsl.synth.recovery.search import Search
from attn_dsl.synth.weights import Rows

PARTS = ((True, 2e-4), (False, 1e-4), (None, 1e-5))
"""What is projected out in each part, and the share of the loss that a node must explain there."""
SCREENINGS = 40  # in each part, times the effort
WRONG, FAR, TIMES = 0.99, 0.9, 3
"""Rows of less IoU are counterexamples, of programs nearer than ``FAR``; looked for so often."""
TURN, FEWEST, LITTLE = 0.02, 100, 0.9
"""Of a program, logits of a tenth of these many neighbouring keys turn less, and rules leave less."""


class Recovery:
    """Proposes programs of exact structure; see the module.

    Args:
        design: returns the rows that programs are fitted on; called when a head first needs them.
        effort: of the settings.
    """

    name = "recovery"

    def __init__(self, design: Callable[[], Design], effort: int = 1) -> None:
        self.design, self.effort = design, effort
        self._lock = threading.Lock()
        self._candidates: Candidates | None = None

    def candidates(self, task: HeadTask) -> Candidates:
        """Return what finds rules on the design; kept if there was time to make it."""
        with self._lock:
            found = self._candidates or Candidates(Bank(self.design(), task))
            self._candidates = self._candidates if task.spent else found
            return found

    def propose(self, task: HeadTask) -> Iterator[t.Head | Fitted]:
        """Yield every program on the way; none for a head that no program made."""
        if not made_by_program(task.rows, task.design.text_of_rows):
            return
        candidates, most = self.candidates(task), SCREENINGS * self.effort
        model: Model | None = None
        for places, share in PARTS:
            problem = Problem(candidates.bank, task.rows, places)
            search = Search(candidates, problem, task, share, most)
            rules = () if model is None else model.rules
            for model in search.grow(problem.model(rules)):
                if places and len(model.rules) == 3 and model.loss > LITTLE * search.loss:
                    return
                if places is None:
                    yield fitted(task, model)
        assert model is not None
        for _ in range(TIMES):
            model = search.refined(model)
            yield fitted(task, model)
            more = None if task.spent else counterexamples(task, model)
            if more is None:
                break
            design = candidates.bank.design.with_rows(more)
            candidates = Candidates(Bank(design, task))
            problem = Problem(candidates.bank, design.target(task.layer, task.head))
            search = Search(candidates, problem, task, 0.0, most)
            rules = model.rules
            for model in search.grow(problem.model(rules), 0.0):
                yield fitted(task, model)


def fitted(task: HeadTask, model: Model) -> Fitted:
    """Measure a model's program on all rows; its weights are final."""
    task.evals += 1
    found = task.measured(program(task.empty(), model.rules, model.weights.tolist()))
    return dataclasses.replace(found, iou=task.everywhere.iou(found.program))


def counterexamples(task: HeadTask, model: Model) -> list[np.ndarray] | None:
    """Draw rows that a program gets wrong, by text; None if there are none, or nearly all are."""
    by_row = task.everywhere.by_row(program(task.empty(), model.rules, model.weights.tolist()))
    ious = np.concatenate(by_row)
    wrong = np.flatnonzero(ious < WRONG)
    if not len(wrong) or ious.mean() < FAR:
        return None
    drawn = np.random.default_rng(task.seed).permutation(wrong)[: len(task.rows)]
    some = np.isin(np.arange(len(ious)), drawn)
    return [np.flatnonzero(x) for x in np.split(some, np.cumsum([len(x) for x in by_row])[:-1])]


def made_by_program(rows: Rows, texts: np.ndarray) -> bool:
    """Say whether rows, of these texts, may be a program's.

    Two queries' logits then differ by the same at many keys that follow each other.
    """
    turns = [np.empty(0)]
    for i in np.flatnonzero(np.diff(texts) == 0):
        one, two = (rows.actual[rows.starts[j] : rows.starts[j + 1]] for j in (i, i + 1))
        known = (one > 1e-4) & (two[: len(one)] > 1e-4)
        turns.append(np.abs(np.diff(np.log(two[: len(one)][known] / one[known]))))
    every = np.concatenate(turns)
    return len(every) > FEWEST and float(np.quantile(every, 0.1)) < TURN
