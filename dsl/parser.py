"""The parser: source text to syntax tree, with errors that show the place and what would fit."""

from __future__ import annotations

import re
from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import CostError, Span
from attn_dsl.dsl.syntax_errors import explain

if TYPE_CHECKING:
    from lark import Lark, Token, Tree

MAX_SOURCE = 1_000_000
"""The longest source, in characters, that is read."""
MAX_NESTING = 40
"""The deepest nesting of parentheses that is read."""
MAX_OPERATORS = 100
"""The most operators (``and``, ``or``, ``not``, ``+``, ``-``) in one line that are read."""

MAX_DIGITS = 400
"""The longest number that is read."""

_OPERATORS = frozenset({"or_", "and_", "not_", "not_member", "add", "subtract"})
_COMMENT_OR_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"|#[^\n]*')
_ESCAPE = re.compile(r'\\(u[0-9a-f]{4}|["\\nrt])')
_UNESCAPED = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}


def grammar_text() -> str:
    """Return the grammar file."""
    from importlib.resources import files

    return files("attn_dsl.grammars").joinpath("attn.lark").read_text(encoding="utf-8")


@lru_cache(maxsize=4)
def _lark(start: str) -> Lark:
    from lark import Lark

    return Lark(
        grammar_text(), parser="lalr", start=start, propagate_positions=True,
        maybe_placeholders=False, edit_terminals=_whole_names,
    )  # fmt: skip


def _whole_names(terminal: Any) -> None:
    """Let a feature's name match only as a whole: not ``sentence`` in ``sentence_start``."""
    from lark.lexer import PatternRE

    if terminal.name.endswith("_FEATURE"):
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
    tree = _parse_tree(source, "start", name)
    builder = _Builder(source)
    *sets, head = [child for child in tree.children if not _is_token(child)]
    return builder.program(sets, head)


def parse_term(source: str) -> t.Term:
    """Parse one term, as in ``parse_term("2 where k == 0")``."""
    _bound(source, "<term>")
    tree = _parse_tree(source, "term", "<term>")
    return _Builder(source).term(tree)


def parse_predicate(source: str) -> t.Predicate:
    """Parse one predicate, as in ``parse_predicate("punct(k) and k < q")``."""
    _bound(source, "<predicate>")
    return _Builder(source).predicate(_parse_tree(source, "predicate", "<predicate>"))


def _parse_tree(source: str, start: str, name: str) -> Tree:
    from lark.exceptions import UnexpectedInput

    text = source if start == "predicate" or source.endswith("\n") else source + "\n"
    try:
        tree = _lark(start).parse(text)
    except UnexpectedInput as error:
        raise explain(error, source, name) from None
    heads = [node for node in tree.children if _kind(node) == "head"] if start == "start" else []
    for term in heads[0].children if heads else [tree]:
        found = () if _is_token(term) else term.iter_subtrees()
        if sum(node.data in _OPERATORS for node in found) > MAX_OPERATORS:
            raise CostError(
                f"more than {MAX_OPERATORS} operators in one term", _span(term.meta), source,
                name=name, hint="split the predicate over several terms",
            )  # fmt: skip
    return tree


def _bound(source: str, name: str) -> None:
    if len(source) > MAX_SOURCE:
        raise CostError(
            f"the source has {len(source):,} characters; at most {MAX_SOURCE:,} are read",
            name=name, hint="keep large token sets out of programs, or split them",
        )  # fmt: skip
    depth = 0
    for number, line in enumerate(_COMMENT_OR_STRING.sub(_blanked, source).split("\n"), 1):
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


def unquote(literal: str) -> str:
    r"""Read a string literal of the language.

    >>> unquote('"a\\n"')
    'a\n'
    """
    return _ESCAPE.sub(
        lambda m: _UNESCAPED.get(m.group(1)) or chr(int(m.group(1)[1:], 16)), literal[1:-1]
    )


def _word(token: Any) -> Any:
    """Return a token as plain text, for fields of which the grammar knows all values."""
    return str(token)


def _is_token(item: Any) -> bool:
    return isinstance(item, str)


def _span(meta: Any) -> Span | None:
    if getattr(meta, "empty", False):
        return None
    return Span(meta.line, meta.column, meta.end_line, meta.end_column)


class _Builder:
    """Turns Lark's tree into ours, and hangs the comments on the statements they belong to."""

    def __init__(self, source: str) -> None:
        self.comments: dict[int, tuple[str, bool]] = {}
        line, at = 1, 0
        for found in _COMMENT_OR_STRING.finditer(source):
            if found.group().startswith("#"):
                start = source.rfind("\n", 0, found.start()) + 1
                alone = not source[start : found.start()].strip()
                line += source.count("\n", at, found.start())
                at = found.start()
                self.comments[line] = (found.group()[1:].strip(), alone)
        self.lines = deque(self.comments)

    def remarks(self, tree: Tree, stop: int | None = None) -> t.Remarks:
        """Take the comments above a statement and those on its own lines."""
        above: list[str] = []
        beside: list[str] = []
        last = tree.meta.end_line if stop is None else stop
        while self.lines and self.lines[0] <= last:
            line = self.lines.popleft()
            text, alone = self.comments.pop(line)
            (above if alone and line < tree.meta.line else beside).append(text)
        return t.Remarks(tuple(above), " ".join(beside)) if above or beside else t.NO_REMARKS

    def program(self, sets: list[Tree], head: Tree) -> t.Head:
        definitions = tuple(self.set_definition(tree) for tree in sets)
        name, visibility, *rest = head.children
        tokens = [str(item) for item in rest if _is_token(item)]
        normaliser = next((word for word in tokens if word in ("softmax", "linear")), "softmax")
        remarks = self.remarks(head, stop=name.line)
        terms = tuple(self.term(item) for item in rest if not _is_token(item))
        after = tuple(text for text, _ in self.comments.values())
        return t.Head(
            str(name), str(visibility), normaliser, terms, definitions,  # type: ignore[arg-type]
            remarks=remarks, after=after, span=_span(name),
        )  # fmt: skip

    def set_definition(self, tree: Tree) -> t.SetDefinition:
        name, literal = (item for item in tree.children if _kind(item) != "_NL")
        remarks = self.remarks(tree, stop=literal.meta.end_line)
        return t.SetDefinition(str(name), self.elements(literal), remarks=remarks, span=_span(name))

    def term(self, tree: Tree) -> t.Term:
        parts = [item for item in tree.children if _kind(item) != "_NL"]
        stop = parts[-1].meta.end_line
        common: dict[str, Any] = {"remarks": self.remarks(tree, stop), "span": _span_of(parts)}
        condition = None
        if _kind(parts[-1]) == "condition":
            condition = self.predicate(parts.pop().children[0])
        if tree.data == "where_term":
            return t.Where(_weight(parts[0]), self.predicate(parts[1]), **common)
        if tree.data == "value_term":
            return t.Scaled(_weight(parts[0]), self.value(parts[1]), condition, **common)
        entries = tuple(
            t.Entry(int(e.children[0]), _weight(e.children[1]), span=_span(e.meta))
            for e in parts[1:]
        )
        return t.Table(self.integer(parts[0]), entries, condition, **common)

    def elements(self, tree: Tree) -> t.SetLiteral:
        weighted = [item.children for item in tree.children if _kind(item) == "element"]
        if weighted:
            weights = tuple(float(weight) for _, weight in weighted)
            return t.SetLiteral(
                tuple(unquote(string) for string, _ in weighted), weights, span=_span(tree.meta)
            )
        items = (unquote(item) for item in tree.children if _kind(item) == "STRING")
        return t.SetLiteral(tuple(items), span=_span(tree.meta))

    def chosen(self, tree: Tree) -> t.SetName | t.SetLiteral:
        if tree.data == "set_reference":
            return t.SetName(str(tree.children[0]), span=_span(tree.meta))
        return self.elements(_unwrap(tree))

    def value(self, tree: Tree) -> t.Value:
        if tree.data == "product":
            left, right = map(self.factor, tree.children)
            return t.Product(left, right, span=_span(tree.meta))
        return self.factor(tree)

    def factor(self, tree: Tree) -> t.Factor:
        inner, span = _unwrap(tree), _span(tree.meta)
        if inner.data == "weight_of":
            _, symbol, chosen = inner.children
            return t.Weight(self.integer(symbol), self.chosen(chosen), span=span)  # type: ignore[arg-type]
        if inner.data == "real":
            return t.Real(str(inner.children[0]), self.integer(inner.children[1]), span=span)  # type: ignore[arg-type]
        if inner.data == "decay":
            return t.Decay(self.integer(inner.children[0]), float(inner.children[1]), span=span)
        return self.integer(inner)

    def integer(self, tree: Tree) -> t.Int:
        tree, span = _unwrap(tree), _span(tree.meta)
        items: list[Any] = tree.children
        match tree.data:
            case "integer":
                return t.Integer(int(items[0]), span=span)
            case "variable":
                return t.Position(str(items[0]), span=span)  # type: ignore[arg-type]
            case "add" | "subtract":
                op = "+" if tree.data == "add" else "-"
                return _arithmetic(op, self.integer(items[0]), self.integer(items[1]), span)
            case "feature":
                return t.Call(str(items[0]), tuple(map(self.integer, items[1:])), span=span)
            case "quantifier":
                return t.Quantifier(str(items[0]), self.predicate(items[1]), span=span)  # type: ignore[arg-type]
            case "abs_":
                return t.Absolute(self.integer(items[0]), span=span)
            case "extremum":
                return t.Extremum(
                    _word(items[0]), self.integer(items[1]), self.integer(items[2]), span=span
                )
        raise TypeError(f"unexpected {tree.data} in an integer expression")

    def predicate(self, tree: Tree) -> t.Predicate:
        tree, span = _unwrap(tree), _span(tree.meta)
        items: list[Any] = tree.children
        match tree.data:
            case "or_":
                return t.Or(self.predicate(items[0]), self.predicate(items[1]), span=span)
            case "and_":
                return t.And(self.predicate(items[0]), self.predicate(items[1]), span=span)
            case "not_":
                return t.Not(self.predicate(items[0]), span=span)
            case "true":
                return t.Always(span=span)
            case "any_":
                return t.Quantifier("any", self.predicate(items[0]), span=span)
            case "compare":
                return t.Compare(
                    _word(items[1]), self.integer(items[0]), self.integer(items[2]), span=span
                )
            case "compare_string":
                text = t.Text(unquote(items[2]))
                return t.Compare(_word(items[1]), self.integer(items[0]), text, span=span)
            case "between":
                return t.Between(self.integer(items[0]), int(items[1]), int(items[2]), span=span)
            case "member" | "not_member":
                member = t.Member(self.integer(items[0]), self.chosen(items[1]), span=span)  # type: ignore[arg-type]
                return member if tree.data == "member" else t.Not(member, span=span)
            case "affix":
                return t.Affix(str(items[0]), self.integer(items[1]), unquote(items[2]), span=span)  # type: ignore[arg-type]
            case "feature":
                return self.integer(tree)  # type: ignore[return-value]
        raise TypeError(f"unexpected {tree.data} in a predicate")


def _arithmetic(op: str, left: t.Int, right: t.Int, span: Span | None) -> t.Int:
    """Make a sum; a position plus or minus a number is one node, a shifted position."""
    if isinstance(left, t.Position) and isinstance(right, t.Integer):
        shift = left.shift + (right.value if op == "+" else -right.value)
        return t.Position(left.variable, shift, span=span)
    return t.Arithmetic(op, left, right, span=span)  # type: ignore[arg-type]


def _unwrap(tree: Tree) -> Tree:
    """Step through rules that only group: parentheses and chains of one child."""
    while tree.data in (
        "predicate",
        "conjunction",
        "group",
        "int",
        "atom",
        "value",
        "factor",
        "set",
        "literal",
    ):
        tree = tree.children[0]
    return tree


def _kind(item: Tree | Token) -> str:
    return str(getattr(item, "type", None) or getattr(item, "data", ""))


def _weight(tree: Tree) -> float | None:
    token = str(tree.children[0])
    return None if token == "?" else float(token)


def _span_of(parts: list[Tree]) -> Span | None:
    first, last = parts[0].meta, parts[-1].meta
    return Span(first.line, first.column, last.end_line, last.end_column)
