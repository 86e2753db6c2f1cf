"""Rewriting: trees with some of their nodes changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import repeat

from attn_dsl.dsl import tree as t


def drop_unused(program: t.Head) -> t.Head:
    """Return a program without the sets, scores and files that no term needs."""
    used = {
        n.name for term in program.terms for n in term.walk() if isinstance(n, t.SetName | t.Score)
    }
    scores = tuple(d for d in program.scores if d.name in used)
    used |= {n.name for one in scores for n in one.walk() if isinstance(n, t.SetName)}
    sets = tuple(d for d in program.sets if d.name in used)
    uses = tuple(
        one
        for one in program.uses
        if not used.isdisjoint({*one.definitions.sets, *one.definitions.scores})
    )
    return dataclasses.replace(program, sets=sets, scores=scores, uses=uses)


def bare(term: t.Term) -> t.Term:
    """Return a term with holes for its weights, and without comments."""
    return dataclasses.replace(t.reweighted(term, repeat(None)), remarks=t.NO_REMARKS)


def without_a_part(predicate: t.Predicate) -> Iterator[t.Predicate]:
    """Yield a predicate without one side of each conjunction and disjunction, one at a time."""
    match predicate:
        case t.Not(value):
            yield from map(t.Not, without_a_part(value))
        case t.And(left, right) | t.Or(left, right):
            yield from (left, right)
            yield from (type(predicate)(less, right) for less in without_a_part(left))
            yield from (type(predicate)(left, less) for less in without_a_part(right))
