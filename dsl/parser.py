"""The parser: source text to syntax tree, with errors that show the place and what was expected."""

from __future__ import annotations

import dataclasses
import re
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import (
    AttnDslError,
    CostError,
    InputError,
    ProgramSyntaxError,
    ProgramTypeError,
    Span,
)
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.functions import FUNCTIONS
from attn_dsl.dsl.limits import MAX_DIGITS, MAX_NESTING, MAX_SOURCE
from attn_dsl.dsl.scope import Scope
from attn_dsl.dsl.syntax_errors import RESERVED, SPLIT, explain

if TYPE_CHECKING:
    from lark import Lark

Resolver = Callable[[str], t.Definitions]
"""A function that reads the file that a line ``use "…"`` names."""
_TYPED = ("BOOL_FEATURE", "INT_FEATURE", "SYMBOL_FEATURE")
_END = "(?![a-z0-9_])"
_COMMENT_OR_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*+"?|#[^\n]*')
"""Of a string that does not end, the rest of its line; otherwise each of its quotes would be tried."""
_DEFINED = re.compile(r"^[ \t]*def[ \t]+([a-z]\w*)", re.MULTILINE)
_USE = re.compile(r'^[ \t]*use[ \t]*("(?:[^"\\\n]|\\.)*")', re.MULTILINE)
_BOUNDED = re.compile(rf"{_COMMENT_OR_STRING.pattern}|[()]|(?<![0-9])[0-9]{{{MAX_DIGITS + 1}}}")


def grammar_text() -> str:
    """Return the grammar in Lark's format: ``attn.lark`` plus terminals for features and functions."""
    from importlib.resources import files

    text = files("attn_dsl.grammars").joinpath("attn.lark").read_text(encoding="utf-8")
    names: dict[str, list[str]] = {}
    for f in FEATURES.values():
        kind = {0: "TEXT", 2: "PAIR"}.get(f.arity, f.type.upper())
        names.setdefault(f"{kind}_FEATURE", []).append(f'"{f.name}"')
    names["REAL_FUNCTION"] = [f'"{f.name}"' for f in FUNCTIONS.values() if not f.rated]
    return text + "\n" + "".join(f"{name}: {' | '.join(names[name])}\n" for name in names)


@lru_cache(maxsize=4)
def _lark(start: str) -> Lark:
    """Return a parser that makes the nodes of the syntax tree as it reads."""
    from lark import Lark

    from attn_dsl.dsl.build import ACTIONS, named

    return Lark(grammar_text(), parser="lalr", start=start, maybe_placeholders=False, keep_all_tokens=True,
                edit_terminals=_whole_names, transformer=SimpleNamespace(**ACTIONS),
                lexer_callbacks=dict.fromkeys(_TYPED, named))  # fmt: skip


def _whole_names(terminal: Any) -> None:
    """Make names of features and functions match whole words: not ``sentence`` in ``sentence_start``.

    A feature may also be called by any other name, that of a definition. Words of the language without a
    blank between them, as in ``q - kin 1 .. 2``, are no such name: token masks let them through.
    """
    from lark.lexer import PatternRE

    if terminal.name.endswith(("_FEATURE", "_FUNCTION")):
        pattern = f"(?:{terminal.pattern.to_regexp()}){_END}"
        if terminal.name in _TYPED:
            taken = "|".join(sorted({*RESERVED, *FEATURES, *FUNCTIONS}, key=len, reverse=True))
            pattern += f"|(?!(?:{taken}){_END}|(?:(?:{taken})[0-9]*)++{_END}(?![ \\t]*[(]))[a-z][a-z0-9_]*"
        terminal.pattern = PatternRE(pattern)


def parse(source: str, name: str = "<program>", resolve: Resolver | None = None,
          prelude: Sequence[t.Use] = ()) -> t.Head:  # fmt: skip
    """Parse a program to a syntax tree; ``dsl.check.check`` checks its names, types and limits.

    >>> parse("head first causal:\\n  2 where k == 0").terms[0].weight
    2.0

    Args:
        name: stands for the program in error messages; it may be a path.
        resolve: reads the files that the program uses, see ``dsl.definitions.in_folder``.
        prelude: files of definitions that it may use without naming them.

    Raises:
        ProgramSyntaxError: the source does not follow the grammar; the message shows the place.
        CostError: the source is too long or too deeply nested.
        ProgramTypeError: a file that it uses cannot be read.
        ProgramError: such a file is not valid.
    """
    known, wrong = [use.definitions for use in prelude], list[t.Use]()
    if resolve and "use" in source:
        from attn_dsl.dsl.build import NOTHING, unquote

        for found in _USE.finditer(source):
            path, before = unquote(found[1]), source[: found.start(1)].split("\n")
            try:
                known.append(resolve(path))
            except AttnDslError:
                line, column = len(before), len(before[-1]) + 1
                span = Span(line, column, line, column + len(found[1]))
                wrong.append(t.Use(path, NOTHING, span=span))
    try:
        tree = _with_comments(_parsed(source, "start", name, known), source)
    except ProgramSyntaxError:
        for use in wrong:
            _resolved(use, resolve, source, name)  # raises what is wrong with it
        raise
    uses = [_resolved(use, resolve, source, name) for use in tree.uses]
    if prelude:
        own = {getattr(one, "name", "") for one in (*tree.sets, *tree.scores, *tree.functions)}
        nodes = chain(tree.walk(), *(one.walk() for one in tree.properties))
        named = {n.name for n in nodes if isinstance(n, t.Call | t.SetName | t.Score)} - own
    for use in prelude:
        one = use.definitions
        there = one in [other.definitions for other in uses]
        if not there and named & {*one.sets, *one.scores, *one.functions}:
            uses.append(use)
    return dataclasses.replace(tree, uses=tuple(uses)) if uses else tree


def definitions_tree(source: str, name: str) -> t.Head:
    """Parse a file of definitions to a bidirectional program without terms.

    Raises:
        ProgramSyntaxError, CostError: as for ``parse``.
        ProgramTypeError: the file uses another one.
    """
    none = t.Head("definitions", "bidirectional")
    tree = _with_comments([*_parsed(source, "definitions", name), none], source)
    for use in tree.uses:
        raise ProgramTypeError("a file of definitions cannot use another one", use.span, source,
                               hint="put the definitions that it needs into it", name=name)  # fmt: skip
    return tree


def _with_comments(statements: list[Any], source: str) -> t.Head:
    """Return a program with its definitions and comments, given its parts in source order."""
    comments, parts = _Comments(source), dict[type, list[Any]]()
    for part in statements:
        one = comments.attach(part) if part.span else part
        if isinstance(one, t.ScoreDefinition | t.Head):
            one = dataclasses.replace(one, terms=tuple(map(comments.attach, one.terms)))
        kind = t.Property if isinstance(one, t.MassProperty) else type(one)
        parts.setdefault(kind, []).append(one)
    kinds = t.SetDefinition, t.ScoreDefinition, t.Use, t.Definition, t.Property
    sets, scores, uses, functions, properties = (tuple(parts.get(kind, ())) for kind in kinds)
    after = tuple(text for _, text, _ in comments.comments)
    (head,) = parts[t.Head]
    return dataclasses.replace(head, sets=sets, scores=scores, uses=uses, functions=functions,
                               properties=properties, after=after)  # fmt: skip


def _resolved(use: t.Use, resolve: Resolver | None, source: str, name: str) -> t.Use:
    """Return a line ``use`` with the definitions of its file."""
    if resolve is None:
        raise ProgramTypeError(
            f"the program is not read from a file, so {use.path!r} has no place", use.span, source, name=name,
            hint="save the program beside that file and load it, or put the definitions in it")  # fmt: skip
    try:
        return dataclasses.replace(use, definitions=resolve(use.path))
    except InputError as error:
        raise ProgramTypeError(str(error), use.span, source, name=name) from None


def parse_term(source: str) -> t.Term:
    """Parse one term, as in ``parse_term("2 where k == 0")``; errors as in ``parse``."""
    return _Comments(source).attach(_parsed(source, "line", "<term>"))


def parse_predicate(source: str) -> t.Predicate:
    """Parse one predicate, as in ``parse_predicate("punct(k) and k < q")``; errors as in ``parse``."""
    return _parsed(source, "predicate", "<predicate>")


def _parsed(source: str, start: str, name: str, known: Sequence[t.Definitions] = ()) -> Any:
    """Parse a text from a start symbol; the functions of known definitions may be used."""
    from lark.exceptions import UnexpectedInput

    from attn_dsl.dsl.build import READING, Reading, bounded

    _bound(source, name)
    text = source if start == "predicate" or source.endswith("\n") else source + "\n"
    own = set(_DEFINED.findall(source)) if known else ()
    used = Scope({}, {}, tuple(known)).types()
    types = {name: kind for name, kind in used.items() if name not in own}
    before = READING.set(Reading(source, name, types))
    try:
        found = _lark(start).parse(text)
        return bounded(found) if start == "predicate" else found
    except UnexpectedInput as error:
        raise explain(error, source, name, types) from None
    finally:
        READING.reset(before)


def _bound(source: str, name: str) -> None:
    """Raise ``CostError`` if a source is too long, too deeply nested, or has too long a number."""
    if len(source) > MAX_SOURCE:
        raise CostError(f"the source has {len(source):,} characters; at most {MAX_SOURCE:,} are read",
                        name=name, hint="keep large token sets out of programs, or split them")  # fmt: skip
    depth = 0
    for found in _BOUNDED.finditer(source):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if depth > MAX_NESTING:
            what, hint = f"nested deeper than {MAX_NESTING} levels", SPLIT
        elif found[0].isdigit():
            what, hint = f"a number of more than {MAX_DIGITS} digits", ""
        else:
            continue
        before = source[: found.start()].split("\n")
        line, column = len(before), len(before[-1]) + 1
        span = Span(line, column, line, column + len(found[0]))
        raise CostError(what, span, source, name=name, hint=hint)


class _Comments:
    """Attaches the comments of a source to its statements, which must be passed in source order."""

    def __init__(self, source: str) -> None:
        self.comments = deque[tuple[int, str, bool]]()  # line, text, and whether it stands alone
        for number, line in enumerate(source.split("\n"), 1) if "#" in source else ():
            for found in _COMMENT_OR_STRING.finditer(line):
                if found[0].startswith("#"):
                    alone = not line[: found.start()].strip()
                    self.comments.append((number, found[0][1:].strip(), alone))

    def take(self, span: Span) -> t.Remarks:
        """Remove and return the comments above a statement and those on its own lines."""
        above: list[str] = []
        beside: list[str] = []
        while self.comments and self.comments[0][0] <= span.end_line:
            line, text, alone = self.comments.popleft()
            (above if alone and line < span.line else beside).append(text)
        return t.Remarks(tuple(above), " ".join(beside)) if above or beside else t.NO_REMARKS

    def attach(self, node: Any) -> Any:
        """Return a statement with its comments."""
        remarks = self.take(node.span) if self.comments else t.NO_REMARKS
        return node if remarks is t.NO_REMARKS else dataclasses.replace(node, remarks=remarks)
