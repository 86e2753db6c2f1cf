"""A head of a run: its program, front, metrics, and what its program says, shown in notebooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.english import explain
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.metrics import Estimate, decimal
from attn_dsl.eval.notebook import Table, program_html
from attn_dsl.eval.pictures import Picture
from attn_dsl.eval.results import HeadResult


@dataclass(frozen=True, eq=False, repr=False)
class RunHead:
    """One head of a run. The figures of its ``HeadResult`` are attributes too, such as ``category``."""

    result: HeadResult
    seed: int  # which decided the split of the texts
    load: Callable[[], Program]
    open_capture: Callable[[], Capture]

    @cached_property
    def program(self) -> Program:
        """The program in its file: the one that was chosen, or what it was changed to by hand."""
        return self.load()

    @property
    def front(self) -> Table:
        """The Pareto front of nodes against score, the smallest program first."""
        return Table(self.result.front)

    @property
    def metrics(self) -> dict[str, Estimate]:
        """By metric (``iou``, ``output_r2`` and others), the mean over test texts with its interval."""
        return self.result.test

    @property
    def worths(self) -> Table:
        """What each simple term of the chosen program is worth; empty if that was not measured."""
        return Table(self.result.terms)

    @property
    def explanation(self) -> str:
        """The program in plain English, what is worth most first."""
        return explain(self.program.tree, self.shares_of_terms)

    @property
    def shares_of_terms(self) -> list[float]:
        """The share of each simple term; none where the program was changed by hand."""
        count = sum(len(t.parts_of(term)) for term in self.program.tree.terms)
        return [x.share for x in self.result.terms] if count == len(self.result.terms) else []

    def plot(self, text: str | int | None = None) -> Picture:
        """Draw the head's attention and its program's on a text, the first test text by default.

        See ``Program.plot``; an InputError if the run's capture or model is gone.
        """
        capture = self.open_capture()
        number = capture.split(self.seed)["test"][0] if text is None else text
        return self.program.plot(number, capture, (self.result.layer, self.result.head))

    def __getattr__(self, name: str) -> Any:
        if name == "result":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self.result, name)

    def __dir__(self) -> Iterable[str]:
        return sorted({*super().__dir__(), *(x for x in dir(self.result) if x[0] != "_")})

    def __repr__(self) -> str:
        iou, r2 = (decimal(self.metrics[name].mean) for name in ("iou", "output_r2"))
        return f"<Head {self.name}: IoU {iou}, output R² {r2}, {self.nodes} nodes, {self.category}>"

    def _repr_html_(self) -> str:
        from markupsafe import escape

        shown = program_html(self.program.tree, repr(self), self.shares_of_terms)
        return f"{shown}<p>{escape(self.explanation)}</p>"
