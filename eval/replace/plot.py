"""The plot of a curve: perplexity against heads replaced, on a logarithmic axis, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attn_dsl.eval.replace.curve import Outcome, Point

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 34, 44
LINE = 14
"""The least distance of two labels, pixels."""
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
CONTROLS = ("uniform", "first token", "mean by offset", "zero")
STYLE = """
.line{fill:none;stroke-width:1.6}.band{stroke:none;opacity:.16}
.programs,.tuned{stroke-width:2.6}.tuned{stroke-dasharray:7 4}
.s0{stroke:#1452a8;fill:#1452a8}.s1{stroke:#00796b;fill:#00796b}.s2{stroke:#8e44ad;fill:#8e44ad}
.c{stroke:#8a8a8a;fill:#8a8a8a}.line.s0,.line.s1,.line.s2,.line.c{fill:none}
.dot{stroke:none}.grid{stroke:#8886;stroke-width:.6}
text{font:11px system-ui,sans-serif;fill:#444;stroke:none}.h{font-size:13px;font-weight:600}
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
    series = _series(outcome.points)
    values = [p.effect.ratio.mean for p in outcome.points if math.isfinite(p.effect.ratio.mean)]
    top = max([1.1, *values]) * 1.08
    low = min(1.0, *values, 1.0)

    def x(fraction: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * fraction, 1)

    def y(ratio: float) -> float:
        share = (math.log(min(max(ratio, low), top)) - math.log(low)) / math.log(top / low)
        return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share, 1)

    parts = [*_axes(x, y, low, top, outcome)]
    labels: list[tuple[float, str, str]] = []
    for (order, source), points in series.items():
        own = source not in CONTROLS
        if not own and order != orders[0]:
            continue
        kind = f"s{orders.index(order) % 3}" if own else "c"
        line = [(x(p.fraction), y(p.effect.ratio.mean)) for p in points]
        start = (x(0), y(1.0))
        if own:
            upper = [(x(p.fraction), y(p.effect.ratio.high)) for p in points]
            lower = [(x(p.fraction), y(p.effect.ratio.low)) for p in points]
            parts.append(_shape([start, *upper, *reversed(lower)], f"band {kind}", closed=True))
        parts.append(_shape([start, *line], f"line {kind} {source}", closed=False))
        parts += [
            f'<circle cx="{px}" cy="{py}" r="{3 if own else 2}" class="dot {kind}"><title>'
            f"{escape(_caption(p))}</title></circle>"
            for (px, py), p in zip(line, points, strict=True)
        ]
        text = source if len(orders) == 1 or not own else f"{source}, by {order}"
        last = points[-1].effect.ratio.mean - 1.0
        labels.append((line[-1][1], f"{text} {percent(last)}", kind))
    parts += _labels(labels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-label="Perplexity against heads replaced">'
        f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>"
    )


def percent(cost: float) -> str:
    """Write a growth for people.

    >>> percent(0.0213), percent(-0.001), percent(7.04)
    ('+2.1 %', '−0.1 %', '+704 %')
    """
    digits = 1 if abs(cost) < 0.995 else 0
    return f"{100 * cost:+,.{digits}f} %".replace("-", "\u2212")


def _series(points: Sequence[Point]) -> dict[tuple[str, str], list[Point]]:
    """Group points into lines, each by fraction."""
    series: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        series.setdefault((point.order, point.source), []).append(point)
    return {key: sorted(line, key=lambda p: p.fraction) for key, line in series.items()}


def _axes(x, y, low: float, top: float, outcome: Outcome) -> list[str]:  # type: ignore[no-untyped-def]
    """Draw the title, the grid and its numbers."""
    texts = outcome.original.texts
    parts = [
        f'<text x="{LEFT}" y="18" class="h">Perplexity with heads replaced, against '
        f"{outcome.original.mean:.2f} as it is ({texts} held-out texts)</text>"
    ]
    last = math.inf
    for cost in (0.0, *TICKS):
        if 1.0 + cost > top or 1.0 + cost < low:
            continue
        at = y(1.0 + cost)
        if last - at < 16:
            continue
        last = at
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}" class="grid"/>'
            f'<text x="{LEFT - 8}" y="{at + 4}" class="e">{percent(cost) if cost else "+0 %"}</text>'
        )
    for fraction in sorted({0.0, *(p.fraction for p in outcome.points)}):
        if fraction in (0.05,):
            continue
        parts.append(
            f'<text x="{x(fraction)}" y="{HEIGHT - BOTTOM + 18}" class="m">'
            f"{100 * fraction:.0f} %</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" class="m">heads replaced</text>')
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
