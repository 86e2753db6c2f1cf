"""Proposers: the interface by which programs for a head are suggested, and what they may use."""

import dataclasses
import math
import re
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import ProgramError
from attn_dsl.synth import weights as w
from attn_dsl.synth.design import Design
from attn_dsl.synth.sparse_design import refit

EXACT = 0.9995  # the IoU from which on nothing better is looked for


@dataclass(frozen=True, slots=True)
class Fitted:
    """A program with fitted weights, and how well it does on the rows it was fitted on."""

    program: t.Head  # all weights are numbers
    # iou, score: over the rows of the fit split; the score is by the objective
    iou: float
    score: float
    predicted: np.ndarray = field(repr=False)  # float32 (entries): its rows
    proposer: str = ""  # who suggested it
    settled: bool = False  # whether its weights are final, adjusted and rounded
    nodes: int = field(init=False)  # its complexity

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", t.nodes(self.program))


@dataclass(frozen=True, slots=True)
class Known:
    """A program that a search found for a head: its source, IoU on the fit rows, and origin."""

    layer: int
    head: int
    iou: float
    proposer: str
    program: str


def plain(source: str) -> bool:
    """Say whether a model may write such a printed program: one without files of definitions and tables."""
    return re.search(r"^(use|    by) ", source, re.MULTILINE) is None


@dataclass(frozen=True, slots=True)
class Asking:
    """What a language model is told of a search that has ended, and the time it has to write."""

    found: tuple[Known, ...] = ()  # the programs of the head's front
    solved: tuple[Known, ...] = ()  # of other heads, one each
    seconds: float = math.inf


class HeadTask:
    """The search for one head: its rows, and the means to fit a program's weights to them.

    Attributes:
        design: the rows of the fit split and the planes of terms on them.
        layer, head, number: which head; its number counts over all layers.
        rows: its attention on the rows.
        name: what its programs are called.
        seed: for whatever a proposer draws; differs by head, not by the order of work.
        max_nodes, max_evals: bounds on a program's size and on how many are fitted.
        deadline: time (``time.monotonic``) after which it is ``late`` and stops.
        short: whether a proposer left something out for want of time, and the search went on.
        stop: set when the whole run is to end.
        known: programs that are known of the head, as they are.
        asking: what a language model is told beside.
    """

    def __init__(self, design: Design, layer: int, head: int, *, seed: int, max_nodes: int, max_evals: int,
                 deadline: float | None = None, stop: threading.Event | None = None) -> None:  # fmt: skip
        self.design, self.layer, self.head, self.causal = design, layer, head, design.causal
        self.number = layer * design.capture.heads_per_layer + head
        self.rows = design.target(layer, head)
        self.name = f"l{layer:02d}h{head:02d}"
        self.seed = seed * 1_000_003 + layer * 1_009 + head
        self.max_nodes, self.max_evals = max_nodes, max_evals
        self.deadline, self.stop = deadline, stop
        self.evals, self.late, self.short = 0, False, False
        self.known, self.asking = list[Fitted](), Asking()
        self._known: dict[t.Head, Fitted] = {}

    def empty(self) -> t.Head:
        """Return the program without terms: uniform attention."""
        return dataclasses.replace(self.design.empty, name=self.name)

    @property
    def spent(self) -> bool:
        """Whether to stop: all evaluations or all time is used, or the run is being ended."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            self.late = True
        ended = self.stop is not None and self.stop.is_set()
        return self.late or ended or self.evals >= self.max_evals

    def fit(self, program: t.Head) -> Fitted:
        """Fit all weights of a structure to the head: to cross-entropy.

        Raises:
            ProgramError: it is linear, and the fit is for softmax.
        """
        if program.normaliser != "softmax":
            raise ProgramError("only softmax programs can be fitted", name=program.name)
        key = program.with_weights([0.0] * len(program.weights))
        if key not in self._known:
            self.evals += 1
            planes = self.design.planes(program)
            found, predicted = w.fit_weights(planes, self.rows)
            fitted = program.with_weights([float(x) for x in found])
            self._known[key] = Fitted(fitted, *self.rows.scores(predicted), predicted)
        return self._known[key]

    def measured(self, program: t.Head, proposer: str = "") -> Fitted:
        """Take a program with the weights it has, and measure it on the rows."""
        planes = self.design.planes(program)
        predicted = w.predicted_rows(planes, program.weights, self.rows.starts)
        return Fitted(program, *self.rows.scores(predicted), predicted, proposer, settled=True)

    def polish(self, fitted: Fitted) -> Fitted:
        """Adjust fitted weights to the objective and round them to two digits where that costs little."""
        if not fitted.settled:
            program = refit(self.design, self.rows, fitted.program)
            found = self.measured(program, fitted.proposer)
            fitted = dataclasses.replace(found, settled=False)
        return dataclasses.replace(fitted, program=self.ordered(fitted.program))

    def ordered(self, program: t.Head) -> t.Head:
        """Sort a program's terms, those that move the scores most first."""
        planes = self.design.planes(program)
        spread = iter(planes.std(axis=1) * np.abs(np.array(program.weights, dtype=np.float64)))
        impact = {i: max((next(spread) for _ in t.weights_of(term)), default=0.0)
                  for i, term in enumerate(program.terms)}  # fmt: skip
        order = sorted(impact, key=lambda i: (-round(impact[i], 6), i))
        return dataclasses.replace(program, terms=tuple(program.terms[i] for i in order))


class Proposer(Protocol):
    """Something that suggests programs for a head.

    ``propose`` yields programs; weights may be holes, for all weights are fitted. It may look at
    the task's rows and fit programs itself, and then yields them as ``Fitted``, to be taken as they
    are. It stops when ``task.spent``.
    """

    @property
    def name(self) -> str:
        """What it is called in settings and results."""
        ...

    def propose(self, task: HeadTask) -> Iterator[t.Head | Fitted]:
        """Yield programs for the head of the task."""
        ...


def pool(task: HeadTask, proposers: Iterable[Proposer]) -> list[Fitted]:
    """Collect and fit what all proposers suggest for a head, in the order in which it comes.

    What a proposer has fitted itself is kept also when all evaluations or all time is used. A head
    for which nobody suggests anything has uniform attention. A program that is exact ends it.
    """
    found: dict[t.Head, Fitted] = {}
    for proposer in proposers:
        if any(one.iou >= EXACT for one in found.values()):
            break
        for proposal in proposer.propose(task):
            if found and task.spent and not isinstance(proposal, Fitted):
                break
            program = proposal.program if isinstance(proposal, Fitted) else proposal
            if t.nodes(program) > task.max_nodes:
                continue
            fitted = proposal if isinstance(proposal, Fitted) else task.fit(program)
            found.setdefault(
                fitted.program, dataclasses.replace(fitted, proposer=fitted.proposer or proposer.name)
            )
    return list(found.values()) or [dataclasses.replace(task.fit(task.empty()), proposer="uniform")]
