r"""LaTeX: a program as a display of formulas, for a paper or a notebook (needs amsmath)."""

from __future__ import annotations

from collections.abc import Iterator

from attn_dsl.compiler.export.source import comment
from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.limits import TERM_LIMIT
from attn_dsl.dsl.printer import number

LONG = 110
"""A condition of more characters than this is broken over lines where it can be."""
IN_LINE = 8
"""So many elements of a set stand on one line."""

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    " ": r"\(\sqcup\)", '"': "{\"}", "'": "'{}",
    "`": "`{}", "<": r"\textless{}", ">": r"\textgreater{}", "-": r"-{}",
    "?": "?{}", "!": "!{}", "\n": r"\textbackslash{}n", "\t": r"\textbackslash{}t",
    "\r": r"\textbackslash{}r", "[": "{[}", "]": "{]}", ",": ",{}", "|": r"\textbar{}",
}  # fmt: skip
_OPERATORS = {
    "==": "=", "!=": r"\neq", "<": "<", "<=": r"\leq", ">": ">", ">=": r"\geq",
}  # fmt: skip
# How tightly connectives bind, the loosest first.
_OR, _AND, _COMPARED, _NOT = range(4)


def to_latex(program: Program) -> str:
    r"""Write a program as LaTeX: its normaliser, its score term by term, its sets.

    >>> from attn_dsl.compiler.program import parse
    >>> print(to_latex(parse("head first causal:\n 2 where k == 0")))
    % The attention head program first, exported by attn-dsl; needs \usepackage{amsmath}.
    % [P] is 1 where P holds, else 0. What is not visible to q reads as empty, false, 0 or -1.
    \[
    \begin{aligned}
      a_{qk} &= \frac{\exp s_{qk}}{\sum_{j \leq q} \exp s_{qj}}
        \qquad (k \leq q) \\
      s_{qk} &= 2 \, [k = 0]
    \end{aligned}
    \]
    <BLANKLINE>

    Args:
        program: its holes become theta_1, theta_2, …

    Returns:
        a display that stands by itself. Strings are escaped; what is not ASCII is written as in
        programs, so that every LaTeX engine takes it.
    """
    tree = program.tree
    ahead = ", ".join(program.facts.lookahead)
    package = r"\usepackage{amsmath}"
    lines = [
        f"% The attention head program {program.name}, exported by attn-dsl; needs {package}.",
        "% [P] is 1 where P holds, else 0. "
        "What is not visible to q reads as empty, false, 0 or -1.",
    ]
    if any(isinstance(node, t.Quantifier) for node in tree.walk()):
        lines.append("% A search is over the other keys that q sees; it is -1 if there is none.")
    if any(isinstance(term, t.Scaled) for term in tree.terms):
        lines.append(f"% A weight times a value counts for at most {TERM_LIMIT:g} in magnitude.")
    if any(isinstance(node, t.Weight) for node in tree.walk()):
        lines.append("% weight(s, S) is the weight of s in S: 0 outside it, 1 in a plain set.")
    if ahead:
        lines.append(f"% It looks ahead: a causal head could not see {comment(ahead)}.")
    rows = [*_normaliser(tree), *_score(tree), *map(_set_row, tree.sets)]
    body = " \\\\\n  ".join(rows)
    return "\n".join([*lines, r"\[", r"\begin{aligned}", f"  {body}", r"\end{aligned}", r"\]", ""])


def _normaliser(tree: t.Head) -> list[str]:
    below = r"j \leq q" if tree.causal else "j"
    where = "\n    \\qquad (k \\leq q)" if tree.causal else ""
    if tree.normaliser == "softmax":
        return [rf"a_{{qk}} &= \frac{{\exp s_{{qk}}}}{{\sum_{{{below}}} \exp s_{{qj}}}}{where}"]
    total = rf"\sum_{{{below}}} m_{{qj}}"
    count = "(q + 1)" if tree.causal else "n"
    return [
        r"a_{qk} &= \begin{cases}"
        rf" m_{{qk}} / {total} & \text{{if }} {total} > 0, \\"
        rf" 1 / {count} & \text{{otherwise}} \end{{cases}}{where}"
    ]


def _score(tree: t.Head) -> list[str]:
    name = "m" if tree.normaliser == "linear" else "s"
    weights = _weights(tree)
    rows = []
    for term in tree.terms:
        own = [next(weights) for _ in t.weights_of(term)]
        rows.append(_term(term, own, tree.normaliser == "linear"))
    if not rows:
        return [f"{name}_{{qk}} &= 0"]
    signed = [rows[0], *(r if r.startswith("-") else f"{{}} + {r}" for r in rows[1:])]
    signed[1:] = [f"{{}} - {r[1:]}" if r.startswith("-") else r for r in signed[1:]]
    return [f"{name}_{{qk}} &= {signed[0]}", *(rf"&\quad {row}" for row in signed[1:])]


def _weights(tree: t.Head) -> Iterator[str]:
    """Yield the weights as LaTeX, the holes numbered."""
    holes = 0
    for weight in tree.weights:
        holes += weight is None
        yield rf"\theta_{{{holes}}}" if weight is None else number(weight)


def _term(term: t.Term, weights: list[str], linear: bool) -> str:
    condition = "" if term.condition is None else _iverson(term.condition)
    if isinstance(term, t.Where):
        return rf"{weights[0]} \, {condition}"
    if isinstance(term, t.Scaled):
        value = _value(term.value, linear)
        return rf"{weights[0]} \cdot {value}" + (rf" \, {condition}" if condition else "")
    value = _integer(term.value)
    steps = [rf"0 & \text{{if }} {value} < {term.entries[0].bound}"]
    for entry, weight, after in zip(term.entries, weights, [*term.entries[1:], None], strict=True):
        upper = "" if after is None else f" < {after.bound}"
        steps.append(rf"{weight} & \text{{if }} {entry.bound} \leq {value}{upper}")
    cases = r"\begin{cases} " + r", \\ ".join(steps) + r" \end{cases}"
    return cases + (rf" \; {condition}" if condition else "")


def _iverson(node: t.Predicate) -> str:
    """Write a predicate in brackets; a long one over several lines, if it has connectives."""
    written = _predicate(node, "k")
    if len(written) <= LONG or not isinstance(node, t.And | t.Or):
        return f"[{written}]"
    kind, symbol = type(node), r"\land" if isinstance(node, t.And) else r"\lor"
    level, parts = (_AND if isinstance(node, t.And) else _OR), []
    left: t.Predicate = node
    while isinstance(left, kind):
        parts.append(_predicate(left.right, "k", level + 1))
        left = left.left
    parts.append(_predicate(left, "k", level))
    return "[" + rf" \\ &\qquad {{}} {symbol} ".join(reversed(parts)) + "]"


def _value(node: t.Value, linear: bool) -> str:
    """Write a value; in a linear program, what may be negative counts as 0 there."""
    factors = (node.left, node.right) if isinstance(node, t.Product) else (node,)
    written = r" \cdot ".join(map(_factor, factors))
    if not linear or all(isinstance(factor, t.Real | t.Decay) for factor in factors):
        return written
    inside = _integer(node) if isinstance(node, t.Arithmetic | t.Position) else written
    return rf"\max({inside}, 0)"


def _factor(node: t.Factor) -> str:
    match node:
        case t.Weight(symbol, chosen):
            return rf"\operatorname{{weight}}({_integer(symbol)}, {_set(chosen)})"
        case t.Real("log", inner):
            return rf"\ln \max({_integer(inner)}, 1)"
        case t.Real("sqrt", inner):
            return rf"\sqrt{{\max({_integer(inner)}, 0)}}"
        case t.Real(_, inner):
            return rf"\frac{{1}}{{\max({_integer(inner)}, 1)}}"
        case t.Decay(inner, rate):
            return rf"{number(rate)}^{{\max({_integer(inner)}, 0)}}"
    return _atom(node, "k")


def _integer(node: t.Int, key: str = "k") -> str:
    match node:
        case t.Integer(value):
            return str(value)
        case t.Position(variable, shift):
            name = "q" if variable == "q" else key
            return name + (f" {'-' if shift < 0 else '+'} {abs(shift)}" if shift else "")
        case t.Arithmetic(op, left, right):
            return f"{_integer(left, key)} {op} {_atom(right, key)}"
        case t.Absolute(inner):
            return rf"\lvert {_integer(inner, key)} \rvert"
        case t.Extremum(name, left, right):
            return rf"\{name}({_integer(left, key)}, {_integer(right, key)})"
        case t.Call(name, args):
            listed = ", ".join(_integer(arg, key) for arg in args)
            return rf"\mathrm{{{_name(name)}}}({listed})"
        case t.Quantifier(name, body):
            bound = "j" if key == "k" else key + "'"
            return rf"\operatorname{{{name}}}_{{{bound}}}({_predicate(body, bound)})"
    raise TypeError(f"not an integer: {node!r}")


def _atom(node: t.Int, key: str) -> str:
    loose = isinstance(node, t.Arithmetic) or (isinstance(node, t.Position) and node.shift != 0)
    return f"({_integer(node, key)})" if loose else _integer(node, key)


def _predicate(node: t.Predicate, key: str, level: int = _OR) -> str:
    match node:
        case t.Always():
            return r"\text{true}"
        case t.Not(t.Member(symbol, chosen)):
            written = rf"{_integer(symbol, key)} \notin {_set(chosen)}"
        case t.Not(inner):
            return rf"\lnot {_predicate(inner, key, _NOT)}"
        case t.And(left, right):
            both = rf"{_predicate(left, key, _AND)} \land {_predicate(right, key, _COMPARED)}"
            return f"({both})" if level > _AND else both
        case t.Or(left, right):
            either = rf"{_predicate(left, key, _OR)} \lor {_predicate(right, key, _AND)}"
            return f"({either})" if level > _OR else either
        case t.Compare(op, left, right):
            sides = [_text(s.value) if isinstance(s, t.Text) else _integer(s, key)
                     for s in (left, right)]  # fmt: skip
            written = f"{sides[0]} {_OPERATORS[op]} {sides[1]}"
        case t.Between(inner, low, high):
            written = rf"{low} \leq {_integer(inner, key)} \leq {high}"
        case t.Member(symbol, chosen):
            written = rf"{_integer(symbol, key)} \in {_set(chosen)}"
        case t.Affix(name, symbol, text):
            verb = "starts with" if name == "starts" else "ends with"
            written = rf"{_integer(symbol, key)} \text{{ {verb} }} {_text(text)}"
        case t.Call() | t.Quantifier():
            return _integer(node, key)
        case _:
            raise TypeError(f"not a predicate: {node!r}")
    return f"({written})" if level > _COMPARED else written


def _set(node: t.SetName | t.SetLiteral) -> str:
    if isinstance(node, t.SetName):
        return rf"\mathrm{{{_name(node.name)}}}"
    return r"\{" + ", ".join(_elements(node)) + r"\}"


def _elements(node: t.SetLiteral) -> list[str]:
    if node.weights is None:
        return list(map(_text, node.elements))
    pairs = zip(node.elements, node.weights, strict=True)
    return [rf"{_text(element)} \mapsto {number(weight)}" for element, weight in pairs]


def _set_row(definition: t.SetDefinition) -> str:
    texts = _elements(definition.value)
    lines = [", ".join(texts[i : i + IN_LINE]) for i in range(0, len(texts), IN_LINE)]
    inside = ", \\\\\n  &\\qquad ".join(lines)
    return rf"\mathrm{{{_name(definition.name)}}} &= \{{{inside}\}}"


def _name(name: str) -> str:
    return name.replace("_", r"\_")


def _text(text: str) -> str:
    """Write a string between quotation marks, every character as itself or as an escape."""
    return r"\text{``\texttt{" + "".join(map(_character, text)) + r"}''}"


def _character(char: str) -> str:
    if char in _SPECIAL:
        return _SPECIAL[char]
    if char.isascii() and char.isprintable():
        return char
    return rf"\textbackslash{{}}u{ord(char):04x}"
