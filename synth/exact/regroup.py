"""Rules about the tokens of one place are added up, and written anew with the fewest sets.

Found one after the other, such rules come to stand in each other's way: a class of words is taken for
the one word of it that counts, and the other words are taken back later, each with a weight of its own;
or tokens count for all queries and less for some, where they count for the others alone. What such
rules say together is a table of tokens, one for all queries, or two for those of which a condition
holds and the others. Every token of it is written in the cheapest way: by a class, as an
element of a set whose elements all count the same, or with a weight of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from attn_dsl.synth.exact import rules as r
from attn_dsl.synth.exact.atoms import AFFIX, ONE, SHIFTS, TRUTH
from attn_dsl.synth.exact.classes import FEWEST
from attn_dsl.synth.exact.rules import Atom, Choice, Rule
from attn_dsl.synth.exact.screen import GRADED, Screen
from attn_dsl.synth.exact.state import State
from attn_dsl.synth.proposer import HeadTask

LITTLE = 0.5
"""How many nodes' price rules must cost less to be written anew."""


@dataclass(frozen=True)
class Part:
    """What a rule says of the tokens of one place.

    Attributes:
        number: the rule's. shift: of the place.
        table: float64 (symbols), what each token counts, with the rule's weight.
        rest: the rule without it.
    """

    number: int
    shift: int
    table: np.ndarray
    rest: Rule


def regroup(state: State, task: HeadTask, screen: Screen, settle: Callable[[State], None]) -> None:
    """Write rules about tokens anew wherever that costs less.

    Args:
        settle: chooses what is left to choose of new rules, before they are compared with the old.
    """
    done: set[tuple[int, Rule]] = set()  # since the last that was written anew
    while groups := [g for g in _groups(state, screen) if _name(g) not in done]:
        if task.spent:
            break
        before, cost = state.save(), state.total(state.left.lowest)
        if _rewrite(state, screen, groups[0]):
            settle(state)
        if state.total(state.left.lowest) < cost - LITTLE * state.left.lowest:
            done.clear()
        else:
            state.restore(before)
            done.add(_name(groups[0]))


def fuse(state: State) -> None:
    """Write rules that differ only in tokens of one side as one graded set where it costs less."""
    for side in ("key", "query"):
        groups: dict[tuple[Rule, int], list[int]] = {}
        for i, rule in enumerate(state.rules):
            if (choice := rule.side(side)) is not None:
                groups.setdefault((rule.replace(side, None), choice.shift), []).append(i)
        for (rest, shift), members in groups.items():
            table = np.zeros(state.atoms.width)
            for i in members:
                mine = state.rules[i].side(side)
                assert mine is not None
                table += mine.table(state.atoms.width)[:-1] * state.left.weights[i]
            some = np.flatnonzero(table)
            if len(members) < 2 or not len(some):
                continue
            shares = table[some] / np.abs(table).max()
            whole = Choice(shift, tuple(some.tolist()), tuple(shares.tolist()))
            rule = rest.replace(side, whole)
            if not r.allowed(rule):
                continue
            kept = [i for i in range(len(state.rules)) if i not in members]
            before, price = state.save(), state.left.lowest
            cost = state.total(price)
            planes = np.concatenate([state.planes[kept], r.plane(state.atoms, rule)[None]])
            state.put([*(state.rules[i] for i in kept), rule], planes)
            if state.total(price) < cost:
                return fuse(state)
            state.restore(before)


def _name(group: list[Part]) -> tuple[int, Rule]:
    return group[0].shift, replace(group[0].rest, condition=None)


def _groups(state: State, screen: Screen) -> list[list[Part]]:
    """Return the parts that add up: of two rules or more, or of one that names several tokens."""
    found: dict[tuple[int, Rule], list[Part]] = {}
    for number, rule in enumerate(state.rules):
        part = _part(state, screen, number, rule)
        if part is not None:
            found.setdefault(_name([part]), []).append(part)
    return [group for group in found.values() if len(group) > 1 or _names_several(state, group[0])]


def _names_several(state: State, part: Part) -> bool:
    key = state.rules[part.number].key
    return key is not None and len(key.symbols) >= FEWEST


def _part(state: State, screen: Screen, number: int, rule: Rule) -> Part | None:
    """Return what a rule says of tokens, if that is all it says of the key but for its distance."""
    width, weight = state.atoms.width, float(state.left.weights[number])
    bare = rule.atom.kind == ONE
    if rule.atom.kind not in (ONE, TRUTH, AFFIX) or (bare and rule.key is None):
        return None
    for shift in SHIFTS if rule.key is None else (rule.key.shift,):
        table = np.ones(width) if bare else screen.classes.told(rule.atom, shift)
        if table is not None:
            own = 1.0 if rule.key is None else rule.key.table(width)[:-1]
            return Part(number, shift, weight * table * own, replace(rule, atom=Atom(), key=None))
    return None


def _rewrite(state: State, screen: Screen, group: list[Part]) -> bool:
    """Write the rules of a group anew; say whether they are others now."""
    shift, rest = _name(group)
    half = len(state.atoms.conditions)
    bases = Counter(p.rest.condition % half for p in group if p.rest.condition is not None)
    base = min(bases, key=lambda c: (-bases[c], c)) if bases else None
    if base is None:
        sides: tuple[int | None, ...] = (None,)
    else:
        group = [p for p in group if p.rest.condition in (None, base, base + half)]
        sides = (base, base + half)
    price, left = state.left.lowest, state.left
    wanted, heavy = [], []
    for side in sides:
        g, h = screen.by_symbol(left, replace(rest, condition=side), "key", shift)
        now = sum(p.table for p in group if p.rest.condition in (None, side))
        wanted.append((g + h * now) / (h + left.ridge))
        heavy.append(h)
    new: list[Rule] = []
    for side, table, h in _shared(sides, wanted, heavy, price):
        there = replace(rest, condition=side)
        new += _cover(screen, there, shift, table, h, price)
    gone = {p.number for p in group}
    kept = [i for i in range(len(state.rules)) if i not in gone]
    stay = [state.rules[i] for i in kept]
    new = [x for x in dict.fromkeys(new) if x not in stay]
    if not new or {state.rules[i] for i in gone} == set(new):
        return False
    if len(group) == 1 and all(x.atom.kind == ONE for x in new):
        return False  # a set of tokens is chosen elsewhere; here it may become a class
    fresh = [r.plane(state.atoms, rule) for rule in new]
    state.put([*stay, *new], np.stack([*state.planes[kept], *fresh]))
    return True


def _shared(
    sides: tuple[int | None, ...], wanted: list[np.ndarray], heavy: list[np.ndarray], price: float
) -> list[tuple[int | None, np.ndarray, np.ndarray]]:
    """Say what each token counts for all queries, and for those of either side alone."""
    if len(sides) == 1:
        return [(None, wanted[0], heavy[0])]
    (v, w), (h, k) = wanted, heavy
    both = (h * v + k * w) / np.maximum(h + k, 1e-12)
    one = price * GRADED
    costs = np.stack([
        0.5 * (h * (v - both) ** 2 + k * (w - both) ** 2),  # the same for all
        0.5 * k * w**2,  # for the one side alone
        0.5 * h * v**2,  # for the other
        np.full(len(v), one),  # a weight for each
    ])  # fmt: skip
    best = costs.argmin(0)
    first, second = np.isin(best, (1, 3)), np.isin(best, (2, 3))
    return [
        (None, np.where(best == 0, both, 0.0), np.where(best == 0, h + k, 0.0)),
        (sides[0], np.where(first, v, 0.0), np.where(first, h, 0.0)),
        (sides[1], np.where(second, w, 0.0), np.where(second, k, 0.0)),
    ]


def _cover(
    screen: Screen, rest: Rule, shift: int, table: np.ndarray, h: np.ndarray, price: float
) -> list[Rule]:
    """Write a table of tokens as rules: classes, sets, and what is left with weights."""
    atoms, known, own = screen.atoms, screen.classes.at(shift), price * GRADED
    rules: list[Rule] = []
    alone = r.nodes(atoms, replace(rest, key=Choice(shift, (0,)))) - 1

    def unsaid(table: np.ndarray) -> np.ndarray:
        return np.minimum(0.5 * h * table**2, own)

    while True:
        costs = unsaid(table)
        matters = costs >= own
        best: tuple[float, Rule, np.ndarray] = (0.0, rest, table)
        for atom, held in known.items():
            if (held * matters).sum() < FEWEST:
                continue
            value = _median(table, h * held)
            after = table - value * held
            rule = replace(rest, atom=atom)
            saved = float((costs - unsaid(after)).sum()) - price * r.nodes(atoms, rule)
            best = max(best, (saved, rule, after), key=lambda x: x[0])
        for value in dict.fromkeys(np.round(table[matters], 1).tolist()):
            gain = costs - price - 0.5 * h * (table - value) ** 2
            some = np.flatnonzero(gain > 0)
            saved = float(gain[some].sum()) - price * alone
            if len(some) and saved > best[0]:
                after = table.copy()
                after[some] = 0.0
                chosen = Choice(shift, tuple(some.tolist()))
                best = (saved, replace(rest, key=chosen), after)
        if best[0] <= 0:
            break
        rules.append(best[1])
        table = best[2]
    some = np.flatnonzero(unsaid(table) >= own)
    if len(some):
        shares = tuple((table[some] / np.abs(table[some]).max()).tolist())
        whole = Choice(shift, tuple(some.tolist()), shares if len(some) > 1 else None)
        if r.allowed(graded := replace(rest, key=whole)):
            rules.append(graded)
    return rules


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values, kind="stable")
    sums = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(sums, 0.5 * sums[-1])])
