"""What a fit tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attn_dsl.eval.results import HeadResult


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fit is."""

    stage: str  # ``capture``, ``prepare``, ``scores`` or ``search``
    done: int  # texts, passes or heads
    total: int
    result: HeadResult | None = None  # the head that was just finished, if any


Watcher = Callable[[Progress], None]
