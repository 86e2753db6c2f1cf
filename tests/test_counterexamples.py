"""A program without noise is checked on all rows of its texts, and mended with those it gets wrong."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from exact_heads import capture_of, task_of

from attn_dsl.dsl.parser import parse
from attn_dsl.synth import weights as w
from attn_dsl.synth.design import Design
from attn_dsl.synth.exact import rules as r
from attn_dsl.synth.exact.atoms import SCALE, TRUTH, Atoms
from attn_dsl.synth.exact.counterexamples import checked, counterexamples, moved, program_of
from attn_dsl.synth.exact.proposer import Exact
from attn_dsl.synth.exact.residual import Residual
from attn_dsl.synth.exact.rules import Atom, Rule
from attn_dsl.synth.exact.screen import Screen
from attn_dsl.synth.exact.state import State
from attn_dsl.synth.proposer import Fitted, HeadTask

QUERIES = " the", " cat", " dog", " Tom", " Mia", " park", " she", " Rain", " birds", " days"
SOURCE = f"""head x causal:
    3 where token(k) in {{" cat", " a"}} and token(q) in {{{", ".join(f'"{x}"' for x in QUERIES)}}}
    1 where k == q
"""
FEW = 900
"""Entries of so small a design that some of the queries are in none of its rows."""


def begun(task: HeadTask, rules: list[Rule], atoms: Atoms) -> State:
    state = State(atoms, Residual(task.rows, clean=True))
    state.put(rules, np.stack([r.plane(atoms, rule) for rule in rules]))
    return state


def some_rules(atoms: Atoms) -> list[Rule]:
    half = len(atoms.conditions)
    return [
        Rule(Atom(TRUTH, len(atoms.truths) // 2)),
        Rule(Atom(TRUTH, 3), condition=half + 2),
        Rule(Atom(SCALE, 0, 1, 4), gap=Atom(TRUTH, len(atoms.truths) - 1), condition=1),
        Rule(key=r.Choice(0, (2, 5), (1.0, 0.5)), query=r.Choice(-1, (3,))),
    ]


def test_all_rows_are_those_of_a_design_that_has_them_all() -> None:
    task = task_of(capture_of(SOURCE), FEW)
    whole = Design(task.design.capture, task.design.texts, entries=10**9, seed=0)
    rows = whole.target(0, 0)
    for source in (SOURCE, 'head x causal:\n 2 where token(k) == " dog"', "head x causal:\n"):
        program = parse(source)
        predicted = np.empty(whole.entries, dtype=np.float32)
        w.predict(whole.planes(program), np.array(program.weights), rows.starts, predicted)
        by_row = np.concatenate(task.everywhere.by_row(program))
        least = np.add.reduceat(np.minimum(rows.actual, predicted), rows.starts[:-1])
        assert np.allclose(by_row, least / (2 - least), atol=1e-5)
        expected = w.iou_of(rows.actual, predicted, len(rows))
        assert abs(task.everywhere.iou(program) - expected) < 1e-5


def test_rules_say_the_same_on_a_design_with_more_rows() -> None:
    task = task_of(capture_of(SOURCE), FEW)
    old = Atoms(task.design)
    state = begun(task, some_rules(old), old)
    rng = np.random.default_rng(1)
    more = [rng.permutation(n)[:6] for n in task.design.batch.sizes]
    wide = Atoms(task.design.with_rows(more))
    found = moved(state, task, wide)
    assert len(wide.conditions) > len(old.conditions)  # so that numbers are others
    assert program_of(state, task).terms != ()
    for one, other in zip(state.rules, found.rules, strict=True):
        assert r.term(old, one, 1.0) == r.term(wide, other, 1.0)
    shared = np.concatenate([
        np.isin(wide_rows, rows) for wide_rows, rows in zip(wide.design.rows, task.design.rows, strict=True)
    ])  # fmt: skip
    assert np.array_equal(found.planes[:, shared[wide.row]], state.planes)


def test_only_rows_that_are_wrong_are_counterexamples() -> None:
    task = task_of(capture_of(SOURCE), FEW)
    rng = np.random.default_rng(0)
    assert counterexamples(task, parse(SOURCE), rng) is None
    worse = parse(SOURCE.replace('" the", ', ""))
    found = counterexamples(task, worse, rng)
    assert found is not None and 0 < sum(map(len, found)) <= len(task.rows)
    for text, queries in zip(task.design.texts, found, strict=True):
        strings = task.design.capture.tokens(text).strings
        assert {strings[q] for q in queries} <= {" the"}
    assert counterexamples(task, parse('head x causal:\n 9 where token(k) == " a"'), rng) is None


def test_queries_that_no_row_shows_are_found_by_counterexamples() -> None:
    task = task_of(capture_of(SOURCE), FEW)
    atoms = Atoms(task.design)
    seen = {atoms.names[s] for s in np.unique(atoms.queries[0])}
    assert not set(QUERIES) <= seen
    programs = list(Exact(lambda: Screen(atoms)).propose(task))
    best = max((p for p in programs if isinstance(p, Fitted)), key=lambda p: p.iou)
    assert best.iou > 0.9999
    assert best.iou == task.everywhere.iou(best.program)
    first = next(p for p in programs if isinstance(p, Fitted))
    assert first.iou < 0.999


def test_a_program_without_counterexamples_is_left_as_it_is() -> None:
    task = task_of(capture_of("head x causal:\n 2 where k == q"), FEW)
    atoms = Atoms(task.design)
    state = begun(task, [Rule(Atom(SCALE, 0, 0, 0))], atoms)

    def refine(state: State, screen: Screen) -> Iterator[Fitted]:
        raise AssertionError("nothing to mend")
        yield

    steps = checked(state, task, refine)
    assert list(steps) == []
