"""The plot of a curve: growth of perplexity on a logarithmic axis against heads replaced, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from attn_dsl.eval.metrics import Estimate
from attn_dsl.eval.replace.baselines import BASELINES
from attn_dsl.eval.replace.outcome import Outcome, Point

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 78, 190, 34, 44
LINE = 14
"""The least distance of two labels, pixels."""
FLOOR = 0.001
"""The least growth that is shown: 0.1 %."""
STYLE = """
.line{fill:none;stroke:currentColor;stroke-width:1.6}.programs,.tuned{stroke-width:2.6}
.tuned{stroke-dasharray:7 4}.band{fill:currentColor;opacity:.16}.dot{fill:currentColor}
text{font:11px system-ui,sans-serif;fill:currentColor}.h{font-size:13px;font-weight:600}
.grid{stroke:#8886;stroke-width:.6}.t{color:#444}.e{text-anchor:end}.m{text-anchor:middle}
.s0{color:#1452a8}.s1{color:#00796b}.s2{color:#8e44ad}.c{color:#8a8a8a}
@media(prefers-color-scheme:dark){.t{color:#ccc}
.s0{color:#6eafff}.s1{color:#4db6a6}.s2{color:#c792ea}}
""".replace("\n", "")


def draw(outcome: Outcome) -> str:
    """Draw an outcome's points: programs and tuned programs with their bands, baselines in grey.

    >>> draw(outcome)[:4]
    '<svg'
    """
    orders = list(dict.fromkeys(point.order for point in outcome.points))
    costs = [p.cost for p in outcome.points if math.isfinite(p.cost)]
    axis = Axis(max(FLOOR, min(costs, default=FLOOR)) * 0.8, max([0.1, *costs]) * 1.3)
    series: dict[tuple[str, str], list[Point]] = {}
    for point in sorted(outcome.points, key=lambda p: p.fraction):
        if point.order == orders[0] or point.source not in BASELINES:
            series.setdefault((point.order, point.source), []).append(point)
    parts = _axes(axis, outcome.original, sorted({0.0, *(p.fraction for p in outcome.points)}))
    labels: list[tuple[float, str, str]] = []
    for (order, source), points in series.items():
        own = source not in BASELINES
        kind = f"s{orders.index(order) % 3}" if own else "c"
        if own:
            upper = [(p.fraction, p.effect.ratio.high - 1) for p in points]
            lower = [(p.fraction, p.effect.ratio.low - 1) for p in reversed(points)]
            parts.append(f'<polygon points="{axis.path(upper + lower)}" class="band {kind}"/>')
        path = axis.path([(p.fraction, p.cost) for p in points])
        parts.append(f'<polyline points="{path}" class="line {kind} {source}"/>')
        parts += [_dot(axis, p, kind, 3 if own else 2) for p in points]
        name = source
        if own and len(orders) > 1:
            name += f" by {'IoU' if order == 'iou' else order}"
        last = points[-1].cost
        labels.append((axis.y(last), f"{name} {percent(last)}", kind))
    parts += _labels(labels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-label="Growth of perplexity against heads replaced">'
        f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>"
    )


@dataclass(frozen=True, slots=True)
class Axis:
    """Places shares of heads from left to right, growths of perplexity by their logarithm.

    Attributes:
        low, high: the growths at the bottom and at the top; what is less lies at the bottom.
    """

    low: float
    high: float

    def x(self, fraction: float) -> float:
        """Place a share of heads."""
        return round(LEFT + (WIDTH - LEFT - RIGHT) * fraction, 1)

    def y(self, cost: float) -> float:
        """Place a growth."""
        share = math.log(max(cost, self.low) / self.low) / math.log(self.high / self.low)
        return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share, 1)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        """Write points (share, growth) as SVG does."""
        return " ".join(f"{self.x(fraction)},{self.y(cost)}" for fraction, cost in points)


def percent(cost: float) -> str:
    """Write a growth for people.

    >>> percent(0.0213), percent(-0.001), percent(7.04)
    ('+2.1 %', '−0.1 %', '+704 %')
    """
    digits = 1 if abs(cost) < 0.0995 else 0
    return f"{100 * cost:+,.{digits}f} %".replace("-", "\u2212")


def _axes(axis: Axis, original: Estimate, fractions: Sequence[float]) -> list[str]:
    """Draw the title, the grid and its numbers."""
    parts = [
        f'<text x="{LEFT}" y="18" class="t h">Growth of perplexity with heads replaced '
        f"(as it is: {original.mean:.2f}; {original.texts} held-out texts)</text>",
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" class="t m">'
        "share of heads replaced</text>",
    ]
    for cost in (10.0**power for power in range(-3, 5)):
        if axis.low <= cost <= axis.high:
            at = axis.y(cost)
            parts.append(
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}" class="grid"/>'
                f'<text x="{LEFT - 8}" y="{at + 4}" class="t e">{percent(cost)}</text>'
            )
    for fraction in fractions:
        unit = " %" if fraction in (0.0, 1.0) else ""
        parts.append(
            f'<text x="{axis.x(fraction)}" y="{HEIGHT - BOTTOM + 18}" class="t m">'
            f"{100 * fraction:.0f}{unit}</text>"
        )
    return parts


def _dot(axis: Axis, point: Point, kind: str, radius: int) -> str:
    """Draw a point that tells its figures."""
    mean, low, high = (
        percent(value - 1)
        for value in (point.effect.ratio.mean, point.effect.ratio.low, point.effect.ratio.high)
    )
    caption = f"{point.source}, {len(point.heads)} heads: {mean} [{low}, {high}]"
    return (
        f'<circle cx="{axis.x(point.fraction)}" cy="{axis.y(point.cost)}" r="{radius}" '
        f'class="dot {kind}"><title>{escape(caption)}</title></circle>'
    )


def _labels(labels: Sequence[tuple[float, str, str]]) -> list[str]:
    """Write each line's name at its end, moved up where two would overlap."""
    placed: list[str] = []
    above = math.inf
    for at, text, kind in sorted(labels, reverse=True):
        above = min(at + 4, above - LINE)
        place = f'x="{WIDTH - RIGHT + 8}" y="{above:.1f}"'
        placed.append(f'<text {place} class="{kind}">{escape(text)}</text>')
    return placed
