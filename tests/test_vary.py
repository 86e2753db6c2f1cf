"""Variation of a front: small changes, honest promises, what is better is found."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import check
from attn_dsl.dsl.parser import parse, parse_term
from attn_dsl.dsl.printer import show, show_term
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.results import FrontRow, HeadResult
from attn_dsl.synth import vocabulary
from attn_dsl.synth import weights as w
from attn_dsl.synth.design import Design
from attn_dsl.synth.enumerate.proposer import cross_entropy
from attn_dsl.synth.nearest import NearestPrograms
from attn_dsl.synth.probe import Probe
from attn_dsl.synth.promises import exact_gain, value_gain
from attn_dsl.synth.proposer import HeadTask, pool
from attn_dsl.synth.proposers.neighbours import kin, neighbours
from attn_dsl.synth.proposers.vary import Vary, _Judge, parts

WORDS = "the cat saw a dog . Tom and Mia ran to the park , and she said hi to him !".split()
TRUE = (
    "head a causal:\n 4 where text(k-1) == text(q)\n"
    ' 3 where token(k) in {" cat", " dog"} and punct(q-1)'
)


@pytest.fixture(scope="module")
def design() -> Design:
    rng = np.random.default_rng(3)
    tokens = [Tokens.from_strings([f" {x}" for x in rng.choice(WORDS, size=24)]) for _ in range(80)]
    program = Program.from_tree(parse(TRUE))
    capture = Capture.from_arrays(tokens, [program(x)[None, None] for x in tokens], causal=True)
    return Design(capture, capture.split(0)["fit"], entries=10_000, seed=0)


def task(design: Design, evals: int = 200, front: HeadResult | None = None) -> HeadTask:
    return HeadTask(design, 0, 0, seed=0, max_nodes=200, max_evals=evals, before=front)


def local_search(design: Design, others: tuple[str, ...] = (), steps: int = 4) -> Vary:
    nearest = NearestPrograms(design)
    nearest.of = lambda number, sources, most: [parse(x) for x in others]  # type: ignore[method-assign]
    return Vary(lambda: Probe(design), lambda: nearest, steps)


def before(job: HeadTask, *sources: str) -> HeadResult:
    """Return a result whose front are some programs, fitted."""
    fitted = [job.fit(parse(source)) for source in sources]
    rows = tuple(
        FrontRow(f.nodes, f.iou, f.iou, f.iou, 0.0, False, "test", show(f.program)) for f in fitted
    )
    return HeadResult(
        0,
        0,
        rows[-1].program,
        rows[-1].nodes,
        0.0,
        0.0,
        {},
        (),
        {},
        "",
        (),
        0,
        1.0,
        0.0,
        False,
        rows,
    )


def varied(design: Design, *sources: str, others: tuple[str, ...] = (), steps: int = 4) -> float:
    result = before(task(design), *sources)
    job = task(design, front=result)
    return max((f.iou for f in pool(job, [local_search(design, others, steps)])), default=0.0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("text(k-1) == text(q-1)", 'token(k) in {" cat", " dog"} and punct(q-1)'),
        ("text(k-1) == text(q)", 'token(k) in {" cat", " dog", " hi"} and punct(q-1)'),
        ("text(k-1) == text(q)", 'token(k) in {" cat", " dog"}'),
        ("text(k-1) == text(q)", 'token(k) in {" cat", " dog"} and sentence_start(q-1)'),
        ("text(k-1) == text(q) and k < 9", 'token(k) in {" cat", " dog"} and punct(q-1)'),
        ("text(k-1) == text(q)", 'token(k) == " saw" and punct(q-1)'),
    ],
    ids=["offset", "element", "condition", "feature", "dropped", "set"],
)
def test_one_change_away_is_found(design: Design, first: str, second: str) -> None:
    """What differs from the truth by an offset, an element, a condition or a feature is repaired."""
    wrong = f"head a causal:\n ? where {first}\n ? where {second}"
    right = task(design).fit(parse(TRUE)).iou
    assert right > 0.98
    assert task(design).fit(parse(wrong)).iou < right - 0.01
    assert varied(design, "head a causal:\n ? where text(k-1) == text(q)", wrong) > right - 1e-4


def test_terms_of_other_heads_are_taken(design: Design) -> None:
    own = "head a causal:\n ? where text(k-1) == text(q)"
    other = (
        'head b causal:\n 1 where capital(k)\n 9 where token(k) in {" cat", " dog"} and punct(q-1)'
    )
    assert varied(design, own, others=(other,), steps=1) > 0.98


def test_programs_with_tables_are_no_hindrance(design: Design) -> None:
    own = "head a causal:\n ? where text(k-1) == text(q)"
    table = "head b causal:\n by q - k [0: 1, 3: -1]\n 2 where capital(k)"
    assert varied(design, own, table, others=(table,), steps=1) > 0.0


def test_what_computes_the_same_is_written_shorter(design: Design) -> None:
    job = task(design)
    front = before(job, "head a causal:\n ? where not not text(k-1) == text(q)\n ? where punct(q)")
    found = pool(task(design, front=front), [local_search(design, steps=1)])
    assert any(
        [show_term(dataclasses.replace(x, weight=None)) for x in f.program.terms]  # type: ignore[call-arg]
        == ["? where text(k-1) == text(q)"]
        and f.iou == pytest.approx(front.front[0].iou_fit, abs=1e-6)
        for f in found
    )


def test_the_same_task_gives_the_same_programs(design: Design) -> None:
    front = before(task(design), "head a causal:\n ? where text(k-1) == text(q-1)")
    first, second = (
        [show(f.program) for f in pool(task(design, front=front), [local_search(design)])]
        for _ in range(2)
    )
    assert first == second
    assert len(first) > 2


def test_it_stops_when_the_task_is_spent(design: Design) -> None:
    front = before(task(design), "head a causal:\n ? where text(k-1) == text(q-1)")
    job = task(design, evals=3, front=front)
    pool(job, [local_search(design)])
    assert job.evals == 3


def test_promises_are_kept(design: Design) -> None:
    """A fitted change leaves no more than was promised: the other weights can only improve on it."""
    job = task(design)
    fitted = job.fit(parse("head a causal:\n ? where text(k) == text(q)\n ? * log(1 + q - k)"))
    judge = _Judge(Probe(design), job)
    pool_of_terms = [parse_term("? where punct(k)"), parse_term("? * length(k)")]
    changes = judge.best([fitted], pool_of_terms)
    assert len(changes) > 4
    for change in changes:
        planes = judge.of(change.terms)
        _, predicted = w.fit(planes, judge.rows, change.start, ridge=0.0, steps=30)
        assert cross_entropy(judge.rows.actual, predicted, len(judge.rows)) < change.loss + 2e-3


def test_gains_are_those_of_the_best_weight(design: Design) -> None:
    job, probe = task(design), Probe(design)
    rows = probe.target(job.rows)
    uniform = 1 / np.repeat(np.diff(rows.starts), np.diff(rows.starts)).astype(np.float32)
    for source in ("? where punct(k)", "? * log(1 + q - k)", "? * (q - k)", "? where k == q-1"):
        term = parse_term(source)
        plane = probe.planes([term])
        _, predicted = w.fit(plane, rows, ridge=1e-6, steps=30)
        count = len(rows)
        true = cross_entropy(rows.actual, uniform, count) - cross_entropy(
            rows.actual, predicted, count
        )
        masses = [
            np.add.reduceat(plane * x, rows.starts[:-1], axis=1) for x in (rows.actual, uniform)
        ]
        found = (
            exact_gain(*masses) if isinstance(term, t.Where)
            else value_gain(plane, rows.starts, rows.actual, uniform)
        )  # fmt: skip
        assert found[0] / count == pytest.approx(true, abs=0.03)
        assert found[0] / count < true + 1e-4


@pytest.mark.parametrize("causal", [True, False])
def test_neighbours_are_terms_of_the_language(causal: bool) -> None:
    empty = t.Head("x", "causal" if causal else "bidirectional")
    for term in vocabulary.terms(causal):
        near = neighbours(term, causal)
        assert len(set(near)) == len(near)
        assert term not in near
        for other in near:
            program = dataclasses.replace(empty, terms=(other,))
            check(program)
            assert parse(show(program)) == program


def test_sets_lose_elements_and_classes_become_kindred() -> None:
    term = parse_term('2 where word(k) in Article and text(q) in {"a", "b"}')
    shown = {show_term(x) for x in neighbours(term, causal=True)}
    assert '? where word(k) in Article and text(q) in {"b"}' in shown
    assert '? where word(k) in Determiner and text(q) in {"a", "b"}' not in shown or kin("Article")
    assert "? where word(k) in Article" in shown
    assert '? where word(k-1) in Article and text(q) in {"a", "b"}' in shown


def test_parts_are_terms_without_names_and_weights() -> None:
    program = parse('set A = {"x", "y"}\nhead a causal:\n 2.5 where text(k) in A # why')
    assert [show_term(x) for x in parts(program)] == ['? where text(k) in {"x", "y"}']


def test_the_second_round_varies_from_effort_2_on(design: Design) -> None:
    from attn_dsl.synth.search import Search
    from attn_dsl.synth.session import Session, Settings

    front = before(task(design), "head a causal:\n ? where text(k-1) == text(q-1)")
    for effort in (1, 2):
        session = Session(design.capture, Settings(("library", "local_search"), effort=effort))
        _, found = Search(session).head(0, 0, lambda: {"uniform": np.zeros(4)}, before=front)
        assert ("local_search" in {c.proposer for c in found}) == (effort > 1)
