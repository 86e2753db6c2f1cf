"""What a fit tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attn_dsl.eval.notebook import notebook_progress

if TYPE_CHECKING:
    from attn_dsl.eval.results import HeadResult


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fit is."""

    stage: str  # one of ``STAGES``
    done: int  # texts, passes or heads
    total: int
    result: HeadResult | None = None  # the head that was just finished, if any
    left: float | None = None  # seconds that are left of a limited time


Watcher = Callable[[Progress], None]
STAGES = {"capture": "reading attention", "prepare": "preparing", "scores": "finding shared scores",
          "search": "searching heads", "write": "asking the model",
          "hypotheses": "testing hypotheses"}  # fmt: skip
"""What is said of each stage."""


def watcher_here() -> Watcher:
    """Return a watcher that shows a bar in a notebook, and nothing elsewhere."""
    shown = notebook_progress()
    return lambda x: shown(STAGES[x.stage], x.done, x.total) if shown else None
