"""A probabilistic grammar of programs: what a tree costs by the rules it is made of.

Every node of a tree is a choice among the rules of its slot: what a term is, which predicate, which
feature, which position. The cost of a tree is the sum of -ln p of its rules. A fixed prior counts the
rules of the search's vocabulary and of the library; counts of the rules in sampled programs
re-weight it, so that even samples that are not right say which rules matter (HYSYNTH, Barke et al.
2024, section 3).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES

Rule = tuple[str, str]
"""A slot and what is chosen in it, as in ``("predicate", "==")``."""

STRENGTH = 12.0
"""The prior of a slot counts as much as so many samples of it."""
UNSEEN = 1.0
"""The count of all rules of a slot together that were never seen."""
OPEN = {"string": 2_000.0, "integer": 60.0, "weight": 1.0}
"""About how many rules there are in slots of which no list exists; 30 in others."""
OTHERS = 30.0


def rules(node: t.Node, sets: Mapping[str, t.SetLiteral] | None = None) -> Iterator[Rule]:
    """Yield the rules that a term or a part of one is made of; weights are no rules.

    >>> from attn_dsl.dsl.parser import parse_term
    >>> list(rules(parse_term("? where punct(k-1)")))
    [('term', 'where'), ('predicate', 'bool'), ('bool', 'punct'), ('position of bool', 'k-1')]

    Args:
        sets: the named sets of the program; the name of one counts as its elements.
    """
    yield from _rules(node, "term", sets or {})


def _rules(node: t.Node, slot: str, sets: Mapping[str, t.SetLiteral]) -> Iterator[Rule]:
    below: list[tuple[t.Node | None, str]] = []
    match node:
        case t.Where(_, condition):
            yield "term", "where"
            below = [(condition, "predicate")]
        case t.Scaled(_, value, condition):
            yield "term", "value" if condition is None else "value where"
            below = [(value, "value"), (condition, "predicate")]
        case t.Table(value, entries, condition):
            yield "term", "table" if condition is None else "table where"
            yield from (("bound", str(entry.bound)) for entry in entries)
            below = [(value, "int"), (condition, "predicate")]
        case t.Compare(op, left, right):
            texts = isinstance(right, t.Text) or isinstance(left, t.Text)
            symbolic = isinstance(left, t.Call) and FEATURES[left.name].type == "symbol"
            yield slot, f"{op} string" if texts else f"{op} symbol" if symbolic else op
            below = [(left, "left"), (right, "right")]
        case t.Between(value, low, high):
            yield slot, "in range"
            yield from (("bound", str(low)), ("bound", str(high)))
            below = [(value, "left")]
        case t.Member(value, elements):
            yield slot, "in set"
            below = [(value, "left"), (elements, "set")]
        case t.Weight(value, elements):
            yield slot, "weight"
            below = [(value, "left"), (elements, "set")]
        case t.Affix(name, value, text):
            yield slot, name
            yield "affix", text
            below = [(value, "left")]
        case t.Text(value):
            yield "string", value
        case t.SetName(name) if name not in sets:
            yield "set", name
        case t.SetName(name):
            yield from _rules(sets[name], slot, sets)
        case t.SetLiteral(strings):
            yield "set", f"of {1 << max(len(strings) - 1, 0).bit_length()}"
            yield from (("string", string) for string in strings)
        case t.Call(name, args):
            kind = FEATURES[name].type
            if kind != "symbol":
                yield slot, kind if kind == "bool" else "feature"
            yield kind, name
            below = [(arg, f"position of {kind}") for arg in args]
        case t.Position(variable, shift):
            yield slot, f"{variable}{shift:+d}" if shift else variable
        case t.Integer(number):
            yield "integer", str(number)
        case t.Real(name, value):
            yield slot, name
            below = [(value, "int")]
        case t.Decay(value, rate):
            yield slot, "decay"
            yield "rate", f"{rate:g}"
            below = [(value, "int")]
        case t.Arithmetic(op, left, right):
            yield slot, op
            below = [(left, "int"), (right, "int")]
        case t.Quantifier(name, body):
            yield slot, name
            below = [(body, "body")]
        case _:
            yield slot, type(node).__name__.lower()
            below = [(child, slot) for child in node.children()]
    for child, place in below:
        if child is not None:
            yield from _rules(child, place, sets)


class Bag:
    """The rules of many terms as numbers, so that their costs are one sum.

    >>> from attn_dsl.dsl.parser import parse_term
    >>> bag = Bag([parse_term("? where k == 0"), parse_term("? where punct(k)")])
    >>> prior(causal=True).costs(bag).round(1)
    array([3.7, 5.4])
    """

    def __init__(self, terms: Sequence[t.Node]) -> None:
        self.rules: dict[Rule, int] = {}
        numbers, starts = [], [0]
        for term in terms:
            numbers += [self.rules.setdefault(r, len(self.rules)) for r in rules(term)]
            starts.append(len(numbers))
        self.numbers = np.array(numbers, dtype=np.int64)
        self.starts = np.array(starts, dtype=np.int64)


@dataclass(frozen=True)
class Grammar:
    """Counts of rules, from which their probabilities follow.

    Attributes:
        counts: by rule.
        totals: by slot.
    """

    counts: Mapping[Rule, float]
    totals: Mapping[str, float]

    def price(self, rule: Rule) -> float:
        """Return -ln p of a rule; a rule that was never seen has a part of ``UNSEEN``."""
        slot = rule[0]
        unseen = UNSEEN / OPEN.get(slot, OTHERS)
        return math.log(
            (self.totals.get(slot, 0.0) + UNSEEN) / (self.counts.get(rule, 0.0) + unseen)
        )

    def cost(self, node: t.Node) -> float:
        """Return -ln p of a term."""
        return sum(map(self.price, rules(node)))

    def costs(self, bag: Bag) -> np.ndarray:
        """Return -ln p of each term of a bag."""
        prices = np.array([self.price(rule) for rule in bag.rules])
        sums = np.concatenate([[0.0], np.cumsum(prices[bag.numbers])])
        return sums[bag.starts[1:]] - sums[bag.starts[:-1]]

    def reweighted(self, samples: Iterable[tuple[t.Head, float]]) -> Grammar:
        """Return the grammar that has seen some programs as well, each counted with a weight."""
        counts = Counter(dict(self.counts))
        for program, weight in samples:
            sets = {d.name: d.value for d in program.sets}
            for term in program.terms:
                for rule in rules(term, sets):
                    counts[rule] += weight  # type: ignore[assignment]
        return Grammar(counts, _totals(counts))


@lru_cache(maxsize=2)
def prior(causal: bool) -> Grammar:
    """Return the grammar of the search's vocabulary and the library, each slot of equal strength."""
    from attn_dsl.dsl.library import library
    from attn_dsl.synth import vocabulary

    counts: Counter[Rule] = Counter()
    for term in vocabulary.terms(causal):
        counts.update(rules(term))
    for condition in vocabulary.conditions(causal):
        counts.update(r for r in _rules(condition, "predicate", {}))
    for entry in library("causal" if causal else "bidirectional").values():
        sets = {d.name: d.value for d in entry.program.sets}
        for term in entry.program.terms:
            counts.update(rules(term, sets))
    totals = _totals(counts)
    scaled = {rule: n * min(1.0, STRENGTH / totals[rule[0]]) for rule, n in counts.items()}
    return Grammar(scaled, _totals(scaled))


def _totals(counts: Mapping[Rule, float]) -> dict[str, float]:
    totals: Counter[str] = Counter()
    for (slot, _), count in counts.items():
        totals[slot] += count  # type: ignore[assignment]
    return dict(totals)
