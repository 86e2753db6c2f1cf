"""Element weights: the weights of programs' sets as parameters of tunable programs.

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
from attn_dsl.eval.set_parameters import TokenSymbols, in_place, set_weights


@dataclass
class ElementWeights:
    """The sets that can be tuned in some programs, and where they are used.

    A set can be tuned if it has weights, and is used in graded terms alone, of features that are
    settled at their token. Sets of a program that hold the same are one.

    Attributes:
        plain: the programs, in each graded term a plane in the place of its sets.
        terms: of each graded term, the number of its weight, and the places of its query and its
            key, -1 for none.
        places: what is looked up, and the number of the set.
        sets: program and content of each tunable set.
        starts: int64 (sets + 1), where the elements of each begin among all.
    """

    plain: list[t.Head] = field(default_factory=list)
    terms: list[tuple[int, int, int]] = field(default_factory=list)
    places: list[tuple[t.Call, int]] = field(default_factory=list)
    sets: list[tuple[int, t.SetLiteral]] = field(default_factory=list)
    starts: np.ndarray = field(default_factory=lambda: np.zeros(1, dtype=np.int64))

    @classmethod
    def of(cls, programs: Sequence[t.Head]) -> ElementWeights:
        """Find the tunable sets of programs."""
        made, weight = cls(), 0
        numbers: dict[tuple[int, t.SetLiteral], int] = {}
        places: dict[tuple[t.Call, int], int] = {}
        for number, program in enumerate(programs):
            known = {d.name: d.value for d in program.sets}
            every = [in_place(term, known) for term in program.terms]
            tunable = _tunable(every) if program.normaliser == "softmax" else set()
            terms: list[t.Term] = []
            for term in every:
                uses = _uses(term)
                if uses and {one.set for one in uses} <= tunable:
                    read = {"q": -1, "k": -1}
                    for one in uses:
                        position = one.value.args[0]
                        content = numbers.setdefault((number, one.set), len(numbers))  # type: ignore[arg-type]
                        place = places.setdefault((one.value, content), len(places))
                        read[position.variable] = place  # type: ignore[union-attr]
                    made.terms.append((weight, read["q"], read["k"]))
                    term = _without_sets(term)
                terms.append(term)
                weight += len(t.weights_of(term))
            made.plain.append(dataclasses.replace(program, terms=tuple(terms), sets=()))
        made.sets, made.places = list(numbers), list(places)
        sizes = [len(literal.elements) for _, literal in made.sets]
        made.starts = np.cumsum([0, *sizes], dtype=np.int64)
        return made

    @property
    def values(self) -> np.ndarray:
        """The weights of all elements, float64."""
        return np.array([w for _, literal in self.sets for w in literal.weights or ()])

    def reads(self, batch: Batch, weights: int) -> np.ndarray:
        """Return which parameter each place looks up at each token, as in ``set_scores``.

        Args:
            weights: how many parameters stand before those of the elements.

        Returns:
            int32 (places, tokens of the batch).
        """
        symbols = TokenSymbols(batch, self.plain[0].causal)
        found = [
            symbols.numbers(value, self.sets[i][1].elements, weights + int(self.starts[i]))
            for value, i in self.places
        ]
        return np.array(found, dtype=np.int32).reshape(len(found), int(batch.starts[-1]))

    def scales(self, programs: Sequence[t.Head], sizes: np.ndarray) -> np.ndarray:
        """Return by how much each element's weight moves a score, float64 (elements).

        Args:
            sizes: of what the weight of each term multiplies.
        """
        values = self.values
        squares, counts = np.zeros(len(values)), np.zeros(len(values))
        weights = [w or 0.0 for p in programs for w in p.weights]
        parts = [slice(*self.starts[number : number + 2]) for _, number in self.places]
        spread = [float(np.sqrt(np.mean(values[part] ** 2))) or 1.0 for part in parts]
        for weight, *places in self.terms:
            reach = abs(weights[weight]) * sizes[weight]
            for place in places:
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
        new: dict[t.Node, t.Node] = {}
        for (owner, literal), low, high in zip(
            self.sets, self.starts, self.starts[1:], strict=False
        ):
            if owner == number:
                own = np.clip(values[low:high], -MAX_ELEMENT_WEIGHT, MAX_ELEMENT_WEIGHT)
                weights = tuple(round(float(x), 2) for x in own)
                new[literal] = dataclasses.replace(literal, weights=weights)
        return t.rewrite(program, lambda node: new.get(node, node)) if new else program


def _tunable(terms: Sequence[t.Term]) -> set[t.SetLiteral]:
    """Return the sets that can be tuned."""
    used = [[x for x in term.walk() if isinstance(x, t.SetLiteral) and x.weights] for term in terms]
    found = {literal for every in used for literal in every}
    changed = True
    while changed:
        changed = False
        for term, every in zip(terms, used, strict=True):
            some = [literal for literal in every if literal in found]
            sets = [use.set for use in _uses(term)]
            if some and not (sets and {*sets} <= found and len(every) == len(sets)):
                found -= {*some}
                changed = True
    return found


def _uses(term: t.Term) -> list[t.Weight]:
    """Return the weights of sets that a term multiplies, none if one cannot be tuned."""
    uses = set_weights(term)[0]
    for use in uses:
        position = use.value.args[0]
        if not isinstance(use.set, t.SetLiteral) or position.shift > 0:  # type: ignore[union-attr]
            return []
    return uses


def _without_sets(term: t.Term) -> t.Term:
    """Return what a graded term multiplies its elements with, as a term of the same weight."""
    assert isinstance(term, t.Scaled)
    _, factor = set_weights(term)
    if factor is not None:
        return dataclasses.replace(term, value=factor)
    return t.Where(term.weight, term.condition or t.Always())
