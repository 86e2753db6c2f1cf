"""The printer: the canonical source of a syntax tree. Parsing it gives an equal tree."""

import re
import textwrap
from collections.abc import Iterable
from decimal import Decimal
from types import UnionType

from attn_dsl.dsl import tree as t

WIDTH = 100
_SUMS = t.Arithmetic | t.Position
_FACTORS = _SUMS | t.Modulo
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def number(value: float | None) -> str:
    """Write a weight: the shortest decimal that parses to the same float; ``?`` for a hole.

    >>> number(2.0), number(-0.85), number(None), number(1e-7)
    ('2', '-0.85', '?', '0.0000001')
    """
    if value is None:
        return "?"
    text = format(Decimal(repr(float(value))), "f").removesuffix(".0")
    return "0" if text == "-0" else text


def quote(text: str) -> str:
    r"""Write a string as a literal of the language, in double quotes with escapes.

    >>> print(quote('say "hi"\n'))
    "say \"hi\"\n"
    """
    plain = "".join(_ESCAPES.get(char, char) for char in text)
    hidden = r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]"
    return '"' + re.sub(hidden, lambda found: f"\\u{ord(found[0]):04x}", plain) + '"'


def show(program: t.Head) -> str:
    """Write a program in canonical form.

    >>> from attn_dsl.dsl.parser import parse
    >>> print(show(parse("head a causal:\\n 2.0 where (k==0)")), end="")
    head a causal softmax:
        2 where k == 0
    """
    lines = []
    for use in program.uses:
        lines += _statement(f"use {quote(use.path)}", use.remarks, "")
    lines += definition_lines(program.sets, program.scores, program.functions, bool(lines))
    if lines:
        lines.append("")
    header = f"head {program.name} {program.visibility} {program.normaliser}:"
    lines += _statement(header, program.remarks, "")
    for term in program.terms:
        lines += _statement(show_term(term), term.remarks, "    ")
    lines += [""] * bool(program.properties)
    for one in program.properties:
        lines += _statement(f"property {show_property(one)}", one.remarks, "")
    lines += [f"# {comment}".rstrip() for comment in program.after]
    return "\n".join(lines) + "\n"


def definition_lines(sets: Iterable[t.SetDefinition], scores: Iterable[t.ScoreDefinition],
                     functions: Iterable[t.Definition] = (), apart: bool = False) -> list[str]:  # fmt: skip
    """Write sets, functions and scores, with empty lines between; ``apart``: also before the first ones."""
    lines: list[str] = []
    for one in sets:
        lines += _statement(f"set {one.name} = {_elements(one.value)}", one.remarks, "")
    for function in functions:
        lines += [""] if lines and lines[-1] and not lines[-1].startswith("def ") else []
        text = f"def {function.name}(i) = {expression(function.value)}"
        lines += _statement(text, function.remarks, "")
    if apart and lines:
        lines.insert(0, "")
    for score in scores:
        lines += [""] if lines or apart else []
        lines += _statement(f"score {score.name}:", score.remarks, "")
        for term in score.terms:
            lines += _statement(show_term(term), term.remarks, "    ")
    return lines


def _statement(text: str, remarks: t.Remarks, indent: str) -> list[str]:
    lines = [f"{indent}# {comment}".rstrip() for comment in remarks.above]
    beside = f"  # {remarks.beside}" if remarks.beside else ""
    return [*lines, f"{indent}{text}{beside}"]


def show_term(term: t.Term) -> str:
    """Write one term, without its comments.

    >>> show_term(t.Where(2.0, t.Compare("==", t.Position("k"), t.Integer(0))))
    '2 where k == 0'
    """
    if isinstance(term, t.Where):
        return f"{number(term.weight)} where {expression(term.condition)}"
    condition = "" if term.condition is None else f" where {expression(term.condition)}"
    if isinstance(term, t.Scaled):
        return f"{_weighted(term)}{condition}"
    if isinstance(term, t.Sum):
        text = _weighted(term.parts[0])
        for part in term.parts[1:]:
            written = _weighted(part)
            text += f" - {written[1:]}" if written.startswith("-") else f" + {written}"
        return text + condition
    entries = ", ".join(f"{entry.bound}: {number(entry.weight)}" for entry in term.entries)
    return f"by {expression(term.value)} [{entries}]{condition}"


def show_property(one: t.Property | t.MassProperty) -> str:
    """Write a property, without its comments.

    >>> show_property(t.MassProperty(">=", 0.5, t.Compare("==", t.Position("k"), t.Integer(0))))
    'mass >= 0.5 on k == 0'
    """
    if isinstance(one, t.Property):
        return f"{one.name} {one.argument}".rstrip()
    condition = "" if one.condition is None else f" where {expression(one.condition)}"
    return f"mass {one.op} {number(one.bound)} on {expression(one.keys)}{condition}"


def _weighted(part: t.Scaled | t.Part) -> str:
    """Write a weight, times its value if there is one."""
    value = "" if part.value is None else f" * {_inside(part.value, _FACTORS)}"
    return number(part.weight) + value


def expression(node: t.Node) -> str:
    """Write an integer, a value, a predicate, a string or a set.

    >>> expression(t.Arithmetic("-", t.Position("q"), t.Position("k", -1)))
    'q - (k-1)'
    """
    match node:
        case t.Call(name, ()) | t.SetName(name):
            return name
        case t.Call(name, args):
            return f"{name}({', '.join(map(expression, args))})"
        case t.Compare(op, left, right):
            return f"{expression(left)} {op} {expression(right)}"
        case t.Integer(value):
            return str(value)
        case t.Position(variable, shift):
            return variable + (f"{shift:+d}" if shift else "")
        case t.Arithmetic(op, left, right):
            return f"{expression(left)} {op} {_inside(right, _SUMS)}"
        case t.Modulo(value, modulus):
            return f"{_inside(value, _SUMS)} % {modulus}"
        case t.Shortened(name, value, length):
            return f"{name}({expression(value)}{f', {length}' * (name != 'stem')})"
        case t.Absolute(value):
            return f"abs({expression(value)})"
        case t.Extremum(name, left, right):
            return f"{name}({expression(left)}, {expression(right)})"
        case t.Quantifier(name, value) | t.Real(name, value):
            return f"{name}({expression(value)})"
        case t.Search(name, over, body, t.Position(variable, 0)):
            named = t.renamed(body, "i", variable)
            head = f"j {over} {variable}" if over else "j"
            return f"{name}({head} where {expression(named)})"
        case t.Decay(value, rate):
            return f"decay({expression(value)}, {number(rate)})"
        case t.Weight(symbol, chosen):
            return f"weight({expression(symbol)}, {expression(chosen)})"
        case t.Score(name, variable, shift):
            return f"{name}({variable}{f'{shift:+d}' if shift else ''})"
        case t.Product(left, right):
            return f"{_inside(left, _FACTORS)} * {_inside(right, _FACTORS)}"
        case t.Always():
            return "true"
        case t.Or(left, right):
            return f"{expression(left)} or {_inside(right, t.Or)}"
        case t.And(left, right):
            return f"{_inside(left, t.Or)} and {_inside(right, t.Or | t.And)}"
        case t.Not(t.Member(symbol, chosen)):
            return f"{expression(symbol)} not in {expression(chosen)}"
        case t.Not(inner):
            return f"not {_inside(inner, t.Or | t.And)}"
        case t.Between(inner, low, high):
            return f"{expression(inner)} in {low}..{high}"
        case t.Member(symbol, chosen):
            return f"{expression(symbol)} in {expression(chosen)}"
        case t.Affix(name, symbol, text):
            return f"{name}({expression(symbol)}, {quote(text)})"
        case t.Text(text):
            return quote(text)
        case t.SetLiteral():
            return "{" + ", ".join(_items(node)) + "}"
    raise TypeError(f"not an expression: {node!r}")


def _inside(node: t.Node, kinds: UnionType | type) -> str:
    """Write an operand, in parentheses if its class is one of ``kinds``."""
    text = expression(node)
    bare = not isinstance(node, kinds) or (isinstance(node, t.Position) and not node.shift)
    return text if bare else f"({text})"


def _items(literal: t.SetLiteral) -> list[str]:
    """Write each element of a set, with its weight if it has one."""
    if literal.weights is None:
        return list(map(quote, literal.elements))
    pairs = zip(literal.elements, literal.weights, strict=True)
    return [f"{quote(element)}: {number(weight)}" for element, weight in pairs]


def _elements(literal: t.SetLiteral) -> str:
    """Write the elements of a set definition, on several lines if one line is too short."""
    line = expression(literal)
    if len(line) <= WIDTH - 24:
        return line
    lines: list[str] = []
    for item in _items(literal):
        if lines and len(lines[-1]) + len(item) + 3 <= WIDTH - 4:
            lines[-1] += f", {item}"
        else:
            lines.append(item)
    return "{\n" + textwrap.indent(",\n".join(lines), "    ") + "\n}"
