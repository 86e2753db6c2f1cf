"""The proposer ``recovery``: programs are found again, of every kind of term, and in bounded time."""

from __future__ import annotations

import time
from functools import lru_cache

import numpy as np
import pytest
from program_heads import capture_of, task_of, texts

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse, parse_predicate
from attn_dsl.dsl.printer import show
from attn_dsl.eval.capture import Capture
from attn_dsl.synth.proposer import Fitted, HeadTask, pool
from attn_dsl.synth.recovery.candidates import Candidates
from attn_dsl.synth.recovery.distance_refit import refit_distance
from attn_dsl.synth.recovery.least_squares import Problem
from attn_dsl.synth.recovery.predicates import Bank
from attn_dsl.synth.recovery.proposer import Recovery, counterexamples, made_by_program
from attn_dsl.synth.recovery.rules import Rule, TokenSet, program, term

KINDS = {
    "threshold": "3 where q - k >= 11",
    "interval": "-2 where q - k in 3..9",
    "ordinal": "2.5 where word_repeats(k) == word_repeats(q) - 1",
    "key set": '3 where token(k-1) in {" cat", " dog", " park", " the"}',
    "set pair": '4 where token(k) in {" cat", " dog"} and token(q) in {" Tom", " the", " ran"}',
    "weighted set": '1 * weight(token(k), {" cat": 2, " dog": -1.5, " the": 0.8, " Mia": 3.1})',
    "curve": "-0.3 * (q - k) where q >= 8",
    "table": "by q - k [0: 2.5, 2: -1, 7: 1.5]",
    "pointer": "3 where k >= word_previous(q)",
    "nearest": "3 where k == nearest(word(k) in Pronoun and k < q)",
    "nearest of a set": '3 where k == nearest(token(k) in {" to", " a", " of", " ran"})',
    "affix": '2.5 where starts(word(k), "s")',
    "same": "3.5 where text(k-1) == text(q)",
    "query condition": "-2.5 where capital(k) and length(q) >= 3",
    "three terms": '2 where k == 0\n -1 * log(1 + q - k)\n 2.5 where token(k) in {" a", " to"}',
}
SIX = """head x causal:
    2 where starts(word(k), "s")
    -1.5 where token(k) in {" cat", " the", " ,"}
    2.5 where token(k-1) in {" a", " to", " and"}
    3 where token(k) in {" dog", " park"} and token(q) in {" Tom", " she", " ran"}
    -0.2 * (q - k)
    1.5 where k == q-2
"""
BOTH_SIDES = SIX.replace("causal", "bidirectional").replace("(q - k)", "abs(q - k)")
QUERIES = " the", " cat", " dog", " Tom", " Mia", " park", " she", " Rain", " birds", " days"
RARE = f"""head x causal:
    3 where token(k) in {{" cat", " a"}} and token(q) in {{{", ".join(f'"{x}"' for x in QUERIES)}}}
    1 where k == q
"""
FEW = 900  # entries: some of the queries are in none of the rows


def proposed(task: HeadTask) -> list[Fitted]:
    return pool(task, [Recovery(lambda: task.design)])


def smallest(found: list[Fitted]) -> Fitted:
    best = max(f.iou for f in found)
    return min((f for f in found if f.iou >= best - 0.002), key=lambda f: f.nodes)


@lru_cache(maxsize=1)
def bank() -> Bank:
    task = task_of(capture_of("head x causal:\n 2 where k == 0"))
    return Bank(task.design, task)


def problem_of(source: str, places: bool | None = None) -> Problem:
    return Problem(bank(), task_of(capture_of(source)).rows, places)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_term_is_found_again(kind: str) -> None:
    source = f"head x causal:\n {KINDS[kind]}\n"
    best = smallest(proposed(task_of(capture_of(source))))
    assert best.iou > 0.995, show(best.program)
    assert best.nodes <= t.nodes(parse(source)) + 15, show(best.program)


@pytest.mark.parametrize("source", [SIX, BOTH_SIDES])
def test_rules_about_the_key_that_add_up_are_told_apart(source: str) -> None:
    best = smallest(proposed(task_of(capture_of(source))))
    assert best.iou > 0.995, show(best.program)
    assert best.nodes <= 1.25 * t.nodes(parse(source)), show(best.program)


def test_the_same_programs_are_found_again() -> None:
    source = f"head x causal:\n {KINDS['three terms']}\n"
    runs = [proposed(task_of(capture_of(source))) for _ in range(2)]
    assert [show(f.program) for f in runs[0]] == [show(f.program) for f in runs[1]]


def test_heads_of_models_are_left_to_others() -> None:
    """Rows that are no program's take no time."""
    rng = np.random.default_rng(1)
    matrices = [np.tril(np.exp(2 * rng.normal(size=(len(x), len(x))))) for x in texts()]
    arrays = [(m / m.sum(1, keepdims=True))[None, None].astype(np.float32) for m in matrices]
    task = task_of(Capture.from_arrays(texts(), arrays, causal=True))
    assert not made_by_program(task.rows, task.design.text_of_rows)
    assert list(Recovery(lambda: task.design).propose(task)) == []
    assert task.evals == 0


def test_a_search_without_time_yields_what_it_has() -> None:
    proposer = Recovery(lambda: bank().design)
    late = task_of(capture_of(SIX), deadline=time.monotonic() - 1)
    started = time.monotonic()
    found = list(proposer.propose(late))
    assert time.monotonic() - started < 5
    assert all(isinstance(f, Fitted) for f in found)
    assert max(f.iou for f in proposed(task_of(capture_of(SIX)))) > 0.995


def test_a_bank_that_was_cut_short_is_not_kept() -> None:
    late = task_of(capture_of(SIX), deadline=time.monotonic() - 1)
    task = task_of(capture_of(SIX))
    proposer = Recovery(lambda: task.design)
    short = len(proposer.candidates(late).bank.predicates)
    assert short < len(proposer.candidates(task).bank.predicates)
    assert proposer.candidates(task) is proposer.candidates(task)


def test_a_rule_and_its_term_are_the_same() -> None:
    """Planes made of parts are those that the evaluator makes of the written term."""
    graded = TokenSet(0, (" dog", " to"), (1.5, -0.25))
    half = len(bank().conditions) // 2
    rules = [
        Rule(interval=bank().scales[0].interval(3, 9), key=TokenSet(-1, (" cat", " the"))),
        Rule(parse_predicate("k == q-2"), query=graded, condition=bank().conditions[half + 2]),
        Rule(key=graded, query=TokenSet(-1, (" a", " cat"), (0.5, 1.0))),
        *(Rule(value, query=graded) for value in bank().values),
        *(Rule(x, key=TokenSet(-2, (" a",))) for x in bank().predicates[::97]),
    ]
    for rule in rules:
        head = parse(show(t.Head("x", "causal", terms=(term(rule, 1.0),))))
        expected = bank().design.planes(head)[0]
        np.testing.assert_allclose(bank().plane(rule), expected, atol=1e-5, err_msg=show(head))


def test_large_sets_get_names() -> None:
    rules = [
        Rule(key=TokenSet(0, tuple(f" {x}" for x in "abcdef"))),
        Rule(key=TokenSet(0, (" a",))),
    ]
    found = program(t.Head("x", "causal"), rules, [2.0, 0.5])
    assert [len(d.value.elements) for d in found.sets] == [6]
    assert parse(show(found)) == found


def test_moments_of_all_parts_are_those_of_their_planes() -> None:
    problem, candidates = problem_of(f"head x causal:\n {KINDS['curve']}\n"), Candidates(bank())
    left, starts = problem.residual(problem.model(()), 1.0), bank().starts[:-1]
    g, h = bank().moments(left.pull, left.mass)
    for j in range(0, len(candidates.parts), 41):
        x = bank().plane(candidates.parts[j]).astype(np.float64)
        mean, square = (np.add.reduceat(y * left.mass, starts) for y in (x, x * x))
        np.testing.assert_allclose(
            g[j], np.add.reduceat(x * left.pull, starts), rtol=1e-3, atol=1e-3
        )
        np.testing.assert_allclose(h[j], square - mean**2, rtol=1e-2, atol=5e-3)


@pytest.mark.parametrize("places", [True, False])
def test_what_is_projected_out_is_what_tables_explain(places: bool) -> None:
    problem = problem_of(f"head x causal:\n {KINDS['curve']}\n", places)
    projection = problem.projection
    assert projection is not None
    columns = np.zeros((projection.size, len(problem.mass)), dtype=np.float32)
    for numbers in projection.columns.T:
        columns[numbers, np.arange(len(numbers))] = 1.0
    tables = np.stack([centred(problem, x) for x in columns]).astype(np.float64)
    root = np.sqrt(problem.mass.astype(np.float64))
    pair = Rule(key=TokenSet(-1, (" a", " of")), query=TokenSet(0, (" the", " dog")))
    for rule in (Rule(interval=bank().scales[0].interval(3, 9)), pair):
        plane = centred(problem, bank().plane(rule))
        solution = np.linalg.lstsq((tables * root).T, plane * root, rcond=1e-9)[0]
        rest = projection.rest(plane)
        scale = float(problem.mass @ plane**2)
        assert float(problem.mass @ (rest - (plane - solution @ tables)) ** 2) < 1e-3 * scale
        if places and rule is not pair:  # an interval of distances is a table of distances
            assert float(problem.mass @ rest**2) < 1e-5 * scale


def centred(problem: Problem, plane: np.ndarray) -> np.ndarray:
    """Return a plane less its weighted mean in every row."""
    starts = problem.rows.starts
    means = np.add.reduceat(plane * problem.mass, starts[:-1])
    return plane - np.repeat(means, np.diff(starts))


def test_stand_ins_become_the_curves_and_steps_of_the_program() -> None:
    source = """head x causal:
        -0.5 * sqrt(q - k)
        by q - k [2: 1.2, 8: -0.7, 15: 2]
        2 where token(k) == " cat"
    """
    task = task_of(capture_of(source))
    problem, distance = Problem(bank(), task.rows), bank().scales[0]
    token = Rule(key=TokenSet(0, (" cat",)))
    decays = [Rule(x) for x in bank().values if isinstance(x, t.Decay)][::2]
    steps = [Rule(interval=distance.interval(low, low + 5)) for low in range(6, 24, 6)]
    model = problem.model([token, *decays, *steps])
    found = refit_distance(problem, task, model, 0.01)
    assert found.loss < 1e-3 * model.loss
    bounds = {x.base.right.value for x in found.rules if isinstance(x.base, t.Compare)}  # type: ignore[union-attr]
    assert bounds == {2, 8, 15}
    assert token in found.rules and len(found.rules) == 5
    few = problem.model([token, *decays[:2]])
    assert refit_distance(problem, task, few, 0.01) is few


def test_only_rows_that_are_wrong_are_counterexamples() -> None:
    task = task_of(capture_of(RARE), FEW)
    problem = Problem(Bank(task.design, task), task.rows)
    near, pair = Rule(parse_predicate("k == q")), TokenSet(0, (" a", " cat"))
    true = problem.model([near, Rule(key=pair, query=TokenSet(0, QUERIES))])
    assert counterexamples(task, true) is None
    found = counterexamples(
        task, problem.model([near, Rule(key=pair, query=TokenSet(0, QUERIES[1:]))])
    )
    assert found is not None and 0 < sum(map(len, found)) <= len(task.rows)
    for text, queries in zip(task.design.texts, found, strict=True):
        strings = task.design.capture.tokens(text).strings
        assert {strings[q] for q in queries} <= {" the"}
    far = task_of(capture_of(SIX), FEW)
    assert counterexamples(far, Problem(Bank(far.design, far), far.rows).model([near])) is None


def test_queries_that_no_row_shows_are_found_by_counterexamples() -> None:
    task = task_of(capture_of(RARE), FEW)
    seen = {task.design.symbols[s] for s in np.unique(task.design.query_symbols)}
    assert not set(QUERIES) <= seen
    found = [f for f in Recovery(lambda: task.design).propose(task) if isinstance(f, Fitted)]
    best = max(found, key=lambda f: f.iou)
    assert best.iou > 0.9999
    assert best.iou == task.everywhere.iou(best.program)
    assert found[0].iou < 0.999
