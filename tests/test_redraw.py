"""What depends on distance is drawn anew with the fewest curves and steps, and says the same."""

from __future__ import annotations

import numpy as np
import pytest
from exact_heads import capture_of, task_of

from attn_dsl.dsl.parser import parse
from attn_dsl.synth.exact import rules as r
from attn_dsl.synth.exact.atoms import SCALE, VALUE, Atoms
from attn_dsl.synth.exact.noise import noise_of
from attn_dsl.synth.exact.redraw import redraw, segments
from attn_dsl.synth.exact.residual import Residual
from attn_dsl.synth.exact.rules import Atom, Rule
from attn_dsl.synth.exact.state import State

CAUSAL = """head x causal:
    -0.5 * sqrt(q - k)
    by q - k [2: 1.2, 8: -0.7, 15: 2]
    2 where token(k) == " cat"
"""
BIDIRECTIONAL = """head x bidirectional:
    2.5 * decay(abs(q - k), 0.8)
    by abs(q - k) [3: -1.5, 9: 0.6, 14: 2]
    2 where token(k) == " cat"
"""


def begun(source: str, noise: float = 0.0) -> State:
    """Start with the rule about tokens, and with decays and intervals of distance for the rest."""
    task = task_of(capture_of(source, noise))
    atoms = Atoms(task.design)
    cat = next(number for number, string in atoms.names.items() if string == " cat")
    decays = [i for i, value in enumerate(atoms.values) if "Decay" in repr(value)]
    rules = [
        Rule(key=r.Choice(0, (cat,))),
        *(Rule(Atom(VALUE, number)) for number in decays[::2]),
        *(Rule(Atom(SCALE, 0, low, low + 5)) for low in range(0, 24, 6)),
    ]
    known = noise_of(task.rows, task.design) if noise else None
    state = State(atoms, Residual(task.rows, not noise, known))
    state.put(rules, np.stack([r.plane(atoms, rule) for rule in rules]))
    return state


def written(state: State) -> set[str]:
    terms = r.terms(state.atoms, state.rules, np.round(state.left.weights, 1).tolist())
    return {repr(term) for term in terms}


@pytest.mark.parametrize("source", [CAUSAL, BIDIRECTIONAL])
def test_stand_ins_become_the_curves_and_steps_of_the_program(source: str) -> None:
    state = begun(source)
    left = state.left.squared
    redraw(state)
    assert state.left.squared < 1e-3 * left
    assert written(state) == {repr(term) for term in parse(source).terms}


def test_noise_does_not_become_steps() -> None:
    state = begun(CAUSAL, noise=2e-4)
    cost, left = state.total(state.left.lowest), state.left.squared
    redraw(state)
    assert state.total(state.left.lowest) < cost and state.left.squared < 1.05 * left
    steps = {rule.atom.low for rule in state.rules if rule.atom.kind == SCALE}
    assert steps == {2, 8, 15}
    assert sum(rule.atom.kind == VALUE for rule in state.rules) <= 1


def test_what_is_drawn_with_the_fewest_terms_stays() -> None:
    state = begun(CAUSAL)
    redraw(state)
    rules, weights = state.rules, state.left.weights
    redraw(state)
    assert state.rules == rules and np.array_equal(state.left.weights, weights)


def test_few_rules_about_distance_are_left_alone() -> None:
    state = begun(CAUSAL)
    state.put(state.rules[:3], state.planes[:3])
    redraw(state)
    assert len(state.rules) == 3


def test_steps_are_where_they_cost_least() -> None:
    """Against every way to place two steps."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        y, heavy = rng.normal(size=8), rng.random(8)

        def loss(starts: tuple[int, ...], y: np.ndarray = y, heavy: np.ndarray = heavy) -> float:
            parts = np.split(np.arange(8), starts)
            means = [np.average(y[p], weights=heavy[p]) for p in parts]
            errors = (heavy[p] @ (y[p] - m) ** 2 for p, m in zip(parts, means, strict=True))
            return 0.5 * sum(errors) + 0.3 * len(starts)

        every = [(), *((i,) for i in range(1, 8))]
        every += [(i, j) for j in range(1, 8) for i in range(1, j)]
        found = tuple(segments(y, heavy, 0.3).tolist())
        assert loss(found) <= min(map(loss, every)) + 1e-12
