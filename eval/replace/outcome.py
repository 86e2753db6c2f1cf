"""Outcomes: the points that a replacement measured, as they are kept on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attn_dsl.eval.metrics import Estimate
from attn_dsl.eval.replace.measure import Effect
from attn_dsl.eval.replace.source import Head

MEASURES = ("perplexity", "ratio", "kl", "top1")
COLUMNS = (
    "order", "source", "fraction", "heads",
    *(f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")), "texts", "tokens",
)  # fmt: skip
"""Columns of the CSV file; ``source`` is what stands in the place of the heads."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point: some heads replaced by one kind of stand-in.

    Attributes:
        order: the order in which heads are taken, ``by hand`` where they were named.
        source: ``programs``, ``tuned``, or a control.
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

    def to_json(self) -> dict[str, Any]:
        """Return the point as JSON data."""
        found = dataclasses.asdict(self)
        return {**found, "heads": [list(head) for head in self.heads]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Point:
        """Read what ``to_json`` gave."""
        measured = data["effect"]
        estimates = {name: Estimate(**measured[name]) for name in MEASURES}
        return cls(
            data["order"], data["source"], data["fraction"],
            tuple((layer, head) for layer, head in data["heads"]),
            Effect(**estimates, tokens=measured["tokens"]),
        )  # fmt: skip

    def row(self) -> tuple[Any, ...]:
        """Return the point as a line of the CSV file."""
        estimates = (getattr(self.effect, name) for name in MEASURES)
        numbers = [x for e in estimates for x in (e.mean, e.low, e.high)]
        texts = self.effect.perplexity.texts
        return (
            self.order, self.source, self.fraction, len(self.heads), *numbers, texts,
            self.effect.tokens,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a replacement measured, as it is kept on disk.

    Attributes:
        settings: all that decides the figures; equal settings give equal figures.
        original: the perplexity of the model as it is.
        points: by order, fraction and stand-in.
        notes: what a reader must know.
        extra: results of tuning and of tasks, where there are any.
    """

    settings: Mapping[str, Any]
    original: Estimate
    tokens: int
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON data."""
        return {
            "settings": dict(self.settings),
            "original": dataclasses.asdict(self.original),
            "tokens": self.tokens,
            "points": [point.to_json() for point in self.points],
            "notes": list(self.notes),
            "extra": dict(self.extra),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Outcome:
        """Read what ``to_json`` gave."""
        return cls(
            data["settings"], Estimate(**data["original"]), data["tokens"],
            tuple(map(Point.from_json, data["points"])), tuple(data["notes"]), data["extra"],
        )  # fmt: skip
