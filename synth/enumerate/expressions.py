"""Expressions: what a bottom-up enumeration of the language starts from, and by what rules it goes on.

To let the enumeration use something new, add a leaf or a production.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.lexicon import lexicon

POINTERS = ("word_first", "word_last", "sentence_first", "line_first", "opener", "quote_first",
            "previous", "word_previous")  # fmt: skip
PROSE = ("english.toml", "punctuation.toml")
"""The files of the lexicon whose sets come first."""
RATES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
INTERVALS = ((1, 2), (1, 4), (1, 8), (1, 16), (2, 3), (2, 4), (2, 8), (4, 8), (4, 16), (8, 32))
FARTHEST = (2, 4, 8, 16, 32, 64)

Build = Callable[..., t.Node]


@dataclass(frozen=True, slots=True)
class Production:
    """A rule of the enumeration: what it makes of which kinds of parts, and what it costs itself.

    ``symmetric``: its two parts may change places, so that one order is enough.
    """

    kind: str
    parts: tuple[str, ...]
    cost: int
    build: Build
    symmetric: bool = False


def leaves(causal: bool, strings: Sequence[str]) -> Iterator[tuple[str, int, t.Node]]:
    """Yield the kind, the cost and the node of everything that has no parts."""
    k, q, gap = t.Position("k"), t.Position("q"), _gap(causal)
    for shift in (0, -1, -2) if causal else (0, -1, -2, 1):
        yield "k", 1 + abs(shift), t.Position("k", shift)
        yield "q", 1 + abs(shift), t.Position("q", shift)
    for name, entry in lexicon().items():
        english, prose = entry.file == "english.toml", entry.file in PROSE
        yield "words" if english else "marks", 1 if prose else 4, t.SetName(name)
    for rank, string in enumerate(strings):
        yield "string", 1 + rank // 8, t.Text(string)
    yield "pair", 3, t.Compare("==", k, q)
    for offset in range(1, 9):
        for sign in (-1,) if causal else (-1, 1):
            node = t.Compare("==", k, t.Position("q", sign * offset))
            yield "pair", 3 + offset // 2, node
    for at in range(4):
        yield "pair", 3 + at, t.Compare("==", k, t.Integer(at))
    yield "pair", 5, t.Between(k, 0, 3)
    for low, high in INTERVALS:
        yield "pair", 4 + (low > 1) + (high > 4), t.Between(gap, low, high)
    for far in FARTHEST:
        yield "pair", 5 + (far > 8), t.Compare(">=", gap, t.Integer(far))
    if not causal:
        yield "pair", 3, t.Compare("<", k, q)
    for least, shift in itertools.product((1, 2, 3, 4), (0, -1)):
        match = t.Call("match", (t.Position("k", shift), q))
        yield "pair", 4 + least, t.Compare(">=", match, t.Integer(least))
    for least in (1, 2, 4, 8, 16, 32, 64):
        yield "query", 3 + least.bit_length() // 2, t.Compare(">=", q, t.Integer(least))
    yield from (("value", 4, value) for value in _values(causal))


def _values(causal: bool) -> Iterator[t.Node]:
    """Yield what a term may multiply that is no feature of the key alone."""
    gap, one = _gap(causal), t.Integer(1)
    yield gap
    yield t.Call("match", (t.Position("k", -1), t.Position("q")))
    yield t.Real("sqrt", gap)
    more = t.Arithmetic("-", t.Arithmetic("+", one, t.Position("q")), t.Position("k"))
    if not causal:
        more = t.Arithmetic("+", one, gap)
    yield from (t.Real(name, more) for name in ("log", "inv"))
    yield from (t.Decay(gap, rate) for rate in RATES)
    yield t.Real("log", t.Arithmetic("+", one, t.Position("k")))


def productions(causal: bool) -> tuple[Production, ...]:
    """Return the rules of the enumeration, in the order in which they are used at each cost.

    Kinds of parts: ``k`` and ``q`` positions, ``key.NAME`` and ``query.NAME`` symbols and numbers,
    ``key`` and ``query`` predicates of one token, ``pair`` of both, ``pointer`` and ``nearest``
    positions of other tokens.
    """
    made: list[Production] = []

    def add(kind: str, parts: tuple[str, ...], cost: int, build: Build) -> None:
        symmetric = build in (t.And, t.Or) and parts[0] == parts[-1]
        made.append(Production(kind, parts, cost, build, symmetric))

    known = [f for f in FEATURES.values() if f.arity == 1 and not f.extra]
    known = [f for f in known if not (causal and f.reads == "full")]
    symbols = [f.name for f in known if f.type == "symbol"]
    numbers = [f.name for f in known if f.type == "int" and f.name not in POINTERS]
    for side, variable in (("key", "k"), ("query", "q")):
        for f in known:
            kind = side if f.type == "bool" else f"{side}.{f.name}"
            if f.name in POINTERS:
                kind = "pointer" if side == "query" else "pointer of a key"
            add(kind, (variable,), 1, _call(f.name))
        for name, sets in (("word", "words"), ("text", "marks"), ("word_before", "words")):
            add(side, (f"{side}.{name}", sets), 1 + (name == "word_before"), t.Member)
        add(side, (f"{side}.token", "string"), 1, _equal)
        for name in numbers:
            for least in (1, 2, 3, 5):
                add(side, (f"{side}.{name}",), 1 + least, _at_least(least))
    for left, right in itertools.product(symbols, symbols):
        add("pair", (f"key.{left}", f"query.{right}"), 1 if left == right else 3, _equal)
    for name in numbers:
        for less in (0, 1, 2):
            add("pair", (f"key.{name}", f"query.{name}"), 1 + 2 * less, _equal_less(less))
        add("value", (f"key.{name}",), 1, lambda number: number)
        add("value", (f"key.{name}",), 3, _log_one_more)
    for kind in ("pointer", "nearest"):
        for more in (0, -1, 1):
            add("pair", ("k", kind), 1 + 2 * abs(more), _points(more))
        add("pair", ("k", kind), 2, _behind)
    for name, cost in (("nearest", 1), ("first", 2), ("last", 2)):
        for kind in ("key", "pair"):
            add("nearest", (kind,), cost, _quantified(name))
    add("query", ("key",), 2, _quantified("any"))
    for kind in ("key", "pair"):
        add(kind, (kind, "key"), 2, t.And)
        add(kind, (kind, "key"), 3, _and_not)
    add("key", ("key", "key"), 4, t.Or)
    add("pair", ("pair", "pair"), 1, t.And)
    return tuple(made)


def _gap(causal: bool) -> t.Int:
    gap = t.Arithmetic("-", t.Position("q"), t.Position("k"))
    return gap if causal else t.Absolute(gap)


def _call(name: str) -> Build:
    return lambda position: t.Call(name, (position,))


def _quantified(name: str) -> Build:
    return lambda body: t.Quantifier(name, body)  # type: ignore[arg-type]


def _equal(left: t.Int, right: t.Int | t.Text) -> t.Node:
    return t.Compare("==", left, right)


def _at_least(number: int) -> Build:
    return lambda value: t.Compare(">=", value, t.Integer(number))


def _equal_less(less: int) -> Build:
    def build(left: t.Int, right: t.Int) -> t.Node:
        return t.Compare("==", left, t.Arithmetic("-", right, t.Integer(less)) if less else right)

    return build


def _points(more: int) -> Build:
    def build(k: t.Int, place: t.Int) -> t.Node:
        sign = "+" if more > 0 else "-"
        moved = t.Arithmetic(sign, place, t.Integer(abs(more))) if more else place  # type: ignore[arg-type]
        return t.Compare("==", k, moved)

    return build


def _behind(k: t.Int, place: t.Int) -> t.Node:
    return t.Compare(">=", k, place)


def _and_not(left: t.Predicate, right: t.Predicate) -> t.Node:
    return t.And(left, t.Not(right))


def _log_one_more(value: t.Int) -> t.Node:
    return t.Real("log", t.Arithmetic("+", t.Integer(1), value))


def made(
    rules: Sequence[Production], parts: Mapping[str, Mapping[int, Sequence[t.Node]]], cost: int
) -> Iterator[tuple[str, t.Node]]:
    """Yield the kinds and nodes of a cost that productions make of cheaper parts.

    Args:
        parts: by kind and cost.
    """
    for rule in rules:
        left = cost - rule.cost
        if len(rule.parts) == 1:
            for node in parts.get(rule.parts[0], {}).get(left, ()):
                yield rule.kind, rule.build(node)
            continue
        first, second = (parts.get(kind, {}) for kind in rule.parts)
        for price in sorted(first):
            if rule.symmetric and 2 * price > left:
                break
            for i, a in enumerate(first[price]):
                others = second.get(left - price, ())
                if rule.symmetric and 2 * price == left:
                    others = others[i + 1 :]
                for b in others:
                    yield rule.kind, rule.build(a, b)
