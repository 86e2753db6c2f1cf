"""Migration: in later rounds, the programs of other heads that come nearest to a head are fitted to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from attn_dsl.dsl import tree as t
from attn_dsl.synth.nearest import NearestPrograms
from attn_dsl.synth.proposer import HeadTask


@dataclass(frozen=True)
class Migration:
    """Suggests programs that other heads ended the round before with."""

    nearest: NearestPrograms  # ranks them
    most: int = 3  # how many are fitted
    name: str = "migration"

    def propose(self, task: HeadTask) -> Iterator[t.Head]:
        """Yield the nearest programs under the name of the head."""
        nearest = self.nearest
        for source in nearest.rank(task.number, task.others)[: self.most]:
            program = nearest.program(source)
            if program.normaliser == "softmax":
                yield dataclasses.replace(program, name=task.name)
