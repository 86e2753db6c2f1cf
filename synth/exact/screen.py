"""Screening: the rules that promise most to explain a residual, of all that atoms can make.

Every interval of every scale comes from one histogram by row: of pull for the gradient, of mass for
the curvature. Conditions on queries are sums of rows; token sets are chosen by symbol.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from attn_dsl.synth.exact import rules as r
from attn_dsl.synth.exact.atoms import AFFIX, ONE, POINTED, SCALE, SHIFTS, TRUTH, VALUE, Atoms
from attn_dsl.synth.exact.classes import Classes
from attn_dsl.synth.exact.histograms import (
    histograms,
    row_moments,
    symbol_moments,
    truth_moments,
    value_moments,
)  # fmt: skip
from attn_dsl.synth.exact.pointing import Pointing
from attn_dsl.synth.exact.residual import Residual
from attn_dsl.synth.exact.rules import Atom, Choice, Rule
from attn_dsl.synth.gains import best_set, gain

GRADED = 3.0
"""How many nodes' price the element of a graded set has: it brings a weight of its own."""


@dataclass(frozen=True, slots=True)
class Found:
    """A rule that may be added, and the gain that it promises."""

    gain: float
    rule: Rule


class Screen:
    """Looks for rules that explain a residual.

    Attributes:
        thrift: gains are divided by the nodes to this power, to compare rules.
        most: how many of each kind are returned.
    """

    def __init__(self, atoms: Atoms, most: int = 10) -> None:
        self.atoms, self.most, self.pointing = atoms, most, Pointing(atoms)
        self.columns = sum(s.high - s.low + 1 for s in atoms.scales)
        self.first = np.array([s.first for s in atoms.scales])
        singles = [
            Atom(SCALE, n, v, v) for n, s in enumerate(atoms.scales)
            for v in range(s.low, s.high + 1)
        ]  # fmt: skip
        upward = [replace(a, high=atoms.scales[a.number].high) for a in singles]
        self.list = [
            *singles, *upward, *(Atom(TRUTH, n) for n in range(len(atoms.truths))),
            *(Atom(VALUE, n) for n in range(len(atoms.values))),
        ]  # fmt: skip
        self.sizes = np.array([r.nodes(atoms, Rule(a)) for a in self.list])
        self.extra = np.array(
            [r.nodes(atoms, Rule(condition=c)) for c in range(2 * len(atoms.conditions))]
        )

        groups: dict[tuple[str, str], list[int]] = {("starts", ""): [0]}
        for number, string in atoms.names.items():
            for size in (1, 2, 3):
                if len(string) >= size and string.isalpha():
                    groups.setdefault(("starts", string[:size]), []).append(number)
                    groups.setdefault(("ends", string[-size:]), []).append(number)
        counts = [len(x) for x in groups.values()]
        self.groups = (
            list(groups), np.concatenate(list(groups.values())), np.cumsum([0, *counts[:-1]])
        )  # fmt: skip
        self.classes = Classes(atoms, list(groups))

    def moments(self, left: Residual) -> tuple[np.ndarray, np.ndarray]:
        """Compute gradient and curvature of all atoms by row, float32 (rows, atoms)."""
        a, count = self.atoms, left.count
        g = np.zeros((count, len(self.list)), dtype=np.float32)
        h = np.zeros_like(g)
        n, t = self.columns, len(a.truths)
        one = np.zeros((2, count, n), dtype=np.float32)
        histograms(a.codes, self.first, a.starts, left.pull, left.mass, one[0], one[1])
        above = np.empty_like(one)
        for scale in a.scales:
            here = slice(scale.first, scale.first + scale.high - scale.low + 1)
            above[:, :, here] = np.cumsum(one[:, :, here][:, :, ::-1], axis=2)[:, :, ::-1]
        for at, (pull, mass) in ((0, one), (n, above)):
            g[:, at : at + n], h[:, at : at + n] = pull, np.maximum(mass - mass * mass, 0)
        few = np.zeros((2, count, t), dtype=np.float32)
        truth_moments(a.planes, a.starts, left.pull, left.mass, few[0], few[1])
        g[:, 2 * n : 2 * n + t], h[:, 2 * n : 2 * n + t] = few
        curves = np.zeros((2, count, len(a.values)), dtype=np.float32)
        value_moments(a.curves, a.starts, left.pull, left.mass, curves[0], curves[1])
        g[:, 2 * n + t :], h[:, 2 * n + t :] = curves
        return g, h

    def candidates(self, left: Residual, ridge: float, price: float) -> list[Found]:
        """Return the rules that promise most of each kind; gains are net of their price."""
        atoms = self.atoms
        g, h = self.moments(left)
        total, curved = g.sum(0), h.sum(0)
        alone = gain(total, curved, ridge)
        worth = alone - price * self.sizes
        found = [
            Found(float(worth[j]), Rule(self.list[j]))
            for j in _top(worth / self.sizes**0.3, self.most)
        ]
        gc, hc = atoms.rows @ g, atoms.rows @ h
        gc, hc = np.concatenate([gc, total - gc]), np.concatenate([hc, curved - hc])
        sizes = self.extra[:, None] + self.sizes[None]
        narrow = gain(gc, hc, ridge) - price * sizes
        gated: list[tuple[int, int]] = []
        for at in _top((narrow / sizes**0.3).ravel(), 2 * self.most):
            c, j = divmod(int(at), narrow.shape[1])
            gated.append((c, j))
            found.append(Found(float(narrow[c, j]), Rule(self.list[j], condition=c)))
        conditions = [None, *dict.fromkeys(c for c, _ in gated)][:5]
        for condition in conditions:
            found += self.intervals(left, Rule(condition=condition), ridge, price)
        strength = gain(np.abs(g).sum(0), curved, ridge) / self.sizes**0.3
        some = list(dict.fromkeys([*_top(worth, 6), *_top(strength, 10)]))
        for j in some:
            found += self.sided(left, Rule(self.list[j]), "query", ridge, price, g[:, j], h[:, j])
            if self.list[j].kind == TRUTH:
                found += self.intervals(left, Rule(self.list[j]), ridge, price)
        contexts = [Rule(condition=c) for c in conditions]
        contexts += [Rule(Atom(SCALE, 0, a, b)) for a, b in ((1, 4), (1, 12), (0, 24))]
        for context in contexts:
            for shift in SHIFTS:
                found += self.sided(left, context, "key", ridge, price, shift=shift)
        for shift in SHIFTS[:2]:
            found += self.pairs(left, shift, ridge, price)
        found += self.affixes(left, ridge, price)
        found += [Found(*x) for x in self.pointing.best(left, ridge, price)]
        return [f for f in found if f.gain > 0]

    def local(self, left: Residual, rule: Rule, ridge: float, price: float) -> list[Found]:
        """Return rules that differ from one in one part: its interval, condition, tokens or atom."""
        atoms, found = self.atoms, []
        parts = [rule]
        if rule.gap is not None:
            parts.append(replace(rule, gap=None))
        if rule.condition is not None:
            parts.append(replace(rule, condition=None))
        more = rule.atom.kind != ONE or rule.gap or (rule.key and rule.query)
        parts += [
            rule.replace(x, None) for x in ("key", "query") if more and rule.side(x) is not None
        ]
        if rule.atom.kind != ONE and (rule.key or rule.gap):
            parts.append(replace(rule, atom=rule.gap or Atom(), gap=None))
        for part in parts:
            x = r.plane(atoms, part)
            rows = np.zeros((2, left.count), dtype=np.float32)
            row_moments(x, atoms.starts, left.pull, left.mass, rows[0], rows[1])
            g, h = rows[0].sum(), rows[1].sum()
            found.append(Found(float(gain(g, h, ridge)) - price * r.nodes(atoms, part), part))
            if part.condition is None:
                gc, hc = atoms.rows @ rows[0], atoms.rows @ rows[1]
                worth = gain(np.concatenate([gc, g - gc]), np.concatenate([hc, h - hc]), ridge)
                worth -= price * (self.extra + r.nodes(atoms, part))
                found += [
                    Found(float(worth[c]), replace(part, condition=c)) for c in _top(worth, 4)
                ]
            if part.gap is None and part.atom.kind != VALUE:
                found += self.intervals(left, part, ridge, price)
            if part.query is None:
                found += self.sided(left, part, "query", ridge, price, rows[0], rows[1])
            if part.key is None and part.atom.kind != VALUE:
                for shift in SHIFTS:
                    found += self.sided(left, part, "key", ridge, price, shift=shift)
        if rule.atom.kind == VALUE:
            parts = [replace(rule, atom=Atom(VALUE, n)) for n in range(len(atoms.values))]
            for part in parts:
                rows = np.zeros((2, left.count), dtype=np.float32)
                row_moments(
                    r.plane(atoms, part), atoms.starts, left.pull, left.mass, rows[0], rows[1]
                )
                promised = float(gain(rows[0].sum(), rows[1].sum(), ridge))
                found.append(Found(promised - price * r.nodes(atoms, part), part))
        if rule.atom.kind == POINTED:
            found += [Found(*x) for x in self.pointing.near(left, rule, ridge, price)]
        if rule.atom.kind == SCALE and rule.gap is None:
            bare = replace(rule, atom=Atom())
            found += self.intervals(left, bare, ridge, price)
        return [f for f in found if f.gain > 0 and f.rule != rule]

    def intervals(self, left: Residual, rule: Rule, ridge: float, price: float) -> list[Found]:
        """Limit a rule to intervals of distance or of position: the best of all of them."""
        atoms, found = self.atoms, []
        x = r.plane(atoms, rule)
        some = np.flatnonzero(x)
        rows, heavy = atoms.row[some].astype(np.int64), left.mass[some] * x[some]
        numbers = [n for n, s in enumerate(atoms.scales[:3]) if s.high - s.low >= 100]
        for number in numbers:
            scale = atoms.scales[number]
            width = scale.high - scale.low + 1
            codes = atoms.codes[number][some]
            at = rows * width + codes
            size = left.count * width
            pull = np.bincount(codes, left.pull[some] * x[some], width)
            mass = np.bincount(at, heavy, size).reshape(left.count, width)
            own = np.bincount(codes, heavy * x[some], width)
            one, total = np.zeros(width + 1), np.zeros(width + 1)
            one[1:], total[1:] = np.cumsum(pull), np.cumsum(own)
            cumulative = np.zeros((left.count, width + 1), dtype=np.float32)
            cumulative[:, 1:] = np.cumsum(mass, axis=1)
            square = (cumulative.T @ cumulative).astype(np.float64)
            alone = np.diag(square)
            g = one[None, :] - one[:, None]
            h = (total[None, :] - total[:, None]) - (alone[None, :] + alone[:, None] - 2 * square)
            worth = gain(g, np.maximum(h, 0), ridge)
            worth[np.tril_indices(width + 1)] = 0.0
            for k in _top(worth.ravel(), 3):
                low, high = divmod(int(k), width + 1)
                gap = Atom(SCALE, number, scale.low + low, scale.low + high - 1)
                new = (
                    replace(rule, gap=gap)
                    if rule.atom.kind != ONE or rule.key
                    else replace(rule, atom=gap)
                )
                size = r.nodes(atoms, new)
                found.append(Found(float(worth[low, high]) - price * size, new))
        return found

    def sided(
        self, left: Residual, rule: Rule, side: str, ridge: float, price: float,
        g: np.ndarray | None = None, h: np.ndarray | None = None, shift: int | None = None,
    ) -> list[Found]:  # fmt: skip
        """Limit a rule to tokens of the key or the query, all alike or graded."""
        found = []
        for at in SHIFTS[:2] if shift is None else (shift,):
            if side == "query" and g is not None and h is not None:
                symbols = self.atoms.queries[SHIFTS.index(at)]
                gs, hs = (
                    np.bincount(np.maximum(symbols, 0), m * (symbols >= 0), self.atoms.width)
                    for m in (g, h)
                )
            else:
                gs, hs = self.by_symbol(left, rule, side, at)
            for graded in (False, True):
                choice = choose(gs, hs, at, ridge, price, graded)
                if choice is None:
                    continue
                new = rule.replace(side, choice)
                if not r.allowed(new):
                    continue
                promised = _promise(gs, hs, choice, ridge)
                cost = r.nodes(self.atoms, new) + (GRADED - 1) * len(choice.symbols) * graded
                found.append(Found(promised - price * cost, new))
        return found

    def by_symbol(
        self, left: Residual, rule: Rule, side: str, shift: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute gradient and curvature of a rule, its side left out, for every token on it."""
        atoms = self.atoms
        x = r.plane(atoms, rule, without=side)
        g, h = np.zeros(atoms.width, np.float64), np.zeros(atoms.width, np.float64)
        at = SHIFTS.index(shift)
        if side == "key":
            symbol_moments(atoms.keys[at], x, atoms.starts, left.pull, left.mass, g, h)
            return g, h
        rows = np.zeros((2, left.count), dtype=np.float32)
        row_moments(x, atoms.starts, left.pull, left.mass, rows[0], rows[1])
        symbols = atoms.queries[at]
        return tuple(np.bincount(symbols[symbols >= 0], m[symbols >= 0], atoms.width) for m in rows)  # type: ignore[return-value]

    def pairs(self, left: Residual, shift: int, ridge: float, price: float) -> list[Found]:
        """Invent rules of query tokens and key tokens, from several starts."""
        atoms, found = self.atoms, []
        energy = np.bincount(
            atoms.queries[0],
            np.add.reduceat(left.pull**2 / np.maximum(left.mass, 1e-6), atoms.starts[:-1]),
            atoms.width,
        )
        starts = [Choice(0, (int(s),)) for s in _top(energy, 5)]
        for start in starts:
            rule = Rule(query=start)
            for graded in (True, True, False, False):
                done = []
                for side in ("key", "query"):
                    at = shift if side == "key" else 0
                    g, h = self.by_symbol(left, rule, side, at)
                    chosen = choose(g, h, at, ridge, price, graded)
                    if chosen is None:
                        break
                    rule = rule.replace(side, chosen)
                    done.append(_promise(g, h, chosen, ridge))
                if len(done) < 2:
                    break
                cost = r.nodes(atoms, rule)
                if graded:
                    assert rule.key and rule.query
                    cost += int((GRADED - 1) * (len(rule.key.symbols) + len(rule.query.symbols)))
                found.append(Found(done[-1] - price * cost, rule))
        return found

    def affixes(self, left: Residual, ridge: float, price: float) -> list[Found]:
        """Find the beginnings and ends of words or tokens that promise most."""
        atoms, found = self.atoms, []
        ones = np.ones(len(atoms.row), dtype=np.float32)
        for name, symbols in (("word", atoms.words), ("text", atoms.texts)):
            g, h = np.zeros(atoms.width), np.zeros(atoms.width)
            symbol_moments(symbols, ones, atoms.starts, left.pull, left.mass, g, h)
            keys, members, ends = self.groups
            worth = gain(
                np.add.reduceat(g[members], ends), np.add.reduceat(h[members], ends), ridge
            ) * (np.diff(np.append(ends, len(members))) > 2)  # fmt: skip
            for at in _top(worth, 3):
                rule = Rule(Atom(AFFIX, affix=(keys[at][0], name, keys[at][1])))
                found.append(Found(float(worth[at]) - price * r.nodes(atoms, rule), rule))
        return found


def _top(worth: np.ndarray, most: int) -> list[int]:
    most = min(most, len(worth))
    if not most:
        return []
    some = np.argpartition(-worth, most - 1)[:most]
    return [int(j) for j in some[np.lexsort((some, -worth[some]))]]


def choose(
    g: np.ndarray,
    h: np.ndarray,
    shift: int,
    ridge: float,
    price: float,
    graded: bool,
    most: int = 64,
) -> Choice | None:
    """Choose the symbols that pay, with one weight for all of them or each with its own."""
    if not graded:
        _, chosen = best_set(g, h, ridge, price, most)
        return Choice(shift, tuple(sorted(int(s) for s in chosen))) if len(chosen) else None
    worth = gain(g, h, ridge)
    order = [s for s in _top(worth, most) if worth[s] > GRADED * price]
    if len(order) < 2:
        return None
    order = sorted(order)
    wanted = g[order] / (h[order] + ridge)
    top = float(np.abs(wanted).max())
    return Choice(shift, tuple(order), tuple(float(x) for x in wanted / top))


def _promise(g: np.ndarray, h: np.ndarray, choice: Choice, ridge: float) -> float:
    """Return the gain of a choice's weight, taking its symbols for independent."""
    some = list(choice.symbols)
    u = np.ones(len(some)) if choice.weights is None else np.array(choice.weights)
    return float(gain(g[some] @ u, h[some] @ (u * u), ridge))
