"""The curve: perplexity against the share of heads that are replaced, programs beside controls."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.files import write
from attn_dsl.eval.metrics import Estimate
from attn_dsl.eval.replace.measure import effect, ratio_of_sums
from attn_dsl.eval.replace.outcome import COLUMNS, Outcome, Point
from attn_dsl.eval.replace.plot import draw
from attn_dsl.eval.replace.source import Head

if TYPE_CHECKING:
    from attn_dsl.eval.replace.measure import HeldOut
    from attn_dsl.eval.replace.stand_ins import StandIns

FRACTIONS = (0.05, 0.10, 0.25, 0.40, 0.50, 0.75, 1.0)
"""Shares of heads that the curve shows; the paper's are 0.25, 0.5, 0.75 and 1."""


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
    from attn_dsl.eval.files import table

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
    for stem in ("curve-tuned", "curve"):
        file = Path(run) / "replacement" / f"{stem}.json"
        if file.is_file():
            return draw(load(file))
    return None
