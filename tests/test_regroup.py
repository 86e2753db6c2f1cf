"""Rules about the tokens of one place are written anew, and all of them together say the same."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from exact_heads import capture_of, task_of

from attn_dsl.dsl.parser import parse_predicate
from attn_dsl.synth.exact import rules as r
from attn_dsl.synth.exact.atoms import AFFIX, SCALE, TRUTH, Atoms
from attn_dsl.synth.exact.noise import noise_of
from attn_dsl.synth.exact.proposer import Exact
from attn_dsl.synth.exact.regroup import regroup
from attn_dsl.synth.exact.residual import Residual
from attn_dsl.synth.exact.rules import Atom, Choice, Rule
from attn_dsl.synth.exact.screen import Screen
from attn_dsl.synth.exact.state import State
from attn_dsl.synth.proposer import HeadTask

ENDS_IN_N = Rule(Atom(AFFIX, affix=("ends", "text", "n")))  # on, rain, listened not


@lru_cache(maxsize=1)
def screen() -> Screen:
    return Screen(Atoms(task_of(capture_of("head x causal:\n 2 where k == 0")).design))


def tokens(*strings: str, shift: int = 0, weights: tuple[float, ...] | None = None) -> Choice:
    numbers = {string: number for number, string in screen().atoms.names.items()}
    order = sorted(range(len(strings)), key=lambda i: numbers[strings[i]])
    shares = None if weights is None else tuple(weights[i] for i in order)
    return Choice(shift, tuple(numbers[strings[i]] for i in order), shares)


def condition(source: str) -> int:
    return screen().atoms.conditions.index(parse_predicate(source))


def begun(source: str, rules: list[Rule]) -> tuple[State, HeadTask]:
    """Start with rules on the noisy rows of a program, with the weights that suit them."""
    task = task_of(capture_of(source, noise=2e-4))
    state = State(screen().atoms, Residual(task.rows, False, noise_of(task.rows, task.design)))
    state.put(rules, np.stack([r.plane(screen().atoms, rule) for rule in rules]))
    return state, task


def regrouped(source: str, rules: list[Rule]) -> dict[Rule, float]:
    state, task = begun(source, rules)
    cost, left = state.total(state.left.lowest), state.left.squared
    regroup(state, task, screen(), Exact(screen).settle)
    assert state.total(state.left.lowest) < cost
    assert state.left.squared < 1.1 * left
    return dict(zip(state.rules, np.round(state.left.weights, 1).tolist(), strict=True))


def test_a_class_of_which_one_word_counts_becomes_that_word() -> None:
    found = regrouped(
        'head x causal:\n 3 where token(k) in {" Rain", " cat"}\n -1 where k == q',
        [
            ENDS_IN_N,
            Rule(key=tokens(" cat")),
            Rule(key=tokens(" on", " ran")),
            Rule(Atom(SCALE, 0, 0, 0)),
        ],
    )
    assert found == {Rule(key=tokens(" Rain", " cat")): 3.0, Rule(Atom(SCALE, 0, 0, 0)): -1.0}


def test_a_set_that_is_a_class_becomes_it_where_no_other_rule_is_about_tokens() -> None:
    gap = Atom(SCALE, 0, 2, 9)
    strings = [x for x in screen().atoms.names.values() if x.strip().startswith("s")]
    source = 'head x causal:\n 3 where starts(text(k), "s") and q - k in 2..9'
    found = regrouped(source, [Rule(key=tokens(*strings), gap=gap)])
    assert found == {Rule(Atom(AFFIX, affix=("starts", "text", "s")), gap=gap): 3.0}


def test_a_set_that_is_no_class_is_left_alone() -> None:
    rules = [Rule(key=tokens(" Rain", " cat", " park"), gap=Atom(SCALE, 0, 2, 9))]
    source = 'head x causal:\n 3 where token(k) in {" Rain", " cat", " park"} and q - k in 2..9'
    state, task = begun(source, rules)
    planes = state.planes
    regroup(state, task, screen(), Exact(screen).settle)
    assert state.rules == rules and state.planes is planes


def test_words_that_are_a_class_become_one() -> None:
    """Those with weights of their own that are nearly the same, and one with another besides."""
    found = regrouped(
        'head x causal:\n 2 where ends(text(k), "n")\n 3.5 where token(k) == " cat"',
        [
            Rule(key=tokens(" on", " Rain", weights=(1.0, 0.98))),
            Rule(key=tokens(" cat", " ran", weights=(1.0, 0.6))),
        ],
    )
    assert found == {ENDS_IN_N: 2.0, Rule(key=tokens(" cat")): 3.5}


@pytest.mark.parametrize("sign", ["", "not "])
def test_words_that_count_for_some_queries_alone_are_said_to(sign: str) -> None:
    held = condition("capital(q)")
    other = held + len(screen().atoms.conditions)
    found = regrouped(
        f'head x causal:\n 3 where token(k) in {{" cat", " dog"}} and {sign}capital(q)\n'
        ' 2 where token(k) == " park"',
        [
            Rule(key=tokens(" cat", " dog", " park")),
            Rule(key=tokens(" cat", " dog"), condition=held),
            Rule(key=tokens(" park"), condition=other),
        ],
    )
    assert found == {
        Rule(key=tokens(" cat", " dog"), condition=other if sign else held): 3.0,
        Rule(key=tokens(" park")): 2.0,
    }


def test_rules_that_cannot_be_written_shorter_stay() -> None:
    rules = [Rule(key=tokens(" cat", " dog")), Rule(key=tokens(" park", " to"))]
    state, task = begun(
        'head x causal:\n 3 where token(k) in {" cat", " dog"}\n -2 where token(k) in {" park", " to"}',
        rules,
    )
    weights = state.left.weights.copy()
    regroup(state, task, screen(), Exact(screen).settle)
    assert state.rules == rules
    assert np.array_equal(state.left.weights, weights)


def test_no_rule_is_written_anew_when_time_is_up() -> None:
    state, task = begun(
        'head x causal:\n 3 where token(k) == " Rain"', [ENDS_IN_N, Rule(key=tokens(" on"))]
    )
    task.evals = task.max_evals
    regroup(state, task, screen(), Exact(screen).settle)
    assert ENDS_IN_N in state.rules


def test_an_atom_is_a_class_where_tokens_tell_all_of_it() -> None:
    a, known = screen().atoms, screen().classes
    for shift in (0, -1):
        classes = known.at(shift)
        assert classes
        for atom, table in classes.items():
            symbols = a.keys[-shift]
            plane = r.atom_plane(a, atom)
            wrong = np.abs(plane - np.append(table, 0.0)[symbols]).sum()
            assert wrong <= 0.02 * plane.sum()
    first = a.truths.index(parse_predicate("text(k-1) == text(q)"))
    assert known.told(Atom(TRUTH, first), 0) is None
    assert Atom(AFFIX, affix=("ends", "text", "n")) in known.at(0)
