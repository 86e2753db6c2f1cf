"""What a fit tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attn_dsl.eval.results import HeadResult


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fit is.

    Attributes:
        stage: ``capture``, ``prepare`` or ``search``.
        done, total: texts or heads.
        result: the head that was just finished, if any.
        number, rounds: the round of the search, and of how many.
    """

    stage: str
    done: int
    total: int
    result: HeadResult | None = None
    number: int = 1
    rounds: int = 1


Watcher = Callable[[Progress], None]
