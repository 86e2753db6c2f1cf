"""The predicates, values and query conditions that rules are made of, on the rows of a design.

All are written in the language. Predicates that hold on the same entries are one: the smallest stands
for the others.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.dsl.parser import parse_predicate, parse_term
from attn_dsl.dsl.printer import quote
from attn_dsl.synth import vocabulary
from attn_dsl.synth.design import Design
from attn_dsl.synth.gains import Packed
from attn_dsl.synth.proposer import HeadTask
from attn_dsl.synth.recovery.quantifier_rules import beginnings
from attn_dsl.synth.recovery.rules import Rule, TokenSet, term

SHIFTS = (0, -1, -2)
"""A rule reads tokens at the key or the query and at these places before it."""
FAR = 128
"""Distances and positions from here on are one."""
POINTERS = ("word_first", "sentence_first", "line_first", "opener", "quote_first", "previous",
            "word_previous", "word_last")  # fmt: skip
COUNTS = {"length": 16, "piece": 6, "repeats": 8, "word_repeats": 8, "word_index": 16,
          "sentence": 10, "depth": 4, "line": 8, "paragraph": 6, "indent": 8}  # fmt: skip
"""Integer features, and the largest number that each is compared with."""
BATCH, KEPT = 64, 160
"""How many planes are computed together, and how many of rules without their tokens are kept."""
SHARED_AFFIX = 3  # token strings that have an affix which is a predicate


@dataclass(frozen=True)
class Scale:
    """A number of which rules may be limited to intervals; ``columns`` (entries) is it less ``low``."""

    value: t.Int
    low: int
    columns: np.ndarray

    def interval(self, low: int, high: int) -> t.Predicate:
        """Write that the number is in an interval; it has no end at or behind ``FAR``."""
        if low <= self.low:
            return t.Compare("<=", self.value, t.Integer(high))
        if high >= FAR:
            return t.Compare(">=", self.value, t.Integer(low))
        if low == high and isinstance(self.value, t.Arithmetic):
            return t.Compare("==", t.Position("k"), t.Position("q", -low))
        return t.Between(self.value, low, high)


class Bank:
    """The parts of rules on the rows of a design; some are missing if a task's time is spent.

    Attributes:
        predicates, values: of query and key. scales: numbers of them for intervals.
        conditions: predicates of the query, then their negations in the same order.
        held: float32 (conditions, rows): where the first half of them holds.
        places: by side and shift, int32 (entries): the token string there; ``width`` outside.
        pairs: by side and shift, the number of each entry's row and token, and every number's token.
        strings, numbers: token strings by number, and the other way round; ``frequent``: in order.
    """

    def __init__(self, design: Design, task: HeadTask) -> None:
        self.design, self.starts = design, design.starts
        self._plane = lru_cache(KEPT)(lambda rule: self.compute([term(rule)])[0])
        self.row = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        self.numbers = dict(design.batch.symbols)
        self.strings = {number: string for string, number in self.numbers.items()}
        self.width = len(self.numbers)
        count = np.bincount(design.batch.token_ids(), minlength=self.width)
        self.frequent = [self.strings[int(s)] for s in np.argsort(-count, kind="stable")]
        self.places, self.pairs = {}, {}
        for shift in SHIFTS:
            keys, queries = (design.symbols_at(x, shift, outside=self.width) for x in ("k", "q"))
            for side, tokens in (("key", keys), ("query", queries[self.row])):
                pairs = self.row * (self.width + 1) + tokens
                pairs, number = np.unique(pairs, return_inverse=True)
                self.places[side, shift] = tokens
                self.pairs[side, shift] = number, pairs % (self.width + 1)

        key, q, k = design.key_places, t.Position("q"), t.Position("k")
        gap = np.concatenate(design.rows)[self.row] - key
        distance, low = t.Arithmetic("-", q, k), 0 if design.causal else -FAR
        self.scales = [Scale(distance, low, np.clip(gap, low, FAR) - low)]
        self.scales.append(Scale(k, 0, np.minimum(key, FAR)))
        if not design.causal:
            self.scales.append(Scale(t.Absolute(distance), 0, np.minimum(np.abs(gap), FAR)))

        found = map(parse_predicate, [*self._affixes(), *beginnings(self.frequent, design.causal)])
        distinct = self._distinct([*_predicates(design.causal), *found], task)
        self.predicates = list(distinct.values())
        planes = np.stack([np.frombuffer(plane, dtype=np.uint8) for plane in distinct])
        self._truths = Packed.of(planes, np.ones(len(planes), dtype=np.bool_), self.starts)
        self.values = _values(design.causal)
        curves = self.compute([t.Scaled(None, value) for value in self.values])
        self._curves = Packed.of(curves, np.zeros(len(curves), dtype=np.bool_), self.starts)
        gates = _conditions(design.causal)
        held = self.compute([t.Where(None, p) for p in gates])[:, self.starts[:-1]]
        first = {x.tobytes(): i for i, x in reversed([*enumerate(held)]) if x.min() < x.max()}
        some = sorted(first.values())
        self.held = np.ascontiguousarray(held[some])
        self.conditions = [gates[i] for i in some] + [t.Not(gates[i]) for i in some]

    def moments(self, pull: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute gradient and curvature of all predicates, then values, by row: (parts, rows)."""
        parts = [x.row_moments(pull + mass, mass) for x in (self._truths, self._curves)]
        gradients, curvatures = zip(*parts, strict=True)
        return np.concatenate(gradients), np.concatenate(curvatures)

    def plane(self, rule: Rule) -> np.ndarray:
        """Compute a rule's plane, float32 (entries)."""
        found = self._plane(replace(rule, key=None, query=None))
        for side, tokens in (("key", rule.key), ("query", rule.query)):
            if tokens is not None:
                found = found * self.table(tokens)[self.places[side, tokens.shift]]
        return found

    def table(self, tokens: TokenSet) -> np.ndarray:
        """Return what each token counts, float32 (tokens + 1), the last one for none."""
        found = np.zeros(self.width + 1, dtype=np.float32)
        found[[self.numbers[x] for x in tokens.strings]] = tokens.weights or 1.0
        return found

    def compute(self, terms: list[t.Term]) -> np.ndarray:
        """Compute the planes of terms of one weight each, float32 (terms, entries)."""
        visibility: t.Visibility = "causal" if self.design.causal else "bidirectional"
        return self.design.compute(t.Head("rule", visibility, terms=tuple(terms)))

    def _distinct(self, found: list[t.Predicate], task: HeadTask) -> dict[bytes, t.Predicate]:
        """Return predicates that differ within some rows by their planes, the smallest of equals."""
        found = sorted(dict.fromkeys(found), key=vocabulary.size)
        kept: dict[bytes, t.Predicate] = {}
        for at in range(0, len(found), BATCH):
            if kept and task.spent:
                break
            some = found[at : at + BATCH]
            planes = self.compute([t.Where(None, p) for p in some]).astype(np.uint8)
            low = np.minimum.reduceat(planes, self.starts[:-1], axis=1)
            high = np.maximum.reduceat(planes, self.starts[:-1], axis=1)
            for i in np.flatnonzero((high > low).sum(1) >= 3):
                kept.setdefault(planes[i].tobytes(), some[i])
        return kept

    def _affixes(self) -> list[str]:
        """Return the short beginnings and ends that several token strings share."""
        count: Counter[tuple[str, str]] = Counter()
        for word in {string.strip() for string in self.frequent}:
            for size in range(1, min(len(word), 3) if word.isalpha() else 0):
                count.update([("starts", word[:size]), ("ends", word[-size:])])
        shared = sorted(x for x, n in count.items() if n >= SHARED_AFFIX)
        return [f"{x}({name}(k), {quote(s)})" for x, s in shared for name in ("text", "word")]


@lru_cache(maxsize=2)
def _predicates(causal: bool) -> tuple[t.Predicate, ...]:
    """Write the predicates of query and key, but for affixes and keys found by a token."""
    found: list[str] = []
    for place in ("k", "k-1", "k-2"):
        found += _truths(place, causal)
    names = _features("symbol", causal)
    for left in ("k", "k-1", "k-2"):
        for right in ("q", "q-1", "q-2"):
            same = [f"{name}({left}) == {name}({right})" for name in names]
            found += [*same, *(f"{x} and k != q" for x in same if left[1:] == right[1:])]
            if (left, right) in (("k", "q"), ("k-1", "q"), ("k", "q-1")):
                found += [f"{a}({left}) == {b}({right})" for a in names for b in names if a != b]
    for op in ("==", ">="):
        found += [f"k {op} {which}({body}{more})" for body in _truths("k", causal)
                  for which in ("nearest", "first", "last") for more in ("", " and k < q")]  # fmt: skip
        found += [f"{name}(k) {op} {n}" for name, high in COUNTS.items() for n in range(high + 1)]
        found += [f"{name}(k) {op} {name}(q){_plus(n)}" for name in COUNTS for n in range(-4, 5)]
        found += [f"k {op} {name}({place}){_plus(n)}" for name in POINTERS
                  for place in ("q", "q-1", "q-2") for n in range(-3, 4)]  # fmt: skip
        found += [f"match({place}, q) {op} {n}" for place in ("k", "k-1") for n in range(1, 7)]
        found += [] if causal else [f"from_end(k) {op} {n}" for n in range(9)]
    known = [x.condition for x in vocabulary.terms(causal) if isinstance(x, t.Where)]
    known = [x for x in known if not isinstance(x, t.Between)]
    return (*map(parse_predicate, dict.fromkeys(found)), *known)


@lru_cache(maxsize=2)
def _conditions(causal: bool) -> tuple[t.Predicate, ...]:
    found = [f"q >= {n}" for n in range(1, 65)] + [f"length(q) >= {n}" for n in range(2, 9)]
    found += [*_truths("q", causal), *_truths("q-1", causal), *_truths("q-2", causal)]
    return tuple(map(parse_predicate, [*found, "match(previous(q), q) >= 2", "piece(q) >= 1"]))


@lru_cache(maxsize=2)
def _values(causal: bool) -> tuple[t.Value, ...]:
    gap = "q - k" if causal else "abs(q - k)"
    sources = [f"log(1 + {gap})", f"({gap})", f"sqrt({gap})", f"inv(1 + {gap})"]
    sources += [f"decay({gap}, {x})" for x in (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)]
    sources += ["log(1 + k)", "match(k-1, q)", "match(k, q)", "length(k)", "log(1 + length(k))",
                "repeats(k)", "log(1 + repeats(k))"]  # fmt: skip
    return tuple(parse_term(f"? * {source}").value for source in sources)  # type: ignore[union-attr]


def _truths(place: str, causal: bool) -> list[str]:
    """Write all features that are true or false of a place, and all classes of the lexicon."""
    features = {"english.toml": "word", "punctuation.toml": "text"}
    classes = [(name, features[x.file]) for name, x in lexicon().items() if x.file in features]
    found = [f"{name}({place})" for name in _features("bool", causal)]
    return found + [f"{feature}({place}) in {name}" for name, feature in classes]


def _features(kind: str, causal: bool) -> list[str]:
    some = [f for f in FEATURES.values() if f.type == kind and f.arity == 1 and not f.extra]
    return [f.name for f in some if not causal or f.reads != "full"]


def _plus(number: int) -> str:
    return f" {'+-'[number < 0]} {abs(number)}" if number else ""
