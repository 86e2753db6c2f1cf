"""Draws how time grows with programs, heads and texts: a log-log figure with fitted slopes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 620, 380, 64, 34, 46
COLOURS = ("#1452a8", "#b3541e", "#2e7d32")


@dataclass(frozen=True)
class Curve:
    """Times at some sizes.

    Attributes:
        name: of what grows.
        sizes, seconds: what was measured.
    """

    name: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def slope(self) -> float:
        """The slope of a straight line through the logarithms; 1 is linear."""
        return float(np.polyfit(np.log(self.sizes), np.log(self.seconds), 1)[0])


def draw(curves: list[Curve], path: Path) -> None:
    """Write the figure as SVG, each curve by its size relative to the smallest."""
    factors = [np.array(c.sizes) / c.sizes[0] for c in curves]
    right = max(f[-1] for f in factors)
    low = 10 ** np.floor(np.log10(min(min(c.seconds) for c in curves)))
    high = 10 ** np.ceil(np.log10(max(max(c.seconds) for c in curves)))

    def x(factor: float) -> float:
        return LEFT + (WIDTH - LEFT - 20) * np.log(factor) / np.log(right)

    def y(seconds: float) -> float:
        share = np.log(seconds / low) / np.log(high / low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = [f'<text x="{LEFT}" y="18" class="t">Time of a score matrix, log-log</text>']
    step = low
    while step <= high * 1.001:
        parts.append(f'<path class="g" d="M{LEFT} {y(step):.1f}H{WIDTH - 20}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(step) + 4:.1f}" class="e">{step:g} s</text>')
        step *= 10
    factor = 1
    while factor <= right:
        parts.append(f'<path class="g" d="M{x(factor):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        place = f'x="{x(factor):.1f}" y="{HEIGHT - BOTTOM + 16}"'
        parts.append(f'<text {place} class="m">{factor} x</text>')
        factor *= 2
    for number, (curve, own) in enumerate(zip(curves, factors, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        slope, offset = np.polyfit(np.log(own), np.log(curve.seconds), 1)
        ends = [(x(f), y(np.exp(offset) * f**slope)) for f in (1, right)]
        line = "L".join(f"{a:.1f} {b:.1f}" for a, b in ends)
        parts.append(f'<path d="M{line}" stroke="{colour}" fill="none"/>')
        parts += [
            f'<circle cx="{x(f):.1f}" cy="{y(s):.1f}" r="4" fill="{colour}"/>'
            for f, s in zip(own, curve.seconds, strict=True)
        ]
        label = f"{curve.name}, {curve.sizes[0]:,} to {curve.sizes[-1]:,}: slope {slope:.2f}"
        place = f'x="{LEFT + 12}" y="{TOP + 18 + 16 * number}"'
        parts.append(f'<text {place} fill="{colour}">{label}</text>')
    style = (
        "text{font:11px system-ui,sans-serif;fill:#333}.t{font-weight:600;font-size:13px}"
        ".e{text-anchor:end}.m{text-anchor:middle}.g{stroke:#8885;fill:none}"
        "@media(prefers-color-scheme:dark){text{fill:#ddd}}"
    )
    body = "\n".join(parts)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}">'
        f"<style>{style}</style>\n{body}\n</svg>\n",
        encoding="utf-8",
    )
