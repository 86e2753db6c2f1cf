"""Rules about distance alone are added up to one curve, which is written anew with the fewest terms.

Found one after the other, curves and intervals of distance stand in for each other. With every choice
of at most two curves, steps are added and dropped by what they cost, on the normal equations of the
table of distances alone.
"""

from __future__ import annotations

import itertools

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.synth.proposer import HeadTask
from attn_dsl.synth.recovery.least_squares import RIDGE, Model, Problem
from attn_dsl.synth.recovery.predicates import FAR, Bank
from attn_dsl.synth.recovery.rules import Rule, cost

FEWEST, STEPS = 3, 16
"""The fewest rules about distance that are written anew, and the most that are added."""


def refit_distance(problem: Problem, task: HeadTask, model: Model, price: float) -> Model:
    """Write the rules about distance alone anew if that costs less and there is time."""
    bank, kept = problem.bank, [rule for rule in model.rules if not of_distance(rule)]
    projected = problem.projection is not None and problem.projection.places
    if projected or len(model.rules) - len(kept) < FEWEST:
        return model
    rest, scale = problem.model(kept), bank.scales[0]
    width, count = FAR + 1 - scale.low, len(bank.starts) - 1
    by_row = np.bincount(bank.row * width + scale.columns, problem.mass, count * width)
    by_row = by_row.reshape(count, width)
    heavy = [np.bincount(scale.columns, x * problem.mass, width) for x in rest.planes]
    shared = np.reshape(heavy, (len(kept), width))
    gram = np.diag(by_row.sum(0)) - by_row.T @ by_row - shared.T @ rest.inverse @ shared
    pull = np.bincount(scale.columns, problem.mass * rest.residual, width)

    rules, shapes = _dictionary(bank)
    gram, pull = shapes @ gram @ shapes.T + RIDGE * np.eye(len(rules)), shapes @ pull
    prices = price * np.array([cost(rule) for rule in rules])
    curves = [i for i, rule in enumerate(rules) if rule.scaled]
    best: tuple[float, list[int]] = (0.0, [])
    for chosen in itertools.chain(*(itertools.combinations(curves, n) for n in (0, 1, 2))):
        if task.spent:
            return model
        best = min(best, selected(gram, pull, prices, list(chosen)))
    new = problem.model([*kept, *(rules[i] for i in best[1])])
    return new if new.total(price) < model.total(price) else model


def selected(
    gram: np.ndarray, pull: np.ndarray, prices: np.ndarray, chosen: list[int]
) -> tuple[float, list[int]]:
    """Add columns to those chosen if that pays, and drop others; return their net cost, and them."""
    for _ in range(STEPS):
        cross = gram[:, chosen] @ np.linalg.inv(gram[np.ix_(chosen, chosen)])
        own = np.maximum(np.diag(gram) - (cross * gram[:, chosen]).sum(1), RIDGE)
        worth = 0.5 * (pull - cross @ pull[chosen]) ** 2 / own - prices
        worth[chosen] = -np.inf
        if worth.max() <= 0:
            break
        chosen.append(int(np.argmax(worth)))
    while chosen:
        inverse = np.linalg.inv(gram[np.ix_(chosen, chosen)])
        weights = inverse @ pull[chosen]
        worth = 0.5 * weights**2 / np.diag(inverse) - prices[chosen]
        if worth.min() > 0:
            return float(prices[chosen].sum() - 0.5 * weights @ pull[chosen]), chosen
        del chosen[int(np.argmin(worth))]
    return 0.0, []


def of_distance(rule: Rule) -> bool:
    """Say whether a rule is about distance alone."""
    if rule.key or rule.query or rule.condition:
        return False
    nodes = [node for x in (rule.base, rule.interval) if x is not None for node in x.walk()]
    others = any(isinstance(x, t.Call | t.Quantifier | t.Member | t.Affix) for x in nodes)
    return not others and {x.variable for x in nodes if isinstance(x, t.Position)} == {"q", "k"}


def _dictionary(bank: Bank) -> tuple[list[Rule], np.ndarray]:
    """Return curves and steps of distance, and what they are at every distance."""
    scale, gaps = bank.scales[0], np.arange(bank.scales[0].low, FAR + 1)
    entry = np.zeros(len(gaps), dtype=np.int64)  # one of each distance
    entry[scale.columns] = np.arange(len(scale.columns))
    rules = [rule for value in bank.values if of_distance(rule := Rule(value))]
    shapes = [bank.plane(rule)[entry] for rule in rules]
    for one, numbers in ((scale, gaps), *((x, np.abs(gaps)) for x in bank.scales[2:])):
        for at in range(one.low + 1, FAR):
            rules.append(Rule(one.interval(at, FAR)))
            shapes.append((numbers >= at).astype(np.float32))
    return rules, np.stack(shapes)
