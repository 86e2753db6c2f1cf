"""The graded proposer: grows a graded model of a head, shrinks it, and writes it at every size."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse_predicate, parse_term
from attn_dsl.synth import vocabulary
from attn_dsl.synth.cells import FAR, bands
from attn_dsl.synth.gains import gain
from attn_dsl.synth.graded import Ascent, Model, Place
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.wide import Wide

SIZES = (1200, 800, 550, 380, 270, 190, 140, 100, 75, 55, 40, 30, 22, 16, 11)
"""About how many nodes the programs have that a model is shrunk to."""
LEAST = 4.0
"""Nats that a term of the vocabulary must promise to be added."""


@dataclass(frozen=True)
class Graded:
    """Proposes programs of graded sets; see the module.

    Attributes:
        wide: the rows that the weights are moved on.
        rounds: how often a factor and some terms are added.
        terms: how many terms of the vocabulary are added in each round.
        price: nats that an element of a set must promise to be in a new factor.
    """

    wide: Wide
    rounds: int = 14
    terms: int = 2
    price: float = 1.0
    name: str = "graded"

    def propose(self, task: HeadTask) -> Iterator[Fitted]:
        """Yield the model as a program at every size, the largest first."""
        ascent = Ascent(self.wide, task.layer, task.head)
        model = self.grow(task, ascent)
        ascent.climb(model, 40, 0.0)
        for size in (min(task.max_nodes, SIZES[0]), *(s for s in SIZES[1:] if s < task.max_nodes)):
            if task.spent:
                return
            self.shrink(task, ascent, model, size)
            if not model.terms and not model.where:
                return
            ascent.climb(model, 8, 0.0)
            ascent.climb(model, 20, 0.9)
            task.evals += 1
            yield task.measured(self.program(task, model))

    def grow(self, task: HeadTask, ascent: Ascent) -> Model:
        """Add factors and terms, those that promise most."""
        model = Model(self.wide.cells)
        ascent.sweep(model, 0.0)
        for _ in range(self.rounds):
            if task.spent:
                break
            for term in self.best_terms(ascent, model):
                model.add_term(term)
            factors = ascent.factors(task.causal, self.price)
            best = max(factors, key=lambda f: f.gain)
            if best.gain > 0:
                model.add_factor(
                    dataclasses.replace(best, left=_halved(best, 0), right=_halved(best, 1))
                )
            ascent.climb(model, 12, 0.0)
            task.evals += 1
        return model

    def best_terms(self, ascent: Ascent, model: Model) -> list[int]:
        """Return the terms of the vocabulary that promise most."""
        gradient, curvature = ascent.term_moments()
        alone = gain(gradient, curvature, 2.0 + 1e-3 * len(ascent.wide))
        alone[model.terms] = 0.0
        order = np.argsort(-alone, kind="stable")[: self.terms]
        return [int(j) for j in order if alone[j] > LEAST]

    def shrink(self, task: HeadTask, ascent: Ascent, model: Model, size: int) -> None:
        """Drop what is worth least for its nodes until a model has about ``size`` nodes."""
        terms, left, right = ascent.worths(model)
        free = np.array(model.free, dtype=bool).reshape(-1, 2)
        left *= free[:, :1]
        right *= free[:, 1:]
        both = np.where(free.all(1), 0.5, 1.0)[:, None]
        sizes = np.array(vocabulary.sizes(task.causal)[0])[model.terms] if model.terms else terms
        overhead = np.array([_overhead(p, f) for p, f in zip(model.where, model.free, strict=True)])

        def cut(price: float) -> tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
            keep_left, keep_right = left > price, right > price
            worth = ((left - price) * both * keep_left).sum(1)
            worth += ((right - price) * both * keep_right).sum(1)
            whole = (keep_left.any(1) | ~free[:, 0]) & (keep_right.any(1) | ~free[:, 1])
            factors = (worth > price * overhead) & whole
            kept = terms > price * sizes
            count = 1 + sizes[kept].sum() + overhead[factors].sum()
            count += keep_left[factors].sum() + keep_right[factors].sum()
            return int(count), kept, factors, keep_left, keep_right

        low, high = 0.0, 1e6
        if cut(low)[0] > size:
            for _ in range(40):
                middle = np.sqrt(max(low, 1e-3) * high)
                low, high = (middle, high) if cut(middle)[0] > size else (low, middle)
        else:
            high = 0.0
        _, kept, factors, keep_left, keep_right = cut(high)
        model.left[free[:, 0]] *= keep_left[free[:, 0]]
        model.right[free[:, 1]] *= keep_right[free[:, 1]]
        model.keep(kept, factors)

    def program(self, task: HeadTask, model: Model) -> t.Head:
        """Write a model as a program."""
        terms: list[t.Term] = [
            _weighted(vocabulary.terms(task.causal)[j], _digits(w, 2))
            for j, w in zip(model.terms, model.weights, strict=True)
            if _digits(w, 2) != 0.0
        ]
        sets: list[t.SetDefinition] = []
        cells = self.wide.cells
        for f, place in enumerate(model.where):
            values: list[t.Factor] = []
            scale = 1.0
            for side, variable, weights, symbols in (
                (0, "q", model.left[f], cells.queries), (1, "k", model.right[f], cells.keys)
            ):  # fmt: skip
                if not model.free[f][side]:
                    continue
                chosen = np.flatnonzero(weights)
                top = float(np.abs(weights).max())
                factor = 1.0 if model.free[f] != (True, True) else 2.0 / top
                scale /= factor
                rounded = {symbols[s]: _digits(float(weights[s]) * factor, 2) for s in chosen}
                elements = sorted(
                    (e for e, w in rounded.items() if w), key=lambda e: (-rounded[e], e)
                )
                if not elements:
                    break
                stem = "Queries" if variable == "q" else "Keys"
                name = f"{stem}{1 + sum(d.name.startswith(stem) for d in sets)}"
                literal = t.SetLiteral(tuple(elements), tuple(rounded[e] for e in elements))
                sets.append(t.SetDefinition(name, literal))
                call = t.Call("token", (t.Position(variable),))  # type: ignore[arg-type]
                values.append(t.Weight(call, t.SetName(name)))
            else:
                if place.slope:
                    values.insert(0, _log_distance(task.causal))
                value = values[0] if len(values) == 1 else t.Product(values[0], values[1])
                terms.append(t.Scaled(_digits(scale, 3), value, _condition(place, task.causal)))
        program = dataclasses.replace(task.empty(), terms=tuple(terms), sets=tuple(sets))
        used = {n.name for term in terms for n in term.walk() if isinstance(n, t.SetName)}
        return dataclasses.replace(program, sets=tuple(d for d in sets if d.name in used))


def _halved(factor, side: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Start a factor at half of what the last rows promise, since elements overlap."""
    array = (factor.left, factor.right)[side]
    if not factor.free[side]:
        return array
    return array * np.float32(0.5 if factor.free != (True, True) else 0.7)


def _weighted(term: t.Term, weight: float) -> t.Term:
    """Return a term of the vocabulary with a weight."""
    assert not isinstance(term, t.Table)
    return dataclasses.replace(term, weight=weight)


def _digits(x: float, digits: int) -> float:
    """Round to significant digits, at most two after the point."""
    return round(float(f"{x:.{digits}g}"), 2)


def _overhead(place: Place, free: tuple[bool, bool]) -> int:
    """Count the nodes of a factor apart from the elements of its sets."""
    return 2 + 6 * sum(free) + (7 if place.slope else 4)


@lru_cache(maxsize=2)
def _log_distance(causal: bool) -> t.Factor:
    term = parse_term("1 * log(1 + q - k)" if causal else "1 * log(1 + abs(q - k))")
    return term.value  # type: ignore[union-attr, return-value]


@lru_cache(maxsize=128)
def _condition(place: Place, causal: bool) -> t.Predicate | None:
    """Write an interval of distance as a predicate."""
    first, last = bands(causal)[place.first][0], bands(causal)[place.last - 1][1]
    if first <= (0 if causal else -FAR) and last >= FAR:
        return None
    if first == last:
        return parse_predicate("k == q" if first == 0 else f"k == q{-first:+d}")
    if last >= FAR:
        return parse_predicate(f"q - k >= {first}")
    if first <= -FAR:
        return parse_predicate(f"q - k <= {last}" if last >= 0 else f"k - q >= {-last}")
    return parse_predicate(f"q - k in {first}..{last}")
