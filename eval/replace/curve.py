"""The curve: perplexity against the share of heads that are replaced, programs beside baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from attn_dsl.eval.replace.measure import HeldOut, effect
from attn_dsl.eval.replace.measurements import Measurements
from attn_dsl.eval.replace.outcome import Point
from attn_dsl.eval.replace.source import Head

FRACTIONS = (0.05, 0.10, 0.25, 0.40, 0.50, 0.75, 1.0)
"""Shares of heads that the curve shows; the paper's are 0.25, 0.5, 0.75 and 1."""


def count_of(fraction: float, heads: int) -> int:
    """Return how many heads a share is, at least one.

    >>> count_of(0.25, 40), count_of(0.05, 12)
    (10, 1)
    """
    return max(1, math.floor(fraction * heads + 0.5))


def measure_curve(
    measurements: Measurements, held_out: HeldOut, orders: Mapping[str, Sequence[Head]],
    fractions: Iterable[float], kinds: Sequence[str], seed: int, tick: Callable[[int, int], None],
) -> list[Point]:  # fmt: skip
    """Measure shares of heads replaced by programs and by baselines.

    >>> points = measure_curve(measurements, test, {"iou": heads}, [0.25], ["zero"], 0, tick)
    >>> [(point.source, round(point.cost, 3)) for point in points]
    [('zero', 0.39)]

    Args:
        orders: by name, heads in the order in which they are replaced.
        fractions: shares of those heads.
        kinds: what replaces them, as ``Measurements.measure`` knows it.
        seed: decides the resampling.
        tick: called with (points done, points in all).
    """
    work = [
        (order, kind, share, tuple(sorted(heads[: count_of(share, len(heads))])))
        for order, heads in orders.items()
        for share in fractions
        for kind in kinds
    ]
    points: list[Point] = []
    for order, kind, share, chosen in work:
        tick(len(points), len(work))
        sums = measurements.measure(held_out, kind, chosen)
        points.append(Point(order, kind, share, chosen, effect(sums, held_out.original, seed)))
    return points


def figure(run: str | Path) -> str | None:
    """Return the plot of a run's curve as SVG, for its report; None where it was not measured.

    >>> figure("runs/demo")[:4]
    '<svg'
    """
    for stem in ("curve-tuned", "curve"):
        file = Path(run) / "replacement" / f"{stem}.svg"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    return None
