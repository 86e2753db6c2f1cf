"""Counterexamples: rows that a program without noise gets wrong, and its rules mended with them.

Rules are found on some rows of the texts, where many tokens never are a query and some predicates say
the same that differ elsewhere. A head without noise either is the program that was found, or there
are rows that show that it is not. Those are looked for among all rows, and the search goes on from
the rules that it has with some of them beside its own, as in counterexample-guided inductive
synthesis (Solar-Lezama et al. 2006).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.synth.exact import rules as r
from attn_dsl.synth.exact.atoms import TRUTH, Atoms
from attn_dsl.synth.exact.residual import Residual
from attn_dsl.synth.exact.rules import Atom, Rule
from attn_dsl.synth.exact.screen import Screen
from attn_dsl.synth.exact.state import State
from attn_dsl.synth.proposer import Fitted, HeadTask

WRONG = 0.99
"""Rows whose IoU is less are counterexamples …"""
FAR = 0.9
"""… of programs that are not further from the head than this in the mean: others are not it anyway."""
TIMES = 3
"""How often counterexamples are looked for."""


def checked(
    state: State, task: HeadTask, refine: Callable[[State, Screen], Iterator[Fitted]]
) -> Generator[Fitted, None, State]:
    """Yield programs as rules are mended with counterexamples; return the rules in the end.

    Args:
        refine: continues the search from some rules, with what finds rules on their rows.
    """
    rng = np.random.default_rng(task.seed)
    for _ in range(TIMES):
        more = None if task.spent else counterexamples(task, program_of(state, task), rng)
        if more is None:
            break
        screen = Screen(Atoms(state.atoms.design.with_rows(more)))
        state = moved(state, task, screen.atoms)
        yield from refine(state, screen)
    return state


def program_of(state: State, task: HeadTask) -> t.Head:
    """Write a state's rules as a program; without noise its weights are final."""
    return state.program(task, np.array([float(f"{x:.3g}") for x in state.left.weights]))


def counterexamples(
    task: HeadTask, program: t.Head, rng: np.random.Generator
) -> list[np.ndarray] | None:
    """Draw rows that a program gets wrong, as many as the task's design has at the most.

    Returns:
        The queries by text; None if there are none, or if it gets nearly all wrong.
    """
    by_row = task.everywhere.by_row(program)
    ious = np.concatenate(by_row)
    wrong = np.flatnonzero(ious < WRONG)
    if not len(wrong) or ious.mean() < FAR:
        return None
    drawn = np.zeros(len(ious), dtype=np.bool_)
    drawn[rng.permutation(wrong)[: len(task.rows)]] = True
    ends = np.cumsum([len(x) for x in by_row])
    return [np.flatnonzero(some) for some in np.split(drawn, ends[:-1])]


def moved(state: State, task: HeadTask, atoms: Atoms) -> State:
    """Take a state's rules to the atoms of a design that has its rows and more.

    What was the first of predicates that say the same of some rows is so for more rows as well, so
    that every predicate of a rule has a number there.
    """
    old, half = state.atoms, len(state.atoms.conditions)
    truths = {p: i for i, p in enumerate(atoms.truths)}
    held = {p: i for i, p in enumerate(atoms.conditions)}

    def atom(x: Atom) -> Atom:
        return replace(x, number=truths[old.truths[x.number]]) if x.kind == TRUTH else x

    def rule(x: Rule) -> Rule:
        condition = x.condition
        if condition is not None:
            negated, number = divmod(condition, half)
            condition = held[old.conditions[number]] + negated * len(atoms.conditions)
        gap = None if x.gap is None else atom(x.gap)
        return replace(x, atom=atom(x.atom), gap=gap, condition=condition)

    rows = atoms.design.target(task.layer, task.head)
    found = State(atoms, Residual(rows, clean=True))
    rules = [rule(x) for x in state.rules]
    if rules:
        found.put(rules, np.stack([r.plane(atoms, x) for x in rules]))
    return found
