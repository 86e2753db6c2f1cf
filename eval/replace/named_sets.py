"""Named sets: the weights of programs' sets as parameters of tunable programs, shared by terms.

A term such as ``2 * weight(token(q), A) * weight(token(k), B) where q - k <= 3`` is a *graded term*:
its weight, times a plane of what else it says, times the weights of a query's and a key's element.
``set_scores`` computes them, so that no element needs a plane of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.limits import MAX_ELEMENT_WEIGHT
from attn_dsl.eval.set_parameters import TokenSymbols, set_weights


@dataclass(frozen=True, slots=True)
class GradedTerm:
    """A term whose sets can be tuned: the number of its weight, and its places, -1 for none."""

    weight: int
    query: int
    key: int


@dataclass
class NamedSets:
    """The sets that can be tuned in some programs, and where they are used.

    A set can be tuned if it has a name and weights, and is used in graded terms alone, of features
    that are settled at their token.

    Attributes:
        plain: the programs, in each graded term a plane in the place of its sets.
        terms: the graded terms.
        places: what they look up, and the number of the set.
        sets: program and name of each tunable set.
        starts: int64 (sets + 1), where the elements of each begin among all.
        values: float64, the weights of all elements.
    """

    plain: list[t.Head] = field(default_factory=list)
    terms: list[GradedTerm] = field(default_factory=list)
    places: list[tuple[t.Call, int]] = field(default_factory=list)
    sets: list[tuple[int, str]] = field(default_factory=list)
    starts: np.ndarray = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    values: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def of(cls, programs: Sequence[t.Head]) -> NamedSets:
        """Find the tunable sets of programs."""
        made = cls()
        places: dict[tuple[t.Call, int], int] = {}
        values: list[float] = []
        starts, weight = [0], 0
        for number, program in enumerate(programs):
            tunable = _tunable(program)
            for definition in program.sets:
                if definition.name in tunable:
                    made.sets.append((number, definition.name))
                    values += definition.value.weights or ()
                    starts.append(len(values))
            terms: list[t.Term] = []
            for term in program.terms:
                uses = _uses(term)
                if uses and {name for _, name in uses} <= tunable:
                    read = {"q": -1, "k": -1}
                    for value, name in uses:
                        place = value, made.sets.index((number, name))
                        variable = value.args[0].variable  # type: ignore[union-attr]
                        read[variable] = places.setdefault(place, len(places))
                    made.terms.append(GradedTerm(weight, read["q"], read["k"]))
                    term = _without_sets(term)
                terms.append(term)
                weight += len(t.weights_of(term))
            made.plain.append(dataclasses.replace(program, terms=tuple(terms)))
        made.places = list(places)
        made.starts, made.values = np.array(starts, dtype=np.int64), np.array(values)
        return made

    def reads(self, programs: Sequence[t.Head], batch: Batch, weights: int) -> np.ndarray:
        """Return which parameter each place looks up at each token, as in ``set_scores``.

        Args:
            weights: how many parameters stand before those of the elements.

        Returns:
            int32 (places, tokens of the batch).
        """
        symbols, found = TokenSymbols(batch, programs[0].causal), []
        for value, number in self.places:
            program, name = self.sets[number]
            literal = next(d.value for d in programs[program].sets if d.name == name)
            first = weights + int(self.starts[number])
            found.append(symbols.numbers(value, literal.elements, first))
        return np.array(found, dtype=np.int32).reshape(len(found), int(batch.starts[-1]))

    def scales(self, programs: Sequence[t.Head], sizes: np.ndarray) -> np.ndarray:
        """Return by how much each element's weight moves a score, float64 (elements).

        Args:
            sizes: of what the weight of each term multiplies.
        """
        squares, counts = np.zeros(len(self.values)), np.zeros(len(self.values))
        weights = [w or 0.0 for p in programs for w in p.weights]
        parts = [slice(*self.starts[number : number + 2]) for _, number in self.places]
        spread = [float(np.sqrt(np.mean(self.values[part] ** 2))) or 1.0 for part in parts]
        for term in self.terms:
            reach = abs(weights[term.weight]) * sizes[term.weight]
            for place in (term.query, term.key):
                if place >= 0:
                    squares[parts[place]] += (reach / spread[place]) ** 2
                    counts[parts[place]] += 1
        size = np.sqrt(squares / np.maximum(counts, 1.0))
        return np.where(size > 0, size, 1.0)

    def written(self, program: t.Head, number: int, values: np.ndarray) -> t.Head:
        """Return a program with other weights of its sets, to two digits after the point.

        Args:
            number: which of the programs it is.
            values: of all elements.
        """
        made = []
        for definition in program.sets:
            if (number, definition.name) in self.sets:
                at = self.sets.index((number, definition.name))
                own = values[self.starts[at] : self.starts[at + 1]]
                own = np.clip(own, -MAX_ELEMENT_WEIGHT, MAX_ELEMENT_WEIGHT)
                weights = tuple(round(float(x), 2) for x in own)
                literal = dataclasses.replace(definition.value, weights=weights)
                definition = dataclasses.replace(definition, value=literal)
            made.append(definition)
        return dataclasses.replace(program, sets=tuple(made))


def _tunable(program: t.Head) -> set[str]:
    """Return the names of the sets that can be tuned."""
    if program.normaliser == "linear":
        return set()
    names = {d.name for d in program.sets if d.value.weights is not None}
    changed = True
    while changed:
        changed = False
        for term in program.terms:
            every = [n.name for n in term.walk() if isinstance(n, t.SetName) and n.name in names]
            uses = _uses(term)
            graded = uses and {name for _, name in uses} <= names and len(every) == len(uses)
            if every and not graded:
                names -= {*every}
                changed = True
    return names


def _uses(term: t.Term) -> list[tuple[t.Call, str]]:
    """Return the named sets whose weights a term multiplies, none if one cannot be tuned."""
    found = []
    for use in set_weights(term)[0]:
        position = use.value.args[0]
        if not isinstance(use.set, t.SetName) or position.shift > 0:  # type: ignore[union-attr]
            return []
        found.append((use.value, use.set.name))
    return found


def _without_sets(term: t.Term) -> t.Term:
    """Return what a graded term multiplies its elements with, as a term of the same weight."""
    assert isinstance(term, t.Scaled)
    _, factor = set_weights(term)
    if factor is not None:
        return dataclasses.replace(term, value=factor)
    return t.Where(term.weight, term.condition or t.Always())
