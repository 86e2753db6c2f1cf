"""The curve: perplexity against the share of heads that are replaced, programs beside controls."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.files import write
from attn_dsl.eval.metrics import Estimate
from attn_dsl.eval.replace.measure import Effect, effect, ratio_of_sums
from attn_dsl.eval.replace.source import Head

if TYPE_CHECKING:
    from attn_dsl.eval.replace.measure import HeldOut
    from attn_dsl.eval.replace.stand_ins import StandIns

FRACTIONS = (0.05, 0.10, 0.25, 0.40, 0.50, 0.75, 1.0)
"""Shares of heads that the curve shows; the paper's are 0.25, 0.5, 0.75 and 1."""
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


def count_of(fraction: float, heads: int) -> int:
    """Return how many heads a share is, at least one.

    >>> count_of(0.25, 40), count_of(0.05, 12)
    (10, 1)
    """
    return max(1, math.floor(fraction * heads + 0.5))


def measure_curve(
    stand_ins: StandIns, held_out: HeldOut, orders: Mapping[str, Sequence[Head]],
    fractions: Iterable[float], kinds: Sequence[str], seed: int,
    tick: Callable[[int, int], None] | None = None,
) -> list[Point]:  # fmt: skip
    """Measure shares of heads replaced by each kind of stand-in.

    >>> points = measure_curve(stand_ins, test, {"iou": heads}, [0.25], ["programs", "zero"], 0)
    >>> [(point.source, round(point.cost, 3)) for point in points]
    [('programs', 0.021), ('zero', 0.39)]

    Args:
        orders: by name, heads in the order in which they are replaced.
        fractions: shares of those heads.
        kinds: stand-ins, as ``StandIns.measure`` knows them.
        seed: decides the resampling.
        tick: called with (points done, points in all).
    """
    shares = list(fractions)
    total = len(orders) * len(shares) * len(kinds)
    points: list[Point] = []
    for order, heads in orders.items():
        for share in shares:
            chosen = sorted(heads[: count_of(share, len(heads))])
            for kind in kinds:
                if tick is not None:
                    tick(len(points), total)
                sums = stand_ins.measure(held_out, kind, chosen)
                found = effect(sums, held_out.original, seed)
                points.append(Point(order, kind, share, tuple(chosen), found))
    return points


def original_perplexity(held_out: HeldOut, seed: int) -> Estimate:
    """Return the perplexity of the model as it is, with its interval over texts."""
    import numpy as np

    return ratio_of_sums(held_out.original.nll, held_out.original.tokens, seed, np.exp)


def refuse_other_results(file: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Refuse to replace finished results of other settings; to be asked before any work.

    Raises:
        InputError: the file holds such results, and nobody said that they may go.
    """
    if overwrite or not file.exists():
        return
    known = load(file).settings
    wrong = [
        f"{name}: {_short(known.get(name))} there, {_short(settings.get(name))} now"
        for name in sorted({*known, *settings})
        if known.get(name) != settings.get(name)
    ]
    if wrong:
        raise InputError(
            f"{file} holds results of other settings ({'; '.join(wrong)}); keep them by another "
            "--out DIR, or replace them by --overwrite"
        )


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def save(outcome: Outcome, folder: Path, stem: str) -> list[Path]:
    """Write an outcome as JSON, CSV and, where it is a curve, SVG; return the files."""
    from attn_dsl.eval.replace.plot import draw
    from attn_dsl.synth.runs.run import table

    folder.mkdir(parents=True, exist_ok=True)
    files = {
        f"{stem}.csv": table(COLUMNS, (point.row() for point in outcome.points)),
        f"{stem}.json": json.dumps(outcome.to_json(), indent=1) + "\n",
    }
    if len({point.fraction for point in outcome.points}) > 1:
        files[f"{stem}.svg"] = draw(outcome) + "\n"
    for name, content in files.items():
        write(folder / name, content)
    return [folder / name for name in files]


def load(file: Path) -> Outcome:
    """Read the JSON file of an outcome.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return Outcome.from_json(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: damaged ({error}); delete it and run `attn-dsl replace` again"
        ) from None


def figure(run: str | Path) -> str | None:
    """Return the plot of a run's curve as SVG, for its report; None where it was not measured.

    >>> figure("runs/demo")[:4]
    '<svg'
    """
    from attn_dsl.eval.replace.plot import draw

    for stem in ("curve-tuned", "curve"):
        file = Path(run) / "replacement" / f"{stem}.json"
        if file.is_file():
            return draw(load(file))
    return None
