"""Weighted sets: a head that gives every token a weight of its own is found from what is there."""

from __future__ import annotations

import numpy as np
import pytest
from search_tasks import WORDS, before, task

from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.results import HeadResult
from attn_dsl.eval.set_parameters import set_program
from attn_dsl.synth.design import Design
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.proposers.candidate_gains import CandidateGains
from attn_dsl.synth.proposers.weighted_sets import WeightedSets, weighted

KEYS = '{" cat": 2.5, " dog": -2, " ran": 1.5, " said": -1.5}'
QUERIES = '{" !": 2.5, " she": 1.7, " the": -1.2}'


def design(*lines: str, noise: float = 0.2) -> Design:
    """Rows of a program on random texts, each mixed with noise: no head is a program exactly."""
    rng = np.random.default_rng(3)
    tokens = [Tokens.from_strings([f" {x}" for x in rng.choice(WORDS, size=24)]) for _ in range(80)]
    program = Program.from_tree(parse("\n ".join(["head a causal:", *lines])))
    matrices = []
    for x in tokens:
        other = np.tril(rng.random((24, 24)))
        mixed = (1 - noise) * program(x) + noise * other / other.sum(1, keepdims=True)
        matrices.append(mixed[None, None])
    capture = Capture.from_arrays(tokens, matrices, causal=True)
    return Design(capture, capture.split(0)["fit"], entries=10_000, seed=0)


FIRST = "head a causal:\n ? where k == 0"


def proposed(job: HeadTask, front: HeadResult) -> list[Fitted]:
    """Return what weighted sets make of a front."""
    job.before = front
    return list(WeightedSets().propose(job))


@pytest.mark.parametrize(
    ("term", "tokens"),
    [
        (f"1 * weight(token(k), {KEYS})", KEYS),
        (f"1 * weight(token(k), {KEYS}) where q - k in 1..8", KEYS),
        (f"1 * weight(token(k), {KEYS}) where punct(q)", KEYS),
        (f"1 * weight(token(q), {QUERIES}) where k == q-1", QUERIES),
        (f"1 * weight(token(k-1), {KEYS})", KEYS),
        (f"1 * weight(token(k+1), {KEYS}) where k < q", KEYS),
        (f"1 * weight(token(q-1), {QUERIES}) where k == q-1", QUERIES),
    ],
)
def test_every_token_gets_its_weight(term: str, tokens: str) -> None:
    job = task(design("2 where k == 0", term))
    start, true = job.fit(parse(FIRST)), job.polish(job.fit(parse(f"{FIRST}\n {term}")))
    found = proposed(job, before(job, FIRST))
    best = max(found, key=lambda f: f.iou)
    assert best.iou > start.iou + 0.8 * (true.iou - start.iou), (start.iou, best.iou, true.iou)
    sets = [x for x in best.program.walk() if isinstance(x, t.SetLiteral) and x.weights]
    assert any(len({*x.elements} & {*parse_set(tokens)}) >= 2 for x in sets)
    assert all(f.settled and f.proposer == "weighted_sets" for f in found)


def parse_set(text: str) -> tuple[str, ...]:
    """Return the elements of a set."""
    (term,) = parse(f"head a causal:\n 1 * weight(token(k), {text})").terms
    return next(x.elements for x in term.walk() if isinstance(x, t.SetLiteral))


def test_what_raises_the_likelihood_of_an_aim_raises_iou() -> None:
    job = task(design("2 where k == 0", f"1 * weight(token(k), {KEYS})"))
    start = job.fit(parse(FIRST))
    plane = job.design.planes(parse('head a causal:\n ? where token(k) == " cat"'))[0]
    promised = float(plane @ (job.rows.aim(start.predicted) - start.predicted))
    low, high = (
        job.measured(parse(f'{FIRST.replace("?", str(start.program.weights[0]))}\n'
                           f' {x} where token(k) == " cat"')).iou
        for x in (-0.01, 0.01)
    )  # fmt: skip
    shared = [2 * len(job.rows) * iou / (1 + iou) for iou in (low, high)]
    np.testing.assert_allclose((shared[1] - shared[0]) / 0.02, promised, rtol=0.05)


def test_a_program_that_lacks_nothing_gains_little() -> None:
    job = task(design("2 where k == 0"))
    known = job.polish(job.fit(parse(FIRST)))
    assert all(f.iou < known.iou + 0.01 for f in proposed(job, before(job, FIRST)))


@pytest.mark.parametrize(
    ("term", "part", "tokens"),
    [
        (f"1 * weight(token(k), {KEYS})", 'token(k) in {" cat", " ran"}', KEYS),
        (
            f"1 * weight(token(q), {QUERIES}) where k == q-1",
            'k == q-1 and token(q) in {" !", " the"}', QUERIES,
        ),
        (f"1 * weight(token(k-1), {KEYS})", 'token(k-1) in {" cat", " ran"}', KEYS),
    ],
)  # fmt: skip
def test_a_set_that_is_there_is_extended(term: str, part: str, tokens: str) -> None:
    job = task(design("2 where k == 0", term))
    half = job.fit(parse(f"{FIRST}\n ? where {part}"))
    program, x = set_program(half.program)
    (one,), own = program.sets, x[program.fixed :]
    found = {*CandidateGains(job, half.predicted).more(one, 0, own)}
    assert found >= {*parse_set(tokens)} - {*one.lookups[0].elements}
    assert max(f.iou for f in weighted(job, half)) > job.polish(half).iou + 0.01


def test_larger_programs_and_those_that_no_fit_is_for_are_passed_over() -> None:
    job = task(design("2 where k == 0", f"1 * weight(token(k), {KEYS})"))
    large = "head a causal:\n" + "\n".join(
        f" {0.01 * (i + 1)} where k == q-{i + 1}" for i in range(24)
    )
    assert not proposed(job, before(job, large))


def test_it_ends_with_the_evaluations() -> None:
    job = task(design("2 where k == 0", f"1 * weight(token(k), {KEYS})"), evals=4)
    proposed(job, before(job, "head a causal:\n ? where k == 0"))
    assert job.evals <= 4


def test_a_table_of_the_distance_is_found() -> None:
    table = "by q - k [1: 1.5, 2: -1, 4: 0.8, 9: -0.5]"
    job = task(design("2 where k == 0", table))
    start = job.fit(parse(FIRST))
    true = job.polish(job.fit(parse(f"head a causal:\n 2 where k == 0\n {table}")))
    found = proposed(job, before(job, FIRST))
    best = max((f for f in found if f.nodes <= true.nodes + 3), key=lambda f: f.iou)
    assert best.iou > start.iou + 0.9 * (true.iou - start.iou)
    assert any(isinstance(term, t.Table) for term in best.program.terms)
