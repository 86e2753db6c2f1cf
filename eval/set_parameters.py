"""Set parameters: the weights of a program's terms and of its sets' elements, as one vector.

``1.2 where token(k) in {"a", "b"}`` has no fewer nodes than ``1 * weight(token(k), {"a": 2, "b": -1})``, so
every element of a set may have a weight of its own. ``set_scores`` computes with the vector; ``set_program``
and ``SetProgram.written`` go from a program to its vector and back.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeGuard, TypeVar

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.graph import ColumnKey
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.limits import MAX_ELEMENT_WEIGHT
from attn_dsl.eval.set_scores import FIRST, NONE

N = TypeVar("N", bound=t.Node)
DISTANCE = {True: t.Arithmetic("-", t.Position("q"), t.Position("k")),
            False: t.Arithmetic("-", t.Position("k"), t.Position("q"))}  # fmt: skip
"""What tables are about whose steps are parameters, in causal programs and in others."""
STRINGS = ("token", "text")
"""Features whose sets without weights are given some."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """The weights of a set, of which an entry uses one at the most: that of a token's symbol."""

    value: t.Call  # what is looked up, as ``token(k-1)``
    elements: tuple[str, ...]  # the strings of the set

    @property
    def position(self) -> t.Position:
        """Whose symbol is looked up."""
        (place,) = self.value.args
        assert isinstance(place, t.Position)
        return place


@dataclass(frozen=True, slots=True)
class SetTerm:
    """A term of weight 1 whose parameters are the elements of its sets."""

    lookups: tuple[Lookup, ...]  # one or two sets, whose weights are multiplied
    factor: t.Factor | None = None  # what they are multiplied by, if anything
    condition: t.Predicate | None = None  # what must hold

    def __len__(self) -> int:
        return sum(len(one.elements) for one in self.lookups)

    @property
    def plain(self) -> t.Term | None:
        """What the parameters are multiplied by, as a term with a hole; None for 1."""
        if self.factor is not None:
            return t.Scaled(None, self.factor, self.condition)
        return None if self.condition is None else t.Where(None, self.condition)

    def planes(self) -> list[t.Term]:
        """Return what each parameter is multiplied by, as a term with a hole, if there is one set."""
        (one,) = self.lookups
        held = [t.Compare("==", one.value, t.Text(element)) for element in one.elements]
        where = [x if self.condition is None else t.And(x, self.condition) for x in held]
        if self.factor is None:
            return [t.Where(None, x) for x in where]
        return [t.Scaled(None, self.factor, x) for x in where]

    def split(self, weights: Any) -> Iterator[Any]:
        """Yield the part of a sequence that is every lookup's."""
        at = 0
        for one in self.lookups:
            yield weights[at : at + len(one.elements)]
            at += len(one.elements)

    def places(self, first: int, causal: bool,
               add: Callable[[Lookup, int], int]) -> tuple[int, int, int]:  # fmt: skip
        """Add its lookups, and return the last three columns of its row of ``SetScores.terms``.

        Args:
            first: the number of its first parameter.
            add: gets a lookup and the number of its first parameter; returns its row of queries or keys.
        """
        rows, hidden = {"q": -1, "k": -1}, 0
        for one in self.lookups:
            place = one.position
            rows[place.variable] = add(one, first)
            if causal and place.variable == "k":  # a key at the end of a row has no later one
                hidden = max(hidden, place.shift)
            first += len(one.elements)
        return rows["q"], rows["k"], hidden

    def written(self, weights: Any) -> t.Term:
        """Return the term with weights for its parameters; elements of weight 0 are left out."""
        values: list[t.Factor] = [] if self.factor is None else [self.factor]
        for one, part in zip(self.lookups, self.split(weights), strict=True):
            pairs = [(e, float(w)) for e, w in zip(one.elements, part, strict=True) if w]
            literal = t.SetLiteral(tuple(e for e, _ in pairs), tuple(w for _, w in pairs))
            values.append(t.Weight(one.value, literal))
        value = values[0] if len(values) == 1 else t.Product(values[0], values[1])
        return t.Scaled(1.0, value, self.condition)


@dataclass(frozen=True, slots=True)
class TableTerm:
    """A table whose parameters are what each step adds to the one before it."""

    value: t.Arithmetic  # what is looked up, ``q - k``
    bounds: tuple[int, ...]  # where the steps begin, in order
    condition: t.Predicate | None = None  # what must hold

    def __len__(self) -> int:
        return len(self.bounds)

    def planes(self) -> list[t.Term]:
        """Return what each parameter is multiplied by, as a term with a hole."""
        steps = [t.Compare(">=", self.value, t.Integer(bound)) for bound in self.bounds]
        if self.condition is None:
            return [t.Where(None, step) for step in steps]
        return [t.Where(None, t.And(step, self.condition)) for step in steps]

    def written(self, weights: Any) -> t.Table:
        """Return the table with weights for its parameters; steps that add 0 are left out."""
        sums = np.round(np.cumsum(weights), 2)
        steps = zip(self.bounds, sums, weights, strict=True)
        entries = tuple(t.Entry(bound, float(total)) for bound, total, w in steps if w)
        return t.Table(self.value, entries, self.condition)


@dataclass(frozen=True, slots=True)
class SetProgram:
    """A program whose parameters are the weights of its plain terms, and then those of its set terms."""

    empty: t.Head  # the program without terms
    terms: tuple[t.Term, ...] = ()  # the plain ones, in order
    sets: tuple[SetTerm | TableTerm, ...] = ()  # the others

    def __len__(self) -> int:
        return self.fixed + sum(map(len, self.sets))

    @property
    def fixed(self) -> int:
        """How many weights the plain terms have."""
        return sum(len(t.weights_of(term)) for term in self.terms)

    def parts(self) -> Iterator[tuple[t.Term | SetTerm | TableTerm, slice]]:
        """Yield every term, and where its parameters are."""
        at = 0
        for term in (*self.terms, *self.sets):
            own = isinstance(term, SetTerm | TableTerm)
            count = len(term) if own else len(t.weights_of(term))  # type: ignore[arg-type]
            yield term, slice(at, at + count)
            at += count

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """Round the parameters of set terms to hundredths, as programs write them."""
        found = np.clip(np.round(x, 2), -MAX_ELEMENT_WEIGHT, MAX_ELEMENT_WEIGHT)
        return np.append(x[: self.fixed], found[self.fixed :])

    def written(self, x: np.ndarray) -> t.Head:
        """Return the program with a vector of parameters, ``rounded``; terms of weight 0 go.

        No term is a sum; ``tree.joined`` makes sums of terms with equal conditions.
        """
        x = self.rounded(x)
        plain = dataclasses.replace(self.empty, terms=self.terms)
        terms = list(plain.with_weights([float(w) for w in x[: self.fixed]]).terms)
        for term, at in self.parts():
            if isinstance(term, TableTerm) and np.any(x[at]):
                terms.append(term.written(x[at]))
            if isinstance(term, SetTerm) and all(np.any(part) for part in term.split(x[at])):
                terms.append(term.written(x[at]))
        return dataclasses.replace(self.empty, terms=tuple(terms))


def in_place(node: N, sets: Mapping[str, t.SetLiteral]) -> N:
    """Return a tree with the sets that its program names written in place."""

    def change(part: t.Node) -> t.Node:
        return sets.get(part.name, part) if isinstance(part, t.SetName) else part

    return t.rewrite(node, change) if sets else node


def set_program(program: t.Head, *, linear: bool = False) -> tuple[SetProgram, np.ndarray]:
    """Return a program with the elements of its sets as parameters, and these; each part of a sum is a term.

    Args:
        linear: take no two sets of one term, whose weights are multiplied, no sets without weights and no
            tables, whose steps are weights of a plain term.
    """
    program = in_place(program, {d.name: d.value for d in program.sets})
    terms: list[t.Term] = []
    sets: list[SetTerm | TableTerm] = []
    weights: list[float] = []
    elements: list[float] = []
    for term in (part for whole in program.terms for part in t.parts_of(whole)):
        found = _set_term(term, program.causal)
        if linear and found and (not isinstance(term, t.Scaled) or len(found[0].lookups) > 1):  # type: ignore[union-attr]
            found = None
        if found is None:
            terms.append(term)
            weights += [w or 0.0 for w in t.weights_of(term)]
        else:
            sets.append(found[0])
            elements += found[1]
    empty = dataclasses.replace(program, terms=(), sets=())
    return SetProgram(empty, tuple(terms), tuple(sets)), np.array([*weights, *elements])


def _set_term(term: t.Simple, causal: bool) -> tuple[SetTerm | TableTerm, list[float]] | None:
    if isinstance(term, t.Table):
        if term.value != DISTANCE[causal]:
            return None
        bounds = tuple(entry.bound for entry in term.entries)
        added = np.diff([entry.weight or 0.0 for entry in term.entries], prepend=0.0)
        return TableTerm(DISTANCE[causal], bounds, term.condition), added.tolist()
    scale = term.weight or 0.0
    if isinstance(term, t.Scaled):
        value = term.value
        factors = (value.left, value.right) if isinstance(value, t.Product) else (value,)
        uses = [x for x in factors if isinstance(x, t.Weight) and isinstance(x.set, t.SetLiteral)]
        others = [x for x in factors if not isinstance(x, t.Weight)]
        places = {x.value.args[0].variable for x in uses if _looked_up(x.value)}  # type: ignore[union-attr]
        if not uses or len(places) < len(factors) - len(others):
            return None
        lookups = tuple(Lookup(x.value, x.set.elements) for x in uses)  # type: ignore[union-attr, arg-type]
        values = [np.array([*x.set.hundredths().values()]) / 100 for x in uses]  # type: ignore[union-attr]
        if len(values) == 2:
            sizes = [max(float(np.abs(x).max()), 0.01) for x in values]
            share = np.sqrt(abs(scale) * sizes[1] / sizes[0])
            values = [values[0] * share, values[1] * (scale / share if share else 0.0)]
        else:
            values = [values[0] * scale]
        factor = others[0] if others else None
        return SetTerm(lookups, factor, term.condition), [*np.concatenate(values)]
    parts = t.flat(term.condition, t.And)
    for part in parts:
        match part:
            case t.Member(t.Call(name) as call, t.SetLiteral(elements)) if name in STRINGS:
                if _looked_up(call):
                    rest = [x for x in parts if x is not part]
                    condition = reduce(t.And, rest) if rest else None
                    found = SetTerm((Lookup(call, elements),), None, condition)
                    return found, [scale] * len(elements)
    return None


def _looked_up(value: t.Symbol) -> TypeGuard[t.Call]:
    """Say whether a symbol is that of a token near the query or the key, whatever the query sees."""
    if isinstance(value, t.Shortened) or value.name not in FEATURES:
        return False
    return isinstance(value.args[0], t.Position) and FEATURES[value.name].reads == "left"


class TokenSymbols:
    """The symbols that features have at the tokens near each token of a batch; kept once computed."""

    def __init__(self, batch: Batch, causal: bool) -> None:
        self.batch, self.causal = batch, causal
        self._known: dict[t.Call, np.ndarray] = {}

    def numbers(self, value: t.Call, elements: Sequence[str], first: int) -> np.ndarray:
        """Return which parameter each token looks up, int32, by the numbers of ``set_scores``."""
        symbols = self._symbols(value)  # the batch learns them
        table = np.full(len(self.batch.symbols), NONE, dtype=np.int32)
        for i, element in enumerate(elements):
            if element in self.batch.symbols:
                table[self.batch.symbols[element]] = FIRST + first + i
        return table[symbols]

    def _symbols(self, value: t.Call) -> np.ndarray:
        """Return the number of the symbol at every token, int32; that of "" outside the text."""
        if value not in self._known:
            (place,) = value.args
            assert isinstance(place, t.Position)
            key = ColumnKey(value.name)
            column = self.batch.column(key)
            found = np.full(int(self.batch.starts[-1]), key.pad, dtype=np.int32)
            shift, unseen = place.shift, self.causal and place.variable == "q" and place.shift > 0
            for start, end in zip(self.batch.starts, self.batch.starts[1:], strict=False):
                low, high = start + max(-shift, 0), end - max(shift, 0)
                if high > low and not unseen:
                    found[low:high] = column.settled[low + shift : high + shift]
            self._known[value] = found
        return self._known[value]
