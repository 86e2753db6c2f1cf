"""Editors: programs for Pygments and for what reads TextMate grammars, from the kinds of lexemes."""

from __future__ import annotations

from typing import Any

from pygments import token
from pygments.lexer import RegexLexer

from attn_dsl.dsl.highlighting import lexemes

KINDS = {
    "comment": (token.Comment.Single, "comment.line.number-sign"),
    "string": (token.String.Double, "string.quoted.double"), "number": (token.Number, "constant.numeric"),
    "definition": (token.Name.Function, "entity.name.function"),
    "type": (token.Name.Class, "entity.name.type"), "function": (token.Name.Builtin, "support.function"),
    "word": (token.Keyword, "keyword.control"), "call": (token.Name.Function, "entity.name.function"),
    "variable": (token.Name.Variable, "variable.parameter"), "name": (token.Name, "variable.other"),
    "operator": (token.Operator, "keyword.operator"), "mark": (token.Punctuation, "punctuation")}  # fmt: skip
"""By kind of lexeme, the token of Pygments and the scope of TextMate."""


class AttnLexer(RegexLexer):  # type: ignore[misc]
    """Programs for Pygments, which finds it under the name ``attn``."""

    name, aliases, filenames = "attn", ("attn",), ("*.attn",)
    tokens = {"root": [(regex, KINDS[kind][0]) for kind, regex in lexemes().items()]}  # noqa: RUF012
    tokens["root"].append((r"\s+", token.Whitespace))


def textmate() -> dict[str, Any]:
    """Return the TextMate grammar of programs as JSON data."""
    patterns = [{"match": regex, "name": f"{KINDS[kind][1]}.attn"} for kind, regex in lexemes().items()]
    return {"name": "attn", "scopeName": "source.attn", "fileTypes": ["attn"], "patterns": patterns}
