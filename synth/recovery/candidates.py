"""Candidates: the rules that promise most to explain a residual, of all that can be written.

Conditions on the query are sums over rows, intervals are differences of cumulative sums, and token
sets are chosen by token.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.synth.gains import best_set, gain
from attn_dsl.synth.recovery.least_squares import Residual
from attn_dsl.synth.recovery.predicates import FAR, SHIFTS, Bank
from attn_dsl.synth.recovery.quantifier_rules import near_to
from attn_dsl.synth.recovery.rules import ELEMENT, Rule, TokenSet, cost

Found = tuple[float, Rule]  # the gain that a rule promises, net of its price, and the rule
MOST, CONTEXTS, ALIKE = 10, 6, 0.5
"""How many candidates there are of a kind; how many are narrowed; when bases correlate (squared)."""
LARGEST, STARTS = 64, 5
"""How many tokens a set has at the most, and how many query tokens pairs of sets are grown from."""
PLACES = [*(("key", shift) for shift in SHIFTS), *(("query", shift) for shift in SHIFTS[:2])]
"""The places whose tokens rules may be limited to."""


class Candidates:
    """Finds rules that explain a residual; shared by the searches of all heads."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self.parts = [Rule(x) for x in (*bank.predicates, *bank.values)]
        self.sizes = np.array([cost(rule) for rule in self.parts])
        self.extra = np.array([cost(Rule(condition=c)) for c in bank.conditions])

    def all(self, left: Residual) -> list[Found]:
        """Return the rules that promise most of each kind."""
        bank, parts, sizes = self.bank, self.parts, self.sizes
        g, h = bank.moments(left.pull, left.mass)
        alone = gain(g.sum(1), h.sum(1), left.ridge) - left.price * sizes
        found = [(float(alone[j]), parts[j]) for j in _top(alone / sizes**0.3, MOST)]
        gated = gain(self._by_condition(g.T), self._by_condition(h.T), left.ridge)
        both = self.extra[:, None] + sizes
        gated -= left.price * both
        conditions: list[t.Predicate] = []
        for at in _top((gated / both**0.3).ravel(), 2 * MOST):
            c, j = divmod(at, len(parts))
            conditions.append(bank.conditions[c])
            found.append((float(gated[c, j]), replace(parts[j], condition=conditions[-1])))
        strength = gain(np.abs(g).sum(1), h.sum(1), left.ridge) / sizes**0.3
        contexts = [
            Rule(),
            *(Rule(interval=bank.scales[0].interval(1, far)) for far in (4, 12, 24)),
        ]
        contexts += [Rule(condition=c) for c in list(dict.fromkeys(conditions))[:CONTEXTS]]
        contexts += [parts[j] for j in _top(strength, CONTEXTS)]
        for context in contexts:
            found += self.narrowed(left, context)
        return found + self.pairs(left)

    def near_to(self, left: Residual, rule: Rule) -> list[Found]:
        """Return rules that differ from one in a part: its interval, condition, tokens or base."""
        names = ("interval", "condition", "key", "query", "base")
        parts = [rule, *(replace(rule, **{name: None}) for name in names)]
        found = [f for part in dict.fromkeys(parts) for f in self.narrowed(left, part)]
        for other in [*self.alike(left, rule), *near_to(rule, self.bank.frequent)]:
            g, h = self._by_row(left, self.bank.plane(other))
            found.append(self._found(left, other, g.sum(), h.sum()))
        return found

    def alike(self, left: Residual, rule: Rule) -> list[Rule]:
        """Return rules whose base says nearly the same as a rule's."""
        x, starts = self.bank.plane(Rule(rule.base)), self.bank.starts[:-1]
        pull = left.mass * (x - np.add.reduceat(left.mass * x, starts)[self.bank.row])
        g, h = (moments.sum(1) for moments in self.bank.moments(pull, left.mass))
        shared = g**2 / ((h + left.ridge) * max(float(pull @ x), 1e-9))
        some = [j for j in _top(shared, MOST) if shared[j] > ALIKE]
        return [replace(rule, base=self.parts[j].base) for j in some]

    def narrowed(self, left: Residual, rule: Rule) -> list[Found]:
        """Return a rule, and the best that it becomes with a condition, an interval or tokens."""
        plane = self.bank.plane(rule)
        g, h = self._by_row(left, plane)
        found = [self._found(left, rule, g.sum(), h.sum())]
        if rule.condition is None:
            gc, hc = self._by_condition(g), self._by_condition(h)
            for c in _top(gain(gc, hc, left.ridge) - left.price * self.extra, 4):
                narrow = replace(rule, condition=self.bank.conditions[c])
                found.append(self._found(left, narrow, gc[c], hc[c]))
        if rule.interval is None and not rule.scaled:
            found += self.intervals(left, rule, plane)
        for side, shift in PLACES:
            if getattr(rule, side) is None and not (rule.scaled and side == "key"):
                found += self.token_sets(left, rule, side, shift)
        return found

    def intervals(self, left: Residual, rule: Rule, plane: np.ndarray) -> list[Found]:
        """Limit a rule to intervals of distance or of position: the best of all of them."""
        some, found = np.flatnonzero(plane), []
        x, rows, count = plane[some], self.bank.row[some], len(self.bank.starts) - 1
        pull, mass = left.pull[some] * x, left.mass[some] * x
        for scale in self.bank.scales:
            columns, width = scale.columns[some], FAR + 1 - scale.low
            by_row = np.bincount(rows * width + columns, mass, count * width).reshape(count, width)
            below = np.zeros((count, width + 1), dtype=np.float32)
            np.cumsum(by_row, axis=1, out=below[:, 1:])
            square = (below.T @ below).astype(np.float64)
            alone, sums, own = np.diag(square), np.zeros(width + 1), np.zeros(width + 1)
            sums[1:] = np.cumsum(np.bincount(columns, pull, width))
            own[1:] = np.cumsum(np.bincount(columns, mass * x, width))
            g = sums - sums[:, None]
            h = own - own[:, None] - (alone + alone[:, None] - 2 * square)
            worth = gain(g, np.maximum(h, 0), left.ridge)
            worth[np.tril_indices(width + 1)] = worth[0, width] = 0.0
            for at in _top(worth.ravel(), 3):
                low, high = divmod(at, width + 1)
                limit = scale.interval(scale.low + low, scale.low + high - 1)
                narrow = replace(rule, interval=limit)
                found.append(self._found(left, narrow, g[low, high], h[low, high]))
        return found

    def pairs(self, left: Residual) -> list[Found]:
        """Find rules of query tokens and key tokens, each side chosen given the other in turn."""
        bank, found = self.bank, list[Found]()
        energy = np.add.reduceat(left.pull**2 / np.maximum(left.mass, 1e-6), bank.starts[:-1])
        for shift in SHIFTS[:2]:
            for start in _top(
                np.bincount(bank.places["query", 0][bank.starts[:-1]], energy, bank.width), STARTS
            ):
                rule = Rule(query=TokenSet(0, (bank.strings[start],)))
                for graded in (True, True, False, False):
                    for side, at in (("key", shift), ("query", 0)):
                        some = self.token_sets(left, rule, side, at)
                        some = [f for f in some if bool(getattr(f[1], side).weights) == graded]
                        rule = some[0][1] if some else rule
                        found += some
        return found

    def token_sets(
        self, left: Residual, rule: Rule, side: str, shift: int, weight: float = 0.0
    ) -> list[Found]:
        """Limit a rule to the tokens of one side that pay, with one weight or each with its own.

        Args:
            weight: of the rule that is in the program, with the tokens that it has now.
        """
        names, found, options = self.bank.strings, list[Found](), list[TokenSet]()
        g, h = self._by_token(left, self.bank.plane(replace(rule, **{side: None})), side, shift)
        if weight:
            g = g + h * self.bank.table(getattr(rule, side))[:-1] * weight
        _, chosen = best_set(g, h, left.ridge, left.price, LARGEST)
        if len(chosen):
            options.append(TokenSet(shift, tuple(names[s] for s in sorted(chosen))))
        worth = gain(g, h, left.ridge)
        some = [s for s in _top(worth, LARGEST) if worth[s] > (1 + ELEMENT) * left.price]
        if len(some) > 1:
            wanted = (g[some] / (h[some] + left.ridge)).tolist()
            options.append(TokenSet.weighed(shift, [names[s] for s in some], wanted))
        for new in (replace(rule, **{side: x}) for x in options):  # type: ignore[arg-type]
            if len(new.graded) + new.scaled <= 2:  # a product has two factors at the most
                counts = self.bank.table(getattr(new, side))[:-1]
                found.append(self._found(left, new, g @ counts, h @ counts**2))
        return found

    def _found(self, left: Residual, rule: Rule, g: np.ndarray, h: np.ndarray) -> Found:
        return float(gain(g, h, left.ridge)) - left.price * cost(rule), rule

    def _by_condition(self, moments: np.ndarray) -> np.ndarray:
        """Add up moments by row where each condition holds, and where its negation does."""
        held = self.bank.held @ moments
        return np.concatenate([held, moments.sum(0) - held])

    def _by_row(self, left: Residual, plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = np.stack([left.pull * plane, left.mass * plane, left.mass * plane * plane])
        g, mean, square = np.add.reduceat(parts, self.bank.starts[:-1], axis=1)
        return g, np.maximum(square - mean**2, 0.0)

    def _by_token(
        self, left: Residual, plane: np.ndarray, side: str, shift: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute gradient and curvature of a plane for every token at a place."""
        (pair, tokens), heavy, width = (
            self.bank.pairs[side, shift],
            left.mass * plane,
            self.bank.width,
        )
        spread = np.bincount(pair, heavy * plane) - np.bincount(pair, heavy) ** 2
        g = np.bincount(tokens, np.bincount(pair, left.pull * plane), width + 1)
        return g[:-1], np.bincount(tokens, spread, width + 1)[:-1]


def _top(worth: np.ndarray, most: int) -> list[int]:
    """Return the numbers of the largest, in falling order."""
    most = min(most, len(worth))
    some = np.argpartition(-worth, most - 1)[:most]
    return [int(j) for j in some[np.lexsort((some, -worth[some]))]]
