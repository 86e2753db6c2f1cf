"""Lint: parts of a valid program that never hold, always hold, or change nothing."""

import itertools
import re
from math import inf

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import ProgramWarning
from attn_dsl.dsl.features import FEATURES, lower
from attn_dsl.dsl.functions import shortened
from attn_dsl.dsl.kinds import linear
from attn_dsl.dsl.printer import expression, number, quote
from attn_dsl.dsl.scope import Scope, type_of
from attn_dsl.dsl.segment import clean

Form = tuple[tuple[str, int], ...]
"""A sum of unknown numbers: how each is written, and how often it counts."""
Values = tuple[float, float] | frozenset[str]
"""What a number or a text may be: a range, ends included, or some strings."""

_LEAST = {"q": 0, "k": 0, "i": 0, "j": 0, "abs": 0, "count": 0, "nearest": -1, "first": -1, "last": -1}
_WRITTEN = {"text": lambda string: string.lstrip(" ") or string,
            "lower": lambda string: lower(string.lstrip(" ") or string),
            "word": lambda string: clean(string.strip()),
            "word_before": lambda string: clean(string.strip())}  # fmt: skip
"""How text features write a string that they give."""


def lint(program: t.Head, source: str = "", name: str = "<program>") -> list[ProgramWarning]:
    """Return what never holds, always holds or changes nothing in a valid program, in source order.

    >>> from attn_dsl.dsl.parser import parse
    >>> print(lint(parse("head a causal:\\n 1 where k > q"))[0].message)
    `k > q` never holds
    """
    linter = _Linter(program, source, name)
    parts = (*program.functions, *program.scores, *program.terms)
    for node in itertools.chain.from_iterable(x.walk() for x in parts):
        linter.node(node)
    called = {node.name for part in parts for node in part.walk() if isinstance(node, t.Call)}
    for one in program.functions:
        if one.name not in called:
            linter.warn(one, f"the function `{one.name}` is never used")
    linter.terms()
    return sorted(linter.found, key=lambda one: one.span or (0,))


class _Linter:
    def __init__(self, program: t.Head, source: str, name: str) -> None:
        self.program, self.source, self.name = program, source, name
        self.scope = Scope.of(program)
        self.types = self.scope.types()
        self.found: list[ProgramWarning] = []
        self.nearest = 0 if program.causal else -inf  # the least distance of a key

    def warn(self, node: t.Node, message: str, hint: str = "leave it out") -> None:
        self.found.append(ProgramWarning(message, node.span, self.source, hint=hint, name=self.name))

    def node(self, node: t.Node) -> None:
        """Look at what a node tests."""
        if condition := getattr(node, "condition", None):
            self.predicate(condition)
        match node:
            case t.Definition(_, value) if type_of(value, self.types) == "bool":
                self.predicate(value)  # type: ignore[arg-type]
            case t.Search(_, _, body):
                self.predicate(body)
            case t.Quantifier(_, body):
                self.nearest += self.program.causal  # the query's own key is not searched
                self.predicate(body)
                self.nearest -= self.program.causal
            case t.Weight(call, chosen):
                self.strings(node, call, chosen)
            case t.Table(value, entries, condition):
                form, base = _linear(value)
                known = self.base(form)
                for fact in map(self.fact, t.flat(condition, t.And) if condition else ()):
                    known = _meet(known, fact[1]) if fact and fact[0] == form else known
                for entry, after in itertools.zip_longest(entries, entries[1:]):
                    last = after.bound - 1 - base if after else inf
                    if _empty(_meet(known, (entry.bound - base, last))):
                        self.warn(entry, f"the step {entry.bound} is never reached")

    def strings(self, node: t.Node, call: t.Symbol, chosen: t.SetName | t.SetLiteral) -> None:
        """Warn of strings that a text feature does not give; those of the lexicon are for several."""
        if isinstance(chosen, t.SetName) and chosen.name not in self.scope.sets:
            return
        elements = self.scope.literal(chosen).elements
        if wrong := [one for one in elements if not _possible(call, one)]:
            shown = ", ".join(map(quote, wrong[:3])) + (" …" if len(wrong) > 3 else "")
            better = _written(call, wrong[0])
            hint = f"write {quote(better)}" if _possible(call, better) else "leave it out"
            self.warn(node, f"`{call.name}` never gives {shown}", hint)

    def predicate(self, node: t.Predicate) -> None:
        """Warn of the smallest parts of a predicate that never or always hold, or are there twice."""
        before = len(self.found)
        for part in node.children() if isinstance(node, t.And | t.Or | t.Not) else ():
            self.predicate(part)  # type: ignore[arg-type]
        if isinstance(node, t.And | t.Or):
            for one, other in itertools.combinations(t.flat(node, type(node)), 2):
                if one == other:
                    again = f"`{expression(other)}` is written twice"
                    self.warn(other, again, "leave one of them out")
        match node:
            case t.Always():
                return
            case t.Member(call, chosen):
                self.strings(node, call, chosen)
            case t.Compare(_, t.Call() | t.Shortened() as call, t.Text(text)):
                self.strings(node, call, t.SetLiteral((text,)))
        if len(self.found) == before and (holds := self.holds(node)) is not None:
            self.warn(node, f"`{expression(node)}` {'always' if holds else 'never'} holds")

    def holds(self, node: t.Predicate) -> bool | None:
        """Return whether a predicate always (True) or never (False) holds; None if that depends."""
        match node:
            case t.Compare("!=", left, right):
                return self.holds(t.Not(t.Compare("==", left, right)))
            case t.Not(value):
                inside = self.holds(value)
                return None if inside is None else not inside
            case t.And() | t.Or():
                either, parts = isinstance(node, t.Or), t.flat(node, type(node))
                found = [self.holds(part) for part in parts]
                if either in found or (not either and self.contradict(parts)):
                    return either
                return None if None in found else not either
            case t.Always():
                return True
            case t.Compare("==", left, right) if left == right:
                return True
        if (fact := self.fact(node)) is None:
            return None
        both = _meet(base := self.base(fact[0]), fact[1])
        return False if _empty(both) else True if both == base else None

    def contradict(self, parts: list[t.Predicate]) -> bool:
        """Return whether predicates cannot hold together."""
        known: dict[Form | str, Values] = {}
        for form, values in filter(None, map(self.fact, parts)):
            known[form] = _meet(known.get(form, self.base(form)), values)
        return any(map(_empty, known.values())) or any(t.Not(part) in parts for part in parts)

    def base(self, form: Form | str) -> Values:
        """Return what a number or text may be in every text."""
        if form == ():
            return 0, 0
        if form == (("q", 1), ("k", -1)):
            return self.nearest, inf
        alone = form[0][0] if len(form) == 1 and form[0][1] == 1 else ""
        if rest := re.search(r" % (\d+)$", alone):
            return 0, float(rest[1]) - 1
        feature = FEATURES.get(name := alone.partition("(")[0])
        least = feature.pad if feature and feature.type == "int" else _LEAST.get(name, -inf)
        return float(least), inf

    def fact(self, node: t.Predicate) -> tuple[Form | str, Values] | None:
        """Return what a number or a text must be for a predicate to hold; None if it is no such."""
        match node:
            case t.Compare("==", t.Call() | t.Shortened() as call, t.Text(text)):
                return expression(call), frozenset([text] if _possible(call, text) else [])
            case t.Member(call, t.SetLiteral(elements)):
                return expression(call), frozenset(x for x in elements if _possible(call, x))
            case t.Compare(op, left, right) if op != "!=" and type_of(left, self.types) != "symbol":
                form, base = _linear(t.Arithmetic("-", left, right))  # type: ignore[arg-type]
                low = {"==": 0.0, ">=": 0.0, ">": 1.0}.get(op, -inf)
                high = {"==": 0.0, "<=": 0.0, "<": -1.0}.get(op, inf)
            case t.Between(value, low, high):
                form, base = _linear(value)
            case _:
                return None
        low, high = low - base, high - base
        if form and form[0][1] < 0:
            form, low, high = tuple((x, -count) for x, count in form), -high, -low
        return form, (low, high)

    def terms(self) -> None:
        """Warn of terms that change nothing, and of terms that differ in their weights alone."""
        seen: dict[tuple[str, object], float | None] = {}
        for part in (part for term in self.program.terms for part in t.parts_of(term)):
            if isinstance(part, t.Table):
                continue
            value, where = getattr(part, "value", None), part.condition
            if self.program.normaliser == "softmax" and not any(
                    "k" in t.free_variables(one) for one in (value, where) if one):  # fmt: skip
                self.warn(part, "this term adds the same to all keys, which softmax takes away")
            fact = self.fact(where) if where else None
            known = (fact[0], _meet(self.base(fact[0]), fact[1])) if fact else where
            key = "" if value is None else expression(value), known
            if key in seen:
                one, two = seen[key], part.weight
                both = "?" if one is None or two is None else number(round(one + two, 6))
                self.warn(part, "an earlier term differs in its weight alone", f"write one, of weight {both}")
            seen[key] = part.weight


def _written(symbol: t.Symbol, text: str) -> str:
    """Return how a text feature writes a string; a stem is left as it is."""
    if isinstance(symbol, t.Call):
        return _WRITTEN.get(symbol.name, str)(text)
    return text.lower() if symbol.name == "stem" else shortened(text, symbol.name, symbol.length)


def _possible(call: t.Symbol, text: str) -> bool:
    """Return whether a text feature can give a string."""
    if isinstance(call, t.Shortened):
        return _written(call, text) == text
    if not text:  # before the text, or in no word
        shifted = any(getattr(at, "shift", 1) for at in call.args)
        return shifted or call.name not in ("text", "token", "lower")
    return _written(call, text) == text


def _meet(one: Values, other: Values) -> Values:
    """Return the values in both of two ranges, or of two sets of strings; a range has all strings."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return max(one[0], other[0]), min(one[1], other[1])
    return one & other if isinstance(one, frozenset) and isinstance(other, frozenset) else other


def _empty(values: Values) -> bool:
    return values[0] > values[1] if isinstance(values, tuple) else not values


def _linear(node: t.Int) -> tuple[Form, float]:
    """Return a number as a sum of unknown ones, and a constant."""
    counts = linear(node, expression) or {}
    base = counts.pop("", 0)
    return tuple(sorted(((name, n) for name, n in counts.items() if n), reverse=True)), base
