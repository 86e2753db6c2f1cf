"""Rules that mend each other give way to one that says nearly the same as the first of them."""

from __future__ import annotations

import numpy as np
from exact_heads import capture_of, task_of

from attn_dsl.dsl.parser import parse_term
from attn_dsl.synth.exact import alike
from attn_dsl.synth.exact import rules as r
from attn_dsl.synth.exact.atoms import SCALE, Atoms
from attn_dsl.synth.exact.proposer import Exact
from attn_dsl.synth.exact.residual import Residual
from attn_dsl.synth.exact.rules import Atom, Rule
from attn_dsl.synth.exact.screen import Screen
from attn_dsl.synth.exact.state import State
from attn_dsl.synth.proposer import HeadTask

SOURCE = """head x bidirectional:
    -2 where word_index(k) > word_index(q)
    1.5 where token(k) in {" cat", " the"}
"""
SPACES = ("\n", "\n")


def compared(atoms: Atoms, source: str) -> Rule:
    """Return the rule of a scale that says a predicate."""
    wanted = parse_term(f"1 where {source}")
    for number, scale in enumerate(atoms.scales):
        for value in range(scale.low + 1, scale.high + 1):
            rule = Rule(Atom(SCALE, number, value, scale.high))
            if r.term(atoms, rule, 1.0) == wanted:
                return rule
    raise AssertionError(f"no scale says {source}")


def begun(source: str) -> tuple[State, HeadTask, Screen]:
    """Start with a rule about words' places, and others for the tokens that are no words."""
    task = task_of(capture_of(source, more=SPACES))
    screen = Screen(Atoms(task.design))
    atoms = screen.atoms
    spaces = tuple(number for number, string in atoms.names.items() if string in SPACES)
    words = tuple(number for number, string in atoms.names.items() if string in (" cat", " the"))
    first = compared(atoms, "k >= word_last(q) + 1")
    rules = [
        first,
        Rule(key=r.Choice(0, words)),
        Rule(key=r.Choice(0, spaces)),
        Rule(Atom(SCALE, 0, 1, atoms.scales[0].high), key=r.Choice(0, spaces)),
    ]
    state = State(atoms, Residual(task.rows, clean=True))
    state.put(rules, np.stack([r.plane(atoms, rule) for rule in rules]))
    return state, task, screen


def test_a_rule_and_those_that_mend_it_become_one() -> None:
    state, task, screen = begun(SOURCE)
    true = compared(state.atoms, "word_index(k) >= word_index(q) + 1")
    assert true in alike.candidates(state, screen)
    left, words = state.left.squared, state.rules[1]
    alike.exchange(state, task, screen, Exact(lambda: screen).settle)
    assert dict(zip(state.rules, np.round(state.left.weights, 2), strict=True)) == {
        true: -2.0, words: 1.5,
    }  # fmt: skip
    assert state.left.squared <= left and state.left.aside is None


def test_rules_that_are_true_stay() -> None:
    source = SOURCE.replace("word_index(k) > word_index(q)", "k >= word_last(q) + 1")
    state, task, screen = begun(source)
    state.put(state.rules[:2], state.planes[:2])
    rules, weights = state.rules, state.left.weights
    alike.exchange(state, task, screen, Exact(lambda: screen).settle)
    assert state.rules == rules and np.array_equal(state.left.weights, weights)
    assert state.left.aside is None


def test_what_is_alike_correlates_and_is_another_scale() -> None:
    state, _, screen = begun(SOURCE)
    first = state.rules[0]
    found = list(alike.candidates(state, screen))
    assert found and len(found) == len(set(found)) <= alike.MOST
    x = state.left.centred(state.planes[:1])[0]
    for rule in found:
        y = state.left.centred(r.plane(state.atoms, rule)[None])[0]
        mass = state.left.mass
        shared = float((x * mass) @ y) ** 2 / float((x * mass) @ x) / float((y * mass) @ y)
        assert alike.ALIKE < shared < 1.0 and rule.atom.number != first.atom.number
