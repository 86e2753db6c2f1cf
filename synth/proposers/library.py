"""The library proposer: suggests the programs of the library that come nearest to a head.

Programs with measured weights are left out: many have the same terms, and weights are fitted anyway.
"""

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl import tree as t
from attn_dsl.eval.metrics import ious
from attn_dsl.synth.design import Design
from attn_dsl.synth.proposer import HeadTask
from attn_dsl.synth.rewrite import bare

ENTRIES = 60_000  # on about how many entries of the fit split programs are compared with a head


class Library:
    """Suggests programs of the library, so that their weights are fitted."""

    name = "library"

    def __init__(self, design: Design, programs: Sequence[t.Head], most: int = 10) -> None:
        self.design, self.programs, self.most = design, tuple(programs), most
        self._lock = threading.Lock()

    def propose(self, task: HeadTask) -> Iterator[t.Head]:
        """Yield the nearest programs, under the name of the head."""
        for program in self.nearest(task.number)[: self.most]:
            if program.normaliser == "softmax":
                yield dataclasses.replace(task.empty(), sets=program.sets, functions=program.functions,
                                          terms=tuple(map(bare, program.terms)))  # fmt: skip

    def nearest(self, number: int) -> list[t.Head]:
        """Rank the programs, as they are, by their IoU with a head; of equals, the smaller first."""
        with self._lock:
            matrices = self._matrices
        scores = np.zeros(len(self.programs))
        for text, predicted in zip(self.design.texts, matrices, strict=False):
            actual = self.design.capture.attention(text, [number])
            scores += ious(actual, predicted)[0] / len(matrices)
        sizes = np.array([t.nodes(program) for program in self.programs])
        return [self.programs[i] for i in np.lexsort((sizes, -scores.round(3)))]

    @cached_property
    def _matrices(self) -> list[np.ndarray]:
        """The attention of all programs on the first texts, float32 (programs, entries) each."""
        entries = np.cumsum(self.design.batch.entries(self.design.causal))
        plan = Plan(self.programs, self.design.batch)
        return [plan.packed(at) for at in range(1 + int(np.searchsorted(entries[:-1], ENTRIES)))]
