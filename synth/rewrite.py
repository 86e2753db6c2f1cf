"""Rewriting: trees with some of their nodes changed."""

from __future__ import annotations

import dataclasses

from attn_dsl.dsl import tree as t


def drop_unused(program: t.Head) -> t.Head:
    """Return a program without the sets that no term names."""
    used = {n.name for term in program.terms for n in term.walk() if isinstance(n, t.SetName)}
    sets = tuple(d for d in program.sets if d.name in used)
    return dataclasses.replace(program, sets=sets)


def bare(term: t.Term) -> t.Term:
    """Return a term with holes for its weights, and without comments."""
    if isinstance(term, t.Table):
        entries = tuple(dataclasses.replace(entry, weight=None) for entry in term.entries)
        return dataclasses.replace(term, entries=entries, remarks=t.NO_REMARKS)
    return dataclasses.replace(term, weight=None, remarks=t.NO_REMARKS)
