"""The library proposer: suggests the known programs that come nearest to a head as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.library import LibraryProgram, library
from attn_dsl.eval.metrics import ious
from attn_dsl.synth.design import Design
from attn_dsl.synth.proposer import HeadTask

PROBES = 24
"""On how many texts of the fit split the library is tried as it is."""


class Probes:
    """The library's matrices on a few texts, made once and compared with every head."""

    def __init__(self, design: Design) -> None:
        visibility: t.Visibility = "causal" if design.causal else "bidirectional"
        self.design = design
        self.programs = list(library(visibility).values())
        plan = Plan([p.program for p in self.programs], design.batch)
        self.texts = range(min(PROBES, len(design.texts)))
        self._ranked: dict[int, list[tuple[LibraryProgram, float]]] = {}
        self.matrices = [plan.packed(at) for at in self.texts]

    def ranked(self, number: int) -> list[tuple[LibraryProgram, float]]:
        """Rank the library by its IoU with a head, best first; of equals, the smaller first."""
        if number not in self._ranked:
            self._ranked[number] = self._rank(number)
        return self._ranked[number]

    def _rank(self, number: int) -> list[tuple[LibraryProgram, float]]:
        design = self.design
        scores = np.mean(
            [
                ious(design.capture.attention(design.texts[at], [number]), self.matrices[at])[0]
                for at in self.texts
            ],
            axis=0,
        )
        sizes = [t.nodes(entry.program) for entry in self.programs]
        order = np.lexsort((sizes, -scores.round(3)))
        return [(self.programs[i], float(scores[i])) for i in order]


@dataclass(frozen=True)
class Library:
    """Suggests the library's programs that fit a head best before their weights are fitted."""

    probes: Probes
    most: int = 10
    name: str = "library"

    def propose(self, task: HeadTask) -> Iterator[t.Head]:
        """Yield the nearest programs, under the name of the head."""
        for entry, _ in self.probes.ranked(task.number)[: self.most]:
            if entry.program.normaliser == "softmax":
                bare = t.Head(
                    task.name, entry.program.visibility, "softmax", sets=entry.program.sets
                )
                terms = tuple(
                    dataclasses.replace(x, remarks=t.NO_REMARKS) for x in entry.program.terms
                )
                yield dataclasses.replace(bare, terms=terms)
