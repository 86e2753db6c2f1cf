"""Rewriting: trees with some of their nodes changed."""

from __future__ import annotations

import dataclasses
from itertools import count, repeat

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


def name_sets(program: t.Head, inline: int) -> t.Head:
    """Give names to the sets of more than ``inline`` elements, as in ``Keys1`` and ``Queries1``."""
    sets = {(one.name.rstrip("0123456789"), one.value): one for one in program.sets}

    def name(node: t.Node) -> t.Node:
        if not isinstance(node, t.Member | t.Weight) or not isinstance(node.set, t.SetLiteral):
            return node
        if len(node.set.elements) <= inline:
            return node
        of = {x.variable for x in node.value.walk() if isinstance(x, t.Position)}
        key = ("Queries" if of == {"q"} else "Keys"), node.set
        if key not in sets:
            names = {one.name for one in sets.values()}
            free = next(x for i in count(1) if (x := f"{key[0]}{i}") not in names)
            sets[key] = t.SetDefinition(free, node.set)
        return dataclasses.replace(node, set=t.SetName(sets[key].name))

    terms = tuple(t.rewrite(term, name) for term in program.terms)
    return dataclasses.replace(program, terms=terms, sets=tuple(sets.values()))


def bare(term: t.Term) -> t.Term:
    """Return a term with holes for its weights, and without comments."""
    return dataclasses.replace(t.reweighted(term, repeat(None)), remarks=t.NO_REMARKS)
