"""The graded proposer: factors are what they say, and graded sets are found again on many rows."""

from functools import lru_cache

import numpy as np
import pytest

from attn_dsl import parse as program_of
from attn_dsl.compiler.program import Program
from attn_dsl.dsl.check import check
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import show
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.dsl.tree import Head, Product, Where, nodes
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.set_parameters import SetProgram
from attn_dsl.eval.shipped import stories_path
from attn_dsl.eval.texts import read_texts
from attn_dsl.synth.design import Design
from attn_dsl.synth.distance_bins import bins, condition
from attn_dsl.synth.graded.factors import propose
from attn_dsl.synth.graded.large_sample import LargeSample
from attn_dsl.synth.graded.proposer import SIZES, Graded
from attn_dsl.synth.nearest import NearestPrograms
from attn_dsl.synth.proposer import HeadTask
from attn_dsl.synth.rewrite import name_sets
from attn_dsl.synth.sparse_design import SparseDesign

TEXTS = [story.split()[:40] for story in read_texts(str(stories_path()))[:60]]
TOKENS = [Tokens.from_strings([words[0], *(" " + w for w in words[1:])]) for words in TEXTS]

CAUSAL = """
set Keys = {" the": 1.5, " a": 1.2, " was": -1, " and": 0.7, " to": -0.6}
set Names = {" Lily": 2, " Tim": 1.5, " he": 1, " she": 1}
set Verbs = {" was": 1.5, " said": 1, " had": 1.2, " went": 0.8}
head truth causal softmax:
    1 * weight(token(k), Keys)
    1.4 * weight(token(q), Verbs) * weight(token(k), Names)
    -0.6 * log(1 + q - k)
"""
BOTH = CAUSAL.replace("causal", "bidirectional").replace("log(1 + q - k)", "log(1 + abs(q - k))")


def capture_of(source: str) -> Capture:
    """Return the attention of a program on the stories, as of a model with one head."""
    program: Program = program_of(source)
    matrices = [program(tokens)[None, None] for tokens in TOKENS]
    return Capture.from_arrays(TOKENS, matrices, causal="causal" in source)


@lru_cache(maxsize=4)
def sample_of(source: str, entries: int = 10**9) -> LargeSample:
    capture = capture_of(source)
    return LargeSample(Design(capture, capture.split(0)["fit"], 8_000, 0), entries, 0)


def task_of(sample: LargeSample, most: int = 600) -> HeadTask:
    return HeadTask(sample.small, 0, 0, seed=0, max_nodes=most, max_evals=1_000)


@pytest.mark.parametrize("causal", [True, False])
def test_bins_cover_every_distance_once(causal: bool) -> None:
    for distance in range(0 if causal else -200, 201):
        assert sum(first <= distance <= last for first, last in bins(causal)) == 1


@pytest.mark.parametrize("source", [CAUSAL, BOTH], ids=["causal", "bidirectional"])
def test_factors_of_every_kind_raise_the_likelihood_and_can_be_written(source: str) -> None:
    sample = sample_of(source)
    task, rows = task_of(sample), sample.design.target(0, 0)
    empty = SetProgram(task.empty())
    design = SparseDesign(sample.planes, rows, empty)
    before = design.value(np.zeros(0), 0.0)
    factors = propose(sample, design.residual, design.predicted, 1.0, 1.0)
    assert [f.gain for f in factors] == sorted((f.gain for f in factors), reverse=True)
    values = [f.term.written(f.weights).value for f in factors]  # type: ignore[union-attr]
    assert len(factors) == 3 and any(isinstance(x, Product) for x in values)
    for factor in factors:
        one = design.with_program(SetProgram(task.empty(), (), (factor.term,)))
        assert one.value(factor.weights, 0.0) > before
        program = name_sets(one.program.written(factor.weights), 12)
        check(program)
        assert parse(show(program)) == program
        one.value(one.program.rounded(factor.weights), 0.0)
        measured = task.measured(program).predicted
        np.testing.assert_allclose(one.predicted[sample.inside], measured, atol=1e-4)


@pytest.mark.parametrize("source", [CAUSAL, BOTH], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("most", [200, 600])
def test_graded_sets_are_found_again(source: str, most: int) -> None:
    sample = sample_of(source)
    task = task_of(sample, most)
    found = list(Graded(sample, rounds=8).propose(task))
    assert max(f.iou for f in found) > 0.93
    for fitted in found:
        check(fitted.program)
        assert fitted.nodes == nodes(fitted.program)
        assert fitted.settled
    sizes = [f.nodes for f in found]
    assert min(sizes) <= SIZES[-3]
    assert sizes == sorted(sizes, reverse=True)


def test_the_same_seed_gives_the_same_programs() -> None:
    once, again = (
        [f.program for f in Graded(sample, rounds=3).propose(task_of(sample))]
        for sample in (sample_of(CAUSAL), sample_of.__wrapped__(CAUSAL))
    )
    assert once == again


def test_large_sets_get_names() -> None:
    weights = ", ".join(f'"w{i}": {i + 1}' for i in range(13))
    source = f"head a causal:\n 1 * weight(token(k), {{{weights}}})\n"
    program = name_sets(parse(source + f" 1 * weight(token(q), {{{weights}}})"), 12)
    assert [d.name for d in program.sets] == ["Keys1", "Queries1"]
    few = parse('head a causal:\n 1 * weight(token(k), {"a": 1})')
    assert name_sets(few, 12) == few


def test_the_large_sample_has_the_rows_of_the_small_one() -> None:
    sample = sample_of(CAUSAL, entries=16_000)
    assert sample.small.entries < sample.design.entries
    keys = sample.design.key_symbols[sample.inside]
    same = [sample.design.symbols[int(s)] for s in keys]
    assert same == [sample.small.symbols[int(s)] for s in sample.small.key_symbols]
    actual = sample.design.target(0, 0).actual[sample.inside]
    assert np.array_equal(actual, sample.small.target(0, 0).actual)


def test_the_nearest_program_is_the_program_of_the_head() -> None:
    sample = sample_of(CAUSAL)
    nearest = NearestPrograms(sample.small)
    others = ("head a causal:\n    3 where k == 0\n", CAUSAL, "head b causal:\n")
    assert nearest.rank(0, others)[0] == CAUSAL
    assert nearest.rank(0, ()) == []


@pytest.mark.parametrize("causal", [True, False])
def test_every_interval_of_bins_can_be_written(causal: bool) -> None:
    tokens = Tokens.from_strings([f" w{i}" for i in range(90)])
    gap = np.subtract.outer(np.arange(90), np.arange(90))
    visible = gap >= 0 if causal else np.ones_like(gap, dtype=bool)
    found = bins(causal)
    for first in range(len(found)):
        for last in range(first, len(found)):
            predicate = condition(first, last + 1, causal)
            if predicate is None:
                assert (first, last) == (0, len(found) - 1)
                continue
            kind = "causal" if causal else "bidirectional"
            program = Head("x", kind, terms=(Where(50.0, predicate),))
            rows = Program.from_tree(program)(tokens)
            held = visible & (found[first][0] <= gap) & (gap <= found[last][1])
            some = held.any(1)
            expected = held[some] / held[some].sum(1, keepdims=True)
            np.testing.assert_allclose(rows[some], expected, atol=1e-5)
