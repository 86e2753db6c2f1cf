"""Elements: the weights of sets as parameters of tunable programs, and the terms that use them.

A term such as ``2 * weight(token(q), A) * weight(token(k), B) where q - k <= 3`` is a *graded term*:
the weight of an element, times a plane of what else the term says. Its scores are

    weight * plane[q, k] * a[token(q)] * b[token(k)]

so that no element needs a plane of its own; ``terms`` computes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.graph import ColumnKey
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.limits import MAX_ELEMENT_WEIGHT

Factor = tuple[str, str, int, str]
"""The weight of a symbol in a set: a feature, the variable, its shift, and the set's name."""
Place = tuple[str, str, int, int]
"""A feature, the variable, its shift, and the number of a tunable set."""


@dataclass(frozen=True, slots=True)
class GradedTerm:
    """A term whose sets can be tuned.

    Attributes:
        program, weight: whose it is, and the number of its weight among those of all programs.
        query, key: the numbers of the places that it reads, -1 for none.
    """

    program: int
    weight: int
    query: int
    key: int


@dataclass
class Elements:
    """The sets that can be tuned in some programs, and where they are used.

    A set can be tuned if it has a name and weights, and is used in graded terms alone, of features
    that are settled at their token.

    Attributes:
        plain: the programs, in each graded term a plane in the place of its sets.
        terms: the graded terms.
        places: what they read.
        sets: program and name of each tunable set.
        starts: int64 (sets + 1), where the elements of each begin among all.
        values: float64, the weights of all elements.
    """

    plain: list[t.Head] = field(default_factory=list)
    terms: list[GradedTerm] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    sets: list[tuple[int, str]] = field(default_factory=list)
    starts: np.ndarray = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    values: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def of(cls, programs: Sequence[t.Head]) -> Elements:
        """Find the tunable sets of programs."""
        made = cls()
        numbers: dict[tuple[int, str], int] = {}
        places: dict[Place, int] = {}
        values: list[float] = []
        starts, weight = [0], 0
        for number, program in enumerate(programs):
            tunable = _tunable(program)
            for definition in program.sets:
                if definition.name in tunable:
                    numbers[number, definition.name] = len(numbers)
                    values += definition.value.weights or ()
                    starts.append(len(values))
            terms = []
            for term in program.terms:
                factors = _factors(term)
                if isinstance(term, t.Scaled) and factors and _names(factors) <= tunable:
                    read = {"q": -1, "k": -1}
                    for feature, variable, shift, name in factors:
                        place = feature, variable, shift, numbers[number, name]
                        read[variable] = places.setdefault(place, len(places))
                    made.terms.append(GradedTerm(number, weight, read["q"], read["k"]))
                    terms.append(_without_sets(term))
                else:
                    terms.append(term)
                weight += len(t.weights_of(term))
            made.plain.append(dataclasses.replace(program, terms=tuple(terms)))
        made.places, made.sets = list(places), list(numbers)
        made.starts, made.values = np.array(starts, dtype=np.int64), np.array(values)
        return made

    def read(self, programs: Sequence[t.Head], batch: Batch) -> np.ndarray:
        """Say which element each place reads at each token.

        Returns:
            int32 (places, tokens of the batch): 1 + the element's number, 0 for none.
        """
        out = np.zeros((len(self.places), int(batch.starts[-1])), dtype=np.int32)
        for i, (feature, _, shift, number) in enumerate(self.places):
            program, name = self.sets[number]
            literal = next(d.value for d in programs[program].sets if d.name == name)
            key = ColumnKey(feature)
            column = batch.column(key)
            table = np.zeros(len(batch.symbols), dtype=np.int32)
            for j, element in enumerate(literal.elements):
                if element in batch.symbols:
                    table[batch.symbols[element]] = 1 + self.starts[number] + j
            for start, n in zip(batch.starts, batch.sizes, strict=False):
                ids = np.full(n, key.pad, dtype=np.int64)
                ids[-shift:] = column.settled[start : start + max(n + shift, 0)]
                out[i, start : start + n] = table[ids]
        return out

    def scales(self, programs: Sequence[t.Head], sizes: np.ndarray) -> np.ndarray:
        """Return by how much each element's weight moves a score, float64 (elements).

        Args:
            sizes: of what the weight of each term multiplies.
        """
        squares, counts = np.zeros(len(self.values)), np.zeros(len(self.values))
        weights = [w or 0.0 for p in programs for w in p.weights]
        spread = [float(np.sqrt(np.mean(self._own(p[3]) ** 2))) or 1.0 for p in self.places]
        for term in self.terms:
            reach = abs(weights[term.weight]) * sizes[term.weight]
            for place in (term.query, term.key):
                if place >= 0:
                    number = self.places[place][3]
                    low, high = self.starts[number : number + 2]
                    squares[low:high] += (reach / spread[place]) ** 2
                    counts[low:high] += 1
        size = np.sqrt(squares / np.maximum(counts, 1.0))
        return np.where(size > 0, size, 1.0)

    def _own(self, number: int) -> np.ndarray:
        return self.values[self.starts[number] : self.starts[number + 1]]

    def write(self, program: t.Head, number: int, values: np.ndarray) -> t.Head:
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
                literal = dataclasses.replace(
                    definition.value, weights=tuple(round(float(x), 2) for x in own)
                )
                definition = dataclasses.replace(definition, value=literal)
            made.append(definition)
        return dataclasses.replace(program, sets=tuple(made))


def _tunable(program: t.Head) -> set[str]:
    """Return the names of the sets that can be tuned."""
    names = {d.name for d in program.sets if d.value.weights is not None}
    if program.normaliser == "linear":
        return set()
    changed = True
    while changed:
        changed = False
        for term in program.terms:
            used = {n.name for n in term.walk() if isinstance(n, t.SetName)} & names
            factors = _factors(term)
            graded = factors and _names(factors) <= names
            counts = sum(isinstance(n, t.SetName) and n.name in used for n in term.walk())
            if used and not (graded and counts == len(factors)):
                names -= used
                changed = True
    return names


def _factors(term: t.Term) -> list[Factor]:
    """Return the weights of sets that a term multiplies, none if one cannot be tuned."""
    if not isinstance(term, t.Scaled):
        return []
    value = term.value
    found: list[Factor] = []
    for part in (value.left, value.right) if isinstance(value, t.Product) else (value,):
        if not isinstance(part, t.Weight):
            continue
        [position] = part.value.args
        if not isinstance(position, t.Position) or not isinstance(part.set, t.SetName):
            return []
        if position.shift > 0 or FEATURES[part.value.name].reads != "left":
            return []
        found.append((part.value.name, position.variable, position.shift, part.set.name))
    return found if len({factor[1] for factor in found}) == len(found) else []


def _names(factors: Sequence[Factor]) -> set[str]:
    return {factor[3] for factor in factors}


def _without_sets(term: t.Scaled) -> t.Term:
    """Return what a graded term multiplies its elements with, as a term of the same weight."""
    value = term.value
    others = [
        part
        for part in ((value.left, value.right) if isinstance(value, t.Product) else ())
        if not isinstance(part, t.Weight)
    ]
    if others:
        return dataclasses.replace(term, value=others[0])
    return t.Where(term.weight, term.condition or t.Always())
