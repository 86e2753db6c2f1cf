"""The final refit: small programs fitted once more on many rows are better on those, and no larger."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.synth.design import Design
from attn_dsl.synth.final_refit import SMALL, refitted
from attn_dsl.synth.proposer import HeadTask
from attn_dsl.synth.session import MORE, Settings

WORDS = "the cat saw a dog . Tom and Mia ran to park , she said hi him ! birds sang".split()
TRUE = """head x causal:
 2 where k == q-1
 -0.2 * (q - k)
 1 * weight(token(k), {" cat": 1.5, " dog": -1, " Tom": 0.8, " ran": 2})
 1.5 where text(k-1) == text(q)
"""
STRUCTURE = """head x causal:
 2 where k == q-1
 -0.1 * (q - k)
 1 * weight(token(k), {" cat": 1, " dog": -2, " Tom": 0.5, " ran": 1})
"""


@pytest.fixture(scope="module")
def capture() -> Capture:
    rng = np.random.default_rng(3)
    texts = [Tokens.from_strings([" " + w for w in rng.choice(WORDS, size=30)]) for _ in range(80)]
    program, found = Program.from_tree(parse(TRUE)), []
    for text in texts:
        matrix = np.asarray(program(text), dtype=np.float64)
        drawn = np.tril(rng.standard_gamma(np.maximum(matrix * 100, 1e-9)))
        found.append((drawn / drawn.sum(1, keepdims=True))[None, None].astype(np.float32))
    return Capture.from_arrays(texts, found, causal=True)


def tasks(capture: Capture) -> tuple[HeadTask, HeadTask]:
    """Make a task with few rows and one with all."""
    texts = capture.split(0)["fit"]
    return tuple(  # type: ignore[return-value]
        HeadTask(
            Design(capture, texts, entries, seed=0), 0, 0, seed=0, max_nodes=200, max_evals=100
        )
        for entries in (1_200, 100_000)
    )


def test_a_refitted_program_is_better_on_the_many_rows_and_elsewhere(capture: Capture) -> None:
    few, many = tasks(capture)
    before = few.polish(few.fit(parse(STRUCTURE)))
    after = refitted(few, many.design, [before])[0]
    assert few.design.entries < 0.1 * many.design.entries
    assert many.measured(after.program).iou > many.measured(before.program).iou + 1e-4
    assert after.nodes == before.nodes
    assert after.iou == pytest.approx(few.measured(after.program).iou)
    assert after.proposer == before.proposer
    unseen = Design(capture, capture.split(0)["test"], 100_000, seed=0)
    other = HeadTask(unseen, 0, 0, seed=0, max_nodes=200, max_evals=100)
    assert other.measured(after.program).iou > other.measured(before.program).iou


def test_its_weights_are_rounded(capture: Capture) -> None:
    few, many = tasks(capture)
    after = refitted(few, many.design, [few.polish(few.fit(parse(STRUCTURE)))])[0]
    short = many.measured(after.program).iou
    weights = [float(w) for w in after.program.weights]
    assert [float(f"{w:.2g}") for w in weights] == weights
    start = [w * 1.0001 for w in weights]
    free = refitted(few, many.design, [few.measured(after.program.with_weights(start))])[0]
    assert many.measured(free.program).iou - short < 0.003


def test_large_programs_and_those_without_weights_are_left_as_they_are(capture: Capture) -> None:
    few, many = tasks(capture)
    uniform = few.fit(few.empty())
    assert refitted(few, many.design, [uniform])[0] is uniform
    terms = tuple(t.Where(1.0, t.Compare("==", t.Position("k"), t.Integer(i))) for i in range(40))
    large = few.measured(dataclasses.replace(few.empty(), terms=terms))
    assert large.nodes > SMALL
    assert refitted(few, many.design, [large])[0] is large


def test_with_more_effort_more_rows_are_looked_at() -> None:
    assert Settings((), entries=1000).sampled == 1000
    assert Settings((), entries=1000, effort=2).sampled == int(MORE * 1000)
