"""Rewriting: trees with some of their nodes changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TypeVar

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.tree import rewrite as rewrite
from attn_dsl.eval.set_parameters import in_place as in_place

N = TypeVar("N", bound=t.Node)


def drop_unused(program: t.Head) -> t.Head:
    """Return a program without the sets that no term names."""
    used = {n.name for term in program.terms for n in term.walk() if isinstance(n, t.SetName)}
    sets = tuple(d for d in program.sets if d.name in used)
    return dataclasses.replace(program, sets=sets)


def conjuncts(node: t.Predicate, kind: type[t.And] | type[t.Or] = t.And) -> Iterator[t.Predicate]:
    """Yield the parts of a chain of ``and`` (or ``or``), in order.

    >>> from attn_dsl.dsl.parser import parse_predicate
    >>> len(list(conjuncts(parse_predicate("k == 0 and punct(q) and not alpha(k)"))))
    3
    """
    if isinstance(node, kind):
        yield from conjuncts(node.left, kind)
        yield from conjuncts(node.right, kind)
    else:
        yield node


def bare(term: t.Term) -> t.Term:
    """Return a term with holes for its weights, and without comments."""
    if isinstance(term, t.Table):
        entries = tuple(dataclasses.replace(entry, weight=None) for entry in term.entries)
        return dataclasses.replace(term, entries=entries, remarks=t.NO_REMARKS)
    return dataclasses.replace(term, weight=None, remarks=t.NO_REMARKS)
