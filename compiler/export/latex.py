r"""LaTeX: writes a program as displayed formulas, for a paper or a notebook (needs amsmath)."""

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import count

from attn_dsl.compiler import operations as ops
from attn_dsl.compiler.export.expressions import Code, Writer, shifted
from attn_dsl.compiler.export.source import render
from attn_dsl.compiler.graph import MATCH, NONE, ColumnKey, Node, SearchKey, Term
from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.definitions import self_contained
from attn_dsl.dsl.functions import FUNCTIONS
from attn_dsl.dsl.printer import number

LONG = 110  # a condition with more characters is broken over lines at its connectives
IN_LINE = 8  # the number of elements of a set on one line

_SPECIAL = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
            "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", " ": r"\(\sqcup\)",
            '"': "{\"}", "'": "'{}", "`": "`{}", "<": r"\textless{}", ">": r"\textgreater{}", "-": r"-{}",
            "?": "?{}", "!": "!{}", "\n": r"\textbackslash{}n", "\t": r"\textbackslash{}t",
            "\r": r"\textbackslash{}r", "[": "{[}", "]": "{]}", ",": ",{}", "|": r"\textbar{}"}  # fmt: skip
_LEVELS = {ops.DISJUNCTION: 0, ops.CONJUNCTION: 1, ops.COMPARISON: 2}
"""Binding strength in formulas, the loosest first. Unlike in Python, a comparison binds tighter than
"and"."""
_OVER = {"<=": r"\leq", ">=": r"\geq"}
_COMPARED = _LEVELS[ops.COMPARISON]


def to_latex(program: Program) -> str:
    r"""Write a program as LaTeX: its normaliser, the terms of its score, and its scores and sets.

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

    Holes become theta_1, theta_2, … Strings are escaped, and characters outside ASCII are written as
    ``\u00e9``, so that every LaTeX engine reads the formula.
    """
    program = Program(self_contained(program.tree), program.facts)
    writer, tree = _Formulas(program, ""), program.tree
    names = {node.operation.name for node in writer.graph.nodes}
    return render(
        "latex.tex", program, linear=writer.linear, searches=names & set(ops.QUANTIFIERS),
        scaled=any(isinstance(term.source, t.Scaled) for term in writer.graph.programs[0]),
        weighs=any(isinstance(node, t.Weight) for node in tree.walk()),
        rows=[*writer.score(("m" if writer.linear else "s") + "_{qk}"),
              *(row for one in tree.scores for row in _score_rows(one, program)),
              *map(_set_row, tree.sets)])  # fmt: skip


class _Formulas(Writer):
    """Writes terms as formulas, without variables for nodes."""

    form, key, query = "latex", "k", "q"
    """The variable of the innermost quantifier, and that of the query."""

    def score(self, name: str) -> Iterator[str]:
        """Yield the lines of the formula of a score: one per term, also for a sum under one condition."""
        holes, terms, rows = count(1), iter(self.graph.programs[0]), list[str]()
        for whole in self.program.tree.terms:
            parts = [next(terms) for _ in t.parts_of(whole)]
            texts = [self._term(x, [rf"\theta_{{{next(holes)}}}" if w is None else number(w)
                                    for w in t.weights_of(x.source)]) for x in parts]  # fmt: skip
            brackets = [self._bracket(x.condition) for x in parts]
            if len(parts) > 1 and brackets[0] and len(set(brackets)) == 1:
                texts = [f"({texts[0]}{''.join(map(_added, texts[1:]))})"]
                brackets = brackets[:1]
            rows += map(str.__add__, texts, brackets)
        yield f"{name} &= {rows[0] if rows else 0}"
        yield from (rf"&\quad {{}}{_added(row)}" for row in rows[1:])

    def _term(self, term: Term, weights: list[str]) -> str:
        """Write what a term adds where its condition holds."""
        if term.bounds:
            value = self.write(term.factors[0].node).text
            steps = [rf"0 & \text{{if }} {value} < {term.bounds[0]}"]
            ends = [f" < {bound}" for bound in term.bounds[1:]] + [""]
            for bound, weight, end in zip(term.bounds, weights, ends, strict=True):
                steps.append(rf"{weight} & \text{{if }} {bound} \leq {value}{end}")
            return r"\begin{cases} " + r", \\ ".join(steps) + r" \end{cases}"
        cut = self.linear and any(f.function not in FUNCTIONS for f in term.factors)
        values = []
        for factor in term.factors:
            use = self.graph.scores.get(factor.node) if factor.function == "hundredths" else None
            if use is None:
                x = self.write(factor.node)
            else:
                x = Code(rf"\mathrm{{{_name(use.name)}}}({shifted(use.variable, use.shift).text})")
            if factor.function in FUNCTIONS:
                latex = FUNCTIONS[factor.function].latex
                x = Code(latex.format(x=x.text, rate=number(factor.rate)))
            values.append(x.text if cut and len(term.factors) == 1 else x.within(ops.ATOM))
        value = r" \cdot ".join(values)
        parts = [weights[0], *filter(None, [rf"\max({value}, 0)" if cut else value])]
        return r" \cdot ".join(parts)

    def _bracket(self, one: int) -> str:
        """Write a condition in brackets, a long one on several lines; nothing if it always holds."""
        if one == NONE or self._constant(one) == 1:
            return ""
        written, row = self._truth(one), self.graph.nodes[one].operation
        if len(written) <= LONG or row.name not in ("both", "either"):
            return rf" \, [{written}]"
        parts, level = [], _LEVELS[row.level]
        while self.graph.nodes[one].operation is row:
            parts.append(self.write(self.graph.nodes[one].b).within(level + 1))
            one = self.graph.nodes[one].a
        parts.append(self.write(one).within(level))
        symbol = row.latex.split()[1]
        return r" \, [" + rf" \\ &\qquad {{}} {symbol} ".join(reversed(parts)) + "]"

    def _truth(self, one: int) -> str:
        value = self._constant(one)
        return self.write(one).text if value is None else rf"\text{{{bool(value)}}}".lower()

    def _shared(self, one: int) -> bool:
        return False

    def write(self, one: int) -> Code:
        """Write a node as a formula."""
        node = self.graph.nodes[one]
        inner = self.graph.nodes[node.a]
        if node.operation.name in ("key", "query"):
            return shifted(self.key if node.operation.name == "key" else self.query, node.x)
        if node.operation.name == "negation" and inner.operation.name.startswith("column"):
            return self._column(inner, negated=True)
        return super().write(one)

    def _compute(self, one: int, node: Node) -> Code:
        row = node.operation
        if row.name.startswith("column"):
            return self._column(node)
        if row.name == "table":
            i, j = (self.write(operand).text for operand in node.operands)
            key = list(self.graph.tables)[node.y]
            return Code(rf"\mathrm{{match}}({i}, {j})" if key == MATCH else self._found(key, j))
        level = _LEVELS.get(row.level, row.level)
        low, high = (ops.DISJUNCTION, ops.DISJUNCTION) if level == ops.ATOM else (level, level + 1)
        written = {name: self.write(operand).within(high if name == "b" else low)
                   for name, operand in zip("ab", node.operands, strict=False)}  # fmt: skip
        return Code(row.latex.format(**written, x=node.x, y=node.y), level)

    def _search(self, one: int, node: Node) -> Code:
        outer, self.key = self.key, "j" if self.key == "k" else self.key + "'"
        found = rf"\operatorname{{{node.operation.name}}}_{{{self.key}}}({self._truth(node.a)})"
        self.key = outer
        return Code(found)

    def _found(self, key: SearchKey, at: str) -> str:
        """Write what a search finds for a position."""
        body = t.Where(1.0, t.renamed(t.renamed(key.body, "i", "q"), "j", "k"))
        tree = t.Head("search", "bidirectional", terms=(body,))
        writer = _Formulas(Program(tree, self.program.facts), "")
        writer.key, writer.query = ("j'" if "j" in at else "j"), at
        over = f" {_OVER.get(key.over, key.over)} {at}" if key.over else ""
        (term,) = writer.graph.programs[0]
        return rf"\operatorname{{{key.name}}}_{{{writer.key}{over}}}({writer._truth(term.condition)})"

    def _column(self, node: Node, negated: bool = False) -> Code:
        """Write a column at a position, or its negation."""
        column, variable = self.graph.keys[node.y], node.operation.name[7:8]
        name = self.key if variable == "k" else self.query
        at = shifted(name, node.x) if variable else self.write(node.a)
        if isinstance(column, SearchKey):
            found = Code(self._found(column, at.text))
            return Code(rf"\lnot {found.within(ops.UNARY)}", ops.UNARY) if negated else found
        value = rf"\mathrm{{{_name(column.name)}}}({at.text})"
        for how, length in column.functions:
            value = rf"\mathrm{{{how}}}({value}{f', {length}' if length else ''})"
        if column.kind == "weight":
            return Code(rf"\operatorname{{weight}}({value}, {_set(column)})")
        if column.kind == "in":
            one = not column.label and len(column.elements) == 1
            signs = ("=", r"\neq") if one else (r"\in", r"\notin")
            other = _text(min(column.elements)[0]) if one else _set(column)
            return Code(f"{value} {signs[negated]} {other}", _COMPARED)
        found = Code(value)
        if column.kind != "feature":
            text = _text(min(column.elements)[0])
            verb = column.kind + " with" * (column.kind != "contains")
            found = Code(rf"{value} \text{{ {verb} }} {text}", _COMPARED)
        return Code(rf"\lnot {found.within(ops.UNARY)}", ops.UNARY) if negated else found


def _added(text: str) -> str:
    """Write a term after others."""
    return f" - {text[1:]}" if text.startswith("-") else f" + {text}"


def _score_rows(definition: t.ScoreDefinition, program: Program) -> Iterator[str]:
    """Yield the lines that define a score of the position i."""
    lines = dataclasses.replace(program.tree, terms=definition.terms, normaliser="softmax")
    writer = _Formulas(Program(lines, program.facts), "")
    writer.key = "i"
    return writer.score(rf"\mathrm{{{_name(definition.name)}}}(i)")


def _set(key: ColumnKey) -> str:
    if key.label:
        return rf"\mathrm{{{_name(key.label)}}}"
    return r"\{" + ", ".join(_elements(sorted(key.elements), key.kind == "weight")) + r"\}"


def _elements(pairs: Iterable[tuple[str, int]], weighted: bool) -> list[str]:
    """Write the elements of a set, with weights (in hundredths) if the set is weighted."""
    return [_text(e) + (rf" \mapsto {number(w / 100)}" if weighted else "") for e, w in pairs]


def _set_row(definition: t.SetDefinition) -> str:
    value = definition.value
    texts = _elements(sorted(value.hundredths().items()), value.weights is not None)
    lines = [", ".join(texts[i : i + IN_LINE]) for i in range(0, len(texts), IN_LINE)]
    inside = ", \\\\\n  &\\qquad ".join(lines)
    return rf"\mathrm{{{_name(definition.name)}}} &= \{{{inside}\}}"


def _name(name: str) -> str:
    return name.replace("_", r"\_")


def _text(text: str) -> str:
    """Write a string in quotation marks, with special characters escaped."""
    return r"\text{``\texttt{" + "".join(map(_character, text)) + r"}''}"


def _character(char: str) -> str:
    if char in _SPECIAL or (char.isascii() and char.isprintable()):
        return _SPECIAL.get(char, char)
    return rf"\textbackslash{{}}u{ord(char):04x}"
