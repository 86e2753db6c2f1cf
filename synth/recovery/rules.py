"""Rules: terms as the search works on them, a base, an interval, tokens and a condition."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES
from attn_dsl.synth.vocabulary import size

INLINE, ELEMENT = 5, 2
"""The largest set that has no name, and what an element with its own weight costs beside its node."""


@dataclass(frozen=True, slots=True)
class TokenSet:
    """Token strings at a place of the key or the query; with ``weights`` they count differently."""

    shift: int
    strings: tuple[str, ...]
    weights: tuple[float, ...] | None = None

    @classmethod
    def weighed(cls, shift: int, strings: Sequence[str], weights: Sequence[float]) -> TokenSet:
        """Make a set with weights in hundredths, as programs have them, without those of 0."""
        rounded = {s: round(float(x), 2) for s, x in zip(strings, weights, strict=True)}
        kept = {s: x for s, x in sorted(rounded.items()) if x}
        return cls(shift, tuple(kept), tuple(kept.values()))


@dataclass(frozen=True, slots=True)
class Rule:
    """A term without its weight: the product of its parts, of which None is 1.

    ``base`` is a predicate or value of query and key, ``interval`` one of distances or positions,
    ``key`` and ``query`` are their tokens, and ``condition`` is on the query.
    """

    base: t.Predicate | t.Value | None = None
    interval: t.Predicate | None = None
    key: TokenSet | None = None
    query: TokenSet | None = None
    condition: t.Predicate | None = None

    @property
    def scaled(self) -> bool:
        """Whether the base is a value that a term may scale."""
        if isinstance(self.base, t.Call):
            return FEATURES[self.base.name].type == "int"
        return isinstance(self.base, t.Arithmetic | t.Absolute | t.Real | t.Decay)

    @property
    def graded(self) -> list[TokenSet]:
        """The tokens that have weights."""
        return [x for x in (self.query, self.key) if x is not None and x.weights is not None]


def term(rule: Rule, weight: float | None = None) -> t.Term:
    """Write a rule as a term."""
    factors: list[t.Factor] = []
    parts: list[t.Predicate | None] = [None if rule.scaled else rule.base, rule.interval]  # type: ignore[list-item]
    for variable, tokens in (("q", rule.query), ("k", rule.key)):
        if tokens is None:
            continue
        call = t.Call("token", (t.Position(variable, tokens.shift),))  # type: ignore[arg-type]
        literal = t.SetLiteral(tokens.strings, tokens.weights)
        if tokens.weights is not None:
            factors.append(t.Weight(call, literal))
        elif len(tokens.strings) > 1:
            parts.append(t.Member(call, literal))
        else:
            parts.append(t.Compare("==", call, t.Text(*tokens.strings)))
    if rule.scaled:
        factors.append(rule.base)  # type: ignore[arg-type]
    condition: t.Predicate | None = None
    for part in (*parts, rule.condition):
        if part is not None:
            condition = part if condition is None else t.And(condition, part)
    if not factors:
        return t.Where(weight, condition or t.Always())
    value: t.Value = factors[0] if len(factors) == 1 else t.Product(factors[0], factors[1])
    return t.Scaled(weight, value, condition)


@lru_cache(maxsize=100_000)
def cost(rule: Rule) -> int:
    """Count a rule's nodes, elements with weights of their own for more than one."""
    return size(term(rule)) + ELEMENT * sum(len(x.strings) for x in rule.graded)


def program(empty: t.Head, rules: Sequence[Rule], weights: Sequence[float]) -> t.Head:
    """Write rules with their weights as a program."""
    rounded = [(rule, float(f"{x:.3g}")) for rule, x in zip(rules, weights, strict=True)]
    terms = tuple(term(rule, x) for rule, x in rounded if x)
    return name_sets(dataclasses.replace(empty, terms=terms))


def name_sets(program: t.Head) -> t.Head:
    """Write the large sets of a program above its head, under names."""
    names: dict[t.SetLiteral, str] = {}

    def visit(node: t.Node) -> t.Node:
        if not isinstance(node, t.SetLiteral) or len(node.elements) <= INLINE:
            return node
        return t.SetName(names.setdefault(node, f"Set{len(names) + 1}"))

    terms = tuple(t.rewrite(x, visit) for x in program.terms)
    sets = tuple(t.SetDefinition(name, literal) for literal, name in names.items())
    return dataclasses.replace(program, terms=terms, sets=sets)
