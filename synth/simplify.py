"""Simplification: programs that mean the same, written with fewer nodes.

Every rule keeps what the program computes: with ``softmax``, what is the same for all keys of a query
does not count, so terms that do not read the key are dropped, and ``w where not p`` is
``-w where p``. Rules of predicates hold anywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import reads_key
from attn_dsl.dsl.limits import MAX_WEIGHT
from attn_dsl.synth.rewrite import drop_unused, rewrite

_OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


def simplify(program: t.Head) -> t.Head:
    """Return a program that computes the same matrix and is not larger.

    >>> from attn_dsl.dsl.parser import parse
    >>> from attn_dsl.dsl.printer import show_term
    >>> program = parse("head a causal:\\n 2 where not not punct(k) and true\\n 3 where q > 4")
    >>> [show_term(term) for term in simplify(program).terms]
    ['2 where punct(k)']
    """
    if not program.terms:
        return program
    terms: list[t.Term] = [rewrite(term, _node) for term in program.terms]
    if program.normaliser == "softmax":
        terms = [_positive(term) for term in terms if reads_key(term) and _read(term)]
        terms = _joined(terms)
    found = drop_unused(dataclasses.replace(program, terms=tuple(terms)))
    return found if t.nodes(found) < t.nodes(program) else program


def _node(node: t.Node) -> t.Node:
    """Simplify a node whose parts are simple."""
    match node:
        case t.Not(t.Not(value)):
            return value
        case t.Not(t.Compare(op, left, right)):
            return t.Compare(_OPPOSITE[op], left, right)  # type: ignore[arg-type]
        case t.Not(t.And(t.Not(left), t.Not(right))):
            return _node(t.Or(left, right))
        case t.Not(t.Or(t.Not(left), t.Not(right))):
            return _node(t.And(left, right))
        case t.And() | t.Or():
            return _chain(node)
        case t.Member(value, t.SetLiteral((element,), None)):
            return t.Compare("==", value, t.Text(element))
        case t.Between(value, low, high) if low == high and low >= 0:
            compared = t.Compare("==", value, t.Integer(low))
            offset = _node(compared)
            return offset if offset != compared else node
        case t.Compare(
            "==", t.Arithmetic("-", t.Position("q", q), t.Position("k", k)), t.Integer(d)
        ):
            return t.Compare("==", t.Position("k"), t.Position("q", q - k - d))
        case t.Scaled(_, _, t.Always()):
            return dataclasses.replace(node, condition=None)
        case t.Table(_, _, t.Always()):
            return dataclasses.replace(node, condition=None)
    return node


def _chain(node: t.And | t.Or) -> t.Predicate:
    """Simplify a chain of conjuncts (or disjuncts): each once, what is alike in one."""
    kind = type(node)
    neutral, absorbing = (t.Always(), None) if kind is t.And else (None, t.Always())
    parts = list(dict.fromkeys(conjuncts(node, kind)))
    if absorbing in parts:
        return t.Always()
    parts = [part for part in parts if part != neutral]
    if not parts:
        return t.Always()
    other = t.Or if kind is t.And else t.And
    parts = [
        part for part in parts
        if not (isinstance(part, other) and any(x in parts for x in conjuncts(part, other)))
    ]  # fmt: skip
    merged: list[t.Predicate] = []
    for part in parts:
        for i, before in enumerate(merged):
            both = _both(before, part, kind)
            if both is not None:
                merged[i] = both
                break
        else:
            merged.append(part)
    found = merged[0]
    for part in merged[1:]:
        found = kind(found, part)
    return found


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


def _both(
    one: t.Predicate, other: t.Predicate, kind: type[t.And] | type[t.Or]
) -> t.Predicate | None:
    """Write two parts of a chain as one, None where they have nothing in common."""
    first, second = _strings(one), _strings(other)
    if first and second and first[0] == second[0]:
        value = first[0]
        if kind is t.Or:
            return t.Member(value, t.SetLiteral((*first[1], *second[1])))
        left = tuple(x for x in first[1] if x in second[1])
        if left:
            return _node(t.Member(value, t.SetLiteral(left)))  # type: ignore[return-value]
        return None
    if kind is t.And:
        low, high = _bounds(one), _bounds(other)
        if low and high and low[0] == high[0] and not isinstance(low[0], t.Text):
            ends = max(low[1], high[1]), min(low[2], high[2])
            if -_ENDLESS < ends[0] <= ends[1] < _ENDLESS:
                return _node(t.Between(low[0], *ends))  # type: ignore[return-value]
    return None


def _strings(part: t.Predicate) -> tuple[t.Call, tuple[str, ...]] | None:
    """Return the symbol and the strings that a membership allows, None if it is none."""
    match part:
        case t.Compare("==", t.Call() as value, t.Text(string)):
            return value, (string,)
        case t.Member(value, t.SetLiteral(elements, None)):
            return value, elements
    return None


_ENDLESS = 1 << 40


def _bounds(part: t.Predicate) -> tuple[t.Int, int, int] | None:
    """Return the integer and the bounds that a comparison allows, None if it is none."""
    match part:
        case t.Between(value, low, high):
            return value, low, high
        case t.Compare(">=", value, t.Integer(n)) if not isinstance(value, t.Text):
            return value, n, _ENDLESS
        case t.Compare(">", value, t.Integer(n)) if not isinstance(value, t.Text):
            return value, n + 1, _ENDLESS
        case t.Compare("<=", value, t.Integer(n)) if not isinstance(value, t.Text):
            return value, -_ENDLESS, n
        case t.Compare("<", value, t.Integer(n)) if not isinstance(value, t.Text):
            return value, -_ENDLESS, n - 1
    return None


def _read(term: t.Term) -> bool:
    """Say whether a term has a weight other than 0."""
    return any(weight != 0.0 for weight in t.weights_of(term))


def _positive(term: t.Term) -> t.Term:
    """Write ``w where not p`` as ``-w where p``."""
    if isinstance(term, t.Where) and isinstance(term.condition, t.Not):
        weight = None if term.weight is None else -term.weight
        return dataclasses.replace(term, weight=weight, condition=term.condition.value)
    return term


def _joined(terms: list[t.Term]) -> list[t.Term]:
    """Join terms that differ in their weights alone; a hole joined with a number is a hole."""
    found: list[t.Term] = []
    for term in terms:
        for i, before in enumerate(found):
            both = _sum(before, term)
            if both is not None:
                found[i] = both
                break
        else:
            found.append(term)
    return [term for term in found if _read(term)]


def _sum(one: t.Term, other: t.Term) -> t.Term | None:
    """Return two terms as one with summed weights; None if they are not alike, or it is too large."""
    if isinstance(one, t.Table) or isinstance(other, t.Table):
        if not isinstance(one, t.Table) or not isinstance(other, t.Table):
            return None
        if bare(one) != bare(other):
            return None
        pairs = list(zip(one.entries, other.entries, strict=True))
        weights = [_plus(a.weight, b.weight) for a, b in pairs]
        if any(abs(w or 0.0) > MAX_WEIGHT for w in weights):
            return None
        entries = (
            dataclasses.replace(a, weight=w) for (a, _), w in zip(pairs, weights, strict=True)
        )
        return dataclasses.replace(one, entries=tuple(entries))
    weight = _plus(one.weight, other.weight)
    if bare(one) != bare(other) or abs(weight or 0.0) > MAX_WEIGHT:
        return None
    if isinstance(one, t.Scaled) and weight is not None:
        small = isinstance(one.value, t.Decay | t.Real) and abs(weight) <= MAX_WEIGHT / 2
        if not small or (isinstance(one.value, t.Real) and one.value.name == "sqrt"):
            return None  # each is cut off at ``dsl.limits.TERM_LIMIT``, and their sum would be
    return dataclasses.replace(one, weight=weight)


def bare(term: t.Term) -> t.Term:
    """Return a term with holes for its weights, and without comments."""
    if isinstance(term, t.Table):
        entries = tuple(dataclasses.replace(entry, weight=None) for entry in term.entries)
        return dataclasses.replace(term, entries=entries, remarks=t.NO_REMARKS)
    return dataclasses.replace(term, weight=None, remarks=t.NO_REMARKS)


def _plus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
