"""Weighed sets: a head that gives every token a weight of its own is found from what is there."""

from __future__ import annotations

import numpy as np
import pytest
from test_vary import WORDS, before, task

from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.synth.design import Design
from attn_dsl.synth.proposer import pool
from attn_dsl.synth.proposers.weighed import Weigh, places, weighed

KEYS = '{" cat": 2.5, " dog": -2, " ran": 1.5, " said": -1.5}'
QUERIES = '{" !": 2.5, " she": 1.7, " the": -1.2}'


def design(*lines: str) -> Design:
    """Rows of a program on random texts."""
    rng = np.random.default_rng(3)
    tokens = [Tokens.from_strings([f" {x}" for x in rng.choice(WORDS, size=24)]) for _ in range(80)]
    program = Program.from_tree(parse("\n ".join(["head a causal:", *lines])))
    capture = Capture.from_arrays(tokens, [program(x)[None, None] for x in tokens], causal=True)
    return Design(capture, capture.split(0)["fit"], entries=10_000, seed=0)


@pytest.mark.parametrize(
    ("term", "variable"),
    [
        (f"1 * weight(token(k), {KEYS})", "k"),
        (f"1 * weight(token(k), {KEYS}) where q - k in 1..8", "k"),
        (f"1 * weight(token(k), {KEYS}) where punct(q)", "k"),
        (f"1 * weight(token(q), {QUERIES}) where k == q-1", "q"),
    ],
)
def test_every_token_gets_its_weight(term: str, variable: str) -> None:
    job = task(design("2 where k == 0", term))
    known = before(job, "head a causal:\n ? where k == 0")
    start = job.fit(parse("head a causal:\n ? where k == 0"))
    assert places(job, start)[0].variable == variable
    found = pool(job, [Weigh(known)])
    best = max(found, key=lambda f: (round(f.iou, 3), -f.nodes))
    assert start.iou < 0.95 and best.iou > 0.98, (start.iou, best.iou)
    literals = [n for n in best.program.walk() if isinstance(n, t.SetLiteral) and n.weights]
    weights = dict(zip(literals[0].elements, literals[0].weights or (), strict=True))
    assert len(weights) >= 2 and len(set(weights.values())) == len(weights)


def test_an_element_must_promise_something() -> None:
    job = task(design("2 where k == 0"))
    exact = job.fit(parse("head a causal:\n ? where k == 0"))
    assert exact.iou > 0.99
    assert not list(weighed(job, exact))
    assert not list(pool(job, [Weigh(before(job, "head a causal:\n ? where k == 0"))]))


@pytest.mark.parametrize(
    ("term", "part", "tokens"),
    [
        (f"1 * weight(token(k), {KEYS})", 'token(k) in {" cat", " ran"}', KEYS),
        (
            f"1 * weight(token(q), {QUERIES}) where k == q-1",
            'k == q-1 and token(q) in {" !", " the"}', QUERIES,
        ),
    ],
)  # fmt: skip
def test_a_set_that_is_there_is_opened_and_extended(term: str, part: str, tokens: str) -> None:
    job = task(design("2 where k == 0", term))
    half = job.fit(parse(f"head a causal:\n 2 where k == 0\n ? where {part}"))
    best = min((f for f in weighed(job, half) if f.iou > 0.98), key=lambda f: f.nodes)
    sets = [x for x in best.program.walk() if isinstance(x, t.SetLiteral)]
    assert half.iou < 0.95
    elements = {x for one in sets for x in one.elements}
    assert len(elements) >= 3 and all(f'"{x}"' in tokens for x in elements)


def test_larger_programs_and_those_that_no_fit_is_for_are_passed_over() -> None:
    job = task(design("2 where k == 0", f"1 * weight(token(k), {KEYS})"))
    large = "head a causal:\n" + "\n".join(
        f" {0.01 * (i + 1)} where k == q-{i + 1}" for i in range(24)
    )
    assert not list(pool(job, [Weigh(before(job, large))]))


def test_it_ends_with_the_evaluations() -> None:
    job = task(design("2 where k == 0", f"1 * weight(token(k), {KEYS})"), evals=4)
    pool(job, [Weigh(before(job, "head a causal:\n ? where k == 0"))])
    assert job.evals <= 4
