"""Rewriting: trees with some of their nodes changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.tree import rewrite as rewrite
from attn_dsl.eval.set_parameters import in_place as in_place

N = TypeVar("N", bound=t.Node)


def drop_unused(program: t.Head) -> t.Head:
    """Return a program without the sets that no term names."""
    used = {n.name for term in program.terms for n in term.walk() if isinstance(n, t.SetName)}
    sets = tuple(d for d in program.sets if d.name in used)
    return dataclasses.replace(program, sets=sets)


def variants(node: N, choices: Callable[[t.Node], Iterable[t.Node]]) -> Iterator[N]:
    """Yield the trees in which one node is one of its choices.

    >>> from attn_dsl.dsl.parser import parse_term
    >>> from attn_dsl.dsl.printer import show_term
    >>> term = parse_term("2 where k == 3 and q >= 5")
    >>> more = lambda x: [t.Integer(x.value + 1)] if isinstance(x, t.Integer) else []
    >>> [show_term(found) for found in variants(term, more)]
    ['2 where k == 4 and q >= 5', '2 where k == 3 and q >= 6']
    """
    yield from choices(node)  # type: ignore[misc]
    for f in dataclasses.fields(node):
        value = getattr(node, f.name)
        if isinstance(value, t.Node):
            for new in variants(value, choices):
                yield dataclasses.replace(node, **{f.name: new})  # type: ignore[arg-type]
        elif isinstance(value, tuple):
            for i, part in enumerate(value):
                if isinstance(part, t.Node):
                    for new in variants(part, choices):
                        changed: Any = (*value[:i], new, *value[i + 1 :])
                        yield dataclasses.replace(node, **{f.name: changed})
