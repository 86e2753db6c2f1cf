"""Elements: programs with their sets laid open, so that every token of a set has a weight to fit.

``1.2 where token(k) in {"a", "b"}`` has no fewer nodes than ``1 * weight(token(k), {"a": 2, "b": -1})``.
Opened, both are one plane for each token; what is fitted then is convex, and becomes one set again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.synth.open_tables import OpenTable
from attn_dsl.synth.rewrite import conjuncts, in_place
from attn_dsl.synth.vocabulary import size

STRINGS = ("token", "text", "word")
"""Features whose sets are opened."""


@dataclass(frozen=True, slots=True)
class OpenSet:
    """A set of strings that each have a weight of their own, and where it counts.

    Attributes:
        value: what is looked up in the set, ``token(k)``.
        elements: the strings.
        factor: what else the weight is multiplied by.
        condition: what else must hold.
    """

    value: t.Call
    elements: tuple[str, ...]
    factor: t.Factor | None = None
    condition: t.Predicate | None = None

    @property
    def overhead(self) -> int:
        """How many nodes the set costs, apart from its elements."""
        return size(self.term(()))

    def planes(self) -> Iterator[t.Term]:
        """Yield the term of each element, with a hole."""
        for element in self.elements:
            yield dataclasses.replace(self.term(((element, 1.0),)), weight=None)

    def around(self, empty: t.Head) -> t.Head:
        """Return a program of one term that is what an element is multiplied by; none if it is 1."""
        if self.factor is None and self.condition is None:
            return empty
        one = (
            t.Where(None, self.condition)
            if self.factor is None and self.condition is not None
            else t.Scaled(None, self.factor, self.condition)  # type: ignore[arg-type]
        )
        return dataclasses.replace(empty, terms=(one,))

    def term(self, weights: Sequence[tuple[str, float]]) -> t.Scaled:
        """Return the set as one term."""
        literal = t.SetLiteral(tuple(x for x, _ in weights), tuple(w for _, w in weights))
        weight = t.Weight(self.value, literal)
        value = weight if self.factor is None else t.Product(self.factor, weight)
        return t.Scaled(1.0, value, self.condition)

    def kept(self, some: Sequence[bool]) -> OpenSet:
        """Return the set with some of its elements."""
        chosen = tuple(e for e, mark in zip(self.elements, some, strict=True) if mark)
        return dataclasses.replace(self, elements=chosen)

    def closed(self, weights: Sequence[float]) -> t.Scaled | None:
        """Return the set with its weights in hundredths, none of which is 0; None if all are."""
        every = [(e, round(float(w), 2)) for e, w in zip(self.elements, weights, strict=True)]
        some = [(e, w) for e, w in every if w]
        return self.term(some) if some else None


@dataclass(frozen=True, slots=True)
class Opened:
    """A program whose sets and tables lie open.

    Attributes:
        empty: the program without terms.
        terms: those without sets, in order.
        sets: the others.
    """

    empty: t.Head
    terms: tuple[t.Term, ...]
    sets: tuple[OpenSet | OpenTable, ...]

    @property
    def fixed(self) -> int:
        """How many weights the terms without sets have: those come first."""
        return sum(len(t.weights_of(term)) for term in self.terms)

    @property
    def counts(self) -> list[int]:
        """How many weights each set has, behind those of the terms."""
        return [len(one.elements) for one in self.sets]

    @property
    def products(self) -> bool:
        """Whether there is a product of two sets, of which one lies open."""
        return any(isinstance(x, OpenSet) and isinstance(x.factor, t.Weight) for x in self.sets)

    @property
    def wide(self) -> t.Head:
        """The program with a term for each element, whose planes the weights are fitted on."""
        planes = (plane for x in self.sets for plane in x.planes())
        return dataclasses.replace(self.empty, terms=(*self.terms, *planes))

    def kept(self, some: np.ndarray) -> Opened:
        """Return the program with some of its weights, in the order of ``wide``; a term goes whole.

        Args:
            some: bool (weights).
        """
        left = iter(some)
        terms = [x for x in self.terms if sum(next(left) for _ in t.weights_of(x))]
        sets = [x.kept([next(left) for _ in x.elements]) for x in self.sets]
        return Opened(self.empty, tuple(terms), tuple(x for x in sets if x.elements))

    def turned(self, weights: np.ndarray) -> tuple[Opened, np.ndarray]:
        """Open the other sets of products of two, and close those that are open.

        Returns:
            The same program opened otherwise, and the weights of its ``wide``.
        """
        sets: list[OpenSet | OpenTable] = []
        found, left = list(weights[: self.fixed]), list(weights[self.fixed :])
        for one in self.sets:
            mine = [round(float(left.pop(0)), 2) for _ in one.elements]
            match one, one.closed(mine):
                case (
                    OpenSet(_, _, t.Weight(value, t.SetLiteral() as literal)),
                    t.Scaled(_, t.Product(_, t.Weight() as factor)),
                ):
                    one = dataclasses.replace(
                        one, value=value, elements=literal.elements, factor=factor
                    )
                    mine = [x / 100 for x in literal.hundredths().values()]
            sets.append(one)
            found += mine
        return Opened(self.empty, self.terms, tuple(sets)), np.array(found)

    def rounded(self, weights: np.ndarray) -> np.ndarray:
        """Return the weights as ``closed`` writes them: those of sets in hundredths."""
        return np.append(weights[: self.fixed], np.round(weights[self.fixed :], 2))

    def closed(self, weights: np.ndarray) -> t.Head:
        """Return the program with the weights of ``wide``: those of sets in hundredths, none of 0."""
        fixed = dataclasses.replace(self.empty, terms=self.terms)
        terms: list[t.Term] = list(
            fixed.with_weights([float(x) for x in weights[: self.fixed]]).terms
        )
        left = iter(weights[self.fixed :])
        closed = [one.closed([next(left) for _ in one.elements]) for one in self.sets]
        terms += [term for term in closed if term is not None]
        return dataclasses.replace(self.empty, terms=tuple(terms))


def opened(program: t.Head, *, plain: bool = True) -> tuple[Opened, np.ndarray]:
    """Open the sets and tables of a program: of a product of two sets, the second.

    Args:
        plain: open sets without weights as well, and tables.

    Returns:
        The open program, and the weights of its ``wide`` that compute the same.
    """
    known = {d.name: d.value for d in program.sets}
    fixed: list[t.Term] = []
    weights: list[float] = []
    sets: list[OpenSet | OpenTable] = []
    elements: list[float] = []
    for term in program.terms:
        if plain and isinstance(term, t.Table):
            bounds = tuple(entry.bound for entry in term.entries)
            sets.append(OpenTable(term.value, bounds, term.condition))
            elements += [entry.weight or 0.0 for entry in term.entries]
            continue
        term = in_place(term, known)
        found = _open(term) if plain or isinstance(term, t.Scaled) else None
        if found is None:
            fixed.append(term)
            weights += [w or 0.0 for w in t.weights_of(term)]
        else:
            one, literal = found
            sets.append(one)
            scale = (term.weight or 0.0) / 100  # type: ignore[union-attr]
            hundredths = literal.hundredths()
            elements += [scale * hundredths[e] for e in one.elements]
    empty = dataclasses.replace(program, terms=(), sets=())
    return Opened(empty, tuple(fixed), tuple(sets)), np.array([*weights, *elements])


def _open(term: t.Term) -> tuple[OpenSet, t.SetLiteral] | None:
    match term:
        case t.Scaled(_, t.Weight(value, t.SetLiteral() as literal), condition):
            return OpenSet(value, literal.elements, None, condition), literal
        case t.Scaled(_, t.Product(factor, t.Weight(value, t.SetLiteral() as literal)), condition):
            return OpenSet(value, literal.elements, factor, condition), literal
        case t.Where(_, condition):
            parts = list(conjuncts(condition))
            for part in parts:
                match part:
                    case t.Member(t.Call(name) as value, t.SetLiteral() as literal) if (
                        name in STRINGS
                    ):
                        rest = [x for x in parts if x is not part]
                        left = functools.reduce(t.And, rest) if rest else None
                        return OpenSet(value, literal.elements, None, left), literal
    return None
