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
from attn_dsl.synth.gains import gain
from attn_dsl.synth.graded.cells import FAR, Cells, bands
from attn_dsl.synth.graded.climb import Ascent
from attn_dsl.synth.graded.factors import Factor, Model, propose
from attn_dsl.synth.graded.wide import Wide
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.rewrite import drop_unused


@dataclass(frozen=True, slots=True)
class Style:
    """How a model is grown.

    Attributes:
        ridge: pulls weights to 0; where it is strong, few elements carry what many would.
        price: nats that an element of a set must promise to be in a new factor.
        profiles: whether factors may have a weight for every band of distance.
        mix: what additions should explain: 0 likelihood, 1 IoU (``cells.sweep``).
        factors: how many are added at once, each of another kind.
        terms: how many terms of the vocabulary are added with them.
    """

    ridge: float
    price: float
    profiles: bool
    mix: float
    factors: int
    terms: int


@dataclass(frozen=True, slots=True)
class Pace:
    """How many sweeps over the rows the weights are moved for.

    Attributes:
        grow: after each addition.
        settle: when the model is complete.
        adjust: at each size, uphill in IoU.
    """

    grow: int = 10
    settle: int = 30
    adjust: int = 12


QUICK = Pace(8, 20, 10)
SMALL = Style(4.0, 1.0, profiles=False, mix=0.0, factors=1, terms=3)
LARGE = Style(0.3, 0.3, profiles=True, mix=0.9, factors=2, terms=6)
SIZES = 4000, 2500, 1600, 1100, 800, 550, 380, 270, 190, 140, 100, 75, 55, 40, 30, 22, 16, 11
"""About how many nodes the programs have."""
LARGE_NODES = 380
"""Models of so many nodes and more are grown large."""
TOP = 10.0
"""The largest weight in the sets of a product: so two digits are enough for all that matter."""
BAND_NODES = 9.0
"""Nodes of a term for one band of a profile."""
LEAST = 4.0
"""Nats that a term of the vocabulary must promise to be added."""


@dataclass(frozen=True)
class Graded:
    """Proposes programs of graded sets; see the module.

    Attributes:
        wide: the rows that the weights are moved on.
        rounds: how often factors and terms are added.
        pace: how far the weights are moved.
        stride: 2 leaves out every other of the large sizes, and of the others.
    """

    wide: Wide
    rounds: int = 12
    pace: Pace = Pace()
    stride: int = 1
    name: str = "graded"

    def propose(self, task: HeadTask) -> Iterator[Fitted]:
        """Yield a model as a program at every size, the largest first."""
        style = LARGE if task.max_nodes >= LARGE_NODES else SMALL
        ascent = Ascent(self.wide, task.layer, task.head, style.ridge)
        model = self.grow(task, ascent, style)
        ascent.climb(model, self.pace.settle, 0.0)
        before = -1
        for size in self.sizes(task.max_nodes):
            if task.spent:
                return
            self.shrink(task, ascent, model, size)
            left = len(model.terms) + sum(int(mask.sum()) for mask in model.masks())
            if left in (0, before):
                continue
            before = left
            ascent.climb(model, self.pace.adjust, 0.9)
            task.evals += 1
            yield task.measured(write(model, self.wide.cells, task.empty()))

    def sizes(self, most: int) -> list[int]:
        """Return the sizes of the programs, the largest first."""
        large = [size for size in SIZES if LARGE_NODES <= size <= most]
        small = [size for size in SIZES if size < LARGE_NODES and size <= most]
        return large[:: self.stride] + small[:: self.stride]

    def grow(self, task: HeadTask, ascent: Ascent, style: Style) -> Model:
        """Add factors and terms, those that promise most."""
        model = Model(self.wide.cells)
        ascent.sweep(model, 0.0)
        for _ in range(self.rounds):
            if task.spent:
                break
            for term in self.best_terms(ascent, model, style.terms):
                model.add_term(term)
            ascent.sweep(model, style.mix, everywhere=True)
            factors = propose(
                ascent.cells, ascent.gradient, ascent.masses(), task.causal, style.price,
                style.ridge, style.profiles,
            )  # fmt: skip
            for factor in _best(factors, style.factors):
                model.add_factor(_started(factor))
            ascent.climb(model, self.pace.grow, 0.0)
            task.evals += 1
        return model

    def best_terms(self, ascent: Ascent, model: Model, count: int) -> list[int]:
        """Return the terms of the vocabulary that promise most."""
        gradient, curvature = ascent.term_moments()
        alone = gain(gradient, curvature, 2.0 + 1e-3 * len(ascent.wide))
        alone[model.terms] = 0.0
        order = np.argsort(-alone, kind="stable")[:count]
        return [int(j) for j in order if alone[j] > LEAST]

    def shrink(self, task: HeadTask, ascent: Ascent, model: Model, size: int) -> None:
        """Drop what is worth least for its nodes until a model has about ``size`` nodes."""
        terms, sides = ascent.worths(model)
        sizes = np.array(vocabulary.sizes(task.causal)[0])[model.terms] if model.terms else terms
        free = model.free
        shares = 1.0 / np.maximum(free.sum(1), 1)  # Of a product, each side has its share.
        overhead = np.array([_overhead(*x) for x in zip(model.slope, free, strict=True)])
        prices = (BAND_NODES, 1.0, 1.0)

        def cut(price: float) -> tuple[float, np.ndarray, np.ndarray, list[np.ndarray]]:
            keep = [x > price * nodes for x, nodes in zip(sides, prices, strict=True)]
            count, worth = overhead.astype(float), -price * overhead
            whole = np.ones(len(model), dtype=bool)
            for i, (kept, x, nodes) in enumerate(zip(keep, sides, prices, strict=True)):
                mine = free[:, i]
                worth = worth + mine * shares * ((x - price * nodes) * kept).sum(1)
                count = count + mine * nodes * kept.sum(1)
                whole &= kept.any(1) | ~mine
            factors, taken = whole & (worth > 0), terms > price * sizes
            return 1.0 + sizes[taken].sum() + count[factors].sum(), taken, factors, keep

        low, high = 0.0, 1e6
        if cut(low)[0] > size:
            for _ in range(40):
                middle = float(np.sqrt(max(low, 1e-3) * high))
                low, high = (middle, high) if cut(middle)[0] > size else (low, middle)
        else:
            high = 0.0
        _, taken, factors, keep = cut(high)
        for i, kept in enumerate(keep):
            model.sides[i] *= kept | ~free[:, i, None]
        model.keep(taken, factors)


def write(model: Model, cells: Cells, empty: t.Head) -> t.Head:
    """Write a model as a program: weights to two digits, sets by name."""
    causal = empty.visibility == "causal"
    terms: list[t.Term] = [
        _weighted(vocabulary.terms(causal)[j], _digits(w, 2))
        for j, w in zip(model.terms, model.weights, strict=True)
        if _digits(w, 2) != 0.0
    ]
    sets: list[t.SetDefinition] = []
    for f in range(len(model)):
        channel, scale = cells.channels[model.channel[f]], 1.0
        values: list[t.Factor] = [_log_distance(causal)] if model.slope[f] else []
        profile, *elements = (side[f] for side in model.sides)
        single = model.free[f].sum() == 1
        for stem, position, weights, free in (
            ("Queries", t.Position("q", -channel.query), elements[0], model.free[f, 1]),
            ("Keys", t.Position("k", -channel.key), elements[1], model.free[f, 2]),
        ):
            if not free:
                continue
            top = TOP if single else float(np.abs(weights).max()) or 1.0
            weights, scale = weights * (TOP / top), scale * top / TOP
            rounded = {cells.symbols[s]: _digits(weights[s], 2) for s in np.flatnonzero(weights)}
            graded = {element: weight for element, weight in rounded.items() if weight != 0.0}
            name = t.SetName(f"{stem}{1 + sum(d.name.startswith(stem) for d in sets)}")
            literal = t.SetLiteral(tuple(graded), tuple(graded.values()))
            sets.append(t.SetDefinition(name.name, literal))
            values.append(t.Weight(t.Call("token", (position,)), name))
        if not all(d.value.elements for d in sets[-len(values) :]):
            continue
        value = values[0] if len(values) == 1 else t.Product(values[0], values[1])
        for first, last, weight in _runs(profile * scale):
            terms.append(t.Scaled(weight, value, _condition(first, last, causal)))
    return drop_unused(dataclasses.replace(empty, terms=tuple(terms), sets=tuple(sets)))


def _best(factors: list[Factor], count: int) -> list[Factor]:
    """Return the factors that promise most, of each kind one."""
    kinds: dict[tuple[bool, ...], Factor] = {}
    for factor in sorted(factors, key=lambda f: -f.gain):
        if factor.gain > 0:
            kinds.setdefault((factor.slope, *factor.free[1:]), factor)
    return list(kinds.values())[:count]


def _started(factor: Factor) -> Factor:
    """Start a factor at half of what the last rows promise, since its elements overlap."""
    share = 0.5 ** (1.0 / sum(factor.free))
    profile, left, right = (
        side * share if free else side for side, free in zip(factor.sides, factor.free, strict=True)
    )
    return dataclasses.replace(factor, sides=(profile, left, right))


def _weighted(term: t.Term, weight: float) -> t.Term:
    """Return a term of the vocabulary with a weight."""
    assert not isinstance(term, t.Table)
    return dataclasses.replace(term, weight=weight)


def _digits(x: float, digits: int) -> float:
    """Round to significant digits, at most two after the point."""
    return round(float(f"{x:.{digits}g}"), 2)


def _runs(profile: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """Yield the bands, first and last, over which a profile has the same weight, other than 0."""
    rounded = [float(f"{x:.2g}") for x in profile]
    first = 0
    for band in range(1, len(rounded) + 1):
        if band == len(rounded) or rounded[band] != rounded[first]:
            if rounded[first] != 0.0:
                yield first, band - 1, rounded[first]
            first = band


def _overhead(slope: int, free: np.ndarray) -> int:
    """Count the nodes of a factor apart from its bands and the elements of its sets."""
    if free[0]:
        return 2
    return 2 + 6 * int(free[1:].sum()) + (7 if slope else 4)


@lru_cache(maxsize=2)
def _log_distance(causal: bool) -> t.Factor:
    term = parse_term("1 * log(1 + q - k)" if causal else "1 * log(1 + abs(q - k))")
    return term.value  # type: ignore[union-attr, return-value]


@lru_cache(maxsize=512)
def _condition(first: int, last: int, causal: bool) -> t.Predicate | None:
    """Write an interval of bands as a predicate."""
    low, high = bands(causal)[first][0], bands(causal)[last][1]
    if low <= (0 if causal else -FAR) and high >= FAR:
        return None
    if low == high:
        return parse_predicate("k == q" if low == 0 else f"k == q{-low:+d}")
    if high >= FAR:
        return parse_predicate(f"k - q <= {-low}" if low < 0 else f"q - k >= {low}")
    if low <= -FAR:
        return parse_predicate(f"k - q >= {-high}" if high < 0 else f"q - k <= {high}")
    return parse_predicate(f"q - k in {low}..{high}")
