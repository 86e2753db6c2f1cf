"""Expansion: programs without definitions, in which each use of a function is written out."""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES, Reads
from attn_dsl.dsl.scope import Scope

_T = TypeVar("_T", bound=t.Node)


def expand(node: _T, scope: Scope) -> _T:
    """Return a term or predicate in which functions are replaced by their values.

    >>> from attn_dsl.dsl.parser import parse
    >>> from attn_dsl.dsl.printer import expression
    >>> program = parse("def odd(i) = i % 2 == 1\\nhead a causal:\\n 1 where odd(k-1)")
    >>> expression(expand(program.terms[0], Scope.of(program)).condition)
    '(k-1) % 2 == 1'
    """
    if not scope.functions and not any(file.functions for file in scope.files):
        return node
    if not any(isinstance(x, t.Call) and x.name not in FEATURES for x in node.walk()):
        return node
    return _expanded(node, scope, None, None)


def expanded_size(node: t.Node, known: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Return how many nodes ``expand`` would make, and in how many ``i`` is free; ``known``: by function."""
    if isinstance(node, t.Position):
        return 1, int(node.variable == "i")
    sizes = [expanded_size(child, known) for child in node.children()]
    if isinstance(node, t.Call) and node.name in known and len(sizes) == 1:
        (size, uses), (argument, inside) = known[node.name], sizes[0]
        return size + uses * (argument - 1), uses * inside
    if isinstance(node, t.Search):  # the ``i`` of its body is another one
        return 1 + sum(size for size, _ in sizes), expanded_size(node.at, known)[1]
    return 1 + sum(size for size, _ in sizes), sum(uses for _, uses in sizes)


def looks_ahead(node: t.Node) -> bool:
    """Return whether an expanded node reads after ``i``, at a fixed distance or by a search."""
    if isinstance(node, t.Search):  # one that is backwards sees what a query at its position does
        return not node.backwards or _after(node.at) or looks_ahead(node.at)
    here = isinstance(node, t.Call) and any(map(_after, node.args))
    return here or any(map(looks_ahead, node.children()))


def _after(at: t.Int) -> bool:
    return isinstance(at, t.Position) and at.variable == "i" and at.shift > 0


def reads(node: t.Node) -> Reads:
    """Return what an expanded node reads, as the table of features says it of them."""
    calls = [one for one in node.walk() if isinstance(one, t.Call)]
    if any(FEATURES[call.name].reads == "full" for call in calls):
        return "full"
    return "visible" if looks_ahead(node) or _changes(node) else "left"


def _changes(node: t.Node) -> bool:
    """Return whether what an expanded node reads may change as later tokens follow."""
    if isinstance(node, t.Search) and node.backwards:
        return _changes(node.at)
    if isinstance(node, t.Search) or (isinstance(node, t.Call) and FEATURES[node.name].reads == "visible"):
        return True
    return any(map(_changes, node.children()))


@lru_cache(maxsize=1024)
def score_reads(file: t.Definitions, name: str) -> tuple[tuple[str, ...], bool]:
    """Return the features of a file's score that read the whole text, and whether it looks ahead."""
    scope = Scope.of_file(file)
    lines = [expand(line, scope) for line in file.scores[name].terms]
    names = {node.name for line in lines for node in line.walk() if isinstance(node, t.Call)}
    full = sorted(one for one in names if FEATURES[one].reads == "full")
    return tuple(full), any(map(looks_ahead, lines))


def as_functions(search: t.Search) -> tuple[t.Definition, ...]:
    """Return functions, the last of which is a search for ``i``; the others are the searches inside."""
    found: dict[t.Search, str] = {}

    def call(node: t.Node) -> t.Node:
        if not isinstance(node, t.Search):
            return node
        one = dataclasses.replace(node, at=t.Position("i"), span=None)
        return t.Call(found.setdefault(one, f"found_{len(found) + 1}"), (node.at,))

    t.rewrite(search, call)
    return tuple(t.Definition(name, value) for value, name in found.items())


def _expanded(node: Any, scope: Scope, at: t.Int | None, file: t.Definitions | None) -> Any:
    """Expand a node, in which ``at`` stands for the position ``i``, and sets are those of ``file``."""
    match node:
        case t.Position("i", shift) if at is not None:
            if isinstance(at, t.Position):
                return t.Position(at.variable, at.shift + shift, span=node.span)
            op: Any = "+" if shift > 0 else "-"
            return t.Arithmetic(op, at, t.Integer(abs(shift))) if shift else at
        case t.Call(name, (arg,)) if name not in FEATURES:
            found, where = scope.inside(file).function(name)
            assert found is not None
            value = _expanded(found.value, scope, _expanded(arg, scope, at, file), where or file)
            return dataclasses.replace(value, span=node.span)
        case t.Search():
            body = _expanded(node.body, scope, None, file)
            return dataclasses.replace(node, body=body, at=_expanded(node.at, scope, at, file))
        case t.SetName(name) if file is not None:
            own = scope.inside(file).literal(node)
            return node if scope.find(name)[0] == own else own
    return t.with_children(node, lambda part: _expanded(part, scope, at, file))
