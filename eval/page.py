"""A page for one program on one text: its source and its matrix, in one self-contained file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attn_dsl.eval.files import write
from attn_dsl.eval.report_text import fill, highlight

if TYPE_CHECKING:
    from attn_dsl.compiler.program import Program


def render_page(program: Program, tokens: Sequence[str], matrix: np.ndarray) -> str:
    """Return the page as HTML; each cell tells its query, key and weight.

    Args:
        tokens: the n token strings.
        matrix: (n, n), the program's weights.
    """
    names = [t.replace("\n", "\u21b5").replace(" ", "\u00b7") for t in tokens]
    rows = [
        {
            "token": names[q],
            "cells": [
                {"key": names[k], "weight": float(w), "shade": round(float(w) ** 0.5, 3)}
                for k, w in enumerate(matrix[q])
                if k <= q or not program.causal
            ],
        }
        for q in range(len(names))
    ]
    source = highlight(program.source)
    return fill("program.html", program=program, source=source, names=names, rows=rows)


def write_page(program: Program, tokens: Sequence[str], matrix: np.ndarray, file: str) -> None:
    """Write the page to a file, whole or not at all."""
    write(Path(file), render_page(program, tokens, matrix))
