"""The canonical printer: one way to write every tree, such that parsing it gives the tree back."""

from __future__ import annotations

import re
import textwrap
from decimal import Decimal

from attn_dsl.dsl import tree as t

WIDTH = 100
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def number(value: float | None) -> str:
    """Write a weight: the shortest decimal that reads back as the same number; ``?`` for a hole.

    >>> number(2.0), number(-0.85), number(None), number(1e-7)
    ('2', '-0.85', '?', '0.0000001')
    """
    if value is None:
        return "?"
    text = format(Decimal(repr(float(value))), "f").removesuffix(".0")
    return "0" if text == "-0" else text


def quote(text: str) -> str:
    r"""Write a string of the language.

    >>> print(quote('say "hi"\n'))
    "say \"hi\"\n"
    """
    plain = "".join(_ESCAPES.get(char, char) for char in text)
    return '"' + re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]", _escape, plain) + '"'


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found.group()):04x}"


def show(program: t.Head) -> str:
    """Write a program in canonical form.

    >>> from attn_dsl.dsl.parser import parse
    >>> print(show(parse("head a causal:\\n 2.0 where (k==0)")), end="")
    head a causal softmax:
        2 where k == 0
    """
    lines: list[str] = []
    for definition in program.sets:
        text = f"set {definition.name} = {_elements(definition.value)}"
        lines += _statement(text, definition.remarks, "")
    if program.sets:
        lines.append("")
    header = f"head {program.name} {program.visibility} {program.normaliser}:"
    lines += _statement(header, program.remarks, "")
    for term in program.terms:
        lines += _statement(show_term(term), term.remarks, "    ")
    lines += [f"# {comment}".rstrip() for comment in program.after]
    return "\n".join(lines) + "\n"


def _statement(text: str, remarks: t.Remarks, indent: str) -> list[str]:
    lines = [f"{indent}# {comment}".rstrip() for comment in remarks.above]
    beside = f"  # {remarks.beside}" if remarks.beside else ""
    return [*lines, f"{indent}{text}{beside}"]


def show_term(term: t.Term) -> str:
    """Write one term, without its comments."""
    if isinstance(term, t.Where):
        return f"{number(term.weight)} where {predicate(term.condition)}"
    condition = "" if term.condition is None else f" where {predicate(term.condition)}"
    if isinstance(term, t.Scaled):
        return f"{number(term.weight)} * {value(term.value)}{condition}"
    entries = ", ".join(f"{entry.bound}: {number(entry.weight)}" for entry in term.entries)
    return f"by {integer(term.value)} [{entries}]{condition}"


def value(node: t.Value) -> str:
    """Write the value of a term: one factor, or the product of two."""
    if isinstance(node, t.Product):
        return f"{_factor(node.left)} * {_factor(node.right)}"
    return _factor(node)


def _factor(node: t.Factor) -> str:
    """Write a real, a weight, or an integer that is an atom or in parentheses."""
    if isinstance(node, t.Weight):
        return f"weight({_leaf(node.value)}, {_set(node.set)})"
    if isinstance(node, t.Real):
        return f"{node.name}({integer(node.value)})"
    if isinstance(node, t.Decay):
        return f"decay({integer(node.value)}, {number(node.rate)})"
    return _atom(node)


def integer(node: t.Int) -> str:
    """Write an integer expression."""
    if isinstance(node, t.Arithmetic):
        return f"{integer(node.left)} {node.op} {_atom(node.right)}"
    return _leaf(node)


def _atom(node: t.Int) -> str:
    """Write an integer expression where only an atom may stand."""
    if isinstance(node, t.Arithmetic) or (isinstance(node, t.Position) and node.shift):
        return f"({integer(node)})"
    return _leaf(node)


def _leaf(node: t.Int) -> str:
    match node:
        case t.Integer(value):
            return str(value)
        case t.Position(variable, shift):
            return variable + (f"{shift:+d}" if shift else "")
        case t.Call(name, args):
            return f"{name}({', '.join(map(integer, args))})"
        case t.Absolute(value):
            return f"abs({integer(value)})"
        case t.Extremum(name, left, right):
            return f"{name}({integer(left)}, {integer(right)})"
        case t.Quantifier(name, body):
            return f"{name}({predicate(body)})"
    raise TypeError(f"not an integer expression: {node!r}")


def predicate(node: t.Predicate) -> str:
    """Write a predicate."""
    if isinstance(node, t.Or):
        return f"{predicate(node.left)} or {_conjunction(node.right)}"
    return _conjunction(node)


def _conjunction(node: t.Predicate) -> str:
    if isinstance(node, t.And):
        return f"{_conjunction(node.left)} and {_literal(node.right)}"
    return _literal(node)


def _literal(node: t.Predicate) -> str:
    match node:
        case t.And() | t.Or():
            return f"({predicate(node)})"
        case t.Not(t.Member(symbol, chosen)):
            return f"{_leaf(symbol)} not in {_set(chosen)}"
        case t.Not(inner):
            return f"not {_literal(inner)}"
        case t.Always():
            return "true"
        case t.Compare(op, left, right):
            return f"{_side(left)} {op} {_side(right)}"
        case t.Between(inner, low, high):
            return f"{integer(inner)} in {low}..{high}"
        case t.Member(symbol, chosen):
            return f"{_leaf(symbol)} in {_set(chosen)}"
        case t.Affix(name, symbol, text):
            return f"{name}({_leaf(symbol)}, {quote(text)})"
        case t.Call() | t.Quantifier():
            return _leaf(node)
    raise TypeError(f"not a predicate: {node!r}")


def _side(node: t.Int | t.Text) -> str:
    return quote(node.value) if isinstance(node, t.Text) else integer(node)


def _set(node: t.SetName | t.SetLiteral) -> str:
    if isinstance(node, t.SetName):
        return node.name
    return "{" + ", ".join(_items(node)) + "}"


def _items(literal: t.SetLiteral) -> list[str]:
    """Write each element of a set, with its weight if it has one."""
    if literal.weights is None:
        return list(map(quote, literal.elements))
    pairs = zip(literal.elements, literal.weights, strict=True)
    return [f"{quote(element)}: {number(weight)}" for element, weight in pairs]


def _elements(literal: t.SetLiteral) -> str:
    """Write the elements of a named set, over several lines where they are many."""
    items = _items(literal)
    line = "{" + ", ".join(items) + "}"
    if len(line) <= WIDTH - 24:
        return line
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + len(item) + 3 <= WIDTH - 4:
            lines[-1] += f", {item}"
        else:
            lines.append(item)
    return "{\n" + textwrap.indent(",\n".join(lines), "    ") + "\n}"
