"""Draws a real head's attention on a test text beside its program's, for the README and metrics.md.

    python docs/picture.py RUN L4H4 TEXT docs/head.svg

TEXT is the number of a text of the run's capture; its first tokens are shown, and below them, where
the capture has values, bars of how much each key gives to the head's output when it is attended to.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from attn_dsl.eval.metrics import decimal
from attn_dsl.eval.pictures import Picture
from attn_dsl.eval.run import Run

TOKENS = 26


def main(run_path: str, name: str, number: str, out: str) -> None:
    """Draw the first tokens of a text."""
    run = Run.open(run_path)
    head, capture = run[name], run.open_capture()
    layer, own, text = head.layer, head.head, int(number)
    texts = capture.split(run.info["key"]["seed"])["test"]
    if text not in texts:
        raise SystemExit(f"text {text} is none of the test texts")
    at = texts.index(text)
    figures, sizes = f"IoU {head.test_ious[at]:.2f}", []
    if capture.has_outputs:
        figures += f", output R² {decimal(1 - head.test_errors[at] / head.test_spreads[at], 2)}"
        values = capture.contributions(text, layer * capture.heads_per_layer + own)
        sizes = np.linalg.norm(values[:TOKENS], axis=1).tolist()
    tokens = capture.tokens(text)
    model = Path(run.info["model"]).name.partition(".")[0]
    matrices = {
        f"{model}, layer {layer}, head {own}": capture.matrix(text, layer, own)[:TOKENS, :TOKENS],
        f"its program: {figures} on this text": head.program(tokens)[:TOKENS, :TOKENS],
    }
    Picture(tokens.prefix(min(TOKENS, len(tokens))), matrices, sizes).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
