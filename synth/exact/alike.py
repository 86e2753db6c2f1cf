"""A rule and those that mend it give way to one that says nearly the same as the first.

``k >= word_last(q) + 1`` is found where ``word_index(k) > word_index(q)`` is true, and further rules for the
spaces by which they differ, and other weights of tokens. No exchange of one rule for another undoes
that: the tokens' weights have to change with it. So rules are exchanged while any table of the key's
tokens is allowed (``aside``), and those about tokens alone are chosen anew then.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from attn_dsl.synth.exact import rules as r
from attn_dsl.synth.exact import state as st
from attn_dsl.synth.exact.aside import Aside
from attn_dsl.synth.exact.atoms import AFFIX, ONE, SCALE, TRUTH
from attn_dsl.synth.exact.redraw import of_distance
from attn_dsl.synth.exact.rules import Rule
from attn_dsl.synth.exact.screen import Screen
from attn_dsl.synth.exact.state import State
from attn_dsl.synth.proposer import HeadTask

ALIKE = 0.5
"""The squared correlation of rules that say nearly the same."""
MOST = 12
"""How many such rules are tried in the place of one."""
EQUAL = 1e-6
"""Rules whose squared correlation is less than one by this say the same."""


def exchange(state: State, task: HeadTask, screen: Screen, settle: Callable[[State], None]) -> None:
    """Exchange rules for those that nearly say the same wherever that costs less in the end.

    Args:
        settle: chooses the tokens of rules anew.
    """
    price = state.left.lowest
    before, cost = state.save(), state.total(price)
    several = [(x,) for x in candidates(state, screen) if x not in state.rules]
    if not several:
        return
    tokens = [x for x in state.rules if _about_tokens(x)]
    others = [i for i, x in enumerate(state.rules) if not _about_tokens(x)]
    state.left.aside = Aside(state.atoms, state.left.mass, places=False)
    state.put([state.rules[i] for i in others], state.planes[others])
    had = state.rules
    st.replace(state, task, several)
    rules, changed = [*state.rules, *tokens], state.rules != had
    state.left.aside = None
    if changed:
        state.put(rules, np.stack([r.plane(state.atoms, x) for x in rules]))
        settle(state)
    if not changed or state.total(price) >= cost:
        state.restore(before)


def _about_tokens(rule: Rule) -> bool:
    """Say whether a rule is about the key's token alone."""
    plain = rule.query is None and rule.condition is None and rule.gap is None
    return plain and (rule.atom.kind == AFFIX or (rule.atom.kind == ONE and rule.key is not None))


def candidates(state: State, screen: Screen) -> Iterator[Rule]:
    """Yield rules that differ from one of the state's in its atom, and say nearly the same."""
    left = state.left
    scale = np.array([a.number if a.kind == SCALE else -1 for a in screen.list])
    for rule, plane in zip(state.rules, state.planes, strict=True):
        atom = rule.atom
        if rule.key is not None or rule.gap is not None or atom.kind not in (SCALE, TRUTH):
            continue
        if of_distance(state.atoms, rule):
            continue
        middle = left.centred(plane[None])[0]
        view = copy.copy(left)
        view.pull = left.mass * middle
        g, h = screen.moments(view)
        factor = r.row_factor(state.atoms, rule)
        shared, own = (g.sum(0), h.sum(0)) if factor is None else (factor @ g, factor**2 @ h)
        like = shared**2 / np.maximum(own * float(view.pull @ middle), 1e-12)
        like[like > 1 - EQUAL] = 0.0
        if atom.kind == SCALE:
            like[scale == atom.number] = 0.0
        order = np.flatnonzero(like > ALIKE)
        order = order[np.argsort(-like[order], kind="stable")]
        for j in _best_of_scales(screen, order)[:MOST]:
            yield replace(rule, atom=screen.list[j])


def _best_of_scales(screen: Screen, order: np.ndarray) -> list[int]:
    """Keep the first of every scale's atoms."""
    found: dict[tuple[int, int], int] = {}
    for j in order:
        atom = screen.list[j]
        found.setdefault((atom.kind, atom.number), int(j))
    return list(found.values())
