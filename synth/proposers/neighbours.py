"""Neighbours: the terms that one small change makes of a term."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import reads_key
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.functions import FUNCTIONS
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.synth.enumerate.expressions import POINTERS, RATES
from attn_dsl.synth.rewrite import variants
from attn_dsl.synth.simplify import bare

KIN = 0.15
"""Classes of the lexicon that share so much of their words are tried for each other."""
MOST_KIN = 8
SYMBOLS = ("text", "token", "word", "shape", "word_before")
FARTHEST = 4
"""The largest shift of a position."""


def neighbours(term: t.Term, causal: bool) -> list[t.Term]:
    """Return what one change makes of a term, each once, with holes for weights.

    Offsets and bounds move by one or double, elements leave sets, classes become kindred ones,
    features others of their type, and of joined conditions one is dropped.

    >>> from attn_dsl.dsl.parser import parse_term
    >>> from attn_dsl.dsl.printer import show_term
    >>> [show_term(x) for x in neighbours(parse_term("2 where k == q-1"), causal=True)]
    ['? where k-1 == q-1', '? where k == q', '? where k == q-2', '? where k >= q-1', '? where k <= q-1']
    """
    start = bare(term)
    found: dict[t.Term, None] = {}
    for changed in variants(start, lambda node: choices(node, causal)):
        if changed != start and reads_key(changed):
            found.setdefault(changed)
    return list(found)


def choices(node: t.Node, causal: bool) -> Iterator[t.Node]:
    """Yield what may stand in the place of a node."""
    match node:
        case t.Position(variable, shift):
            for other in (shift + 1, shift - 1):
                if -FARTHEST - 8 * (variable == "q") <= other <= (0 if causal else 2):
                    yield t.Position(variable, other)
        case t.Integer(value):
            for number in dict.fromkeys((value + 1, value - 1, 2 * value, value // 2)):
                if number >= 0 and number != value:
                    yield t.Integer(number)
        case t.Between(value, low, high):
            ends = ((low - 1, high), (low + 1, high), (low, high - 1), (low, high + 1),
                    (low, 2 * high), (low, high // 2))  # fmt: skip
            for first, last in dict.fromkeys(ends):
                if first <= last and (first, last) != (low, high) and (first >= 0 or low < 0):
                    yield t.Between(value, first, last)
        case t.SetLiteral(elements, None) if len(elements) > 1:
            for element in elements:
                yield t.SetLiteral(tuple(x for x in elements if x != element))
        case t.SetLiteral(elements, weights) if weights and len(elements) > 1:
            order = sorted(range(len(elements)), key=lambda i: (-abs(weights[i]), i))
            for kept in (len(order) - 1, (3 * len(order) + 3) // 4, (len(order) + 1) // 2):
                some = order[:kept]
                yield t.SetLiteral(
                    tuple(elements[i] for i in some), tuple(weights[i] for i in some)
                )
        case t.SetName(name) if name in lexicon():
            yield from map(t.SetName, kin(name))
        case t.And(left, right) | t.Or(left, right):
            yield left
            yield right
        case t.Compare(op, left, right) if not _symbolic(left, right):
            ops = ("==", ">=", "<=") if op in ("==", ">=", "<=") else ("<", ">")
            yield from (t.Compare(x, left, right) for x in ops if x != op)  # type: ignore[arg-type]
        case t.Call(name, args) if name in FEATURES:
            yield from (t.Call(other, args) for other in _like(name, causal) if other != name)
        case t.Decay(value, rate):
            yield from (t.Decay(value, other) for other in RATES if other != rate)
        case t.Real(name, value):
            yield from (t.Real(x, value) for x, f in FUNCTIONS.items() if x != name and not f.rated)
        case t.Quantifier(name, body) if name in ("nearest", "first", "last"):
            others = (x for x in ("nearest", "first", "last") if x != name)
            yield from (t.Quantifier(x, body) for x in others)  # type: ignore[arg-type]


@lru_cache(maxsize=256)
def kin(name: str) -> tuple[str, ...]:
    """Return the classes of the lexicon that are most like one, by the words they share.

    >>> kin("SubjectPronoun")[:2]
    ('ThirdPerson', 'FirstPerson')
    """
    known = lexicon()
    mine = known[name].elements
    shares = {
        other: len(mine & entry.elements) / len(mine | entry.elements)
        for other, entry in known.items()
        if other != name
    }
    best = sorted((x for x in shares if shares[x] > KIN), key=lambda x: (-shares[x], x))
    return tuple(best[:MOST_KIN])


@lru_cache(maxsize=256)
def _like(name: str, causal: bool) -> tuple[str, ...]:
    """Return the features of the same type that may take a feature's place."""
    feature = FEATURES[name]
    if feature.type == "symbol":
        return SYMBOLS if name in SYMBOLS else ()
    if name in POINTERS:
        return POINTERS
    return tuple(
        f.name for f in FEATURES.values()
        if f.type == feature.type and f.arity == feature.arity and not f.extra
        and f.name not in POINTERS and not (causal and f.reads == "full")
    )  # fmt: skip


def _symbolic(left: t.Int | t.Text, right: t.Int | t.Text) -> bool:
    """Say whether a comparison is one of strings, which has no order."""
    if isinstance(left, t.Text) or isinstance(right, t.Text):
        return True
    return isinstance(left, t.Call) and FEATURES[left.name].type == "symbol"
