"""The plot of a curve: growth of perplexity on a logarithmic axis against heads replaced, as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

from attn_dsl.eval.replace.measure import Outcome, Point
from attn_dsl.eval.replace.programs import BASELINES

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 78, 530, 34, 356
LINE = 14
"""The least distance of two labels, pixels."""
FLOOR = 0.001
"""The least growth that is shown: 0.1 %."""
STYLE = """
.line{fill:none;stroke:currentColor;stroke-width:1.6}.programs,.tuned{stroke-width:2.6}
.tuned{stroke-dasharray:7 4}.band{fill:currentColor;opacity:.16}
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
    costs = [p.cost for p in outcome.points if math.isfinite(p.cost)]
    low, high = max(FLOOR, min(costs, default=FLOOR)) * 0.8, max([0.1, *costs]) * 1.3

    def y(cost: float) -> float:
        share = math.log(max(cost, low) / low) / math.log(high / low)
        return round(BOTTOM - (BOTTOM - TOP) * share, 1)

    def path(points: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{_x(fraction)},{y(cost)}" for fraction, cost in points)

    known = f"as it is: {outcome.original.mean:.2f}; {outcome.original.texts} held-out texts"
    parts = [_text(LEFT, 18, f"Growth of perplexity with heads replaced ({known})", "t h")]
    parts.append(_text((LEFT + RIGHT) / 2, HEIGHT - 8, "share of heads replaced, %", "t m"))
    shares = sorted({0.0, *(point.fraction for point in outcome.points)})
    parts += [_text(_x(share), BOTTOM + 18, f"{100 * share:.0f}", "t m") for share in shares]
    for cost in (10.0**power for power in range(-3, 5)):
        if low <= cost <= high:
            ends = f'x1="{LEFT}" x2="{RIGHT}" y1="{y(cost)}" y2="{y(cost)}"'
            parts.append(f'<line {ends} class="grid"/>')
            parts.append(_text(LEFT - 8, y(cost) + 4, percent(cost), "t e"))
    labels: list[tuple[float, str, str]] = []
    for (name, kind, source), points in _series(outcome).items():
        if source not in BASELINES:
            upper = [(p.fraction, p.effect.ratio.high - 1) for p in points]
            lower = [(p.fraction, p.effect.ratio.low - 1) for p in reversed(points)]
            parts.append(f'<polygon points="{path(upper + lower)}" class="band {kind}"/>')
        line = path((p.fraction, p.cost) for p in points)
        parts.append(f'<polyline points="{line}" class="line {kind} {source}"/>')
        last = points[-1].cost
        labels.append((y(last) + 4, f"{name} {percent(last)}", kind))
    above = math.inf
    for at, text, kind in sorted(labels, reverse=True):  # moved up where two would overlap
        above = min(at, above - LINE)
        parts.append(_text(RIGHT + 8, above, text, kind))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-label="Growth of perplexity against heads replaced">'
        f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>"
    )


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


def percent(cost: float) -> str:
    """Write a growth for people.

    >>> percent(0.0213), percent(-0.001), percent(7.04)
    ('+2.1 %', '−0.1 %', '+704 %')
    """
    digits = 1 if abs(cost) < 0.0995 else 0
    return f"{100 * cost:+,.{digits}f} %".replace("-", "\u2212")


def _x(fraction: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * fraction, 1)


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'
