"""The plot of a curve: growth of perplexity on a logarithmic axis against heads replaced, as SVG."""

import math
from collections.abc import Iterable
from typing import Any

from attn_dsl.eval.replace.measure import Outcome, Point
from attn_dsl.eval.replace.programs import BASELINES
from attn_dsl.eval.report_text import fill

LEFT, RIGHT, TOP, BOTTOM = 78, 530, 34, 356
LINE = 14
"""The least distance of two labels, pixels."""
FLOOR = 0.001
"""The least growth that is shown: 0.1 %."""


def draw(outcome: Outcome) -> str:
    """Draw an outcome's points: programs and tuned programs with their bands, baselines in grey.

    >>> draw(outcome)[:4]
    '<svg'
    """
    costs = [p.cost for p in outcome.points if math.isfinite(p.cost)]
    low, high = max(FLOOR, min(costs, default=FLOOR)) * 0.8, max([0.1, *costs]) * 1.3

    def x(fraction: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * fraction, 1)

    def y(cost: float) -> float:
        share = math.log(max(cost, low) / low) / math.log(high / low)
        return round(BOTTOM - (BOTTOM - TOP) * share, 1)

    def path(points: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{x(fraction)},{y(cost)}" for fraction, cost in points)

    lines: list[dict[str, Any]] = []
    for (name, colour, source), points in _series(outcome).items():
        upper = [(p.fraction, p.effect.ratio.high - 1) for p in points]
        lower = [(p.fraction, p.effect.ratio.low - 1) for p in reversed(points)]
        lines.append({"name": name, "colour": colour, "source": source, "cost": points[-1].cost,
                         "path": path((p.fraction, p.cost) for p in points),
                         "band": "" if source in BASELINES else path(upper + lower)})  # fmt: skip
    above = math.inf
    for line in sorted(lines, key=lambda line: y(line["cost"]), reverse=True):
        above = line["y"] = min(y(line["cost"]) + 4, above - LINE)  # no two labels overlap
    shares = sorted({0.0, *(point.fraction for point in outcome.points)})
    ticks = [10.0**power for power in range(-3, 5) if low <= 10.0**power <= high]
    return fill("curve.svg", original=outcome.original, shares=[(share, x(share)) for share in shares],
                ticks=[(cost, y(cost)) for cost in ticks], lines=lines)  # fmt: skip


def _series(outcome: Outcome) -> dict[tuple[str, str, str], list[Point]]:
    """Collect the points of each line, by name, colour and source; baselines of one order only."""
    orders = list(dict.fromkeys(point.order for point in outcome.points))
    found: dict[tuple[str, str, str], list[Point]] = {}
    for point in sorted(outcome.points, key=lambda p: p.fraction):
        key = (point.source, "c", point.source)
        if point.source not in BASELINES:
            name = f"{point.source} by {point.order}" if len(orders) > 1 else point.source
            key = (name, f"s{orders.index(point.order) % 3}", point.source)
        elif point.order != orders[0]:
            continue
        found.setdefault(key, []).append(point)
    return found
