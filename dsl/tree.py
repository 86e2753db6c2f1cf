"""The syntax tree of a program: frozen dataclasses, one per construct of the grammar, and functions of trees.

Equality compares structure only: source spans and comments are ignored.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from attn_dsl.dsl.expression_nodes import *

Visibility = Literal["causal", "bidirectional"]
Normaliser = Literal["softmax", "linear"]
_N = TypeVar("_N", bound="Node")
_T = TypeVar("_T", bound="Term")


@dataclass(frozen=True, slots=True)
class Remarks:
    """The comments of a statement: those on the lines above it, and the one at its end."""

    above: tuple[str, ...] = ()
    beside: str = ""


NO_REMARKS = Remarks()


class Statement(Node):
    """A line that may carry comments."""

    remarks: Remarks = field(default=NO_REMARKS, compare=False, repr=False, kw_only=True)


class Where(Statement):
    """A weight where a predicate holds, else 0: ``2 where k == 0``. None as weight is a hole, ``?``."""

    weight: float | None
    condition: Predicate


class Scaled(Statement):
    """A weight times a value: ``-0.8 * log(1 + q - k)``; 0 where ``condition`` does not hold."""

    weight: float | None
    value: Value
    condition: Predicate | None = None


class Part(Node):
    """A part of a ``Sum``: a weight, times a value if there is one."""

    weight: float | None
    value: Value | None = None


class Sum(Statement):
    """Weighted parts under one condition: ``4.1 - 1.3 * Noun(q) where k == 0``.

    There are two parts or more. Without a condition, each part has a value.
    """

    parts: tuple[Part, ...]
    condition: Predicate | None = None


class Entry(Node):
    """One step of a ``Table``: the weight from ``bound`` up to the next bound."""

    bound: int
    weight: float | None


class Table(Statement):
    """A step function of an integer: ``by q - k [0: 2.1, 1: 1.3, 4: -0.2]``; 0 below the first bound."""

    value: Int
    entries: tuple[Entry, ...]
    condition: Predicate | None = None


Simple = Where | Scaled | Table
Term = Simple | Sum


class SetDefinition(Statement):
    """The definition of a set: ``set Stop = {".", "?"}``."""

    name: str
    value: SetLiteral


class ScoreDefinition(Statement):
    """The definition of a score: the sum of the weights whose predicates hold at the position ``i``.

    Its terms have weights, not holes: ``1.4 where token(i) in Nouns``.
    """

    name: str
    terms: tuple[Where, ...]


class Definition(Statement):
    """A function of a position: ``def once(i) = count(j where text(j) == text(i)) == 1``."""

    name: str
    value: Int | Predicate | Symbol


@dataclass(frozen=True)
class Definitions:
    """What a file that programs use defines; the digest of its content stands for it."""

    sets: Mapping[str, SetLiteral] = field(compare=False, repr=False)
    scores: Mapping[str, ScoreDefinition] = field(compare=False, repr=False)
    digest: str
    functions: Mapping[str, Definition] = field(default_factory=dict, compare=False, repr=False)


class Use(Statement):
    """A line that makes the definitions of a file known to a program: ``use "vocabulary.attn"``."""

    path: str
    definitions: Definitions


class Property(Statement):
    """What is claimed of a program, and tested: ``property causal``, ``property invariant_to case``."""

    name: str
    argument: str = ""


class MassProperty(Statement):
    """A bound on the attention of queries on keys: ``property mass >= 0.5 on k == 0 where punct(q)``.

    For each query where ``condition`` holds, the attention on the keys where ``keys`` holds is in bounds.
    """

    op: Literal["<", "<=", ">", ">="]
    bound: float
    keys: Predicate
    condition: Predicate | None = None


class Head(Statement):
    """A whole program: definitions, and weighted terms whose sum is normalised over the keys of each query.

    ``properties`` are no part of what the program computes: programs that differ in them alone are equal, and
    ``walk`` leaves them out. ``after`` holds the comments below the last line.
    """

    name: str
    visibility: Visibility
    normaliser: Normaliser = "softmax"
    terms: tuple[Term, ...] = ()
    sets: tuple[SetDefinition, ...] = ()
    scores: tuple[ScoreDefinition, ...] = ()
    uses: tuple[Use, ...] = ()
    functions: tuple[Definition, ...] = ()
    properties: tuple[Property | MassProperty, ...] = field(default=(), compare=False, repr=False,
                                                            kw_only=True)  # fmt: skip
    after: tuple[str, ...] = field(default=(), compare=False, repr=False, kw_only=True)

    @property
    def causal(self) -> bool:
        """Whether a query sees only the keys up to its own position."""
        return self.visibility == "causal"

    @property
    def weights(self) -> tuple[float | None, ...]:
        """The weights of all terms in source order, see ``weights_of``; None for a hole."""
        return tuple(w for term in self.terms for w in weights_of(term))

    def with_weights(self, weights: list[float]) -> Head:
        """Return the program with other weights, as many as ``self.weights`` and in their order."""
        left = iter(weights)
        terms = tuple(reweighted(term, left) for term in self.terms)
        return dataclasses.replace(self, terms=terms)


_WEIGHTED: dict[type, str] = {Table: "entries", Sum: "parts"}
"""The field of a term whose nodes have its weights."""


def weights_of(term: Term) -> tuple[float | None, ...]:
    """Return the weights of one term: one, or one for each part of a sum or step of a table."""
    if name := _WEIGHTED.get(type(term)):
        return tuple([part.weight for part in getattr(term, name)])
    return (term.weight,)  # type: ignore[union-attr]


def reweighted(term: _T, weights: Iterator[float | None]) -> _T:
    """Return a term with the next weights, as many as ``weights_of`` gives."""
    one: Any = term
    if name := _WEIGHTED.get(type(term)):
        parts = [dataclasses.replace(part, weight=next(weights)) for part in getattr(term, name)]
        return dataclasses.replace(one, **{name: tuple(parts)})
    return dataclasses.replace(one, weight=next(weights))


def parts_of(term: Term) -> tuple[Simple, ...]:
    """Return the simple terms that a term stands for: one for each part of a sum, or the term itself.

    The comments of a sum are those of its first part.
    """
    if not isinstance(term, Sum):
        return (term,)
    where, found = term.condition, list[Where | Scaled]()
    for part in term.parts:
        more: Any = {"span": part.span, "remarks": NO_REMARKS if found else term.remarks}
        if part.value is None:
            found.append(Where(part.weight, where or Always(), **more))
        else:
            found.append(Scaled(part.weight, part.value, where, **more))
    return tuple(found)


def joined(terms: Sequence[Term]) -> tuple[Term, ...]:
    """Join the terms of each condition to a sum where that has fewer nodes, in the place of the first.

    Tables, and terms without a condition, stay as they are.
    """
    found: list[Term | None] = list(terms)
    places: dict[Predicate, list[int]] = {}
    for i, term in enumerate(terms):
        if not isinstance(term, Table) and term.condition is not None:
            places.setdefault(term.condition, []).append(i)
    for condition, here in places.items():
        group = [terms[i] for i in here]
        simple: list[Any] = [part for term in group for part in parts_of(term)]
        remarks = Remarks(tuple(line for part in simple for line in part.remarks.above),
                          " ".join(filter(None, (part.remarks.beside for part in simple))))  # fmt: skip
        parts = tuple(Part(one.weight, getattr(one, "value", None)) for one in simple)
        whole = Sum(parts, condition, remarks=remarks)
        if nodes(whole) < sum(map(nodes, group)):
            for i in here:
                found[i] = None
            found[here[0]] = whole
    return tuple(filter(None, found))


def rewrite(node: _N, change: Callable[[Node], Node]) -> _N:
    """Return a tree in which each node is replaced by ``change(node)``, children before parents."""
    return change(with_children(node, lambda part: rewrite(part, change)))  # type: ignore[return-value]


def with_children(node: _N, change: Callable[[Any], Any]) -> _N:
    """Return a node in which each direct child is replaced by ``change(child)``."""
    changed: dict[str, Any] = {}
    for name in node_fields(type(node)):  # type: ignore[arg-type]
        value = getattr(node, name)
        if value.__class__ is tuple:
            new = tuple(map(change, value))
            same = all(map(operator.is_, new, value))
        else:
            new = value and change(value)
            same = new is value
        if not same:
            changed[name] = new
    return dataclasses.replace(node, **changed) if changed else node


def flat(node: Predicate, kind: type[And] | type[Or]) -> list[Predicate]:
    """Return the parts of a conjunction of conjunctions, or of a disjunction of disjunctions."""
    if not isinstance(node, kind):
        return [node]
    return [*flat(node.left, kind), *flat(node.right, kind)]


def unshortened(symbol: Symbol) -> tuple[Call, tuple[tuple[str, int], ...]]:
    """Return the feature that a symbol is made of, and the functions that shorten it, in their order."""
    if isinstance(symbol, Call):
        return symbol, ()
    call, functions = unshortened(symbol.value)
    return call, (*functions, (symbol.name, symbol.length))


def free_variables(node: Node) -> set[str]:
    """Return the variables of a node outside of quantifiers and searches, which have their own."""
    if isinstance(node, Quantifier):
        return {"q"}
    if isinstance(node, Search):
        return free_variables(node.at)
    if isinstance(node, Position | Score):
        return {node.variable}
    return {name for child in node.children() for name in free_variables(child)}


def positions(node: Node) -> Iterator[Position]:
    """Yield the positions in a node, outside of the bodies of searches."""
    if isinstance(node, Position):
        yield node
    for child in [node.at] if isinstance(node, Search) else node.children():
        yield from positions(child)


def renamed(node: Any, old: str, new: Literal["q", "k", "i", "j"]) -> Any:
    """Return a node in which a variable has another name; the bodies of searches have their own."""
    if isinstance(node, Position):
        return dataclasses.replace(node, variable=new) if node.variable == old else node
    if isinstance(node, Search):
        return dataclasses.replace(node, at=renamed(node.at, old, new))
    return with_children(node, lambda part: renamed(part, old, new))


def nodes(node: Node) -> int:
    """Return the complexity of a program or a part of it: its nodes, plus one per element of its sets.

    A weight belongs to its term or element, and a shift to its position, so that ``2 where text(k-1) ==
    text(q)`` has 6 nodes: term, comparison, two features, two positions. The name of a set, the use of a
    score, of a definition and of a file are one node each, and so is the position that a search is over.
    """
    return sum(1 + len(getattr(part, "elements", ())) for part in node.walk())
