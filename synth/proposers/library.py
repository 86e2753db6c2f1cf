"""The library proposer: suggests the programs of the library that come nearest to a head.

Programs with measured weights are left out: many have the same terms, and weights are fitted anyway.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.library import LibraryProgram
from attn_dsl.synth.nearest import NearestPrograms
from attn_dsl.synth.proposer import HeadTask
from attn_dsl.synth.rewrite import bare


@dataclass(frozen=True)
class Library:
    """Suggests programs of the library, so that their weights are fitted."""

    nearest: NearestPrograms  # ranks them as they are
    programs: Sequence[LibraryProgram]  # the library
    most: int = 10  # how many are suggested
    name: str = "library"

    def propose(self, task: HeadTask) -> Iterator[t.Head]:
        """Yield the nearest programs, under the name of the head."""
        sources = [entry.source for entry in self.programs if not entry.measured]
        for source in self.nearest.rank(task.number, sources)[: self.most]:
            program = self.nearest.program(source)
            if program.normaliser == "softmax":
                terms = tuple(map(bare, program.terms))
                functions = program.functions
                yield dataclasses.replace(task.empty(), sets=program.sets, functions=functions,
                                          terms=terms)  # fmt: skip
