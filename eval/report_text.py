"""What pages are made of: templates, numbers, programs with their parts marked, drawings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_dsl.eval.metrics import decimal

if TYPE_CHECKING:
    import numpy as np
    from markupsafe import Markup

    from attn_dsl.compiler.program import Program

TEMPLATES = Path(__file__).with_name("templates")


def fill(template: str, **values: Any) -> str:
    """Return a page that is made from a file in ``TEMPLATES``; strings in it are escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {
        "dec": decimal,
        "highlight": highlight,
    }
    return environment.get_template(template).render(**values)


def program_page(program: Program, tokens: Sequence[str], matrix: np.ndarray) -> str:
    """Return a page for one program on one text; each cell tells its query, key and weight.

    Args:
        tokens: the n token strings.
        matrix: (n, n), the program's weights.
    """
    names = [t.replace("\n", "\u21b5").replace(" ", "\u00b7") for t in tokens]
    rows = [row[: q + 1] if program.causal else row for q, row in enumerate(matrix.tolist())]
    return fill("program.html", program=program, names=names, rows=rows)


LEXEMES = {
    "c": r"#[^\n]*",
    "s": r'"(?:[^"\\\n]|\\.)*"',
    "n": r"-?\b\d+(?:\.\d+)?|\?",
    "w": r"\b(?:use|set|def|score|head|causal|bidirectional|softmax|linear|where|by|and|or|not|in|true)\b",
    "v": r"\b[qkij]\b",
    "f": r"\b[a-z_][a-z0-9_]*(?=\()",
    "t": r"\b[A-Z]\w*",
}
"""By CSS class, comments, strings, numbers, words, variables, features, and names of sets and scores."""
_LEXEME = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in LEXEMES.items()))


def highlight(source: str) -> Markup:
    """Mark the parts of a program by the classes of ``LEXEMES``.

    >>> highlight("2 where k == 0")
    Markup('<b class="n">2</b> <b class="w">where</b> <b class="v">k</b> == <b class="n">0</b>')
    """
    from markupsafe import Markup, escape

    out, end = Markup(), 0
    for found in _LEXEME.finditer(source):
        mark = Markup('<b class="{}">{}</b>').format(found.lastgroup, found.group())
        out += escape(source[end : found.start()]) + mark
        end = found.end()
    return out + escape(source[end:])


def terms_line(source: str, limit: int = 160) -> str:
    r"""Write a program's terms on one line, without sets, header and comments.

    >>> terms_line("head a causal softmax:\n    2 where k == 0\n    1 where k == q\n")
    '2 where k == 0;  1 where k == q'
    """
    body = ("\n" + source).partition("\nhead ")[2]
    terms = [line.strip() for line in body.split("\n")[1:]]
    line = ";  ".join(term for term in terms if term and not term.startswith("#"))
    if not line:
        return "no terms: uniform"
    return line if len(line) <= limit else line[: limit - 1] + "…"
