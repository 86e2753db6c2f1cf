"""The builder: for each rule of the grammar, the function that makes its node of the syntax tree."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from lark import Token

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import Span

_VALUES = frozenset(
    "NAME SET_NAME VISIBILITY NORMALISER VARIABLE COMPARISON EQUALITY AFFIX EXTREMUM STRING HOLE WEIGHT "
    "BOUND RATE INTEGER BOOL_FEATURE INT_FEATURE SYMBOL_FEATURE PAIR_FEATURE REAL_FUNCTION "
    "POSITION_QUANTIFIER".split()
)
"""The terminals that have a value; the others are keywords and punctuation."""
NOTHING = t.Definitions({}, {}, "")
_ESCAPE = re.compile(r'\\(u[0-9a-f]{4}|["\\nrt])')
_UNESCAPED = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}


def unquote(literal: str) -> str:
    r"""Return the string that a literal of the language stands for.

    >>> unquote('"a\\n"')
    'a\n'
    """
    if "\\" not in literal:
        return literal[1:-1]
    return _ESCAPE.sub(
        lambda m: _UNESCAPED.get(m.group(1)) or chr(int(m.group(1)[1:], 16)), literal[1:-1]
    )


def _table(span: Span, v: list[Any]) -> t.Table:
    value, *entries = v
    condition = None if isinstance(entries[-1], t.Entry) else entries.pop()
    return t.Table(value, tuple(entries), condition, span=span)


def _head(span: Span, v: list[Any]) -> t.Head:
    name, visibility, *rest = v
    normaliser: t.Normaliser = rest.pop(0) if rest and isinstance(rest[0], str) else "softmax"
    return t.Head(name, visibility, normaliser, tuple(rest), span=span)


def _weight(text: str) -> float | None:
    return None if text == "?" else float(text)


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
    return t.SetLiteral(tuple(map(unquote, v)), span=span)


NODES: dict[str, Any] = {
    "part": lambda s, v: t.Part(_weight(v[0]), *v[1:], span=s),
    "table_term": _table,
    "set_definition": lambda s, v: t.SetDefinition(v[0], v[1], span=s),
    "entry": lambda s, v: t.Entry(int(v[0]), _weight(v[1]), span=s),
    "or_": lambda s, v: t.Or(v[0], v[1], span=s),
    "and_": lambda s, v: t.And(v[0], v[1], span=s),
    "not_": lambda s, v: t.Not(v[0], span=s),
    "group": lambda s, v: dataclasses.replace(v[0], span=s),
    "true": lambda s, v: t.Always(span=s),
    "any_": lambda s, v: t.Quantifier("any", v[0], span=s),
    "compare": lambda s, v: t.Compare(v[1], v[0], v[2], span=s),
    "compare_string": lambda s, v: t.Compare(v[1], v[0], t.Text(unquote(v[2])), span=s),
    "between": lambda s, v: t.Between(v[0], int(v[1]), int(v[2]), span=s),
    "member": lambda s, v: t.Member(v[0], v[1], span=s),
    "not_member": lambda s, v: t.Not(t.Member(v[0], v[1], span=s), span=s),
    "affix": lambda s, v: t.Affix(v[0], v[1], unquote(v[2]), span=s),
    "feature": lambda s, v: t.Call(v[0], tuple(v[1:]), span=s),
    "set_reference": lambda s, v: t.SetName(v[0], span=s),
    "set_literal": _elements,
    "product": lambda s, v: t.Product(v[0], v[1], span=s),
    "real": lambda s, v: t.Real(v[0], v[1], span=s),
    "decay": lambda s, v: t.Decay(v[0], float(v[1]), span=s),
    "weight_of": lambda s, v: t.Weight(v[0], v[1], span=s),
    "add": lambda s, v: _arithmetic("+", v[0], v[1], s),
    "subtract": lambda s, v: _arithmetic("-", v[0], v[1], s),
    "integer": lambda s, v: t.Integer(int(v[0]), span=s),
    "variable": lambda s, v: t.Position(v[0], span=s),
    "quantifier": lambda s, v: t.Quantifier(v[0], v[1], span=s),
    "abs_": lambda s, v: t.Absolute(v[0], span=s),
    "extremum": lambda s, v: t.Extremum(v[0], v[1], v[2], span=s),
}
"""By rule: a function that makes the node from its span and the values of its parts."""


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


def _action(make: Callable[[Span, list[Any]], Any], first: int = 0, last: int = -1) -> Any:
    """Return the action of a rule; its span is that of the parts from ``first`` to ``last``."""

    def act(parts: list[Any]) -> Any:
        values = [
            part.value if isinstance(part, Token) else part
            for part in parts
            if not isinstance(part, Token) or part.type in _VALUES
        ]
        return make(_span(parts[first], parts[last]), values)

    return act


ACTIONS: dict[str, Callable[[list[Any]], Any]] = {
    **{name: _action(make) for name, make in NODES.items()},
    **dict.fromkeys(
        "definition line weight predicate conjunction set value factor int".split(),
        lambda parts: parts[0],
    ),
    "sum_term": _sum_term,
    "head": _action(_head, 1, 1),  # the span of its name
    "score_definition": _action(lambda s, v: t.ScoreDefinition(v[0], tuple(v[1:]), span=s), 1, 1),
    "score_line": _action(lambda s, v: t.Where(_weight(v[0]), v[1], span=s), 0, -2),
    # The parser resolves the path.
    "use": _action(lambda s, v: t.Use(unquote(v[0]), NOTHING, span=s), 0, -2),
    "score_of": lambda parts: t.Score(
        parts[0].value,
        parts[2].value,
        int("".join(parts[3:-1]) or 0),
        span=_span(parts[0], parts[-1]),
    ),
    "definitions": lambda parts: [part for part in parts if isinstance(part, t.Node)],
    "start": lambda parts: [*(parts[0] if isinstance(parts[0], list) else ()), parts[-1]],
    "condition": lambda parts: parts[1],
    "element": lambda parts: (unquote(parts[0]), float(parts[2])),
}
"""By rule: the function that Lark calls with its parts, keywords and punctuation included."""
