"""Expressions: writes the terms of a program as source, by default for NumPy and torch arrays.

The source of an operation is in its row of the table of operations. A node that is used more than
once becomes a variable. What an array library does in several steps is a function in the template
``helpers``. These functions read variables of the function around them: ``q`` and ``k`` (positions of
queries and keys), ``n`` (length), ``end`` (the last key that a query sees) and ``others`` (the keys
that a quantifier searches). Other targets are subclasses of ``Writer``.
"""

import keyword
import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

from attn_dsl.compiler import operations as ops
from attn_dsl.compiler.export.columns import Columns
from attn_dsl.compiler.export.source import comment
from attn_dsl.compiler.graph import NONE, Factor, Node, Term
from attn_dsl.compiler.lower import lower
from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.limits import LEAST_MASS, MAX_WEIGHT, TERM_LIMIT
from attn_dsl.dsl.printer import show_term

RESERVED = (
    "Attention WEIGHTS attention columns dtype end feature features k lengths match n np others "
    "position q read score tokens torch total visible m w at table_at search_column nearest first last count "
    "exists table massed given b h matches codes number tensors stacked searched buffers functions size "
    "start width settled known opened out i j keys scores amount mass math top kernel")  # fmt: skip
"""Names that exported modules use for themselves, so no variable may have them."""
_NAMES = {"add": "value", "subtract": "value", "any": "exists"}


class Code(NamedTuple):
    """An expression: its source, and the binding strength of its outermost operator."""

    text: str
    level: int = ops.ATOM

    def within(self, level: int) -> str:
        """Return the source, in parentheses if it binds looser than ``level``."""
        return self.text if self.level >= level else f"({self.text})"


def shifted(name: str, shift: int) -> Code:
    """Write a position plus a shift: ``k - 1``."""
    if not shift:
        return Code(name)
    return Code(f"{name} {'-' if shift < 0 else '+'} {abs(shift)}", ops.SUM)


class Writer:
    """Writes the terms of a program as expressions.

    ``xp`` is the name of the module with the functions: ``np``, ``torch`` or ``math``.
    """

    form = "array"
    """The attribute of ``Operation`` that is written: ``array``, ``scalar`` or ``latex``."""
    trained = False
    """Whether the weights may change after the export, so that they are not written as numbers."""
    addition = "score += {}"  # the statement that adds an expression to the score of a pair
    row = ""  # the source of the index of the text before other indices, such as ``b, ``

    def __init__(self, program: Program, xp: str) -> None:
        self.program, self.graph, self.xp = program, lower([program.tree]), xp
        self.kind = ".to(dtype)" if xp == "torch" else ""
        self.linear = program.tree.normaliser == "linear"
        self.lines: list[str] = []  # the statements that assign the variables of the expressions
        self.taken = set(RESERVED.split())
        self.columns = Columns(program.causal, self.free)
        self.used = dict[str, None]()  # the variables of the columns that are read
        self.helpers = dict[str, None]()  # the helper functions that are called
        # By node, the variables of those that have one, and of quantifiers.
        self.names, self.searches = dict[int, str](), dict[int, str]()
        self.uses: Counter[int] = Counter()
        for term in self.graph.programs[0]:
            for one in (*(factor.node for factor in term.factors), term.condition):
                self._count(one)

    def _count(self, one: int) -> None:
        """Count the uses of each node in the source of the terms."""
        self.uses[one] += 1
        if one != NONE and self.uses[one] == 1:
            node = self.graph.nodes[one]
            for operand in node.operands * max(1, self._template(node.operation).count("{a}")):
                self._count(operand)

    def _template(self, row: ops.Operation) -> str:
        """Return the source of an operation, with fields for its operands."""
        return getattr(row, self.form) or row.array

    def values(self, **more: Any) -> dict[str, Any]:
        """Write all terms; return the values for the templates."""
        return {"terms": [*chain(*self.terms())], **self.columns.values(), "xp": self.xp, "row": self.row,
                "helpers": self.helpers, "used": list(self.used), "lines": self.lines,
                "searches": list(self.searches.values()), "linear": self.linear,
                "keep": "keepdims=True" if self.xp == "np" else "keepdim=True", **more}  # fmt: skip

    def terms(self) -> Iterator[list[str]]:
        """Yield the statements of each term: the term in the language, and what adds it if it is not 0."""
        first = 0
        for term in self.graph.programs[0]:
            last = first + len(t.weights_of(term.source))
            never = term.condition != NONE and self._constant(term.condition) == 0
            alone = not term.factors or bool(term.bounds)
            weights = [self._weight(i, alone) for i in range(first, last)]
            added = "" if never else self._term(term, weights)
            sums = [self.addition.format(added)] if added else []
            yield [f"# {comment(show_term(term.source))}", *sums]
            first = last

    def _weight(self, place: int, alone: bool) -> str:
        """Write a weight, by its index in source order; ``alone``: no factor multiplies it."""
        weight = self.program.tree.weights[place] or 0.0
        return repr(0.0 if alone and self.linear and weight < LEAST_MASS else weight + 0.0)

    def _term(self, term: Term, weights: list[str]) -> str:
        """Write the expression that a term adds to a score."""
        amount = weights[0]
        known = [self._constant(factor.node) for factor in term.factors]
        if term.bounds and known[0] is None:
            amount = self._table(term.factors[0].node, term.bounds, weights)
        elif term.bounds:
            reached = sum(bound <= (known[0] or 0) for bound in term.bounds)
            if not reached:
                return ""
            amount = weights[reached - 1]
        elif None not in known and not self.trained:
            factors = zip(term.factors, known, strict=True)
            size = math.prod(ops.REALS[f.function].value(x or 0, f.rate) for f, x in factors)
            size = min(max(float(amount) * size, -TERM_LIMIT), TERM_LIMIT)
            amount = repr(0.0 if self.linear and size < LEAST_MASS else size)
        else:
            amount = " * ".join([amount, *map(self._factor, term.factors)])
            if self.linear and term.factors:
                amount = self._mass(amount)
            elif self._size(weights[0]) * self.graph.bound(term) > TERM_LIMIT:
                amount = self._bounded(amount)
        if term.condition == NONE or self._constant(term.condition) is not None:
            return amount
        return self._where(self.write(term.condition), amount)

    def _size(self, weight: str) -> float:
        return MAX_WEIGHT if self.trained else abs(float(weight))

    def _factor(self, factor: Factor) -> str:
        """Write a factor of a term: a real function of a node."""
        value, function = self._constant(factor.node), ops.REALS[factor.function]
        if value is not None:
            return repr(function.value(value, factor.rate))
        x = self._real(self.write(factor.node), function.least)
        names = {"x": x, "rate": repr(factor.rate), "xp": self.xp}
        written = re.sub(r"\b(xp|x|rate)\b", lambda found: names[found[1]], function.formula)
        return written if re.fullmatch(r"x|xp\.\w+\(x\)", function.formula) else f"({written})"

    def _constant(self, one: int) -> int | None:
        """Return the value of a constant node, or None for any other node."""
        node = self.graph.nodes[one]
        return node.x if node.operation.name == "constant" else None

    def write(self, one: int) -> Code:
        """Write a node as an expression, or as the variable that holds its value."""
        if one in self.names:
            return Code(self.names[one])
        node = self.graph.nodes[one]
        name = node.operation.name
        if name == "constant":
            return Code(str(node.x), ops.UNARY if node.x < 0 else ops.ATOM)
        if name in ("query", "key"):
            return shifted(name[0], node.x)
        if name in ops.QUANTIFIERS:
            return self._search(one, node)
        code = self._compute(one, node)
        if self._shared(one) and not re.fullmatch(r"\w+(\[\w+\])?", code.text):
            return self._assign(one, code)
        return code

    def _shared(self, one: int) -> bool:
        """Return whether the value of a node is assigned to a variable."""
        return self.uses[one] > 1

    def _compute(self, one: int, node: Node) -> Code:
        """Write the operation of a node."""
        row = node.operation
        if row.name.startswith("column"):
            at = self.write(node.a) if row.takes else shifted(row.name[7], node.x)
            return self._read(one, at)
        operands = [self.write(operand) for operand in node.operands]
        if row.name == "table":
            return self._seen(one, *operands)
        if row.commutes and row.level == ops.ATOM and self._constant(node.a) is not None:
            operands.reverse()  # a function of an array takes the array first
        low = ops.COMPARISON if row.level == ops.ATOM else max(row.level, ops.COMPARISON + 1)
        high = ops.COMPARISON if row.level == ops.ATOM else row.level + 1
        written = {name: code.within(high if name == "b" else low)
                   for name, code in zip("ab", operands, strict=False)}  # fmt: skip
        text = self._template(row).replace("xp.", f"{self.xp}.")
        return Code(text.format(**written, x=node.x, y=node.y), row.level)

    def _assign(self, one: int, code: Code) -> Code:
        """Assign the value of a node to a new variable."""
        node = self.graph.nodes[one]
        name = _NAMES.get(node.operation.name, node.operation.name)
        if name.startswith("column"):
            name = self.graph.keys[node.y].name + name[6:8]
        name += "_1" if node.operation.name in ops.QUANTIFIERS else ""
        self.names[one] = self.free("distance" if code.text == "q - k" else name)
        self.lines.append(f"{self.names[one]} = {code.text}")
        return Code(self.names[one])

    def free(self, name: str) -> str:
        """Return an unused name: ``name``, or ``name`` with a number; mark it as used."""
        tried, count = name, 1
        while tried in self.taken or keyword.iskeyword(tried):
            count += 1
            tried = f"{name.removesuffix('_1')}_{count}"
        self.taken.add(tried)
        return tried

    # Subclasses for other targets override these methods.

    def _call(self, helper: str, *args: str) -> str:
        """Write a call of a helper function."""
        self.helpers[helper] = None
        return f"{helper}({', '.join(args)})"

    def _read(self, one: int, at: Code) -> Code:
        """Write a column at a position, as the query sees it."""
        key = self.graph.keys[self.graph.nodes[one].y]
        column = self.columns.reading(key)
        self.used |= dict.fromkeys(filter(None, column))
        if at.text in ("q", "k") and not column.known:
            return Code(f"{column.name}[{self.row}{at.text}]")
        pad = str(bool(key.pad) if key.truth else key.pad)
        return Code(self._call("at", column.name, _position(at), pad, *filter(None, column[1:])))

    def _seen(self, one: int, i: Code, j: Code) -> Code:
        """Write an entry of a table."""
        key = list(self.graph.tables)[self.graph.nodes[one].y]
        table = self.columns.table(key)
        self.used[table] = None
        pad = str(bool(key.pad) if key.truth else key.pad)
        return Code(self._call("table_at", table, _position(i), _position(j), pad))

    def _search(self, one: int, node: Node) -> Code:
        """Write a quantifier as a variable with one value per query."""
        value, name = self._constant(node.a), node.operation.name
        found = self.write(node.a).text if value is None else str(bool(value))
        code = self._assign(one, Code(self._call(_NAMES.get(name, name), found)))
        self.searches[one] = code.text
        return code

    def _table(self, one: int, bounds: tuple[int, ...], weights: list[str]) -> str:
        """Write a step function of a node."""
        listed = f"[{', '.join(weights)}]"
        return self._call("table", self.write(one).text, str(list(bounds)), listed)

    def _real(self, code: Code, least: int | None) -> str:
        """Write an integer as a float of the type of the scores, clipped below at ``least``."""
        text = f"{self.xp}.clip({code.text}, {least}, None)"
        return (code.within(ops.ATOM) if least is None else text) + self.kind

    def _bounded(self, amount: str) -> str:
        """Write an amount clipped at the limit of a term."""
        return f"{self.xp}.clip({amount}, {-TERM_LIMIT}, {TERM_LIMIT})"

    def _mass(self, amount: str) -> str:
        """Write the mass that a term of a linear program adds."""
        return self._call("massed", amount)

    def _where(self, condition: Code, amount: str) -> str:
        """Write an amount where a condition holds, and 0 elsewhere."""
        return f"{amount} * {condition.within(ops.ATOM)}{self.kind}"


def _position(at: Code) -> str:
    """Write a position as an array."""
    return shifted("0 * q", int(at.text)).text if re.fullmatch(r"-?\d+", at.text) else at.text
