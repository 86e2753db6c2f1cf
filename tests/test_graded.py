"""Graded sets: cells, factors, their gradient, the ascent, and the programs written from them."""

from functools import lru_cache

import numpy as np
import pytest

from attn_dsl import parse as program_of
from attn_dsl.compiler.program import Program
from attn_dsl.dsl.check import check
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import show
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.dsl.tree import Head, Where, nodes
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.shipped import stories_path
from attn_dsl.eval.texts import read_texts
from attn_dsl.synth.design import Design
from attn_dsl.synth.graded.ascent import climb
from attn_dsl.synth.graded.cells import CHANNELS, bands
from attn_dsl.synth.graded.climb import Ascent
from attn_dsl.synth.graded.factors import Factor, Model
from attn_dsl.synth.graded.proposer import SIZES, Graded, write
from attn_dsl.synth.graded.proposer import _condition as condition_of
from attn_dsl.synth.graded.tables import gradients
from attn_dsl.synth.graded.wide import Wide
from attn_dsl.synth.nearest import NearestPrograms
from attn_dsl.synth.proposer import HeadTask

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
def wide_of(source: str, entries: int = 10**9) -> Wide:
    capture = capture_of(source)
    return Wide(Design(capture, capture.split(0)["fit"], 8_000, 0), entries, 0)


def task_of(wide: Wide) -> HeadTask:
    return HeadTask(wide.small, 0, 0, seed=0, max_nodes=600, max_evals=1_000)


def random_factor(wide: Wide, seed: int, channel: int, slope: bool, free: tuple) -> Factor:
    """Return a factor with weights as a program can have them."""
    rng = np.random.default_rng(seed)
    cells = wide.cells
    count, width = cells.starts.shape[1] - 1, len(cells.symbols)
    sides = []
    for size, moves in zip((count, width, width), free, strict=True):
        drawn = rng.integers(-20, 21, size) / 10 * (rng.random(size) < 0.5)
        sides.append(drawn if moves else np.ones(size))
    for side in sides[1:]:
        side[[i for i, symbol in enumerate(cells.symbols) if not symbol]] = 0.0
    for side, moves in zip(sides[1:], free[1:], strict=True):
        if not moves:
            side[:] = 1.0
    return Factor(1.0, channel, slope, tuple(sides), free)


@pytest.mark.parametrize("source", [CAUSAL, BOTH], ids=["causal", "bidirectional"])
def test_bands_cover_every_distance_once(source: str) -> None:
    causal = source is CAUSAL
    for distance in range(0 if causal else -200, 201):
        assert sum(first <= distance <= last for first, last in bands(causal)) == 1


@pytest.mark.parametrize("source", [CAUSAL, BOTH], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("channel", range(len(CHANNELS)))
@pytest.mark.parametrize(
    ("slope", "free"),
    [
        (False, (False, True, True)), (False, (True, False, True)), (False, (True, True, False)),
        (True, (False, False, True)), (True, (False, True, False)),
    ],
)  # fmt: skip
def test_a_factor_and_its_program_predict_the_same(
    source: str, channel: int, slope: bool, free: tuple
) -> None:
    wide = wide_of(source)
    model = Model(wide.cells)
    model.add_factor(random_factor(wide, 1, channel, slope, free))
    model.add_term(0)
    model.weights[0] = 1.5
    ascent = Ascent(wide, 0, 0, ridge=1.0)
    ascent.sweep(model, 0.0)
    task = task_of(wide)
    program = write(model, wide.cells, task.empty())
    measured = task.measured(program)
    # A program has two digits of each weight; these need no more, but for the scale of products.
    assert np.abs(ascent.predicted[wide.inside] - measured.predicted).max() < 0.02
    check(program)
    assert parse(show(program)) == program


@pytest.mark.parametrize("slope", [False, True])
def test_a_sweep_leaves_out_channels_without_factors_unless_it_is_everywhere(slope: bool) -> None:
    wide = wide_of(CAUSAL)
    model = Model(wide.cells)
    model.add_factor(random_factor(wide, 2, 1, slope, (False, True, True)))
    ascent = Ascent(wide, 0, 0, ridge=1.0)
    objective, _ = ascent.sweep(model, 0.9)
    some, predicted = ascent.gradient.copy(), ascent.predicted.copy()
    assert ascent.sweep(model, 0.9, everywhere=True)[0] == objective
    assert np.array_equal(ascent.predicted, predicted)
    inside = np.zeros_like(some, dtype=bool)
    inside[wide.cells.starts[1, 0] : wide.cells.starts[1, -1], : 1 + slope] = True
    assert np.array_equal(some[inside], ascent.gradient[inside])
    assert not some[~inside].any() and ascent.gradient[~inside].any()


@pytest.mark.parametrize("mix", [0.0, 0.9])
def test_the_gradient_is_that_of_the_objective(mix: float) -> None:
    wide = wide_of(CAUSAL)
    model = Model(wide.cells)
    model.add_factor(random_factor(wide, 2, 0, False, (True, False, True)))
    model.add_factor(random_factor(wide, 3, 1, False, (False, True, True)))
    model.add_term(3)
    for side in model.sides:
        side *= 0.3
    ascent = Ascent(wide, 0, 0, ridge=1.0)
    _, by_term = ascent.sweep(model, mix)
    sides = gradients(model, ascent.gradient)

    def slope(array: np.ndarray, at: tuple) -> float:
        step = np.float32(0.01)
        array[at] += step
        up = ascent.sweep(model, mix)[0]
        array[at] -= 2 * step
        down = ascent.sweep(model, mix)[0]
        array[at] += step
        return (up - down) / (2 * float(step))

    assert by_term[0] == pytest.approx(slope(model.weights, (0,)), rel=0.05, abs=0.5)
    for side, gradient, mask in zip(model.sides, sides, model.masks(), strict=True):
        places = np.argwhere(mask)
        strongest = sorted(map(tuple, places), key=lambda at: -abs(gradient[at]))[:3]
        for at in strongest:
            assert gradient[at] == pytest.approx(slope(side, at), rel=0.05, abs=0.5)


def test_the_worth_of_a_part_is_what_the_rows_share_less_without_it() -> None:
    wide = wide_of(CAUSAL)
    model = Model(wide.cells)
    model.add_factor(random_factor(wide, 2, 0, False, (True, False, True)))
    model.add_factor(random_factor(wide, 3, 0, True, (False, True, True)))
    model.add_term(3)
    model.weights[0] = 0.7
    for side in model.sides:
        side *= 0.3
    ascent = Ascent(wide, 0, 0, ridge=1.0)
    ascent.sweep(model, 0.0)
    before = ascent.shared
    terms, sides = ascent.worths(model)

    def lost(array: np.ndarray, at: tuple) -> float:
        kept, array[at] = array[at], 0.0
        ascent.sweep(model, 0.0)
        array[at] = kept
        return before - ascent.shared

    assert terms[0] == pytest.approx(lost(model.weights, (0,)), abs=0.05)
    for number, (side, worth, mask) in enumerate(
        zip(model.sides, sides, model.masks(), strict=True)
    ):
        strongest = sorted(map(tuple, np.argwhere(mask)), key=lambda at: -abs(worth[at]))[:4]
        for at in strongest:
            # That of a query is exact, of what is only a part of a row it is to first order.
            near = 0.02 if number == 1 else 0.35
            assert worth[at] == pytest.approx(lost(side, at), rel=near, abs=0.1)


def test_climb_reaches_the_top_of_a_bent_ridge() -> None:
    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        a, b = x
        top = -((1 - a) ** 2) - 100 * (b - a * a) ** 2
        return top, np.array([2 * (1 - a) + 400 * a * (b - a * a), -200 * (b - a * a)])

    found = climb(value, np.array([-1.2, 1.0]), np.array([800.0, 200.0]), 200)
    assert found == pytest.approx([1.0, 1.0], abs=1e-3)


def test_climb_never_ends_below_its_start() -> None:
    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        return -float(np.abs(x).sum()), np.sign(x) * 5  # A gradient that points the wrong way.

    start = np.array([1.0, -2.0])
    assert value(climb(value, start, np.ones(2), 20))[0] >= value(start)[0]


@pytest.mark.parametrize("source", [CAUSAL, BOTH], ids=["causal", "bidirectional"])
def test_graded_sets_are_found_again(source: str) -> None:
    wide = wide_of(source)
    task = task_of(wide)
    found = list(Graded(wide, rounds=8).propose(task))
    assert max(f.iou for f in found) > 0.95
    for fitted in found:
        check(fitted.program)
        assert fitted.nodes == nodes(fitted.program)
        assert fitted.settled
    sizes = [f.nodes for f in found]
    assert min(sizes) <= SIZES[-3]
    assert sizes == sorted(sizes, reverse=True)


def test_the_same_seed_gives_the_same_programs() -> None:
    once, again = (
        [f.program for f in Graded(wide, rounds=3).propose(task_of(wide))]
        for wide in (wide_of(CAUSAL), wide_of.__wrapped__(CAUSAL))
    )
    assert once == again


def test_the_wide_design_has_the_rows_of_the_small_one() -> None:
    wide = wide_of(CAUSAL, entries=16_000)
    assert wide.small.entries < wide.design.entries
    keys = wide.design.key_symbols[wide.inside]
    same = [wide.design.symbols[int(s)] for s in keys]
    assert same == [wide.small.symbols[int(s)] for s in wide.small.key_symbols]
    actual = wide.design.target(0, 0).actual[wide.inside]
    assert np.array_equal(actual, wide.small.target(0, 0).actual)


def test_the_nearest_program_is_the_program_of_the_head() -> None:
    wide = wide_of(CAUSAL)
    nearest = NearestPrograms(wide.small)
    others = ("head a causal:\n    3 where k == 0\n", CAUSAL, "head b causal:\n")
    assert nearest.rank(0, others)[0] == CAUSAL
    assert nearest.rank(0, ()) == []


@pytest.mark.parametrize("causal", [True, False])
def test_every_interval_of_bands_can_be_written(causal: bool) -> None:
    tokens = Tokens.from_strings([f" w{i}" for i in range(90)])
    gap = np.subtract.outer(np.arange(90), np.arange(90))
    visible = gap >= 0 if causal else np.ones_like(gap, dtype=bool)
    found = bands(causal)
    for first in range(len(found)):
        for last in range(first, len(found)):
            condition = condition_of(first, last, causal)
            if condition is None:
                assert (first, last) == (0, len(found) - 1)
                continue
            kind = "causal" if causal else "bidirectional"
            program = Head("x", kind, terms=(Where(50.0, condition),))
            rows = Program.from_tree(program)(tokens)
            held = visible & (found[first][0] <= gap) & (gap <= found[last][1])
            some = held.any(1)
            expected = held[some] / held[some].sum(1, keepdims=True)
            np.testing.assert_allclose(rows[some], expected, atol=1e-5)
