"""Pools: the rules that a look at a head has found, and the choice of those that explain most together.

A sketch screens the head's rows, what it finds is pooled, and the best subset of the pool is chosen from
the covariances of the rules' planes alone, so that nothing but the screening needs a pass over the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from attn_dsl.synth.exact import rules as r
from attn_dsl.synth.exact import screen as s
from attn_dsl.synth.exact.atoms import ONE, SCALE, TRUTH
from attn_dsl.synth.exact.histograms import row_moments
from attn_dsl.synth.exact.noise import CLEAN, turns
from attn_dsl.synth.exact.residual import Residual
from attn_dsl.synth.exact.rules import Atom, Rule
from attn_dsl.synth.gains import gain
from attn_dsl.synth.llm.sketch import Sketch

PASSES = 9
"""How often the rows are screened at the most."""
TAKEN = 14
"""How many rules of a screening go into the pool."""
DONE = 0.9995
"""IoU from which on nothing is looked for."""
MOST, KEPT = 8, 48
"""How many rules are chosen, and how many stay in a pool, at the most."""
SPARING = 0.25
"""Rules are exchanged for others by gain over nodes to this power."""
ALIKE, NEAR = 0.9995, 0.98
"""Rules whose planes correlate by more are taken for one, the smallest of them; by more than the
second, they are no alternatives."""
NARROWED = 5
"""How many of the chosen rules are tried with further conditions."""


@dataclass(frozen=True, slots=True)
class Hint:
    """A rule that a head's program may have.

    Attributes:
        rule: see ``synth/exact/rules.py``.
        share: of what all rules explain, what would be lost without it or won with it.
        positive: whether its weight is.
        instead: the number of the chosen rule that it may stand for; None: it is one of them.
    """

    rule: Rule
    share: float
    positive: bool
    instead: int | None = None


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look at a head found.

    Attributes:
        chosen: the rules that explain most together, the most important one first.
        others: what may stand in the place of one of them (``instead``).
        more: what may be added.
        iou: of the chosen rules with fitted weights, on the rows looked at.
        uniform: of uniform attention there. clean: whether the head seems to be a program.
    """

    chosen: tuple[Hint, ...]
    others: tuple[Hint, ...]
    more: tuple[Hint, ...]
    iou: float
    uniform: float
    clean: bool


class Pool:
    """Rules that were found for a head, and which of them explain most together.

    Attributes:
        rules, planes: all of them. chosen: the numbers of those that are in the program.
    """

    def __init__(self, sketch: Sketch, left: Residual) -> None:
        self.sketch, self.left = sketch, left
        self.rules: list[Rule] = []
        self.planes = np.empty((0, left.entries), dtype=np.float32)
        self.chosen: list[int] = []
        self.narrowed: set[Rule] = set()
        left.solve(self.planes)

    @property
    def program(self) -> list[Rule]:
        """The chosen rules."""
        return [self.rules[i] for i in self.chosen]

    @property
    def own(self) -> float:
        """The share of a plane's variance that the chosen ones must leave for it to be added."""
        return 1e-3 if self.left.clean else 0.05

    def extend(self, rules: list[Rule]) -> None:
        """Take up further rules."""
        rules = list(dict.fromkeys(map(self.sketch.opened, rules)))
        new = [rule for rule in rules if rule not in self.rules and rule != Rule()]
        if new:
            self.rules += new
            planes = np.stack([r.plane(self.sketch.atoms, rule) for rule in new])
            self.planes = np.concatenate([self.planes, planes])

    def resets(self) -> list[Rule]:
        """Choose the token sets of the chosen rules anew, given the others."""
        found, sketch, left = [], self.sketch, self.left
        for at, j in enumerate(self.chosen):
            rule = self.rules[j]
            for side in ("key", "query"):
                choice = rule.side(side)
                if choice is None:
                    continue
                g, h = sketch.by_symbol(left, rule, side, choice.shift)
                wanted = g + h * choice.table(sketch.atoms.width)[:-1] * left.weights[at]
                new = s.choose(
                    wanted, h, choice.shift, self.left.ridge, self.left.price, False, most=24
                )
                if new is not None:
                    found.append(rule.replace(side, new))
            rest = left.without(self.planes[self.chosen], at)
            if rule.atom.kind == SCALE and rule.atom.number < 2 and rule.gap is None:
                bare = replace(rule, atom=Atom())
                found += [
                    f.rule
                    for f in sketch.intervals(rest, bare, self.left.ridge, self.left.price)[:2]
                ]
            if at < NARROWED and rule not in self.narrowed:
                self.narrowed.add(rule)
                found += self.narrower(rest, rule, self.planes[j])
        return found

    def narrower(self, rest: Residual, rule: Rule, plane: np.ndarray) -> list[Rule]:
        """Limit a chosen rule to some queries or distances, given the others."""
        atoms, sketch, found = self.sketch.atoms, self.sketch, []
        rows = np.zeros((2, rest.count), dtype=np.float32)
        row_moments(plane, atoms.starts, rest.pull, rest.mass, rows[0], rows[1])
        if rule.condition is None:
            gc, hc = (atoms.rows @ rows.T).T
            g, h = rows.sum(1)
            worth = gain(np.append(gc, g - gc), np.append(hc, h - hc), self.left.ridge)
            worth -= self.left.price * sketch.extra
            found += [replace(rule, condition=c) for c in s._top(worth, 3)]
        if rule.query is None:
            for shift in (0, -1):
                symbols = atoms.queries[-shift]
                g, h = (
                    np.bincount(np.maximum(symbols, 0), m * (symbols >= 0), atoms.width)
                    for m in rows
                )
                found += [
                    f.rule
                    for f in sketch.chosen(
                        rule, "query", shift, g, h, self.left.ridge, self.left.price
                    )
                ]
        if rule.gap is None and rule.atom.kind in (ONE, TRUTH):
            found += [
                f.rule for f in sketch.intervals(rest, rule, self.left.ridge, self.left.price)[:2]
            ]
        return found

    def covariances(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the planes' covariances, and with what is to be explained."""
        left = self.left
        middle = left.centred(self.planes)
        gram = ((middle * left.mass) @ middle.T).astype(np.float64)
        wanted = (middle @ left.pull).astype(np.float64)
        if self.chosen:
            wanted += gram[:, self.chosen] @ left.weights
        return gram, wanted

    def select(self) -> None:
        """Choose the subset of the pool that explains most for its nodes, by additions and swaps."""
        if not self.rules:
            return
        self.gram, self.wanted = self.covariances()
        self.nodes = np.array([self.cost_of(j) for j in range(len(self.rules))], dtype=float)
        self.cost = self.left.price * self.nodes
        before, saved, goal = list(self.chosen), dict(self.left.__dict__), self.objective()
        for chosen in (self.exchanged(before), self.added(before)):
            self.chosen = chosen
            self.left.solve(self.planes[chosen])
            if self.left.clean or self.objective() <= goal:
                break  # else the changes were too large for covariances to foresee
            self.chosen = list(before)
            self.left.__dict__.update(saved)
        worth = self.gains(self.chosen) - self.cost
        worth[self.chosen] = np.inf
        kept = s._top(worth, KEPT)
        self.rules = [self.rules[i] for i in kept]
        self.planes, self.cost = self.planes[kept], self.cost[kept]
        self.chosen = [kept.index(i) for i in self.chosen]

    def objective(self) -> float:
        """What the chosen rules leave unexplained, and the price of their nodes."""
        return 0.5 * self.left.loss + float(self.cost[self.chosen].sum())

    def exchanged(self, chosen: list[int]) -> list[int]:
        """Exchange, drop and add rules while that promises to pay; two more at the most."""
        most = min(MOST, len(chosen) + 2)
        for _ in range(12):
            before = list(chosen)
            for j in before:
                rest = [i for i in chosen if i != j]
                gains = self.gains(rest) - self.cost
                worth = np.where(gains > 0, gains / self.nodes**SPARING, 0.0)
                best = int(np.argmax(worth))
                if worth[best] <= 0:
                    chosen = rest
                elif worth[best] > worth[j] * (1 + 1e-5) + 1e-12:
                    chosen = [best if i == j else i for i in chosen]
            if len(chosen) < most:
                chosen = self.added(chosen)
            if chosen == before:
                break
        return chosen

    def added(self, chosen: list[int]) -> list[int]:
        """Add the rule that promises most by the square root of its nodes, if it pays."""
        if len(chosen) >= MOST:
            return chosen
        gains = self.gains(chosen) - self.cost
        best = int(np.argmax(gains / np.sqrt(self.nodes)))
        return [*chosen, best] if gains[best] > 0 else chosen

    def gains(self, chosen: list[int]) -> np.ndarray:
        """What each rule would explain beside the chosen ones, their weights fitted anew."""
        gram, wanted = self.gram, self.wanted
        g, h = wanted.copy(), np.diag(gram).copy()
        if chosen:
            inner = gram[np.ix_(chosen, chosen)] + self.left.ridge * np.eye(len(chosen))
            solved = np.linalg.solve(inner, np.column_stack([wanted[chosen], gram[chosen]]))
            g -= gram[:, chosen] @ solved[:, 0]
            h -= np.einsum("ij,ji->i", gram[:, chosen], solved[:, 1:])
        worth = g * g / (2 * (np.maximum(h, 0) + self.left.ridge))
        worth[h < self.own * np.diag(gram) + 1e-9] = 0.0  # the chosen ones say nearly the same
        worth[chosen] = 0.0
        self.signs = g > 0
        return worth

    def looked(self, uniform: float) -> Looked:
        """Write down what was found."""
        if not self.rules:
            return Looked((), (), (), uniform, uniform, self.left.clean)
        likeness = self.smallest()
        alike = likeness > NEAR
        total = max(self.explained(), 1e-12)
        drops = []
        for at, j in enumerate(self.chosen):
            gains = self.gains([i for i in self.chosen if i != j])
            drops.append((float(gains[j]) / total, at, gains, self.signs.copy()))
        drops.sort(key=lambda drop: -drop[0])
        chosen: list[Hint] = []
        others: list[Hint] = []
        more: list[Hint] = []
        taken = list(self.chosen)

        def take(gains: np.ndarray, signs: np.ndarray, least: float, most: int) -> list[Hint]:
            """Take the best that are unlike all that were taken."""
            found: list[Hint] = []
            for i in map(int, np.argsort(-gains)):
                if len(found) >= most or gains[i] < least:
                    break
                if not alike[i, taken].any():
                    found.append(Hint(self.rules[i], float(gains[i]) / total, bool(signs[i])))
                    taken.append(i)
            return found

        for place, (share, at, gains, signs) in enumerate(drops):
            j = self.chosen[at]
            chosen.append(Hint(self.rules[j], share, bool(self.left.weights[at] > 0)))
            found = take(gains, signs, max(0.25 * float(gains[j]), 1e-12), 2)
            others += [replace(hint, instead=place) for hint in found]
        gains = self.gains(self.chosen)
        more += take(gains, self.signs.copy(), 1e-5 * total, 3)
        return Looked(
            tuple(chosen), tuple(others), tuple(more), self.left.iou, uniform, self.left.clean
        )

    def smallest(self) -> np.ndarray:
        """Put the smallest of those that are the same in the place of each chosen rule.

        Returns:
            How much the planes of all rules correlate, float64 (rules, rules).
        """
        gram, _ = self.covariances()
        scale = np.sqrt(np.maximum(np.diag(gram), 1e-12))
        likeness = np.abs(gram / scale[:, None] / scale[None])
        for at, j in enumerate(self.chosen):
            same = [int(i) for i in np.flatnonzero(likeness[j] > ALIKE)]
            options = [j, *(i for i in same if i not in self.chosen)]
            self.chosen[at] = min(options, key=lambda i: (self.cost_of(i), i))
        self.left.solve(self.planes[self.chosen])
        self.gram, self.wanted = self.covariances()
        return likeness

    def cost_of(self, j: int) -> int:
        """The nodes of a rule."""
        return r.nodes(self.sketch.atoms, self.rules[j])

    def explained(self) -> float:
        """What the chosen rules explain together."""
        if not self.chosen:
            return 0.0
        inner = self.gram[np.ix_(self.chosen, self.chosen)]
        inner = inner + self.left.ridge * np.eye(len(self.chosen))
        wanted = self.wanted[self.chosen]
        return 0.5 * float(wanted @ np.linalg.solve(inner, wanted))


def look(sketch: Sketch, layer: int, head: int) -> Looked:
    """Look at a head."""
    rows = sketch.design.target(layer, head)
    left = Residual(rows, clean=turns(rows, sketch.texts) < CLEAN)
    pool = Pool(sketch, left)
    uniform = left.iou
    for _ in range(PASSES):
        if left.iou > DONE:
            break
        before = pool.program
        found = sketch.quick(left, left.ridge, left.price)
        found.sort(key=lambda f: -f.gain / r.nodes(sketch.atoms, f.rule) ** 0.5)
        rules = list(dict.fromkeys(f.rule for f in found))[:TAKEN]
        pool.extend(rules)
        pool.select()
        pool.extend(pool.resets())
        pool.select()
        if pool.program == before:
            break
    return pool.looked(uniform)
