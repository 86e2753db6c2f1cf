"""The curve: perplexity against the share of heads that are replaced, in some order; its table and plot."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np

from attn_dsl.eval.files import table, write
from attn_dsl.eval.heads import Pair
from attn_dsl.eval.replace.measure import HeldOut, Outcome, Point, effect
from attn_dsl.eval.replace.measurements import Measurements, Tell
from attn_dsl.eval.replace.programs import BASELINES
from attn_dsl.eval.report_text import fill

FRACTIONS = (0.05, 0.10, 0.25, 0.40, 0.50, 0.75, 1.0)
"""Shares of heads that the curve shows; the paper's are 0.25, 0.5, 0.75 and 1."""
ORDERS = ("greedy", "gradient", "damage", "iou")
"""By damage from gradients in stages, the same at once, by the loss of each head alone, and by IoU."""
STAGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
"""Shares of heads that the greedy order has taken after each of its stages."""
LEFT, RIGHT, TOP, BOTTOM = 78, 530, 34, 356
LINE = 14
"""The least distance of two labels, pixels."""
FLOOR = 0.001
"""The least growth that is shown: 0.1 %."""


def order_heads(name: str, measurements: Measurements, select: HeldOut, heads: Sequence[Pair],
                tell: Tell) -> list[Pair]:  # fmt: skip
    """Order heads so that those whose programs cost least come first.

    ``gradient``: by ``HeldOut.damages`` on the select texts. ``greedy``: in stages, each of which takes
    the heads of the least such damage in the model with those replaced that are taken already.
    ``damage``: by what the loss grows on the select texts when the head alone is replaced. ``iou``: by
    the IoU of head and program, highest first (the paper's order).
    """
    if name == "iou":
        return sorted(heads, key=lambda head: (-measurements.model.ious[head], head))
    damages: dict[Pair, float] = {}
    if name in ("gradient", "greedy"):
        stages = STAGES if name == "greedy" else (1.0,)
        total = len(stages) * ((len(select) + 1) // 2) + (len(stages) > 1) * len(select.batches)
        select.watch = steps(f"ordering by {name}", total, tell)
        taken: list[Pair] = []
        for share in stages:
            damages = measurements.damages(select, heads, taken)
            left = sorted({*heads} - {*taken}, key=lambda head: (damages[head], head))
            taken += left[: count_of(share, len(heads)) - len(taken)]
        return taken
    for head in heads:
        tell("ordering by damage", len(damages), len(heads))
        damages[head] = measurements.measure(select, "programs", [head]).loss
    return sorted(heads, key=lambda head: (damages[head], head))


def steps(what: str, total: int, tell: Tell) -> Callable[[], None]:
    """Tell that something begins; return what is called after each of its steps."""
    done = count(1)
    tell(what, 0, total)
    return lambda: tell(what, next(done), total)


def spearman(order: Sequence[Pair], other: Sequence[Pair]) -> float:
    """Return the rank correlation of two orders of the same heads."""
    place = {head: i for i, head in enumerate(other)}
    return float(np.corrcoef(range(len(order)), [place[head] for head in order])[0, 1])


def count_of(fraction: float, heads: int) -> int:
    """Return how many heads a share is, at least one."""
    return max(1, math.floor(fraction * heads + 0.5))


def measure_curve(measurements: Measurements, held_out: HeldOut, orders: Mapping[str, Sequence[Pair]],
                  fractions: Iterable[float], kinds: Sequence[str], seed: int,
                  tell: Tell) -> list[Point]:  # fmt: skip
    """Measure shares of heads, in each of some orders, replaced by programs and by baselines."""
    points: list[Point] = []
    work = list(product(orders, fractions, kinds))
    for order, share, kind in work:
        tell("measuring", len(points), len(work))
        heads = orders[order]
        chosen = tuple(sorted(heads[: count_of(share, len(heads))]))
        sums = measurements.measure(held_out, kind, chosen)
        points.append(Point(order, kind, share, chosen, effect(sums, held_out.original, seed)))
    return points


def save(outcome: Outcome, folder: Path, stem: str) -> list[Path]:
    """Write an outcome as JSON, CSV and, where it is a curve, SVG; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [point.row() for point in outcome.points]
    files = {f"{stem}.csv": table(rows[0], (row.values() for row in rows)),
             f"{stem}.json": json.dumps(asdict(outcome), indent=1) + "\n"}  # fmt: skip
    if len({point.fraction for point in outcome.points}) > 1:
        files[f"{stem}.svg"] = draw(outcome) + "\n"
    for name, content in files.items():
        write(folder / name, content)
    return [folder / name for name in files]


def figure(run: str | Path) -> str | None:
    """Return the plot of a run's curve as SVG, for its report; None where it was not measured."""
    for stem in ("curve-tuned", "curve"):
        file = Path(run) / "replacement" / f"{stem}.svg"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    return None


def draw(outcome: Outcome) -> str:
    """Draw an outcome's points: programs and tuned programs with their bands, baselines in grey."""
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
