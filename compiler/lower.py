"""Lowering: the only translation of syntax trees to the graph of operations."""

from collections.abc import Sequence
from functools import lru_cache

from attn_dsl.compiler.graph import MATCH, NONE, ColumnKey, Factor, Graph, Key, SearchKey, Term
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.expand import expand
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.scope import Scope

_COMPARISONS = {"==": "equal", "!=": "unequal", "<": "less", "<=": "at_most", ">": "more", ">=": "at_least"}
_ARITHMETIC = {"+": "add", "-": "subtract"}
_EXTREMA = {"min": "minimum", "max": "maximum"}


def lower(programs: Sequence[t.Head], causal_searches: bool | None = None) -> Graph:
    """Lower programs of one visibility to one graph, in which equal nodes are shared.

    ``causal_searches``: whether searches are those of a causal program; by default, as the programs are.
    """
    causal = programs[0].causal
    lowering = _Lowering(causal, causal if causal_searches is None else causal_searches)
    for program in programs:
        lowering.program(program)
    return lowering.graph


@lru_cache(maxsize=1024)
def _plain(elements: tuple[str, ...]) -> frozenset[tuple[str, int]]:
    return frozenset((element, 1) for element in elements)


_Folded = tuple[tuple[tuple[ColumnKey, int], ...], tuple[tuple[int, t.Predicate], ...]]
"""A score: columns with the shifts at which they are read; the other lines, weights in hundredths."""


def _fold(definition: t.ScoreDefinition, scope: Scope) -> _Folded:
    """Join the lines that test one symbol each to columns of weights."""
    weights: dict[tuple[str, int], dict[str, int]] = {}
    lines: list[tuple[int, t.Predicate]] = []
    for line in definition.terms:
        amount = round(100 * (line.weight or 0.0))
        condition = expand(line.condition, scope)
        match condition:
            case t.Compare("==", t.Call(name, (t.Position("i", shift),)), t.Text(text)):
                elements: tuple[str, ...] = (text,)
            case t.Member(t.Call(name, (t.Position("i", shift),)), chosen):
                elements = scope.literal(chosen).elements
            case _:
                lines.append((amount, condition))
                continue
        table = weights.setdefault((name, shift), {})
        for element in elements:
            table[element] = table.get(element, 0) + amount
    columns = ((ColumnKey(name, "weight", frozenset(table.items()), definition.name), shift)
               for (name, shift), table in weights.items())  # fmt: skip
    return tuple(columns), tuple(lines)


@lru_cache(maxsize=1024)
def _fold_used(file: t.Definitions, name: str) -> _Folded:
    return _fold(file.scores[name], Scope.of_file(file))


class _Lowering:
    def __init__(self, causal: bool, causal_searches: bool) -> None:
        self.graph, self.causal_searches = Graph(causal), causal_searches
        self.add = self.graph.add
        self.scope = Scope({}, {})
        # the operation and the shift of each variable; ``i`` changes with the score
        self.places = {"q": ("query", 0), "k": ("key", 0), "i": ("key", 0)}
        # the nodes of scores, by the used file or the number of the program, name, variable, shift
        self.scores: dict[tuple, int] = {}

    def program(self, program: t.Head) -> None:
        self.scope = Scope.of(program)
        parts = (part for term in program.terms for part in t.parts_of(term))
        self.graph.programs.append(tuple(map(self.term, parts)))
        self.graph.heads.append(program)

    def term(self, source: t.Simple) -> Term:
        term = expand(source, self.scope)
        condition = NONE if term.condition is None else self.predicate(term.condition)
        if isinstance(term, t.Where):
            return Term((), condition, (), source)
        if isinstance(term, t.Table):
            bounds = tuple(entry.bound for entry in term.entries)
            return Term((Factor(self.integer(term.value)),), condition, bounds, source)
        value, factors = term.value, []
        for part in (value.left, value.right) if isinstance(value, t.Product) else (value,):
            if isinstance(part, t.Weight) and self.scope.literal(part.set).weights is None:
                member = self.member(part.value, part.set)  # its weights are 0 and 1: a condition
                condition = member if condition == NONE else self.add("both", condition, member)
            else:
                factors.append(self.factor(part))
        return Term(tuple(factors), condition, (), source)

    def factor(self, node: t.Factor) -> Factor:
        if isinstance(node, t.Weight):
            pairs = frozenset(self.scope.literal(node.set).hundredths().items())
            found = self.symbol(node.value, "weight", pairs, _label(node.set))
            return Factor(found, "hundredths")
        if isinstance(node, t.Score):
            return Factor(self.score(node), "hundredths")
        if isinstance(node, t.Real):
            return Factor(self.integer(node.value), node.name)
        if isinstance(node, t.Decay):
            return Factor(self.integer(node.value), "decay", node.rate)
        return Factor(self.integer(node))

    def score(self, use: t.Score) -> int:
        """Return the node of a score at a position, in hundredths."""
        definition, file = self.scope.score(use.name)
        key = file or len(self.graph.programs), use.name, use.variable, use.shift
        if key in self.scores:
            return self.scores[key]
        columns, lines = _fold_used(file, use.name) if file else _fold(definition, self.scope)
        outer, self.scope = self.scope, self.scope.inside(file)
        self.places["i"] = self.places[use.variable][0], use.shift
        parts = [self.load(column, t.Position("i", shift)) for column, shift in columns]
        parts += [self.add("times", self.predicate(p), x=amount) for amount, p in lines]
        while len(parts) > 1:  # a balanced tree, so that it is not deep
            pairs = [self.add("add", *parts[i : i + 2]) for i in range(0, len(parts) - 1, 2)]
            parts = pairs + parts[2 * len(pairs) :]
        self.scope = outer
        self.graph.scores.setdefault(parts[0], use)
        return self.scores.setdefault(key, parts[0])

    def load(self, key: Key, position: t.Int) -> int:
        """Return the node that reads a column at a position."""
        column = self.graph.column(key)
        if isinstance(position, t.Position):
            variable, shift = self.places[position.variable]
            return self.add(f"column_{variable}", x=shift + position.shift, y=column)
        return self.add("column", self.integer(position), y=column)

    def symbol(self, symbol: t.Symbol, kind: str = "feature",
               elements: frozenset[tuple[str, int]] = frozenset(), label: str = "") -> int:  # fmt: skip
        """Return the node of a symbol, or of a test of it; see ``ColumnKey``."""
        call, functions = t.unshortened(symbol)
        return self.load(ColumnKey(call.name, kind, elements, label, functions), call.args[0])

    def member(self, symbol: t.Symbol, chosen: t.SetName | t.SetLiteral) -> int:
        elements = _plain(self.scope.literal(chosen).elements)
        return self.symbol(symbol, "in", elements, _label(chosen))

    def integer(self, node: t.Int | t.Symbol) -> int:
        match node:
            case t.Integer(value):
                return self.graph.constant(value)
            case t.Position(variable, shift):
                name, first = self.places[variable]
                return self.add(name, x=first + shift)
            case t.Arithmetic(op, left, right):
                return self.add(_ARITHMETIC[op], self.integer(left), self.integer(right))
            case t.Modulo(inner, modulus):
                return self.add("modulo", self.integer(inner), x=modulus)
            case t.Absolute(inner):
                return self.add("absolute", self.integer(inner))
            case t.Extremum(name, left, right):
                return self.add(_EXTREMA[name], self.integer(left), self.integer(right))
            case t.Shortened():
                return self.symbol(node)
            case t.Call(name, ()):
                return self.load(ColumnKey(name), t.Position("q"))
            case t.Call(name, args):
                if FEATURES[name].arity == 2:
                    return self.graph.table(MATCH, *map(self.integer, args))
                return self.load(ColumnKey(name), args[0])
            case t.Quantifier(name, body):
                return self.add(name, self.predicate(body))
            case t.Search():
                return self.search(node)
        raise TypeError(f"not an integer: {node!r}")

    def predicate(self, node: t.Predicate) -> int:
        match node:
            case t.Always():
                return self.graph.constant(1)
            case t.Not(inner):
                return self.add("negation", self.predicate(inner))
            case t.And(left, right):
                return self.add("both", self.predicate(left), self.predicate(right))
            case t.Or(left, right):
                return self.add("either", self.predicate(left), self.predicate(right))
            case t.Compare(op, t.Call() | t.Shortened() as symbol, t.Text(text)):
                found = self.symbol(symbol, "in", frozenset([(text, 1)]))
                return found if op == "==" else self.add("negation", found)
            case t.Compare(op, left, right):
                a, b = self.integer(left), self.integer(right)  # type: ignore[arg-type]
                return self.add(_COMPARISONS[op], a, b)
            case t.Between(inner, low, high):
                return self.add("between", self.integer(inner), x=low, y=high)
            case t.Member(symbol, chosen):
                return self.member(symbol, chosen)
            case t.Affix(name, symbol, text):
                return self.symbol(symbol, name, frozenset([(text, 1)]))
            case t.Quantifier(name) | t.Search(name) if name != "any":
                return self.add("unequal", self.integer(node), self.graph.constant(0))
        return self.integer(node)  # a call of a bool feature, or `any`

    def search(self, node: t.Search) -> int:
        """Return the node that reads what a search finds for a position."""

        def closed(one: t.Node) -> t.Node:
            places: tuple[Scope | t.Definitions, ...] = (self.scope, *self.scope.files)
            if isinstance(one, t.SetName) and any(one.name in place.sets for place in places):
                return self.scope.literal(one)
            return one

        body = t.rewrite(node.body, closed)
        key = SearchKey(node.name, node.over, body, self.causal_searches)
        if not key.by_query:
            return self.load(key, node.at)
        return self.graph.table(key, self.add("query"), self.integer(node.at))


def _label(chosen: t.SetName | t.SetLiteral) -> str:
    return chosen.name if isinstance(chosen, t.SetName) else ""
