"""Pictures of attention matrices on a text, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from unicodedata import category

import numpy as np

from attn_dsl.compiler.program import Program
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.files import write
from attn_dsl.eval.heads import one_head
from attn_dsl.eval.metrics import decimal, ious
from attn_dsl.eval.notebook import program_html
from attn_dsl.eval.report_text import fill

CELL, LABEL, GAP, TOP, BAR = 13, 84, 36, 92, 30
MOST = 64
_NAMESPACE = ' xmlns="http://www.w3.org/2000/svg"'
"""Of an SVG file; pages know it."""
_STYLE = ("<style>.attn-dsl rect{fill:#2f74c8}.attn-dsl .v{fill:#c3622f}.attn-dsl text"
          "{font:10px ui-monospace,monospace;fill:currentColor}.attn-dsl .k{text-anchor:end}"
          ".attn-dsl .t{font:600 13px system-ui,sans-serif}</style>")  # fmt: skip
_DARK = "<style>@media(prefers-color-scheme:dark){svg{color:#ddd}}</style>"


@dataclass(frozen=True, eq=False, repr=False)
class Picture:
    """Attention matrices on one text, side by side: a query to a row, a key to a column.

    Darker is more weight, by its square root. Notebooks show it; each cell tells query, key and weight.
    """

    tokens: Tokens
    matrices: Mapping[str, np.ndarray]  # by title, (n, n)
    bars: Sequence[float] = ()  # a number for each key, drawn below the matrices
    most: int = MOST  # of longer texts, so many tokens are drawn

    @property
    def svg(self) -> str:
        """The picture as SVG; of long texts the first tokens."""
        n = min(len(self.tokens), self.most)
        wide, high = LABEL + n * CELL, TOP + 8 + n * CELL + BAR * bool(len(self.bars))
        drawn = [_panel(matrix[:n, :n], self.tokens[:n], title, at * (wide + GAP),
                     self.bars[:n]) for at, (title, matrix) in enumerate(self.matrices.items())]  # fmt: skip
        size = f'width="{len(drawn) * (wide + GAP)}" height="{high}"'
        head = f'<svg{_NAMESPACE} class="attn-dsl" {size} role="img">'
        return "\n".join([head + _STYLE, *drawn, "</svg>\n"])

    def save(self, path: str | Path) -> None:
        """Write the picture to an ``.svg`` file, which is legible on light and on dark."""
        write(Path(path), self.svg.replace(_STYLE, _STYLE + _DARK, 1))

    def _repr_html_(self) -> str:
        cut = len(self.tokens) > self.most
        more = f"the first {self.most} of {len(self.tokens)} tokens" if cut else ""
        return f'<div style="overflow-x:auto">{more}{self.svg}</div>'

    def __repr__(self) -> str:
        return f"<Picture on {len(self.tokens)} tokens: {'; '.join(self.matrices)}>"


def program_page(program: Program, tokens: Tokens, matrices: Mapping[str, np.ndarray]) -> str:
    """Return a page for one program and matrices on one text, whole; cells tell query, key and weight."""
    from markupsafe import Markup

    picture = Picture(tokens, matrices, most=len(tokens))._repr_html_().replace(_NAMESPACE, "")
    source = Markup(program_html(program.tree, ""))
    return fill("program.html", program=program, source=source, picture=Markup(picture))


def _panel(matrix: np.ndarray, tokens: Sequence[str], title: str, left: int, bars: Sequence[float]) -> str:
    """Draw one matrix, its tokens at the rows and above the columns, and bars below it."""
    names, start = [escape(visible(token)) for token in tokens], left + LABEL
    parts = [f'<text x="{left}" y="14" class="t">{escape(title)}</text>']
    for q, name in enumerate(names):
        x, y = start + q * CELL + 10, TOP + q * CELL
        parts.append(f'<text x="{start - 6}" y="{y + 10}" class="k">{name}</text>')
        parts.append(f'<text transform="translate({x} {TOP - 6}) rotate(-90)">{name}</text>')
        for k in np.flatnonzero(matrix[q] >= 0.0004).tolist():
            size = f'width="{CELL - 1}" height="{CELL - 1}" fill-opacity="{matrix[q, k] ** 0.5:.2f}"'
            told = f"<title>{name} → {names[k]}: {matrix[q, k]:.3f}</title>"
            parts.append(f'<rect x="{start + k * CELL}" y="{y}" {size}>{told}</rect>')
    low = TOP + len(names) * CELL + 6
    for k, value in enumerate(bars):
        height = BAR * value / max(bars)
        place = f'x="{start + k * CELL}" y="{low + BAR - height:.1f}"'
        parts.append(f'<rect {place} width="{CELL - 1}" height="{height:.1f}" class="v"/>')
    if len(bars):
        parts.append(f'<text x="{start - 6}" y="{low + 24}" class="k">value</text>')
    return "\n".join(parts)


def visible(string: str) -> str:
    """Write a token so that spaces, line breaks and controls can be seen, at most 14 characters long."""
    text = string.replace("\n", "↵").replace("\t", "⇥")
    text = "".join("\ufffd" if category(c)[0] == "C" else c for c in text)
    text = ("·" + text[1:]) if text.startswith(" ") else text
    return text if len(text) <= 14 else text[:13] + "…"


def around(strings: Sequence[str], query: int) -> str:
    """Return the text around a query on one line, with the query in brackets."""
    before, after = "".join(strings[:query]), "".join(strings[query + 1 :])
    text = f"{'…' * (len(before) > 46)}{before[-46:]}[{strings[query]}]{after[:10]}"
    return text.replace("\n", "↵")


def strongest(names: Sequence[str], row: np.ndarray, most: int) -> str:
    """Name the keys of a row with the most weight, as in ``Tom@0 0.75  ·saw@1 0.25``."""
    best = np.argsort(-row, kind="stable")[:most].tolist()
    return "  ".join(f"{names[k]}@{k} {row[k]:.2f}" for k in best if row[k] >= 0.01)


def plot(program: Program, text: str | int | Sequence[str], capture: Capture | str | Path | None = None,
         head: str | tuple[int, int] | None = None) -> Picture:  # fmt: skip
    """Draw a program's attention on a text, and a head's beside it; see ``Program.plot``.

    Bars below tell how much each key gives to the head's output when it is attended to.
    """
    if capture is None:
        if head is not None or isinstance(text, int):
            raise InputError("a head, or a text by its number, is one of a capture; give capture=")
        tokens = Tokens.from_text(text)
        return Picture(tokens, {program.name: program(tokens)})
    capture = capture if isinstance(capture, Capture) else Capture.open(capture)
    if not isinstance(text, int):
        from attn_dsl.eval.capture_write import read_text

        capture, text = read_text(capture, Tokens.from_text(text).text), 0
    if not 0 <= text < capture.n_texts:
        raise InputError(f"{capture.name} has no text {text}; they go from 0 to {capture.n_texts - 1}")
    tokens, matrices, sizes = capture.tokens(text), {}, []
    made, title = program(tokens), program.name
    if head is not None:
        layer, own = one_head(head, capture.pairs, capture.name)
        real = capture.matrix(text, layer, own)
        if capture.has_outputs:
            values = capture.contributions(text, layer * capture.heads_per_layer + own)
            sizes = np.linalg.norm(values, axis=1).tolist()
        iou = ious(real.reshape(1, -1), made.reshape(1, -1))[0, 0]
        matrices[f"{capture.name}, L{layer}H{own}"] = real
        title += f": IoU {decimal(float(iou), 2)} on this text"
    return Picture(tokens, {**matrices, title: made}, sizes)
