"""Rewriting: trees with some of their nodes changed."""

import dataclasses
from itertools import repeat
from typing import Any

from attn_dsl.dsl import tree as t


def drop_unused(program: t.Head) -> t.Head:
    """Return a program without properties, and the sets, functions, scores and files that no term needs."""
    kinds = t.SetName | t.Score | t.Call
    used = {n.name for term in program.terms for n in term.walk() if isinstance(n, kinds)}
    kept: list[list[Any]] = []
    for some in (program.scores, program.functions[::-1]):
        kept.append([])
        for one in some:
            if one.name in used:
                used |= {n.name for n in one.walk() if isinstance(n, kinds)}
                kept[-1].append(one)
    sets = tuple(d for d in program.sets if d.name in used)
    uses = tuple(one for one in program.uses for d in [one.definitions]
                 if not used.isdisjoint({*d.sets, *d.scores, *d.functions}))  # fmt: skip
    scores, functions = tuple(kept[0]), tuple(kept[1][::-1])
    return dataclasses.replace(program, sets=sets, scores=scores, uses=uses, functions=functions,
                               properties=())  # fmt: skip


def in_place(program: t.Head) -> t.Head:
    """Return a program with the sets that it defines written in place."""
    sets = {one.name: one.value for one in program.sets}

    def change(part: t.Node) -> t.Node:
        return sets.get(part.name, part) if isinstance(part, t.SetName) else part

    return dataclasses.replace(t.rewrite(program, change), sets=()) if sets else program


def bare(term: t.Term) -> t.Term:
    """Return a term with holes for its weights, and without comments."""
    return dataclasses.replace(t.reweighted(term, repeat(None)), remarks=t.NO_REMARKS)
