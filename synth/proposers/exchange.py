"""Exchange: what a head's next round of search starts from: its own front and other heads' programs."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.eval.metrics import ious
from attn_dsl.eval.results import HeadResult
from attn_dsl.synth.design import Design
from attn_dsl.synth.proposer import Fitted, HeadTask

PROBES = 30_000
"""On about how many entries of the fit split other heads' programs are tried as they are."""


class Market:
    """The programs of a round, parsed and evaluated once for all heads that may want them."""

    def __init__(self, design: Design) -> None:
        self.design = design
        entries = np.cumsum(design.batch.entries(design.causal))
        self.texts = range(1 + int(np.searchsorted(entries[:-1], PROBES)))
        self._lock = threading.Lock()
        self._programs: dict[str, t.Head] = {}
        self._matrices: dict[str, list[np.ndarray]] = {}

    def nearest(self, sources: tuple[str, ...], number: int, most: int) -> list[t.Head]:
        """Return the programs that come nearest to a head as they are, best first."""
        with self._lock:
            self._evaluate([s for s in sources if s not in self._programs])
        if not sources:
            return []
        design = self.design
        scores = np.zeros(len(sources))
        for at in self.texts:
            actual = design.capture.attention(design.texts[at], [number])
            made = np.stack([self._matrices[source][at] for source in sources])
            scores += ious(actual, made)[0]
        order = np.argsort(-scores.round(6), kind="stable")[:most]
        return [self._programs[sources[i]] for i in order]

    def _evaluate(self, sources: list[str]) -> None:
        programs = [parse(source) for source in sources]
        if not programs:
            return
        plan = Plan(programs, self.design.batch)
        texts = [plan.packed(at) for at in self.texts]
        for i, (source, program) in enumerate(zip(sources, programs, strict=True)):
            self._matrices[source] = [text[i].copy() for text in texts]
            self._programs[source] = program


@dataclass(frozen=True)
class Exchange:
    """Suggests a head's own front again, and the nearest programs of other heads.

    Attributes:
        before: the head's result of the round before.
        others: sources of the programs of other heads.
        most: how many of them are fitted.
    """

    market: Market
    before: HeadResult
    others: tuple[str, ...]
    most: int = 3
    name: str = "exchange"

    def propose(self, task: HeadTask) -> Iterator[t.Head | Fitted]:
        """Yield them under the name of the head."""
        for row in self.before.front:
            yield task.measured(parse(row.program), row.proposer)
        number = task.layer * task.design.capture.heads_per_layer + task.head
        for program in self.market.nearest(self.others, number, self.most):
            if program.normaliser == "softmax":
                yield dataclasses.replace(program, name=task.name)
