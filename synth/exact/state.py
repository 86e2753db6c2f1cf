"""A program in the making: rules with fitted weights, and what they leave unexplained."""

from __future__ import annotations

import dataclasses

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.synth.exact import rules as r
from attn_dsl.synth.exact import screen as s
from attn_dsl.synth.exact.atoms import Atoms
from attn_dsl.synth.exact.residual import Residual
from attn_dsl.synth.exact.rules import Choice, Rule
from attn_dsl.synth.proposer import HeadTask


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
