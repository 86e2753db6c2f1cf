"""The session: what decides a search, and what the searches of all heads of a capture share."""

import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.definitions import in_folder
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.run import VOCABULARY
from attn_dsl.eval.split import Split
from attn_dsl.synth.design import Design
from attn_dsl.synth.llm.options import Options
from attn_dsl.synth.objective import OBJECTIVES

SELECT_ENTRIES = 30_000
"""On about how many entries of the select split the worth of terms is measured."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the outcome of a search, given a capture."""

    # names in ``proposers.registry``, in the order in which they are asked
    proposers: tuple[str, ...]
    objective: str = "attention"  # what programs are scored by (``objective.OBJECTIVES``)
    seed: int = 0  # decides the split, the sampled rows and everything random
    max_evals: int = 1600  # how many programs are fitted to a head at the most
    max_nodes: int = 200  # the largest program
    effort: int = 1  # on how many samples of the fit split programs are searched
    entries: int = 150_000  # about how many entries of attention a sample has
    front: int = 32  # how many programs of a head's front are polished and scored
    allow_lookahead: bool = False  # accept causal programs that read the whole text
    programs: tuple[str, ...] = ()  # the sources of those from which the search starts
    # how the proposer ``llm`` asks its language model
    llm: Options = field(default_factory=Options)


class Session:
    """Everything that the searches of a capture's heads share, made when it is first needed.

    ``run`` is the directory in which prompts and completions are kept; None keeps none. ``sample`` is the
    number of the sample of rows.
    """

    settings: Settings
    run: Path | None

    def __init__(self, capture: Capture, settings: Settings, run: Path | None = None,
                 sample: int = 0) -> None:  # fmt: skip
        self.capture, self.settings, self.run, self.sample = capture, settings, run, sample
        self.texts = capture.split(settings.seed)
        self.stop = threading.Event()

    @cached_property
    def design(self) -> Design:
        """The rows that programs are fitted on."""
        settings = self.settings
        return Design(self.capture, self.texts["fit"], settings.entries, (settings.seed, self.sample),
                      OBJECTIVES[settings.objective])  # fmt: skip

    def samples(self) -> list[Self]:
        """Return the session of each sample of rows, this one first; alone where it has all rows."""
        count = 1 if self.design.whole else self.settings.effort
        return [self, *(type(self)(self.capture, self.settings, self.run, i) for i in range(1, count))]

    @cached_property
    def definitions(self) -> t.Definitions | None:
        """The shared scores of the run; None where it has none."""
        there = self.run is not None and (self.run / VOCABULARY).exists()
        return self.resolve(VOCABULARY) if there else None

    def resolve(self, name: str) -> t.Definitions:
        """Return the definitions of a file that a program of the run uses."""
        return in_folder(self.run or Path())(name)

    @cached_property
    def worth_design(self) -> Design:
        """The rows of the select split that the worth of terms is measured on."""
        objective = OBJECTIVES[self.settings.objective]
        return Design(self.capture, self.texts["select"], SELECT_ENTRIES, self.settings.seed, objective)

    @cached_property
    def select(self) -> Split:
        """The texts that programs are picked on."""
        return Split(self.capture, self.texts["select"])

    @cached_property
    def test(self) -> Split:
        """The texts that every shown number comes from."""
        return Split(self.capture, self.texts["test"])
