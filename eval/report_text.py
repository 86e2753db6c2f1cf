"""What pages are made of: templates, numbers, programs with their parts marked, drawings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_dsl.dsl.highlighting import lexemes, marked
from attn_dsl.eval.metrics import decimal

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")


def fill(template: str, **values: Any) -> str:
    """Return a page that is made from a file in ``TEMPLATES``; strings in it are escaped."""
    import jinja2

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True,
                                     undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters["dec"] = decimal
    return environment.get_template(template).render(**values)


PLAIN = ("", "name", "operator", "mark")
"""The kinds of lexemes that have no colour."""


def css_class(kind: str) -> str:
    """Return the class of a kind of lexeme in pages."""
    return "f" if kind in ("call", "definition") else kind[0]


def lexeme_classes() -> list[tuple[str, str]]:
    """Return class and regular expression of each kind of lexeme, for scripts; some have no class."""
    return [("" if kind in PLAIN else css_class(kind), regex) for kind, regex in lexemes().items()]


def highlight(source: str) -> Markup:
    """Mark a program's comments, strings, numbers, words, variables, features, sets and scores.

    >>> highlight("2 where k == 0")
    Markup('<b class="n">2</b> <b class="w">where</b> <b class="v">k</b> == <b class="n">0</b>')
    """
    from markupsafe import Markup, escape

    out = Markup()
    for kind, text in marked(source):
        mark = escape(text)
        if kind not in PLAIN:
            mark = Markup('<b class="{}">{}</b>').format(css_class(kind), text)
        out += mark
    return out


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
