"""Known programs, ranked by how near their attention comes to a head as they are."""

import threading
from collections.abc import Sequence

import numpy as np

from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.eval.metrics import ious
from attn_dsl.synth.design import Design

ENTRIES = 60_000  # on about how many entries of the fit split programs are compared with a head


class NearestPrograms:
    """Programs of the library by their source, each parsed and evaluated once for all heads."""

    def __init__(self, design: Design) -> None:
        self.design = design
        entries = np.cumsum(design.batch.entries(design.causal))
        self.texts = range(1 + int(np.searchsorted(entries[:-1], ENTRIES)))
        self._lock = threading.Lock()
        self._programs: dict[str, t.Head] = {}
        self._matrices: dict[str, list[np.ndarray]] = {}

    def program(self, source: str) -> t.Head:
        """Return the program of a source that was ranked."""
        return self._programs[source]

    def rank(self, number: int, sources: Sequence[str]) -> list[str]:
        """Rank programs by their IoU with a head, best first; of equals, the smaller first.

        Args:
            number: of the head, ``layer * heads_per_layer + head``.
            sources: of programs with the visibility of the head.
        """
        with self._lock:
            self._evaluate([s for s in sources if s not in self._programs])
        if not sources:
            return []
        scores = np.zeros(len(sources))
        for at in self.texts:
            actual = self.design.capture.attention(self.design.texts[at], [number])
            made = np.stack([self._matrices[source][at] for source in sources])
            scores += ious(actual, made)[0] / len(self.texts)
        sizes = np.array([t.nodes(self._programs[source]) for source in sources])
        return [sources[i] for i in np.lexsort((sizes, -scores.round(3)))]

    def _evaluate(self, sources: list[str]) -> None:
        programs = [parse(source) for source in sources]
        if not programs:
            return
        plan = Plan(programs, self.design.batch)
        texts = [plan.packed(at) for at in self.texts]
        for i, (source, program) in enumerate(zip(sources, programs, strict=True)):
            self._matrices[source] = [text[i].copy() for text in texts]
            self._programs[source] = program
