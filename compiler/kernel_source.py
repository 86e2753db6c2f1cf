"""Source of a program's kernel: one Python function, each part computed as rarely as it may be.

What reads the key alone is computed once for a text, what reads only the distance once for each
distance, what reads the query alone once for each row, and the rest for each pair. Constants are
folded. Where the weights say that no score is large, a softmax is a product of masses without an
exponential for each pair. No text of a program gets into the source, only numbers and operations.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from attn_dsl.compiler.kernel_graph import ColumnKey, Expr, Graph, Part, Parts, Stage
from attn_dsl.compiler.kernel_text import BUFFERS, EXPONENTIAL, LINEAR, MASSES, ROW, SOFTMAX
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.limits import MATCH_LIMIT, TERM_LIMIT


@dataclass(frozen=True, slots=True)
class KernelSource:
    """The source of a kernel, and the columns that it reads, in the order of its arrays."""

    text: str
    columns: tuple[ColumnKey, ...]


def kernel_source(program: t.Head) -> KernelSource:
    """Write the kernel of a program without holes.

    >>> from attn_dsl.dsl.parser import parse
    >>> made = kernel_source(parse("head a causal:\\n 2 where text(k) == text(q)"))
    >>> "def kernel(n, first, start, width, settled, known, opened, out):" in made.text
    True
    >>> made.columns
    (ColumnKey(kind='feature', name='text', detail=frozenset(), hundredths=()),)

    Raises:
        ValueError: a weight is a hole.
    """
    if any(weight is None for weight in program.weights):
        raise ValueError("the program has holes; fit its weights first")
    return _Writer(Graph(program)).write()


@dataclass
class _Scope:
    """A loop (or the body of a row) that is being written: its lines and what they name."""

    stage: Stage
    lines: list[str]
    names: dict[int, str]


_BINARY = {
    "add": "+", "sub": "-", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "and": "&", "or": "|",
}  # fmt: skip
_TRUTHS = {"eq", "ne", "lt", "le", "and", "or", "not"}
_REALS = {
    "log": "math.log(max({0}, 1))", "sqrt": "math.sqrt(max({0}, 0))", "inv": "(1.0 / max({0}, 1))",
    "decay": "math.pow({1!r}, max({0}, 0))", "weight": "({0} / 100.0)", "": "{0}",
}  # fmt: skip
_LONG, _STEPS = 60, 6


class _Writer:
    """Writes the kernel of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.exprs, self.causal = graph, graph.exprs, graph.causal
        self.linear = graph.program.normaliser == "linear"
        self.masses = not self.linear and graph.bounded()
        self.key = _Scope(Stage.KEY, [], {})
        self.distance = _Scope(Stage.DISTANCE, [], {})
        self.query = _Scope(Stage.QUERY, [], {})
        self.globals: list[str] = []
        self.amounts = 0
        self.top: dict[str, str] = {}
        self.slices: dict[str, str] = {}
        self.hoists: dict[int, str] = {}
        self.factors: dict[Part, str] = {}
        self.home = {Stage.KEY: self.key, Stage.DISTANCE: self.distance, Stage.QUERY: self.query}
        self.uses = Counter(a for expr in self.exprs for a in expr.args)
        self.uses.update(node for _, parts in graph.terms for node in parts.nodes)

    def write(self) -> KernelSource:
        """Write the whole module."""
        amounts: dict[Stage, list[str]] = {stage: [] for stage in Stage}
        pair = _Scope(Stage.PAIR, [], {})
        scopes = {
            Stage.CONSTANT: self.query, Stage.QUERY: self.query, Stage.KEY: self.key,
            Stage.DISTANCE: self.distance, Stage.PAIR: pair,
        }  # fmt: skip
        for term, parts in self.graph.terms:
            stage = self.graph.stage(*parts.nodes)
            if stage > Stage.QUERY or self.linear:
                amounts[stage].append(self.term(term, parts, scopes[stage]))
        factors = list(amounts[Stage.PAIR])
        for stage, name, index, size in (
            (Stage.DISTANCE, "by_distance", "j", self.span), (Stage.KEY, "by_key", "k", "n")
        ):  # fmt: skip
            if amounts[stage]:
                self.top[name] = f"np.empty({size})"
                score = "math.exp(score)" if self.masses else "score"
                scopes[stage].lines += _total("score", amounts[stage], "+")
                scopes[stage].lines.append(f"{name}[{index}] = {score}")
                factors.insert(0, f"{name}[k]" if stage is Stage.KEY else "near[k]")
        if amounts[Stage.DISTANCE]:
            self.slices["near"] = "by_distance[n - 1 - q :]"
        row = [*amounts[Stage.CONSTANT], *amounts[Stage.QUERY]]
        if row:
            self.query.lines += _total("base", row, "+")
            factors.insert(0, "base")
        factors = factors or [_number(0, self.masses)]
        pair.lines += _total("score", factors, "*" if self.masses else "+")
        return KernelSource(self.assemble(pair), self.graph.columns)

    @property
    def span(self) -> str:
        """How many distances there are."""
        return "n" if self.causal else "max(2 * n - 1, 0)"

    def assemble(self, pair: _Scope) -> str:
        """Put the parts behind each other."""
        body = [f"{name} = {value}" for name, value in self.top.items()]
        for scope, head in (
            (self.key, ["for k in range(n):"]),
            (self.distance, [f"for j in range({self.span}):", "    d = n - 1 - j"]),
        ):
            if scope.lines:
                body += [*head, *_indent(scope.lines)]
        before = [f"keys = {'q + 1' if self.causal else 'n'}"]
        before += [f"{name} = {value}" for name, value in self.slices.items()]
        exact = not (self.linear or self.masses)
        tail = (SOFTMAX if exact else LINEAR if self.linear else MASSES) + ROW
        loop = ["for k in range(keys):", *_indent([*pair.lines, "scores[k] = score"])]
        rows = [*before, *self.query.lines, *loop, *filter(None, tail.split("\n"))]
        body += ["scores = np.empty(n)", *(BUFFERS if exact else [])]
        self.globals += [EXPONENTIAL] if exact else []
        body += ["at = 0", "for q in range(first, n):", *_indent(rows)]
        kind = "causal" if self.causal else "bidirectional"
        return "\n".join([
            f'"""Kernel of a {kind} {self.graph.program.normaliser} program."""', "",
            "import math", "", "import numpy as np", "", *self.globals, "",
            "", "def kernel(n, first, start, width, settled, known, opened, out):", *_indent(body), "",
        ])  # fmt: skip

    def term(self, term: t.Term, parts: Parts, scope: _Scope) -> str:
        """Write what a term adds to a score, or in a pair what it multiplies a mass by."""
        condition = parts.condition
        masses = self.masses and scope.stage is Stage.PAIR
        if isinstance(term, t.Where):
            amount = _number(term.weight, masses)
        else:
            amount = self.amount(term, parts, masses, scope)
        neutral = _number(0, masses)
        if self.exprs[condition].op == "constant":
            return amount if self.exprs[condition].data[0] else neutral
        return f"({amount} if {self.ref(condition, scope)} else {neutral})"

    def amount(self, term: t.Scaled | t.Table, parts: Parts, masses: bool, scope: _Scope) -> str:
        """Write what a term adds where its condition holds, computed as rarely as its value."""
        stage = self.graph.stage(*(factor.node for factor in parts.factors))
        inner = self.home.get(stage, scope) if scope.stage is Stage.PAIR else scope
        if isinstance(term, t.Table):
            text = self.table(term, self.ref(parts.factors[0].node, inner), masses)
        else:
            text = self.scaled(term, parts, inner)
            text = f"math.exp({text})" if masses else text
        return text if inner is scope else self.outside(text, inner)

    def outside(self, text: str, scope: _Scope) -> str:
        """Have an amount computed outside the loop over pairs; write how a pair reads it."""
        self.amounts += 1
        name = f"amount{self.amounts}"
        if scope is self.query:
            scope.lines.append(f"{name} = {text}")
            return name
        return self.vector(name, text, scope, "np.float64")

    def vector(self, name: str, text: str, scope: _Scope, kind: str) -> str:
        """Have a vector computed by key or by distance; write how a pair reads it."""
        if scope is self.key:
            self.top[name] = f"np.empty(n, {kind})"
            scope.lines.append(f"{name}[k] = {text}")
            return f"{name}[k]"
        self.top[name] = f"np.empty({self.span}, {kind})"
        scope.lines.append(f"{name}[j] = {text}")
        self.slices[f"near_{name}"] = f"{name}[n - 1 - q :]"
        return f"near_{name}[k]"

    def factor(self, part: Part, scope: _Scope) -> str:
        """Write a factor; in a pair, what does not need both positions is computed outside."""
        home = self.home.get(self.exprs[part.node].stage)
        apply = _REALS[part.function].format
        if scope.stage is not Stage.PAIR or home is None or not part.function:
            return apply(self.ref(part.node, scope), part.rate)
        if part not in self.factors:
            text = apply(self.ref(part.node, home), part.rate)
            self.factors[part] = self.outside(text, home)
        return self.factors[part]

    def scaled(self, term: t.Scaled, parts: Parts, scope: _Scope) -> str:
        """Write a weight times a value, cut to what one term may add."""
        weight = float(term.weight or 0)
        product = " * ".join([repr(weight), *(self.factor(part, scope) for part in parts.factors)])
        cut = self.linear and any(part.signed for part in parts.factors)
        if not cut and abs(weight) * parts.largest <= TERM_LIMIT:
            return product
        low = 0.0 if self.linear else -TERM_LIMIT
        return f"min(max({product}, {low!r}), {TERM_LIMIT!r})"

    def table(self, term: t.Table, value: str, masses: bool) -> str:
        """Write a step function: a chain of choices, or a search if it is long."""
        steps = [(entry.bound, _number(entry.weight, masses)) for entry in term.entries]
        neutral = _number(0, masses)
        if len(steps) > _STEPS:
            number = len(self.globals) // 2
            bounds, weights = ", ".join(str(b) for b, _ in steps), ", ".join(w for _, w in steps)
            self.globals.append(f"BOUNDS_{number} = np.array([{bounds}])")
            self.globals.append(f"WEIGHTS_{number} = np.array([{neutral}, {weights}])")
            return f'WEIGHTS_{number}[np.searchsorted(BOUNDS_{number}, {value}, side="right")]'
        choices = "".join(f"{w} if {value} >= {b} else " for b, w in reversed(steps))
        return f"({choices}{neutral})"

    def ref(self, node: int, scope: _Scope) -> str:
        """Write a node as an expression that is valid in a scope."""
        expr = self.exprs[node]
        if expr.op == "constant":
            return str(expr.data[0])
        if node in scope.names:
            return scope.names[node]
        if expr.op == "linear":
            return _linear(expr.data, scope.stage is Stage.DISTANCE)
        if scope.stage is Stage.PAIR and (expr.stage is not Stage.PAIR or expr.op == "match"):
            if node not in self.hoists:
                self.hoists[node] = self.hoisted(node, expr)
            return self.hoists[node]
        text = self.compute(node, expr, scope)
        if (self.uses[node] > 1 or len(text) > _LONG) and not text.isidentifier():
            scope.lines.append(f"x{node} = {text}")
            text = scope.names[node] = f"x{node}"
        return text

    def hoisted(self, node: int, expr: Expr) -> str:
        """Have a node computed outside the loop over pairs; write how a pair reads it."""
        if expr.op == "match" and expr.stage is Stage.PAIR:
            body = _Scope(Stage.PAIR, [], {})
            body.lines += self.match(node, expr, body)
            self.top[f"match{node}"] = "np.empty(n, np.int32)"
            lines = [*body.lines, f"match{node}[k] = x{node}"]
            self.query.lines += ["for k in range(keys):", *_indent(lines)]
            return f"match{node}[k]"
        if expr.stage is Stage.QUERY:
            self.uses[node] += 1  # so that it gets a name
            return self.ref(node, self.query)
        if expr.op in ("settled", "known") and self.exprs[expr.args[0]].data == (0, 1, 0):
            return self.entry(expr, "k")
        scope = self.key if expr.stage is Stage.KEY else self.distance
        kind = "np.bool_" if expr.op in _TRUTHS else "np.int32"
        name = f"{'key' if scope is self.key else 'distance'}{node}"
        return self.vector(name, self.ref(node, scope), scope, kind)

    def entry(self, expr: Expr, index: str) -> str:
        """Write an entry of a column, whose row is sliced at the top."""
        name = f"{expr.op}{expr.data[0]}"
        self.top[name] = f"{expr.op}[{expr.data[0]}, start : start + n]"
        return f"{name}[{index}]"

    def compute(self, node: int, expr: Expr, scope: _Scope) -> str:
        """Write a node's operation; what needs statements becomes lines of the scope."""
        if expr.op in _SEARCHES:
            self.search(node, expr)
            return scope.names[node]
        if expr.op == "match":
            scope.lines += self.match(node, expr, scope)
            scope.names[node] = f"x{node}"
            return f"x{node}"
        args = [self.ref(a, scope) for a in expr.args]
        if expr.op in ("settled", "known", "opened"):
            linear = self.exprs[expr.args[0]].op == "linear"
            at = args[0].strip("()") if linear else args[0]
            if at == ("q" if scope.stage is Stage.QUERY else "k"):
                return self.entry(expr, at)
            return f"({self.entry(expr, at)} if 0 <= {at} < n else {expr.data[1]})"
        if expr.op == "select":
            return f"({args[1]} if {args[0]} else {args[2]})"
        if expr.op == "not":
            return f"(not {args[0]})"
        if expr.op in _BINARY:
            return f"({args[0]} {_BINARY[expr.op]} {args[1]})"
        return f"{expr.op}({', '.join(args)})"

    def match(self, node: int, expr: Expr, scope: _Scope) -> list[str]:
        """Write how many tokens that end at two positions are the same."""
        one, other = (self.ref(a, scope) for a in expr.args)
        tokens = f"settled{expr.data[0]}"
        self.top[tokens] = f"settled[{expr.data[0]}, start : start + n]"
        name = f"x{node}"
        return [
            f"{name} = 0",
            f"a, b = {one}, {other}",
            f"while {name} < {MATCH_LIMIT} and 0 <= a < n and 0 <= b < n:",
            f"    if {tokens}[a] != {tokens}[b]:",
            "        break",
            f"    a, b, {name} = a - 1, b - 1, {name} + 1",
        ]

    def search(self, node: int, expr: Expr) -> None:
        """Write a quantifier: a loop over the other keys that ends when it has found."""
        body = _Scope(Stage.PAIR, [], {})
        condition = self.ref(expr.args[0], body)
        name, own = f"x{node}", [] if self.causal else ["if k == q:", "    continue"]
        if expr.op == "nearest" and not self.causal:
            own = ["k = q + i // 2 if i % 2 else q - i // 2", "if k < 0 or k >= n:", "    continue"]
        found = {"count": f"{name} += 1", "any": f"{name} = 1"}.get(expr.op, f"{name} = k")
        lines = [*own, *body.lines, f"if {condition}:", f"    {found}"]
        if expr.op != "count":
            lines.append("    break")
        initial = 0 if expr.op in ("count", "any") else -1
        loop = _SEARCHES[expr.op][0 if self.causal else 1]
        self.query.lines += [f"{name} = {initial}", f"for {loop}:", *_indent(lines)]
        self.query.names[node] = name


_DOWN, _UP = "k in range(q - 1, -1, -1)", "k in range(q)"
_SEARCHES = {
    "any": (_DOWN, "k in range(n)"),
    "count": (_UP, "k in range(n)"),
    "first": (_UP, "k in range(n)"),
    "last": (_DOWN, "k in range(n - 1, -1, -1)"),
    "nearest": (_DOWN, "i in range(2, 2 * n)"),
}


def _indent(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _total(name: str, amounts: list[str], join: str) -> list[str]:
    return [f"{name} {join if i else ''}= {amount}" for i, amount in enumerate(amounts)]


def _number(weight: float | None, masses: bool) -> str:
    """Write a weight, or the mass of one."""
    return repr(math.exp(weight or 0.0) if masses else float(weight or 0.0))


def _linear(form: tuple[int, ...], distance: bool) -> str:
    """Write a linear form of the query and the key, or of their distance ``d``."""
    q, k, x = form
    parts = [(q, "d")] if distance else sorted([(q, "q"), (k, "k")], key=lambda p: p[0] < 0)
    text = ""
    for factor, name in parts:
        if factor:
            size = name if abs(factor) == 1 else f"{abs(factor)} * {name}"
            sign = ("-" if factor < 0 else "") if not text else (" - " if factor < 0 else " + ")
            text += sign + size
    text += f" {'-' if x < 0 else '+'} {abs(x)}" if x else ""
    return text if text.isidentifier() else f"({text})"
