"""Draws the README's picture: a real head's attention on a test text beside its program's.

    python docs/picture.py RUN L4H4 TEXT docs/head.svg

TEXT is the number of a text of the run's capture; its first tokens are shown.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

import numpy as np

from attn_dsl.cli.show import visible
from attn_dsl.eval.heads import parse_heads
from attn_dsl.eval.run import Run

CELL, LABEL, GAP, TOKENS = 13, 74, 36, 26


def panel(matrix: np.ndarray, tokens: list[str], title: str, left: int) -> str:
    """Draw one matrix as SVG, a query to a row, darker for more weight."""
    parts = [f'<text x="{left}" y="20" class="t">{escape(title)}</text>']
    for q, token in enumerate(tokens):
        y, label = 36 + q * CELL, escape(visible(token))
        parts.append(f'<text x="{left + LABEL - 6}" y="{y + 10}" class="k">{label}</text>')
        for k, shade in enumerate(np.sqrt(matrix[q, : q + 1])):
            size = f'width="{CELL - 1}" height="{CELL - 1}" fill-opacity="{shade:.2f}"'
            if shade >= 0.02:
                parts.append(f'<rect x="{left + LABEL + k * CELL}" y="{y}" {size}/>')
    return "\n".join(parts)


def main(run_path: str, name: str, number: str, out: str) -> None:
    """Draw the first tokens of a text."""
    run = Run.open(run_path)
    capture = run.open_capture()
    [(layer, head)] = parse_heads(name, capture.n_layers, capture.heads_per_layer)
    text = int(number)
    if text not in capture.split(run.info["key"]["seed"])["test"]:
        raise SystemExit(f"text {text} is none of the test texts")
    tokens = capture.tokens(text)
    actual = capture.matrix(text, layer, head)
    predicted = run.program(layer, head)(tokens)
    iou = np.minimum(actual, predicted).sum() / np.maximum(actual, predicted).sum()
    shown = list(tokens.strings[:TOKENS])
    width = LABEL + len(shown) * CELL
    body = panel(actual, shown, f"{Path(run.info['model']).name}, layer {layer}, head {head}", 0)
    body += panel(predicted, shown, f"its program: IoU {iou:.2f} on this text", width + GAP)
    size = f'width="{2 * width + GAP}" height="{44 + len(shown) * CELL}"'
    style = (
        "rect{fill:#1452a8}text{font:10px ui-monospace,monospace;fill:#333}.k{text-anchor:end}"
        ".t{font:600 13px system-ui,sans-serif}"
        "@media(prefers-color-scheme:dark){rect{fill:#6eafff}text{fill:#ddd}}"
    )
    Path(out).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>\n{body}\n</svg>\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
