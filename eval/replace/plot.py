"""The plot of a curve: growth of perplexity on a logarithmic axis against heads replaced, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

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
    low, high = max(FLOOR, min(costs, default=FLOOR)) * 0.8, max([0.1, *costs]) * 1.3

    def y(cost: float) -> float:
        share = math.log(max(cost, low) / low) / math.log(high / low)
        return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share, 1)

    def path(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{_x(fraction)},{y(cost)}" for fraction, cost in points)

    parts = _axis_of_shares(outcome)
    for cost in (10.0**power for power in range(-3, 5)):
        if low <= cost <= high:
            ends = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(cost)}" y2="{y(cost)}"'
            parts.append(f'<line {ends} class="grid"/>')
            parts.append(_text(LEFT - 8, y(cost) + 4, percent(cost), "t e"))
    series: dict[tuple[str, str], list[Point]] = {}
    for point in sorted(outcome.points, key=lambda p: p.fraction):
        if point.order == orders[0] or point.source not in BASELINES:
            series.setdefault((point.order, point.source), []).append(point)
    labels: list[tuple[float, str, str]] = []
    for (order, source), points in series.items():
        own = source not in BASELINES
        kind = f"s{orders.index(order) % 3}" if own else "c"
        if own:
            upper = [(p.fraction, p.effect.ratio.high - 1) for p in points]
            lower = [(p.fraction, p.effect.ratio.low - 1) for p in reversed(points)]
            parts.append(f'<polygon points="{path(upper + lower)}" class="band {kind}"/>')
        line = path([(p.fraction, p.cost) for p in points])
        parts.append(f'<polyline points="{line}" class="line {kind} {source}"/>')
        parts += [
            f'<circle cx="{_x(p.fraction)}" cy="{y(p.cost)}" r="{3 if own else 2}" '
            f'class="dot {kind}"><title>{escape(_caption(p))}</title></circle>'
            for p in points
        ]
        name = f"{source} by {order}" if own and len(orders) > 1 else source
        last = points[-1].cost
        labels.append((y(last) + 4, f"{name} {percent(last)}", kind))
    above = math.inf
    for at, text, kind in sorted(labels, reverse=True):  # moved up where two would overlap
        above = min(at, above - LINE)
        parts.append(_text(WIDTH - RIGHT + 8, above, text, kind))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-label="Growth of perplexity against heads replaced">'
        f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>"
    )


def percent(cost: float) -> str:
    """Write a growth for people.

    >>> percent(0.0213), percent(-0.001), percent(7.04)
    ('+2.1 %', '−0.1 %', '+704 %')
    """
    digits = 1 if abs(cost) < 0.0995 else 0
    return f"{100 * cost:+,.{digits}f} %".replace("-", "\u2212")


def _x(fraction: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * fraction, 1)


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'


def _axis_of_shares(outcome: Outcome) -> list[str]:
    """Write the title, and the shares of heads below."""
    known = f"as it is: {outcome.original.mean:.2f}; {outcome.original.texts} held-out texts"
    shares = sorted({0.0, *(point.fraction for point in outcome.points)})
    return [
        _text(LEFT, 18, f"Growth of perplexity with heads replaced ({known})", "t h"),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "share of heads replaced, %", "t m"),
        *(_text(_x(s), HEIGHT - BOTTOM + 18, f"{100 * s:.0f}", "t m") for s in shares),
    ]


def _caption(point: Point) -> str:
    ratio = point.effect.ratio
    mean, low, high = (percent(value - 1) for value in (ratio.mean, ratio.low, ratio.high))
    return f"{point.source}, {len(point.heads)} heads: {mean} [{low}, {high}]"
