"""Rules about distance are added up to one curve, which is drawn anew with the fewest terms.

Found one after the other, curves and intervals of distance stand in for each other: a sum of three
decays for a square root and the steps beside it. All that depends on distance alone is one table
``f(q - k)``, and the other rules leave it to be read off. It is written as a few curves and steps: for
every pair of curves the weights that leave the fewest steps come from the differences of ``f`` (least
absolute deviations), the steps from an exact segmentation (dynamic programming), in turns.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import COMPILED
from attn_dsl.dsl import tree as t
from attn_dsl.synth.exact import rules as r
from attn_dsl.synth.exact.atoms import SCALE, VALUE, Atoms
from attn_dsl.synth.exact.rules import Atom, Rule
from attn_dsl.synth.exact.state import State
from attn_dsl.synth.vocabulary import size

CURVE, TABLE = 6, 5
"""The nodes of a curve, and of a table beside its entries."""
STEP = 2
"""How many nodes' price an entry has: its place is one of many."""
TURNS = 4
"""How often weights and steps are taken in turns."""
REWEIGHTED = 12
"""How often least squares are reweighted for absolute deviations."""
TIMES = 4
"""How often all is drawn at the most."""
FEWEST = 3
"""How many rules about distance are drawn anew at the least."""


@dataclass(frozen=True)
class Curve:
    """What depends on distance alone.

    Attributes:
        f: float64 (distances), in logits, up to a constant; of ``q - k`` from the scale's low on.
        heavy: how much is lost by an error of each.
        shapes: float64 (values, distances): the language's curves of distance.
        values: their numbers in ``Atoms.values``.
        columns: for every scale of distance, int64 (distances): the column of each.
    """

    f: np.ndarray
    heavy: np.ndarray
    shapes: np.ndarray
    values: tuple[int, ...]
    columns: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Drawing:
    """A curve as some of the language's and steps.

    Attributes:
        cost: half of what it leaves, and the price of its nodes.
        chosen: which of the curve's shapes.
        steps: for every scale of distance, the columns at which steps begin.
    """

    cost: float
    chosen: tuple[int, ...]
    steps: tuple[np.ndarray, ...]


def redraw(state: State) -> None:
    """Write the rules about distance alone anew as long as that costs less.

    The better they are, the less is left, and the finer the next drawing.
    """
    if sum(of_distance(state.atoms, rule) for rule in state.rules) < FEWEST:
        return
    for _ in range(TIMES):
        before, price = state.save(), state.left.lowest
        cost = _cost(state, price)
        _draw(state, price)
        if _cost(state, price) >= cost:
            state.restore(before)
            break


def _draw(state: State, price: float) -> None:
    """Write the rules about distance alone anew."""
    atoms = state.atoms
    kept = [i for i, rule in enumerate(state.rules) if not of_distance(atoms, rule)]
    curve = _curve(state, kept)
    several = [
        chosen for count in (0, 1, 2)
        for chosen in itertools.combinations(range(len(curve.values)), count)
    ]  # fmt: skip
    orders = [(0,)] if atoms.causal else [(0, 1), (1, 0)]
    drawings = [_drawn(curve, chosen, order, price) for chosen in several for order in orders]
    best = min(drawings, key=lambda x: x.cost)
    rules = [state.rules[i] for i in kept]
    rules += [Rule(Atom(VALUE, curve.values[i])) for i in best.chosen]
    for number, steps in zip(_scales(atoms), best.steps, strict=True):
        scale = atoms.scales[number]
        rules += [Rule(Atom(SCALE, number, scale.low + int(at), scale.high)) for at in steps]
    if rules:
        state.put(rules, np.stack([r.plane(atoms, rule) for rule in rules]))


def _cost(state: State, price: float) -> float:
    """What rules cost as they are written: steps of one table have few nodes."""
    written = r.terms(state.atoms, state.rules, list(state.left.weights))
    steps = sum(x.atom.kind == SCALE and of_distance(state.atoms, x) for x in state.rules)
    return 0.5 * state.left.loss + price * (sum(map(size, written)) + (STEP - 1) * steps)


def of_distance(atoms: Atoms, rule: Rule) -> bool:
    """Say whether a rule is about distance alone."""
    if rule.key or rule.query or rule.gap or rule.condition is not None:
        return False
    if rule.atom.kind == SCALE:
        return rule.atom.number in _scales(atoms)
    return rule.atom.kind == VALUE and rule.atom.number in _values(atoms)


def _scales(atoms: Atoms) -> tuple[int, ...]:
    """Return the numbers of the scales of distance, the signed one first."""
    return (0,) if atoms.causal else (0, 2)


def _values(atoms: Atoms) -> list[int]:
    """Return the numbers of the values that depend on distance alone."""
    found = []
    for i, value in enumerate(atoms.values):
        nodes = list(value.walk())
        seen = {x.variable for x in nodes if isinstance(x, t.Position)}
        if seen == {"q", "k"} and not any(isinstance(x, t.Call) for x in nodes):
            found.append(i)
    return found


def _curve(state: State, kept: Sequence[int]) -> Curve:
    """Read off what depends on distance when the other rules' weights are free as well."""
    atoms, left = state.atoms, state.left
    scale, codes = atoms.scales[0], atoms.codes[0].astype(np.int64)
    width = scale.high - scale.low + 1
    logits = left.middle(left.logits[None])[0]
    middle = left.middle(state.planes[kept])
    others = middle * left.mass
    own = np.bincount(atoms.row * width + codes, left.mass, left.count * width)
    by_row = own.reshape(left.count, width)
    total = by_row.sum(0)
    table = np.diag(total) - by_row.T @ by_row
    cross = np.array([np.bincount(codes, x, width) for x in others]).reshape(len(kept), width)
    gram = (others @ middle.T).astype(np.float64)
    every = np.block([[gram, cross], [cross.T, table]])
    wanted = np.concatenate([
        (others @ logits).astype(np.float64), np.bincount(codes, left.mass * logits, width)
    ])  # fmt: skip
    every += 1e-6 * np.eye(len(every))
    f = np.linalg.solve(every, wanted)[len(kept) :]
    heavy = np.maximum(np.diag(table), 0.0)
    distances = np.arange(scale.low, scale.high + 1)
    values = _values(atoms)
    shapes = np.zeros((len(values), width))
    for i, number in enumerate(values):
        shapes[i][codes] = atoms.curves[number]
    f, heavy = np.where(total > 0, f, 0.0), np.where(total > 0, heavy, 0.0)
    signed = np.arange(width)
    columns = (signed,) if atoms.causal else (signed, np.abs(distances))
    return Curve(f, heavy, shapes, tuple(values), columns)


def _drawn(curve: Curve, chosen: tuple[int, ...], order: tuple[int, ...], price: float) -> Drawing:
    """Draw a curve with some shapes and the steps that these leave.

    Args:
        order: in which scales' steps are taken, of those of distance.
    """
    shapes, heavy = curve.shapes[list(chosen)], np.sqrt(curve.heavy)
    steps = [np.empty(0, dtype=np.int64) for _ in curve.columns]
    planes, weights = _planes(curve, shapes, steps), np.append(_flattest(curve, shapes), 0.0)
    best = Drawing(np.inf, chosen, tuple(steps))
    for _ in range(TURNS):
        for which in order:
            begin = len(shapes) + 1 + sum(map(len, steps[:which]))
            own = slice(begin, begin + len(steps[which]))
            rest = curve.f - np.delete(weights, own) @ np.delete(planes, own, axis=0)
            column = curve.columns[which]
            mass = np.bincount(column, curve.heavy)
            mean = np.bincount(column, curve.heavy * rest) / np.maximum(mass, 1e-12)
            steps[which] = segments(mean, mass, STEP * price)
            planes = _planes(curve, shapes, steps)
            weights = np.linalg.lstsq((planes * heavy).T, curve.f * heavy, rcond=None)[0]
        left = curve.f - weights @ planes
        nodes = CURVE * len(chosen) + sum(TABLE * bool(len(x)) + STEP * len(x) for x in steps)
        cost = 0.5 * float(curve.heavy @ left**2) + price * nodes
        if cost >= best.cost:
            break
        best = Drawing(cost, chosen, tuple(steps))
    return best


def _planes(curve: Curve, shapes: np.ndarray, steps: Sequence[np.ndarray]) -> np.ndarray:
    """Return shapes, a constant and all scales' steps, float64 (planes, distances)."""
    begun = [c[None] >= at[:, None] for c, at in zip(curve.columns, steps, strict=True)]
    return np.concatenate([shapes, np.ones((1, len(curve.f))), *begun])


def _flattest(curve: Curve, shapes: np.ndarray) -> np.ndarray:
    """Return the weights of shapes that leave the fewest steps: least absolute differences."""
    if not len(shapes):
        return np.empty(0)
    change, slope = np.diff(curve.f), np.diff(shapes, axis=1)
    sure = np.sqrt(np.minimum(curve.heavy[1:], curve.heavy[:-1]))
    weights, scale = np.zeros(len(shapes)), np.ones(len(change))
    for _ in range(REWEIGHTED):
        heavy = sure / scale
        gram = (slope * heavy) @ slope.T + 1e-9 * np.eye(len(shapes))
        weights = np.linalg.solve(gram, (slope * heavy) @ change)
        scale = np.maximum(np.abs(change - weights @ slope), 1e-4)
    return weights


def segments(y: np.ndarray, heavy: np.ndarray, price: float) -> np.ndarray:
    """Say where steps begin that cost least: half of the squared errors, and a price for each.

    >>> segments(np.array([0.0, 0, 0, 2, 2.1]), np.ones(5), 0.1)
    array([3])
    """
    return np.flatnonzero(_segments(y, heavy, price))


@njit(**COMPILED)
def _segments(y, heavy, price):  # type: ignore[no-untyped-def]
    n = len(y)
    sums = np.zeros((n + 1, 3))
    for i in range(n):
        sums[i + 1, 0] = sums[i, 0] + heavy[i]
        sums[i + 1, 1] = sums[i, 1] + heavy[i] * y[i]
        sums[i + 1, 2] = sums[i, 2] + heavy[i] * y[i] * y[i]
    best = np.full(n + 1, np.inf)
    first = np.zeros(n + 1, dtype=np.int64)
    best[0] = -price
    for end in range(1, n + 1):
        for start in range(end):
            h = sums[end, 0] - sums[start, 0]
            s = sums[end, 1] - sums[start, 1]
            error = sums[end, 2] - sums[start, 2]
            if h > 0:
                error -= s * s / h
            cost = best[start] + price + 0.5 * max(error, 0.0)
            if cost < best[end]:
                best[end], first[end] = cost, start
    begins = np.zeros(n, dtype=np.bool_)
    end = n
    while end > 0:
        end = first[end]
        begins[end] = end > 0
    return begins
