"""The parser: source text to syntax tree, with errors that show the place and what would fit."""

from __future__ import annotations

import dataclasses
import re
from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.build import ACTIONS, Statement
from attn_dsl.dsl.build import unquote as unquote
from attn_dsl.dsl.errors import CostError, Span
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.functions import FUNCTIONS
from attn_dsl.dsl.limits import MAX_DIGITS, MAX_NESTING, MAX_OPERATORS, MAX_SOURCE
from attn_dsl.dsl.syntax_errors import explain
from attn_dsl.dsl.tables import Tables

if TYPE_CHECKING:
    from lark import Lark

_OPERATORS = frozenset({"or_", "and_", "not_", "not_member", "add", "subtract"})
_TERMS = frozenset({"where_term", "value_term", "table_term"})
_COMMENT_OR_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"|#[^\n]*')


def grammar_text() -> str:
    """Return the grammar: its file, and a terminal for each kind of feature and for functions."""
    from importlib.resources import files

    text = files("attn_dsl.grammars").joinpath("attn.lark").read_text(encoding="utf-8")
    names: dict[str, list[str]] = {}
    for f in FEATURES.values():
        kind = "PAIR" if f.arity == 2 else f.type.upper()
        names.setdefault(f"{kind}_FEATURE", []).append(f'"{f.name}"')
    names["REAL_FUNCTION"] = [f'"{f.name}"' for f in FUNCTIONS.values() if not f.rated]
    return text + "\n" + "".join(f"{name}: {' | '.join(names[name])}\n" for name in names)


@lru_cache(maxsize=4)
def _lark(start: str) -> Lark:
    from lark import Lark

    return Lark(
        grammar_text(), parser="lalr", start=start, propagate_positions=True,
        maybe_placeholders=False, edit_terminals=_whole_names,
    )  # fmt: skip


@lru_cache(maxsize=4)
def _tables(start: str) -> Tables:
    """Return the tables of the grammar, with the actions that build the syntax tree."""
    return Tables(_lark(start), start, ACTIONS, _OPERATORS, MAX_OPERATORS, _TERMS)


def _whole_names(terminal: Any) -> None:
    """Let a name of the tables match only as a whole: not ``sentence`` in ``sentence_start``."""
    from lark.lexer import PatternRE

    if terminal.name.endswith(("_FEATURE", "_FUNCTION")):
        pattern = terminal.pattern.to_regexp()
        terminal.pattern = PatternRE(f"(?:{pattern})(?![a-z0-9_])")


def parse(source: str, name: str = "<program>") -> t.Head:
    """Parse a program; checking its names and bounds is ``attn_dsl.dsl.check``.

    >>> parse("head first causal:\\n  2 where k == 0").terms[0].weight
    2.0

    Args:
        source: the program's text.
        name: what to call it in error messages, such as its path.

    Raises:
        ProgramSyntaxError: it does not follow the grammar; the message shows the place.
        CostError: it is too long or too deeply nested to be read.
    """
    _bound(source, name)
    *sets, (fields, line, named, terms) = _parsed(source, "start", name)
    remarks = _Comments(source)
    definitions = tuple(map(remarks.attach, sets))
    own = remarks.take(line, named)
    return t.Head(
        terms=tuple(map(remarks.attach, terms)), sets=definitions, remarks=own,
        after=remarks.left(), **fields,
    )  # fmt: skip


def parse_term(source: str) -> t.Term:
    """Parse one term, as in ``parse_term("2 where k == 0")``."""
    _bound(source, "<term>")
    return _Comments(source).attach(_parsed(source, "term", "<term>"))


def parse_predicate(source: str) -> t.Predicate:
    """Parse one predicate, as in ``parse_predicate("punct(k) and k < q")``."""
    _bound(source, "<predicate>")
    return _parsed(source, "predicate", "<predicate>")


def _parsed(source: str, start: str, name: str) -> Any:
    """Parse a text; if it does not fit, let Lark say what was expected."""
    text = source if start == "predicate" or source.endswith("\n") else source + "\n"
    found = _tables(start).parse(text)
    if found is None:
        _complain(text, source, start, name)
    return found


def _complain(text: str, source: str, start: str, name: str) -> NoReturn:
    from lark.exceptions import UnexpectedInput

    try:
        tree = _lark(start).parse(text)
    except UnexpectedInput as error:
        raise explain(error, source, name) from None
    heads = [node for node in tree.children if getattr(node, "data", "") == "head"]
    for term in heads[0].children if start == "start" else [tree]:
        found = () if isinstance(term, str) else term.iter_subtrees()
        if sum(node.data in _OPERATORS for node in found) > MAX_OPERATORS:
            meta = term.meta
            raise CostError(
                f"more than {MAX_OPERATORS} operators in one term",
                Span(meta.line, meta.column, meta.end_line, meta.end_column), source,
                name=name, hint="split the predicate over several terms",
            )  # fmt: skip
    raise AssertionError(f"Lark reads what its tables refuse: {source!r}")


def _bound(source: str, name: str) -> None:
    if len(source) > MAX_SOURCE:
        raise CostError(
            f"the source has {len(source):,} characters; at most {MAX_SOURCE:,} are read",
            name=name, hint="keep large token sets out of programs, or split them",
        )  # fmt: skip
    depth = 0
    for number, line in enumerate(_COMMENT_OR_STRING.sub(_blanked, source).split("\n"), 1):
        opened = line.count("(")
        if not depth and len(line) <= MAX_OPERATORS and opened == line.count(")") <= MAX_NESTING:
            continue  # too short for anything to be too much
        operators = 0
        for word in re.finditer(rf"[()+-]|\b(?:and|or|not)\b|[0-9]{{{MAX_DIGITS + 1}}}", line):
            if word.group().isdigit():
                at = Span(number, word.start() + 1, number, word.end() + 1)
                what = f"a number of more than {MAX_DIGITS} digits"
                raise CostError(what, at, source, name=name)
            depth += {"(": 1, ")": -1}.get(word.group(), 0)
            operators += word.group() not in "()"
            if depth > MAX_NESTING or operators > MAX_OPERATORS:
                at = Span(number, word.start() + 1, number, word.end() + 1)
                what = (
                    f"nested deeper than {MAX_NESTING} levels"
                    if depth > MAX_NESTING
                    else f"more than {MAX_OPERATORS} operators in one line"
                )
                raise CostError(
                    what, at, source, name=name, hint="split the predicate over several terms"
                )


def _blanked(found: re.Match[str]) -> str:
    return " " * len(found.group())


class _Comments:
    """Hangs the comments on the statements they belong to, which come in their order."""

    def __init__(self, source: str) -> None:
        self.comments: dict[int, tuple[str, bool]] = {}
        line, at = 1, 0
        for found in _COMMENT_OR_STRING.finditer(source) if "#" in source else ():
            if found.group().startswith("#"):
                start = source.rfind("\n", 0, found.start()) + 1
                alone = not source[start : found.start()].strip()
                line += source.count("\n", at, found.start())
                at = found.start()
                self.comments[line] = (found.group()[1:].strip(), alone)
        self.lines = deque(self.comments)

    def take(self, first: int, last: int) -> t.Remarks:
        """Take the comments above a statement and those on its own lines."""
        above: list[str] = []
        beside: list[str] = []
        while self.lines and self.lines[0] <= last:
            line = self.lines.popleft()
            text, alone = self.comments.pop(line)
            (above if alone and line < first else beside).append(text)
        return t.Remarks(tuple(above), " ".join(beside)) if above or beside else t.NO_REMARKS

    def attach(self, statement: Statement) -> Any:
        """Return a statement with its comments."""
        node, first, last = statement
        remarks = self.take(first, last) if self.lines else t.NO_REMARKS
        return node if remarks is t.NO_REMARKS else dataclasses.replace(node, remarks=remarks)

    def left(self) -> tuple[str, ...]:
        """Return the comments behind all statements."""
        return tuple(text for text, _ in self.comments.values())
