"""The plot of a curve: growth of perplexity on a logarithmic axis against heads replaced, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attn_dsl.eval.replace.outcome import Outcome, Point

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 78, 190, 34, 44
LINE = 14
"""The least distance of two labels, pixels."""
TICKS = tuple(10.0**power for power in range(-3, 5))
FLOOR = 0.001
"""The least growth that is shown: 0.1 %."""
CONTROLS = ("uniform", "first token", "mean by offset", "zero")
STYLE = """
.line{fill:none;stroke-width:1.6}.band{stroke:none;opacity:.16}
.programs,.tuned{stroke-width:2.6}.tuned{stroke-dasharray:7 4}
.s0{stroke:#1452a8;fill:#1452a8}.s1{stroke:#00796b;fill:#00796b}.s2{stroke:#8e44ad;fill:#8e44ad}
.c{stroke:#8a8a8a;fill:#8a8a8a}.line.s0,.line.s1,.line.s2,.line.c{fill:none}
.dot{stroke:none}.grid{stroke:#8886;stroke-width:.6}
text{font:11px system-ui,sans-serif;fill:#444;stroke:none!important}.h{font-size:13px;font-weight:600}
.e{text-anchor:end}.m{text-anchor:middle}
text.s0{fill:#1452a8}text.s1{fill:#00796b}text.s2{fill:#8e44ad}
@media(prefers-color-scheme:dark){text{fill:#ccc}
.s0{stroke:#6eafff;fill:#6eafff}.s1{stroke:#4db6a6;fill:#4db6a6}.s2{stroke:#c792ea;fill:#c792ea}
text.s0{fill:#6eafff}text.s1{fill:#4db6a6}text.s2{fill:#c792ea}.line{fill:none!important}}
""".replace("\n", "")


def draw(outcome: Outcome) -> str:
    """Draw an outcome's points: programs and tuned programs with their bands, controls in grey.

    >>> draw(outcome)[:4]
    '<svg'
    """
    orders = list(dict.fromkeys(point.order for point in outcome.points))
    costs = [p.cost for p in outcome.points if math.isfinite(p.cost)]
    axis = Axis(max(FLOOR, min(costs, default=FLOOR)) * 0.8, max([0.1, *costs]) * 1.3)
    parts = _axes(axis, outcome)
    labels: list[tuple[float, str, str]] = []
    for (order, source), points in _series(outcome.points).items():
        own = source not in CONTROLS
        if not own and order != orders[0]:
            continue
        kind = f"s{orders.index(order) % 3}" if own else "c"
        line = [(axis.x(p.fraction), axis.y(p.cost)) for p in points]
        if own:
            upper = [(axis.x(p.fraction), axis.y(p.effect.ratio.high - 1)) for p in points]
            lower = [(axis.x(p.fraction), axis.y(p.effect.ratio.low - 1)) for p in points]
            parts.append(_shape([*upper, *reversed(lower)], f"band {kind}", closed=True))
        parts.append(_shape(line, f"line {kind} {source}", closed=False))
        parts += [
            f'<circle cx="{px}" cy="{py}" r="{3 if own else 2}" class="dot {kind}"><title>'
            f"{escape(_caption(p))}</title></circle>"
            for (px, py), p in zip(line, points, strict=True)
        ]
        name = "IoU" if order == "iou" else order
        text = source if len(orders) == 1 or not own else f"{source} by {name}"
        labels.append((line[-1][1], f"{text} {percent(points[-1].cost)}", kind))
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


def percent(cost: float) -> str:
    """Write a growth for people.

    >>> percent(0.0213), percent(-0.001), percent(7.04)
    ('+2.1 %', '−0.1 %', '+704 %')
    """
    digits = 1 if abs(cost) < 0.0995 else 0
    return f"{100 * cost:+,.{digits}f} %".replace("-", "\u2212")


def _series(points: Sequence[Point]) -> dict[tuple[str, str], list[Point]]:
    """Group points into lines, each by fraction."""
    series: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        series.setdefault((point.order, point.source), []).append(point)
    return {key: sorted(line, key=lambda p: p.fraction) for key, line in series.items()}


def _axes(axis: Axis, outcome: Outcome) -> list[str]:
    """Draw the title, the grid and its numbers."""
    texts = outcome.original.texts
    parts = [
        f'<text x="{LEFT}" y="18" class="h">Growth of perplexity with heads replaced '
        f"(as it is: {outcome.original.mean:.2f}; {texts} held-out texts)</text>"
    ]
    last = math.inf
    for cost in TICKS:
        at = axis.y(cost)
        if not axis.low <= cost <= axis.high or last - at < 18:
            continue
        last = at
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}" class="grid"/>'
            f'<text x="{LEFT - 8}" y="{at + 4}" class="e">{percent(cost)}</text>'
        )
    parts += [
        f'<text x="{axis.x(fraction)}" y="{HEIGHT - BOTTOM + 18}" class="m">'
        f"{100 * fraction:.0f}{' %' if fraction in (0.0, 1.0) else ''}</text>"
        for fraction in sorted({0.0, *(p.fraction for p in outcome.points)})
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" class="m">share of heads replaced</text>')
    return parts


def _shape(points: Sequence[tuple[float, float]], kind: str, closed: bool) -> str:
    path = " ".join(f"{px},{py}" for px, py in points)
    return f'<{"polygon" if closed else "polyline"} points="{path}" class="{kind}"/>'


def _caption(point: Point) -> str:
    ratio = point.effect.ratio
    return (
        f"{point.source}, {len(point.heads)} heads: {percent(ratio.mean - 1)} "
        f"[{percent(ratio.low - 1)}, {percent(ratio.high - 1)}]"
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
