"""Draws a real head's attention on a test text beside its program's, for the README and metrics.md.

    python docs/picture.py RUN L4H4 TEXT docs/head.svg

TEXT is the number of a text of the run's capture; its first tokens are shown, and below them, where
the capture has values, bars of how much each key gives to the head's output when it is attended to.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

import numpy as np

from attn_dsl.cli.show import visible
from attn_dsl.eval.heads import parse_heads
from attn_dsl.eval.metrics import decimal
from attn_dsl.eval.run import Run

CELL, LABEL, GAP, TOKENS, BAR = 13, 74, 36, 26, 30


def panel(matrix: np.ndarray, tokens: list[str], sizes: list[float], title: str, left: int) -> str:
    """Draw one matrix as SVG, a query to a row, darker for more weight; below it bars of sizes."""
    n = len(tokens)
    parts = [f'<text x="{left}" y="20" class="t">{escape(title)}</text>']
    for q, token in enumerate(tokens):
        y, label = 36 + q * CELL, escape(visible(token))
        parts.append(f'<text x="{left + LABEL - 6}" y="{y + 10}" class="k">{label}</text>')
        for k, shade in enumerate(np.sqrt(matrix[q, : q + 1])):
            size = f'width="{CELL - 1}" height="{CELL - 1}" fill-opacity="{shade:.2f}"'
            if shade >= 0.02:
                parts.append(f'<rect x="{left + LABEL + k * CELL}" y="{y}" {size}/>')
    for k, value in enumerate(sizes):
        height, x = BAR * value / max(sizes), left + LABEL + k * CELL
        place = f'x="{x}" y="{42 + n * CELL + BAR - height:.1f}"'
        parts.append(f'<rect {place} width="{CELL - 1}" height="{height:.1f}" class="v"/>')
    if sizes:
        parts.append(f'<text x="{left + LABEL - 6}" y="{66 + n * CELL}" class="k">value</text>')
    return "\n".join(parts)


def main(run_path: str, name: str, number: str, out: str) -> None:
    """Draw the first tokens of a text."""
    run = Run.open(run_path)
    capture = run.open_capture()
    [(layer, head)] = parse_heads(name, capture.n_layers, capture.heads_per_layer)
    text, texts = int(number), capture.split(run.info["key"]["seed"])["test"]
    if text not in texts:
        raise SystemExit(f"text {text} is none of the test texts")
    [result] = [r for r in run.results if (r.layer, r.head) == (layer, head)]
    at = texts.index(text)
    figures, sizes = f"IoU {result.test_ious[at]:.2f}", []
    if capture.has_outputs:
        r2 = decimal(1 - result.test_errors[at] / result.test_spreads[at], 2)
        figures += f", output R² {r2}"
        values = capture.contributions(text, layer * capture.heads_per_layer + head)
        sizes = np.linalg.norm(values[:TOKENS], axis=1).tolist()
    tokens = capture.tokens(text)
    actual = capture.matrix(text, layer, head)
    predicted = run.program(layer, head)(tokens)
    shown = list(tokens.strings[:TOKENS])
    width = LABEL + len(shown) * CELL
    model = Path(run.info["model"]).name.partition(".")[0]
    body = panel(actual, shown, sizes, f"{model}, layer {layer}, head {head}", 0)
    body += panel(predicted, shown, sizes, f"its program: {figures} on this text", width + GAP)
    height = 44 + len(shown) * CELL + BAR * bool(sizes)
    size = f'width="{2 * width + GAP}" height="{height}"'
    style = (
        "rect{fill:#1452a8}.v{fill:#c3622f}text{font:10px ui-monospace,monospace;fill:#333}"
        ".k{text-anchor:end}.t{font:600 13px system-ui,sans-serif}"
        "@media(prefers-color-scheme:dark){rect{fill:#6eafff}.v{fill:#f0995c}text{fill:#ddd}}"
    )
    Path(out).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>\n{body}\n</svg>\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
