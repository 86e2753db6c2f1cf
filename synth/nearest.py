"""Programs of other heads, ranked by how near their attention comes to a head as they are."""

from __future__ import annotations

import threading

import numpy as np

from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.eval.metrics import ious
from attn_dsl.synth.design import Design

PROBES = 30_000
"""On about how many entries of the fit split other heads' programs are tried as they are."""


class NearestPrograms:
    """Programs of heads, parsed and evaluated once for all heads that may take them over."""

    def __init__(self, design: Design) -> None:
        self.design = design
        entries = np.cumsum(design.batch.entries(design.causal))
        self.texts = range(1 + int(np.searchsorted(entries[:-1], PROBES)))
        self._lock = threading.Lock()
        self._programs: dict[str, t.Head] = {}
        self._matrices: dict[str, list[np.ndarray]] = {}

    def of(self, number: int, sources: tuple[str, ...], most: int) -> list[t.Head]:
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
