"""Outcomes: the points that a replacement measured, and the files that hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attn_dsl.dsl.errors import InputError
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

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON data."""
        return asdict(self)


def holds_results_of(
    file: Path, settings: Mapping[str, Any], overwrite: bool, name: str = "settings"
) -> bool:
    """Say whether a file holds results of these settings; to be asked before any work.

    Args:
        file: JSON that holds the settings of its results in the field ``name``.

    Raises:
        InputError: it holds other results, and ``overwrite`` does not allow to replace them.
    """
    if not file.exists():
        return False
    try:
        known = dict(json.loads(file.read_text(encoding="utf-8"))[name])
    except (ValueError, KeyError, TypeError):
        known = {"file": "damaged"}
    wrong = [
        f"{key}: {known.get(key)!s:.40} there, {settings.get(key)!s:.40} now"
        for key in sorted({*known, *settings})
        if known.get(key) != settings.get(key)
    ]
    if wrong and not overwrite:
        raise InputError(
            f"{file} holds results of other settings ({'; '.join(wrong)}); keep them by another "
            "--out DIR, or replace them by --overwrite"
        )
    return not wrong
