"""Rules of the nearest, first or last key whose token is in a set, which grows token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.printer import quote
from attn_dsl.synth.recovery.rules import Rule

BEGINNINGS, LARGEST = 32, 64
"""How many of the most frequent tokens a set may begin with, and how many it may have in all."""


def beginnings(frequent: Sequence[str], causal: bool) -> list[str]:
    """Write the predicates of keys that are found by one of the most frequent tokens."""
    ways = ["nearest(token(k) in {%s})", "first(token(k) in {%s})"]
    if not causal:
        ways += [f"{x}(token(k) in {{%s}} and k < q)" for x in ("nearest", "first")]
        ways.append("last(token(k) in {%s})")
    some = [quote(string) for string in frequent[:BEGINNINGS]]
    return [f"k {op} {way % x}" for x in some for way in ways for op in ("==", ">=")]


def near_to(rule: Rule, frequent: Sequence[str]) -> list[Rule]:
    """Return rules that find their key by one token more or less than a rule does."""
    base = rule.base
    if not isinstance(base, t.Compare):
        return []
    literals = [node for node in base.walk() if isinstance(node, t.SetLiteral)]
    chosen = literals[0].elements if literals else ()
    sets = [tuple(x for x in chosen if x != string) for string in chosen if len(chosen) > 1]
    sets += [(*chosen, x) for x in frequent[:LARGEST] if chosen and x not in chosen]
    return [replace(rule, base=_with_set(base, t.SetLiteral(some))) for some in sets]


def _with_set(base: t.Compare, literal: t.SetLiteral) -> t.Compare:
    return t.rewrite(base, lambda node: literal if isinstance(node, t.SetLiteral) else node)
