"""The builder: for each rule of the grammar, the function that makes its node of the syntax tree."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import Span
from attn_dsl.dsl.tables import Action, Lines

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


def _head(lines: Lines, v: list[Any], first: int, last: int) -> t.Head:
    """Make a head. Its span is the span of its name."""
    (name, begin, end), visibility, *rest = v
    normaliser: t.Normaliser = rest.pop(0) if rest and isinstance(rest[0], str) else "softmax"
    return t.Head(name, visibility, normaliser, tuple(rest), span=lines.span(begin, end))


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
    "where_term": lambda s, v: t.Where(v[0], v[1], span=s),
    "value_term": lambda s, v: t.Scaled(v[0], v[1], v[2] if len(v) > 2 else None, span=s),
    "table_term": _table,
    "set_definition": lambda s, v: t.SetDefinition(v[0][0], v[1], span=s),
    "entry": lambda s, v: t.Entry(int(v[0]), v[1], span=s),
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
    "set_reference": lambda s, v: t.SetName(v[0][0], span=s),
    "set_literal": _elements,
    "product": lambda s, v: t.Product(v[0], v[1], span=s),
    "real": lambda s, v: t.Real(v[0], v[1], span=s),
    "decay": lambda s, v: t.Decay(v[0], float(v[1]), span=s),
    "weight_of": lambda s, v: t.Weight(v[1], v[2], span=s),
    "add": lambda s, v: _arithmetic("+", v[0], v[1], s),
    "subtract": lambda s, v: _arithmetic("-", v[0], v[1], s),
    "integer": lambda s, v: t.Integer(int(v[0]), span=s),
    "variable": lambda s, v: t.Position(v[0], span=s),
    "quantifier": lambda s, v: t.Quantifier(v[0], v[1], span=s),
    "abs_": lambda s, v: t.Absolute(v[0], span=s),
    "extremum": lambda s, v: t.Extremum(v[0], v[1], v[2], span=s),
}
"""By rule: a function that makes the node from its span and the values of its parts."""


def _placed(make: Any) -> Action:
    """Turn a function of a span and values into an ``Action``."""
    return lambda lines, v, begin, end: make(lines.span(begin, end), v)


ACTIONS: dict[str, Action] = {name: _placed(make) for name, make in NODES.items()} | {
    "head": _head,
    "start": lambda lines, v, b, e: v,
    "line": lambda lines, v, b, e: v[0],
    "condition": lambda lines, v, b, e: v[0],
    "weight": lambda lines, v, b, e: None if v[0] == "?" else float(v[0]),
    "element": lambda lines, v, b, e: (unquote(v[0]), float(v[1])),
}
"""The action of each rule, for ``tables.Tables``."""
