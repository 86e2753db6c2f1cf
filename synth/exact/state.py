"""A program in the making: rules with fitted weights, and what they leave unexplained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.synth.exact import rules as r
from attn_dsl.synth.exact import screen as s
from attn_dsl.synth.exact.atoms import SCALE, VALUE, Atoms
from attn_dsl.synth.exact.residual import FLOOR, Residual
from attn_dsl.synth.exact.rules import Atom, Choice, Rule
from attn_dsl.synth.proposer import HeadTask
from attn_dsl.synth.vocabulary import size

DONE = 0.9997
"""Programs that come so near to a head are not added to."""
KEPT = 64
"""How many planes of rules are kept to compare them."""
FIRST = 0.03
"""The share of what is unexplained that a node must explain at first."""
FALL = 5.0
"""By how much that falls when no rule pays any more."""
MANY, MOST = 5, 7
"""A head that is ``hopeless`` after so many rules is given up, and one that is ``doubtful`` after most."""
FEW, SLOW = 2, 0.74
"""This one is after so few if this share of what was left at first beside its noise is left still."""

CROWD = 15
"""A noisy head that has so many rules in the first part of the search is no program either."""


class State:
    """Rules with fitted weights, and what they leave unexplained."""

    def __init__(self, atoms: Atoms, left: Residual) -> None:
        self.atoms, self.left = atoms, left
        self.rules: list[Rule] = []
        self.seen: dict[Rule, None] = {}
        self.planes = np.empty((0, left.entries), dtype=np.float32)
        left.solve(self.planes)

    @property
    def nodes(self) -> int:
        """About the nodes of the program."""
        return 1 + sum(r.nodes(self.atoms, rule) for rule in self.rules)

    @property
    def done(self) -> bool:
        """Whether there is nothing left to explain."""
        if self.left.aside is not None:
            return self.left.noise <= 5 * FLOOR
        return self.left.iou >= DONE

    def no_program(self, much: float) -> bool:
        """Whether the rules so far say that the head is no program.

        Args:
            much: what was left before the first of them, in units of the head's noise.
        """
        count, left = len(self.rules), self.left
        little = count >= FEW and left.much - 1 > SLOW * (much - 1)
        doubts = left.doubtful and (little or count >= MOST)
        crowd = left.first_part and count >= CROWD
        return doubts or crowd or (left.hopeless and count >= MANY)

    def dear(self, share: float) -> None:
        """Make nodes dear, and in the end a share of what is unexplained now."""
        self.left.least = FIRST * 0.5 * self.left.squared
        self.left.floor = share * 0.5 * self.left.squared

    def cheaper(self) -> bool:
        """Lower the price of nodes; say whether that was possible."""
        if self.left.least <= self.left.lowest:
            return False
        self.left.least /= FALL
        return True

    def total(self, price: float) -> float:
        """What the rules cost: half of what is unexplained, and the price of their nodes."""
        graded = sum(
            len(c.symbols) for rule in self.rules for c in (rule.key, rule.query)
            if c is not None and c.weights is not None
        )  # fmt: skip
        return 0.5 * self.left.loss + price * (self.nodes + (s.GRADED - 1) * graded)

    def put(self, rules: list[Rule], planes: np.ndarray, start: np.ndarray | None = None) -> None:
        """Take other rules, and fit their weights."""
        self.rules, self.planes = rules, planes
        self.left.solve(planes, start)

    def look(self) -> None:
        """Look at what is left by the likelihood of the rules with the weights that suit it."""
        self.left.look_around(self.planes)
        self.put(self.rules, self.planes)

    def save(self) -> tuple:
        """Return what ``restore`` takes."""
        return self.rules, self.planes, dict(self.left.__dict__)

    def restore(self, saved: tuple) -> None:
        """Go back to how it was when saved."""
        self.rules, self.planes = saved[0], saved[1]
        self.left.__dict__.update(saved[2])

    def add(self, rule: Rule) -> None:
        """Add a rule."""
        plane = r.plane(self.atoms, rule)[None]
        start = np.append(self.left.weights, 0.0)
        self.put([*self.rules, rule], np.concatenate([self.planes, plane]), start)

    def exchange(self, j: int, rule: Rule, weight: float) -> None:
        """Put a rule in the place of another."""
        planes = self.planes.copy()
        planes[j] = r.plane(self.atoms, rule)
        start = self.left.weights.copy()
        start[j] = weight
        self.put([*self.rules[:j], rule, *self.rules[j + 1 :]], planes, start)

    def drop(self, j: int) -> None:
        """Take a rule away."""
        rules = [*self.rules[:j], *self.rules[j + 1 :]]
        self.put(rules, np.delete(self.planes, j, axis=0), np.delete(self.left.weights, j))

    def by_distance(self) -> None:
        """Write rules as intervals of distance, where they are such, if a table of them is shorter."""
        codes, low = self.atoms.codes[0], self.atoms.scales[0].low
        rules = list(self.rules)
        for i, rule in enumerate(rules):
            some = self.planes[i] != 0
            if rule.key or rule.query or rule.atom.kind == VALUE or not some.any():
                continue
            first, last = int(codes[some].min()), int(codes[some].max())
            if np.array_equal((codes >= first) & (codes <= last), some):
                rules[i] = Rule(Atom(SCALE, 0, first + low, last + low))

        def length(rules: list[Rule]) -> int:
            return sum(map(size, r.terms(self.atoms, rules, list(self.left.weights))))

        if length(rules) < length(self.rules):
            self.rules = rules

    def losses(self) -> np.ndarray:
        """About how much would be unexplained without each rule, the others fitted anew."""
        gram = self.left.gram(self.planes) + 1e-9 * np.eye(len(self.rules))
        inverse = np.linalg.pinv(gram, hermitian=True)
        return 0.5 * self.left.weights**2 / np.maximum(np.diag(inverse), 1e-12)

    def program(self, task: HeadTask, weights: np.ndarray) -> t.Head:
        """Write the rules as a program."""
        rules, scaled = [], []
        for rule, weight in zip(self.rules, weights, strict=True):
            rule, weight = unscaled(rule, float(weight))
            if weight:
                rules.append(rule)
                scaled.append(weight)
        terms = tuple(r.terms(self.atoms, rules, scaled))
        return r.name_sets(dataclasses.replace(task.empty(), terms=terms))


class Normal:
    """The normal equations of rules without noise, of which some may take the place of others."""

    def __init__(self, state: State) -> None:
        self.atoms, self.left = state.atoms, state.left
        self.logits = state.left.middle(state.left.logits[None])[0]
        self._middles: dict[Rule, np.ndarray] = {}
        self._dots: dict[tuple[Rule, Rule], float] = {}
        self._wanted: dict[Rule, float] = {}

    def plane(self, rule: Rule) -> np.ndarray:
        """Compute a rule's plane."""
        return r.plane(self.atoms, rule)

    def _middle(self, rule: Rule) -> np.ndarray:
        if rule not in self._middles:
            self._middles[rule] = self.left.middle(self.plane(rule)[None])[0]
            self._wanted[rule] = float((self._middles[rule] * self.left.mass) @ self.logits)
        return self._middles[rule]

    def _dot(self, one: Rule, two: Rule) -> float:
        found = self._dots.get((one, two))
        if found is None:
            found = float((self._middle(one) * self.left.mass) @ self._middle(two))
            self._dots[one, two] = self._dots[two, one] = found
        return found

    def kept(self, rules: Sequence[Rule], count: int) -> list[int] | None:
        """Say which of the first so many rules stay beside the others, by what they cost.

        Returns:
            The numbers of all rules that stay, those of the others with them; None if fewer than two go.
        """
        gram = np.array([[self._dot(a, b) for b in rules] for a in rules])
        wanted = np.array([self._wanted[x] for x in rules])
        for rule in rules[count:]:
            if len(self._middles) > KEPT:
                self._middles.pop(rule, None)
        gram += 1e-6 * np.eye(len(rules))
        price = self.left.lowest
        costs = price * np.array([cost_of(x, r.nodes(self.atoms, x)) for x in rules])
        kept = list(range(len(rules)))
        while len(kept) > 1:
            inverse = np.linalg.inv(gram[np.ix_(kept, kept)])
            weights = inverse @ wanted[kept]
            losses = 0.5 * weights**2 / np.diag(inverse) - costs[kept]
            losses[[i >= count for i in kept]] = np.inf
            least = int(np.argmin(losses))
            if losses[least] > 0:
                break
            del kept[least]
        return kept if len(rules) - len(kept) > 1 else None


def replace(state: State, task: HeadTask, several: Iterable[tuple[Rule, ...]]) -> None:
    """Put some rules, or others, in the place of the state's wherever that costs less."""
    normal = Normal(state)
    for some in several:
        if task.spent:
            break
        fresh = [x for x in some if x not in state.rules]
        if not fresh:
            continue
        every, count = [*state.rules, *fresh], len(state.rules)
        kept = normal.kept(every, count)
        if kept is None:
            continue
        before, price = state.save(), state.left.lowest
        cost = state.total(price)
        planes = [state.planes[i] if i < count else normal.plane(every[i]) for i in kept]
        state.put([every[i] for i in kept], np.stack(planes))
        if state.total(price) >= cost:
            state.restore(before)


def unscaled(rule: Rule, weight: float) -> tuple[Rule, float]:
    """Move a rule's weight into its graded tokens, whose weights are kept to two digits."""
    for side in ("key", "query"):
        choice = rule.side(side)
        if choice is None or choice.weights is None:
            continue
        alone = not (rule.key and rule.query and rule.key.weights and rule.query.weights)
        factor = weight if alone else 2.0 / max(map(abs, choice.weights))
        if abs(factor) * max(map(abs, choice.weights)) < 0.5:
            factor = 2.0 / max(map(abs, choice.weights))
        if abs(factor) < 1e-6:
            continue
        changed = tuple(round(x * factor, 2) for x in choice.weights)
        kept = [i for i, x in enumerate(changed) if x]
        new = Choice(
            choice.shift, tuple(choice.symbols[i] for i in kept), tuple(changed[i] for i in kept)
        )
        rule, weight = rule.replace(side, new), float(f"{weight / factor:.4g}")
        if changed and max(new.weights or (0,)) - min(new.weights or (1,)) < 0.015:
            mean = float(f"{np.mean(new.weights or (0,)):.3g}")
            rule = rule.replace(side, Choice(new.shift, new.symbols))
            weight = float(f"{weight * mean:.4g}")
    return rule, weight


def cost_of(rule: Rule, nodes: int) -> float:
    """Return nodes, those of graded sets counted for what their weights cost."""
    graded = [c for c in (rule.key, rule.query) if c is not None and c.weights is not None]
    return nodes + (s.GRADED - 1) * sum(len(c.symbols) for c in graded)
