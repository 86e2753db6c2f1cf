"""The search: rules are added, changed and dropped as long as that lowers what a program costs.

A program costs half of the squared error that it leaves, and a price for each node. Nodes are dear at
first, so that simple rules come before large sets, and get cheaper when no rule pays.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attn_dsl.synth.proposer import HeadTask
from attn_dsl.synth.recovery.candidates import Candidates, Found
from attn_dsl.synth.recovery.distance_refit import refit_distance
from attn_dsl.synth.recovery.least_squares import SOLVED, Model, Problem
from attn_dsl.synth.recovery.rules import cost

THRIFT, TRIED = 0.5, 16
"""Rules to add are compared by gain over cost to this power; so many are fitted with the others."""
FIRST, FALL, CHANGES = 0.03, 5.0, 12
"""The share that a node must explain at first, how it falls; how often a rule is changed in turn."""


class Search:
    """The search for the rules of one head; a node must explain a ``share`` of all in the end."""

    def __init__(
        self, candidates: Candidates, problem: Problem, task: HeadTask, share: float, most: int
    ) -> None:
        self.candidates, self.problem, self.task = candidates, problem, task
        self.loss = problem.model(()).loss
        self.most, self.floor = most, share * 0.5 * self.loss

    def lowest(self, model: Model) -> float:
        """Return what a node must explain in the end."""
        return max(self.floor, self.problem.price(model))

    def grow(self, model: Model, price: float | None = None) -> Iterator[Model]:
        """Yield a model, and every further one as rules are added to it as long as that pays."""
        yield model
        price = FIRST * 0.5 * model.loss if price is None else price
        for _ in range(self.most):
            if self.task.spent or model.loss <= SOLVED * len(self.problem.rows):
                break
            now = max(price, self.lowest(model))
            found = self.candidates.all(self.problem.residual(model, now))
            new = self.best(model, found, len(model.rules), now)
            if new is not None:
                new = self.settled(self.improved(new, len(model.rules), now), now)
            if new is not None and new.total(now) < model.total(now):
                model = refit_distance(self.problem, self.task, new, self.lowest(new))
                yield model
            elif price > self.lowest(model):
                price /= FALL
            else:
                break

    def refined(self, model: Model) -> Model:
        """Improve every rule beside all others."""
        for j in range(len(model.rules)):
            if j < len(model.rules):
                model = self.improved(model, j, self.lowest(model))
        model = self.settled(model, self.lowest(model))
        return refit_distance(self.problem, self.task, model, self.lowest(model))

    def best(self, model: Model, found: list[Found], j: int, price: float) -> Model | None:
        """Put the candidate that pays best in the place of a rule, or behind the last one."""
        found = sorted((f for f in found if f[0] > 0), key=lambda f: -f[0] / cost(f[1]) ** THRIFT)
        best: tuple[float, Model | None] = (0.0, None)
        for rule in list(dict.fromkeys(rule for _, rule in found if rule not in model.rules))[
            :TRIED
        ]:
            if self.task.spent:
                break
            new = self.problem.model((*model.rules[:j], rule, *model.rules[j + 1 :]))
            new = self.pruned(new, price) if j < len(model.rules) else new
            gained = model.total(price) - new.total(price)
            gained = gained / cost(rule) ** THRIFT if j == len(model.rules) else gained
            best = max(best, (gained, new), key=lambda x: x[0])
        return best[1]

    def improved(self, model: Model, j: int, price: float) -> Model:
        """Change one rule in small ways while that pays."""
        for _ in range(CHANGES):
            left = self.problem.residual(model, price, j)
            new = self.best(model, self.candidates.near_to(left, model.rules[j]), j, price)
            if new is None or self.task.spent:
                break
            fewer, model = len(new.rules) < len(model.rules), new
            if fewer:
                break
        return model

    def settled(self, model: Model, price: float) -> Model:
        """Choose all tokens anew given the other rules, and drop rules that do not pay."""
        for _ in range(4):
            before = model
            for j in range(len(model.rules)):
                for side in ("key", "query"):
                    model = self.chosen(model, j, side, price)
            if model is before:
                break
        return self.pruned(model, self.lowest(model))

    def pruned(self, model: Model, price: float) -> Model:
        """Drop rules that explain less than their price."""
        while len(model.rules) > 1:
            losses = 0.5 * model.weights**2 / np.diag(model.inverse)  # the others fitted anew
            worths = losses - price * np.array([cost(x) for x in model.rules])
            least = int(np.argmin(worths))
            if worths[least] > 0:
                break
            new = self.problem.model(model.rules[:least] + model.rules[least + 1 :])
            if new.total(price) > model.total(price):
                break
            model = new
        return model

    def chosen(self, model: Model, j: int, side: str, price: float) -> Model:
        """Choose the tokens of one side of a rule anew while that pays."""
        for _ in range(3):
            rule = model.rules[j]
            tokens = rule.key if side == "key" else rule.query
            if tokens is None or self.task.spent:
                break
            left, weight = self.problem.residual(model, price), float(model.weights[j])
            found = self.candidates.token_sets(left, rule, side, tokens.shift, weight)
            _, other = max(found, key=lambda x: x[0], default=(0.0, rule))
            new = self.problem.model((*model.rules[:j], other, *model.rules[j + 1 :]))
            if other in model.rules or new.total(price) >= model.total(price):
                break
            model = new
        return model
