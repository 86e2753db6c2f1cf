"""Hooks of the site: formulas as MathML, which needs no script, and doctests as blocks of code."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import griffe
from latex2mathml.converter import convert

FORMULA = re.compile(r'<(?:span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:span|div)>', re.S)
DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


def on_page_content(html: str, **_: Any) -> str:
    """Replace what arithmatex has marked as TeX."""
    display = {"(": "inline", "[": "block"}
    return FORMULA.sub(lambda found: convert(unescape(found[2]), display=display[found[1]]), html)


class Doctests(griffe.Extension):
    """Fence the doctests of docstrings."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = DOCTEST.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
