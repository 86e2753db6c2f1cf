"""The builder: for each rule of the grammar, the function that makes its node of the syntax tree."""

import dataclasses
import re
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from lark import Token

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import CostError, ProgramTypeError, Span
from attn_dsl.dsl.features import FEATURES, Type
from attn_dsl.dsl.limits import MAX_OPERATORS
from attn_dsl.dsl.scope import type_of
from attn_dsl.dsl.syntax_errors import RESERVED, SPLIT, reserved

_NAMES = (
    "NAME SET_NAME VISIBILITY NORMALISER VARIABLE SEARCHED COMPARISON EQUALITY AFFIX EXTREMUM BOOL_FEATURE "
    "INT_FEATURE SYMBOL_FEATURE PAIR_FEATURE TEXT_FEATURE REAL_FUNCTION POSITION_QUANTIFIER "
    "CUT_FUNCTION STEM_FUNCTION")  # fmt: skip
NOTHING = t.Definitions({}, {}, "")


@dataclasses.dataclass(frozen=True)
class Reading:
    """A source that is parsed: its text and name, and the types of functions so far."""

    source: str
    name: str
    types: dict[str, Type]

    def wrong(self, span: Span | None, message: str, hint: str) -> ProgramTypeError:
        """Return an error at a place of the source."""
        return ProgramTypeError(message, span, self.source, hint=hint, name=self.name)


READING: ContextVar[Reading] = ContextVar("the source that is parsed")
_OPERATORS = (t.Or, t.And, t.Not, t.Arithmetic, t.Modulo)
_ESCAPE = re.compile(r'\\(u[0-9a-f]{4}|["\\nrt])')
_UNESCAPED = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}


def unquote(literal: str) -> str:
    r"""Return the string that a literal of the language stands for.

    >>> unquote('"a\\n"')
    'a\n'
    """
    if "\\" not in literal:
        return literal[1:-1]
    return _ESCAPE.sub(lambda m: _UNESCAPED.get(m.group(1)) or chr(int(m.group(1)[1:], 16)), literal[1:-1])


_VALUES: dict[str, Callable[[str], Any]] = {**dict.fromkeys(_NAMES.split(), str), "STRING": unquote,
                                            "HOLE": lambda text: None, "WEIGHT": float, "RATE": float,
                                            "BOUND": int, "INTEGER": int}  # fmt: skip
"""The values of terminals; those that are left out are keywords and punctuation."""


def _table(span: Span, v: list[Any]) -> t.Table:
    value, *entries = v
    condition = None if isinstance(entries[-1], t.Entry) else entries.pop()
    return t.Table(value, tuple(entries), condition, span=span)


def _head(span: Span, v: list[Any]) -> t.Head:
    name, visibility, *rest = v
    normaliser: t.Normaliser = rest.pop(0) if rest and isinstance(rest[0], str) else "softmax"
    return t.Head(name, visibility, normaliser, tuple(rest), span=span)


def _arithmetic(op: str, left: t.Int, right: t.Int, span: Span) -> t.Int:
    """Make a sum; a position plus or minus a number is one node, a shifted position."""
    if isinstance(left, t.Position) and isinstance(right, t.Integer):
        shift = left.shift + (right.value if op == "+" else -right.value)
        return t.Position(left.variable, shift, span=span)
    return t.Arithmetic(op, left, right, span=span)  # type: ignore[arg-type]


def _elements(span: Span, v: list[Any]) -> t.SetLiteral:
    if isinstance(v[0], tuple):
        strings, weights = zip(*v, strict=True)
        return t.SetLiteral(strings, weights, span=span)
    return t.SetLiteral(tuple(v), span=span)


def bounded(node: Any) -> Any:
    """Return a term, predicate or integer; raise ``CostError`` if it has too many operators."""
    line, column, end_line, end_column = node.span
    if end_line == line and end_column - column <= MAX_OPERATORS:
        return node  # too short to have so many
    if sum(isinstance(part, _OPERATORS) for part in node.walk()) > MAX_OPERATORS:
        reading = READING.get()
        what = f"more than {MAX_OPERATORS} operators in one term or function"
        raise CostError(what, node.span, reading.source, name=reading.name, hint=SPLIT)
    return node


def named(token: Token) -> Token:
    """Give a feature or a function the terminal of its type; Lark calls it for each such name."""
    if token.value not in FEATURES:
        kind = READING.get().types.get(token.value)
        token.type = f"{kind.upper()}_FEATURE" if kind else "UNKNOWN"
    return token


def _definition(span: Span, v: list[Any]) -> t.Definition:
    """Make a definition, and note its type for its uses."""
    name, value = v
    if name in RESERVED:
        raise READING.get().wrong(span, reserved(name), "call the function by another name")
    READING.get().types[name] = type_of(value, READING.get().types)
    return t.Definition(name, _owned(value), span=span)


def _owned(node: Any) -> Any:
    """Make searches that name no position but ``j`` searches for ``i``."""
    bounded(node)

    def own(one: t.Node) -> t.Node:
        free = isinstance(one, t.Search) and not one.over and one.at == t.Position("q")
        return dataclasses.replace(one, at=t.Position("i")) if free else one  # type: ignore[call-arg]

    return t.rewrite(node, own)


def _search(span: Span, v: list[Any]) -> t.Search:
    """Make a search for the one position that it names besides ``j``, which is called ``i`` in its body."""
    name, (over, at, body) = v
    bounded(body)
    others = {p.variable for p in t.positions(body)} - {"j"}
    at = at or min(others, default="q")  # of another one, the checker says that it is not known
    return t.Search(name, over, t.renamed(body, at, "i"), t.Position(at), span=span)  # type: ignore[arg-type]


def _node(kind: Callable[..., t.Node]) -> Callable[[Span, list[Any]], t.Node]:
    """Return the function that makes a node whose fields are the values of a rule, in their order."""
    return lambda span, values: kind(*values, span=span)


_NODES: dict[str, Callable[[Span, list[Any]], Any]] = {
    **{rule: _node(kind) for rule, kind in {
        "part": t.Part, "set_definition": t.SetDefinition, "entry": t.Entry, "or_": t.Or, "and_": t.And,
        "not_": t.Not, "true": t.Always, "between": t.Between, "member": t.Member, "affix": t.Affix,
        "set_reference": t.SetName, "product": t.Product, "real": t.Real, "decay": t.Decay,
        "weight_of": t.Weight, "shortened": t.Shortened, "modulo": t.Modulo, "integer": t.Integer,
        "variable": t.Position, "quantifier": t.Quantifier, "abs_": t.Absolute, "extremum": t.Extremum,
        "score_line": t.Where, "property": t.Property}.items()},
    "table_term": _table,
    "mass_property": lambda s, v: bounded(t.MassProperty(*v, span=s)),
    "group": lambda s, v: dataclasses.replace(v[0], span=s),
    "any_": lambda s, v: t.Quantifier("any", v[0], span=s),
    "any_search": lambda s, v: _search(s, ["any", *v]),
    "search": _search,
    "searched": lambda s, v: (*(v[1:-1] or ("", None)), v[-1]),
    "function_definition": _definition,
    "compare": lambda s, v: t.Compare(v[1], v[0], v[2], span=s),
    "compare_string": lambda s, v: t.Compare(v[1], v[0], t.Text(v[2]), span=s),
    "not_member": lambda s, v: t.Not(t.Member(v[0], v[1], span=s), span=s),
    "feature": lambda s, v: t.Call(v[0], tuple(v[1:]), span=s),
    "set_literal": _elements,
    "add": lambda s, v: _arithmetic("+", v[0], v[1], s),
    "subtract": lambda s, v: _arithmetic("-", v[0], v[1], s),
    "head": _head,
    "score_definition": lambda s, v: t.ScoreDefinition(v[0], tuple(map(_owned, v[1:])), span=s),
    "use": lambda s, v: t.Use(v[0], NOTHING, span=s),  # the parser resolves the path
}  # fmt: skip
"""By rule: a function that makes the node from its span and the values of its parts."""
_SPANS = {"head": (1, 1), "function_definition": (1, 1), "score_definition": (1, 1),
          **dict.fromkeys(("score_line", "use", "property", "mass_property"), (0, -2))}  # fmt: skip
"""By rule: the first and the last part that its span covers, such as the name of a head."""


def _span(first: Any, last: Any) -> Span:
    """Return the span from one part of a rule to another; each is a token or a node."""
    begin = first if isinstance(first, Token) else first.span
    end = last if isinstance(last, Token) else last.span
    return Span(begin.line, begin.column, end.end_line, end.end_column)


def _sum_term(items: list[Any]) -> t.Term:
    """Make a sum; one part alone is a simple term."""
    first, last, span = items[0], items[-1], _span(items[0], items[-1])
    condition = None if isinstance(last, t.Part) else last
    if len(items) < 3:  # a part, and the condition if there is one
        if first.value is None:
            return t.Where(first.weight, last, span=span)
        return t.Scaled(first.weight, first.value, condition, span=span)
    parts = [x for x in items if isinstance(x, t.Part)]
    for i, sign in enumerate(items[1 : 2 * len(parts) - 1 : 2], 1):
        if sign == "-" and (weight := parts[i].weight) is not None:
            parts[i] = dataclasses.replace(parts[i], weight=-weight)
    return t.Sum(tuple(parts), condition, span=span)


def _values(parts: list[Any]) -> list[Any]:
    """Return the values of the parts of a rule: nodes, and what terminals stand for."""
    return [_VALUES[part.type](part.value) if isinstance(part, Token) else part for part in parts
            if not isinstance(part, Token) or part.type in _VALUES]  # fmt: skip


def _action(rule: str) -> Any:
    """Return the action of a rule that makes a node."""
    make, (first, last) = _NODES[rule], _SPANS.get(rule, (0, -1))
    return lambda parts: make(_span(parts[first], parts[last]), _values(parts))


ACTIONS: dict[str, Callable[[list[Any]], Any]] = {
    **{rule: _action(rule) for rule in _NODES},
    **dict.fromkeys("definition weight predicate conjunction set value factor int operand".split(),
                    lambda parts: parts[0]),
    "line": lambda parts: bounded(parts[0]),
    "sum_term": _sum_term,
    "score_of": lambda parts: t.Score(parts[0].value, parts[2].value, int("".join(parts[3:-1]) or 0),
                                      span=_span(parts[0], parts[-1])),
    "definitions": lambda parts: [part for part in parts if isinstance(part, t.Node)],
    "start": lambda parts: [one for part in parts for one in (part if isinstance(part, list) else [part])
                            if isinstance(one, t.Node)],
    "condition": lambda parts: parts[1],
    "element": lambda parts: tuple(_values(parts))}  # fmt: skip
"""By rule: the function that Lark calls with its parts, keywords and punctuation included."""
