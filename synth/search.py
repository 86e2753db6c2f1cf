"""The search for one head: pool what the proposers suggest, keep the front, choose, score."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import check
from attn_dsl.dsl.limits import MAX_NODES
from attn_dsl.dsl.printer import show
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.metrics import bootstrap
from attn_dsl.eval.results import Candidate, FrontRow, HeadResult
from attn_dsl.synth.design import Design
from attn_dsl.synth.enumerate.bank import Bank
from attn_dsl.synth.enumerate.proposer import Enumerate
from attn_dsl.synth.finish import finished
from attn_dsl.synth.graded.cells import CHANNELS
from attn_dsl.synth.graded.proposer import QUICK, Graded, Pace
from attn_dsl.synth.graded.wide import Wide
from attn_dsl.synth.llm.proposer import Llm, Options
from attn_dsl.synth.pareto import choose, front, gains_by_node, thinned
from attn_dsl.synth.probe import Probe
from attn_dsl.synth.proposer import Fitted, HeadTask, Proposer, pool
from attn_dsl.synth.proposers.exchange import Exchange, Market
from attn_dsl.synth.proposers.greedy import Greedy
from attn_dsl.synth.proposers.library import Library, Probes
from attn_dsl.synth.proposers.vary import Vary
from attn_dsl.synth.proposers.weighed import Weigh
from attn_dsl.synth.recovery.proposer import Recovery
from attn_dsl.synth.runs.stability import stability
from attn_dsl.synth.score import Split

PROPOSERS: dict[str, Callable[[Session], Proposer]] = {
    "library": lambda session: Library(session.probes),
    "greedy": lambda session: Greedy(thrifts=(1.0, 0.3) if session.settings.effort > 1 else (1.0,)),
    "graded": lambda session: Graded(
        session.wide,
        rounds=min(5 + session.settings.effort, 16),
        pace=Pace() if session.settings.effort > 1 else QUICK,
        stride=1 if session.settings.effort > 4 else 2,
    ),
    "recovery": lambda session: Recovery(lambda: session.design, session.settings.effort),
    "llm": lambda session: Llm(
        session.settings.llm, run=session.run, alone=session.settings.proposers == ("llm",)
    ),
    "enumerate": lambda session: Enumerate(lambda: session.bank),
}
"""Who may suggest programs, by name; each is made once for a session."""
MORE = 1.5
"""With an effort of 2 and more, small programs are found on so many times as many rows."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the outcome of a search, given a capture.

    Attributes:
        seed: decides the split, the sampled rows and everything random.
        proposers: names in ``PROPOSERS``, in the order in which they are asked.
        max_evals: how many programs are fitted to a head at the most.
        max_nodes: the largest program.
        effort: how much work is put into every head; from 6 on, tokens before query and key are
            looked at as well.
        entries: how many entries of the fit split the weights are fitted on; half as many more with
            an effort of 2 and more.
        wide: how many more have the many weights of graded sets, by effort.
        front: how many programs of a head's front are polished and scored.
        price: IoU on the select split that a node must bring for a larger program to be chosen.
        rounds: how often each head is searched; from the second time on it is given the programs
            of the other heads.
        allow_lookahead: accept causal programs that read the whole text.
        llm: how the proposer ``llm`` asks its language model.
    """

    seed: int = 0
    proposers: tuple[str, ...] = ("library", "greedy", "graded")
    max_evals: int = 1600
    max_nodes: int = 200
    effort: int = 1
    entries: int = 80_000
    wide: int = 150_000
    front: int = 32
    price: float = 0.0005
    rounds: int = 2
    allow_lookahead: bool = False
    llm: Options = field(default_factory=Options)

    @property
    def sampled(self) -> int:
        """How many entries the weights of small programs are fitted on, with this effort."""
        return self.entries if self.effort == 1 else int(MORE * self.entries)


class Session:
    """Everything that the searches of a capture's heads share, made when it is first needed.

    ``run`` is the directory in which prompts and completions are kept; None keeps none.
    """

    settings: Settings
    run: Path | None

    def __init__(self, capture: Capture, settings: Settings, run: Path | None = None) -> None:
        self.capture, self.settings, self.run = capture, settings, run
        self.texts = capture.split(settings.seed)
        self.stop = threading.Event()
        self._lock = threading.Lock()

    @cached_property
    def design(self) -> Design:
        """The rows that programs are fitted on."""
        return Design(self.capture, self.texts["fit"], self.settings.sampled, self.settings.seed)

    @cached_property
    def bank(self) -> Bank:
        """The terms of the language, enumerated."""
        return Bank(self.design)

    @cached_property
    def wide(self) -> Wide:
        """The rows for what has many weights."""
        entries = max(self.settings.wide * self.settings.effort, self.settings.sampled)
        channels = CHANNELS if self.settings.effort >= 6 else CHANNELS[:1]
        return Wide(self.design, entries, self.settings.seed, channels)

    @cached_property
    def probe(self) -> Probe:
        """The rows that changes of terms are judged on."""
        return Probe(self.design)

    @cached_property
    def market(self) -> Market:
        """The programs that heads may take from each other."""
        return Market(self.design)

    @cached_property
    def select(self) -> Split:
        """The texts that programs are picked on."""
        return Split(self.capture, self.texts["select"])

    @cached_property
    def test(self) -> Split:
        """The texts that every shown number comes from."""
        return Split(self.capture, self.texts["test"])

    @cached_property
    def probes(self) -> Probes:
        """The library on a few texts."""
        return Probes(self.design)

    @cached_property
    def proposers(self) -> list[Proposer]:
        """Those of the settings."""
        return [PROPOSERS[name](self) for name in self.settings.proposers]

    def prepare(self) -> None:
        """Make what all heads share, so that threads find it ready."""
        with self._lock:
            _ = self.design.packed, self.design.conditions, self.probes, self.proposers
            _ = self.select, self.test, self.market
            if "enumerate" in self.settings.proposers:
                _ = self.bank
            if "graded" in self.settings.proposers:
                _ = self.wide.cells, self.wide.planes

    def search(
        self,
        layer: int,
        head: int,
        controls: Callable[[], dict[str, np.ndarray]],
        deadline: float | None = None,
        *,
        before: HeadResult | None = None,
        others: tuple[str, ...] = (),
    ) -> tuple[HeadResult, list[Candidate]]:
        """Search programs for one head.

        Args:
            controls: called at the end: by name, the IoU of each control on the test texts.
            deadline: time (``time.monotonic``) after which no more programs are tried.
            before: the head's own result of the round before, None in the first round.
            others: sources of the programs of other heads, by layer and head.

        Returns:
            The result, and every program that was fitted.
        """
        started = time.monotonic()
        settings, number = self.settings, layer * self.capture.heads_per_layer + head
        task = HeadTask(
            self.design, layer, head, seed=settings.seed,
            max_nodes=min(settings.max_nodes, MAX_NODES), max_evals=settings.max_evals,
            deadline=deadline, stop=self.stop,
        )  # fmt: skip
        proposers = self.proposers if before is None else self._again(before, others)
        found = pool(task, proposers)
        polished = self._polish(task, found)
        if before is not None and settings.effort > 1:
            polished = front(finished(task, self.wide.design, polished), _nodes, _iou)
        rows = self._score(polished, number, before.front if before else ())
        at = next(i for i, row in enumerate(rows) if row.chosen)
        test = self.test.metrics(polished[at].program, number)
        facts = check(polished[at].program, allow_lookahead=settings.allow_lookahead)
        result = HeadResult(
            layer=layer, head=head, program=rows[at].program, nodes=rows[at].nodes,
            iou_fit=rows[at].iou_fit, iou_select=rows[at].iou_select,
            test={name: bootstrap(values, settings.seed) for name, values in test.items()},
            test_ious=tuple(float(x) for x in test["iou"]),
            controls={name: float(values.mean()) for name, values in controls().items()},
            category=self.probes.ranked(number)[0][0].category, lookahead=facts.lookahead,
            evals=task.evals + (before.evals if before else 0),
            stability=stability(task, found, settings.price),
            seconds=time.monotonic() - started + (before.seconds if before else 0.0),
            cut_short=task.late or task.short,
            front=tuple(rows), unfinished=task.unfinished,
        )  # fmt: skip
        candidates = [
            Candidate(layer, head, f.nodes, f.iou, f.proposer, show(f.program)) for f in found
        ]
        return result, candidates

    def _again(self, before: HeadResult, others: tuple[str, ...]) -> list[Proposer]:
        """Return who suggests programs to a head that has a front.

        Those that were cut short in the round before begin again, with what time is left then.
        """
        exchange = Exchange(self.market, before, others)
        again = [p for p in self.proposers if p.name in before.unfinished]
        if self.settings.effort > 1:

            def near(task: HeadTask) -> list[t.Head]:
                number = task.layer * self.capture.heads_per_layer + task.head
                return self.market.nearest(others, number, 3)

            weigh = Weigh(before, self.settings.effort)
            return [exchange, weigh, *again, Vary(lambda: self.probe, before, near)]
        return [exchange, *again]

    def _polish(self, task: HeadTask, found: list[Fitted]) -> list[Fitted]:
        """Adjust the weights of the best programs at every size, and take the front of all.

        Programs that were adjusted before do not stand in the way of those that are not yet.
        """
        settled = [f for f in found if f.settled]
        fresh = front([f for f in found if not f.settled], _nodes, _iou, least=1e-3)
        best = [*front(settled, _nodes, _iou), *thinned(fresh, _iou, self.settings.front)]
        polished = front([task.polish(f) for f in best], _nodes, _iou)
        return thinned(polished, _iou, self.settings.front)

    def _score(
        self, polished: list[Fitted], number: int, before: tuple[FrontRow, ...]
    ) -> list[FrontRow]:
        """Score programs on the select and test splits, and choose by the former.

        Those of the front before have been scored.
        """
        sources = [show(f.program) for f in polished]
        known = {row.program: (row.iou_select, row.iou_test) for row in before}
        new = {x: f.program for x, f in zip(sources, polished, strict=True) if x not in known}
        found = [split.ious([*new.values()], number).mean(1) for split in (self.select, self.test)]
        known |= {x: (float(a), float(b)) for x, a, b in zip(new, *found, strict=True)}
        select, sizes = [known[x][0] for x in sources], [f.nodes for f in polished]
        chosen = choose(select, sizes, self.settings.price)
        steps = gains_by_node(select, sizes)
        return [
            FrontRow(f.nodes, f.iou, *known[x], steps[i], i == chosen, f.proposer, x)
            for i, (f, x) in enumerate(zip(polished, sources, strict=True))
        ]


def _nodes(fitted: Fitted) -> int:
    return fitted.nodes


def _iou(fitted: Fitted) -> float:
    return fitted.iou
