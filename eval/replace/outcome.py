"""Outcomes: the points that a replacement measured, and the files that hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attn_dsl.eval.metrics import Estimate
from attn_dsl.eval.replace.measure import Effect
from attn_dsl.eval.replace.source import Head


@dataclass(frozen=True, slots=True)
class Point:
    """One point: some heads replaced by programs or by a baseline.

    Attributes:
        order: the order in which heads are taken, ``by hand`` where they were named.
        source: ``programs``, ``tuned``, or a baseline.
        fraction: the share of the model's heads.
        heads: which ones.
    """

    order: str
    source: str
    fraction: float
    heads: tuple[Head, ...]
    effect: Effect

    @property
    def cost(self) -> float:
        """By how much perplexity grows, as a fraction: 0.02 is 2 % more."""
        return self.effect.ratio.mean - 1.0

    def row(self) -> dict[str, Any]:
        """Return the point as a line of the CSV file, by column."""
        row: dict[str, Any] = {"order": self.order, "source": self.source}
        row |= {"fraction": self.fraction, "heads": len(self.heads)}
        for name in ("perplexity", "ratio", "kl", "top1"):
            found = getattr(self.effect, name)
            row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
        return row | {"texts": self.effect.perplexity.texts, "tokens": self.effect.tokens}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a replacement measured, as it is kept on disk.

    Attributes:
        settings: all that decides the figures; equal settings give equal figures.
        original: the perplexity of the model as it is.
        points: by order, fraction and source.
        notes: what a reader must know.
        extra: results of tuning and of tasks, where there are any.
    """

    settings: Mapping[str, Any]
    original: Estimate
    tokens: int
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
