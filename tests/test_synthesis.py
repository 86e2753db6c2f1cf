"""The search: exact weights, honest gains, sets that are found again, fronts that are fronts."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import check
from attn_dsl.dsl.library import library
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import show
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.controls import NAMES, control_scores, positional_grid
from attn_dsl.eval.results import HeadResult
from attn_dsl.eval.split import Split
from attn_dsl.synth import vocabulary
from attn_dsl.synth import weights as w
from attn_dsl.synth.design import Design
from attn_dsl.synth.gains import Packed, best_set, gain, key_moments, row_moments
from attn_dsl.synth.nearest import NearestPrograms
from attn_dsl.synth.pareto import choose, front, gains_by_node, thinned
from attn_dsl.synth.proposer import HeadTask, pool
from attn_dsl.synth.proposers import registry
from attn_dsl.synth.proposers.greedy import Greedy
from attn_dsl.synth.proposers.library import Library
from attn_dsl.synth.proposers.registry import DEFAULT
from attn_dsl.synth.rewrite import name_sets
from attn_dsl.synth.search import Search
from attn_dsl.synth.session import Session, Settings

WORDS = "the cat saw a dog . Tom and Mia ran to the park , and she said hi to him !".split()
TRUE = {
    (0, 0): "head a causal:\n 4 where text(k-1) == text(q)\n 2 where k == 0",
    (0, 1): 'head b causal:\n 3 where token(k) in {" cat", " dog", " park"}\n -1 * log(1 + q - k)',
    (1, 0): "head c causal:\n 2.5 where k == q-1 and punct(q)\n 1.5 where word(k) in Pronoun",
    (1, 1): "head d causal:\n",
}


def texts(count: int, n: int = 24) -> list[Tokens]:
    rng = np.random.default_rng(5)
    return [
        Tokens.from_strings([" " + word for word in rng.choice(WORDS, size=n)])
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def capture() -> Capture:
    """Attention of a model whose heads are programs, so that the right answer is known."""
    tokens = texts(60)
    programs = {pair: Program.from_tree(parse(source)) for pair, source in TRUE.items()}
    attention = [
        np.stack([np.stack([programs[layer, head](x) for head in (0, 1)]) for layer in (0, 1)])
        for x in tokens
    ]
    return Capture.from_arrays(tokens, attention, causal=True)


@pytest.fixture(scope="module")
def design(capture: Capture) -> Design:
    return Design(capture, capture.split(0)["fit"], entries=10_000, seed=0)


def task(design: Design, layer: int, head: int, **bounds: int) -> HeadTask:
    return HeadTask(design, layer, head, seed=0, max_nodes=200, max_evals=bounds.get("evals", 100))


def test_the_design_takes_the_rows_it_says(capture: Capture, design: Design) -> None:
    rows = design.target(0, 1)
    assert len(rows) == sum(len(r) for r in design.rows)
    np.testing.assert_allclose(np.add.reduceat(rows.actual, rows.starts[:-1]), 1, atol=1e-5)
    text, first = design.texts[0], design.rows[0]
    expected = np.concatenate([capture.matrix(text, 0, 1)[q, : q + 1] for q in first])
    np.testing.assert_allclose(rows.actual[: len(expected)], expected, atol=1e-6)
    strings = [design.symbols[int(s)] for s in design.key_symbols[: first[0] + 1]]
    assert strings == list(capture.tokens(text).strings[: first[0] + 1])


@pytest.mark.parametrize(("layer", "head"), [(0, 0), (0, 1), (1, 0)])
def test_weights_of_the_true_structure_are_found_exactly(
    design: Design, layer: int, head: int
) -> None:
    true = parse(TRUE[layer, head])
    job = task(design, layer, head)
    found, predicted = w.fit(design.planes(true), job.rows, ridge=0.0)
    np.testing.assert_allclose(found, true.weights, atol=0.02)
    assert job.rows.scores(predicted)[0] > 0.999


def test_the_fit_is_the_minimum_that_torch_finds(design: Design) -> None:
    """Newton's weights have the loss that L-BFGS on the same loss reaches, with real heads' noise."""
    job = task(design, 1, 0)
    planes = design.planes(
        parse("head x causal:\n ? where k == q-1\n ? * log(1+q-k)\n ? where k == 0")
    )
    ours, _ = w.fit(planes, job.rows, ridge=1e-3)
    x = torch.tensor(planes, dtype=torch.float64)
    a = torch.tensor(job.rows.actual, dtype=torch.float64)
    lengths = np.diff(job.rows.starts)
    row = torch.tensor(np.repeat(np.arange(len(lengths)), lengths))

    def loss(weights: torch.Tensor) -> torch.Tensor:
        scores = weights @ x
        top = torch.zeros(len(lengths), dtype=torch.float64).scatter_reduce(0, row, scores, "amax")
        mass = torch.zeros(len(lengths), dtype=torch.float64).index_add(
            0, row, (scores - top[row]).exp()
        )
        log = scores - top[row] - mass.log()[row]
        return -(a * log).sum() / len(lengths) + 0.5e-3 * (weights**2).sum()

    theirs = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([theirs], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss(theirs)
        value.backward()
        return value

    optimiser.step(closure)
    assert float(loss(torch.tensor(ours))) <= float(loss(theirs.detach())) + 1e-5


def test_polishing_a_fit_never_loses_iou_but_by_rounding(design: Design) -> None:
    job = task(design, 0, 1)
    fitted = job.fit(parse("head x causal:\n ? where k == q-1\n ? * log(1+q-k)"))
    polished = job.polish(fitted)
    assert polished.iou >= fitted.iou - 0.002
    assert all(float(f"{x:.3g}") == x for x in polished.program.weights)


def test_moments_are_their_definitions(design: Design) -> None:
    job = task(design, 0, 0)
    rng = np.random.default_rng(0)
    planes = rng.normal(size=(3, design.entries)).astype(np.float32)
    predicted = np.concatenate(
        [np.full(n, 1 / n, dtype=np.float32) for n in np.diff(design.starts)]
    )
    g = np.zeros((3, len(job.rows)), dtype=np.float32)
    h = np.zeros_like(g)
    some_truths = np.zeros(3, dtype=np.bool_)
    row_moments(planes, some_truths, design.starts, job.rows.actual, predicted, g, h)
    for r in (0, 7, len(job.rows) - 1):
        here = slice(design.starts[r], design.starts[r + 1])
        x, a, p = planes[:, here], job.rows.actual[here], predicted[here]
        np.testing.assert_allclose(g[:, r], x @ (a - p), atol=1e-4)
        np.testing.assert_allclose(h[:, r], (x**2) @ p - (x @ p) ** 2, atol=1e-4)
    mixed = np.stack([planes[0] > 0.5, planes[1], planes[2] < 0]).astype(np.float32)
    some_truths[[0, 2]] = True
    row_moments(mixed, some_truths, design.starts, job.rows.actual, predicted, g, h)
    found = Packed.of(mixed, some_truths, design.starts).row_moments(job.rows.actual, predicted)
    np.testing.assert_allclose(found[0], g, atol=1e-6)
    np.testing.assert_allclose(found[1], h, atol=1e-6)
    width = int(design.key_symbols.max()) + 1
    by_key = np.zeros((2, width))
    ones = np.ones(design.entries, np.float32)
    key_moments(
        design.key_symbols, ones, np.arange(len(job.rows)), design.starts, job.rows.actual,
        predicted, by_key[0], by_key[1],
    )  # fmt: skip
    symbol = int(design.key_symbols[0])
    plane = (design.key_symbols == symbol).astype(np.float32)[None]
    g1, h1 = np.zeros((1, len(job.rows)), np.float32), np.zeros((1, len(job.rows)), np.float32)
    row_moments(plane, np.ones(1, np.bool_), design.starts, job.rows.actual, predicted, g1, h1)
    assert by_key[0, symbol] == pytest.approx(g1.sum(), abs=1e-3)
    assert by_key[1, symbol] == pytest.approx(h1.sum(), abs=1e-3)


def test_the_best_set_is_the_best_of_all_sets() -> None:
    """Against trying every subset, on small tables."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        g, h = rng.normal(size=6) * 5, rng.gamma(2.0, size=6)
        worth, chosen = best_set(g, h, ridge=0.5, price=0.3, limit=6)
        every = [
            gain(g[list(s)].sum(), h[list(s)].sum(), 0.5) - 0.3 * len(s)
            for s in (tuple(i for i in range(6) if m >> i & 1) for m in range(1, 64))
        ]
        assert worth == pytest.approx(max(0.0, *every), rel=0.05, abs=0.3)
        assert len(set(chosen.tolist())) == len(chosen)


@pytest.mark.parametrize(("layer", "head"), [(0, 0), (0, 1), (1, 0)])
def test_the_search_finds_what_the_head_is_made_of(capture: Capture, layer: int, head: int) -> None:
    session = Session(capture, Settings(DEFAULT, entries=10_000, max_evals=80))
    numbers = [layer * 2 + head]
    scores = control_scores(capture, session.texts, numbers)
    controls = {name: (float(x[0, 0]), float(x[1, 0])) for name, x in scores.items()}
    result, candidates = Search(session).head(layer, head, lambda: controls)
    true = t.nodes(parse(TRUE[layer, head]))
    assert result.test["iou"].mean > 0.97
    assert result.nodes <= 3 * true
    assert result.test["iou"].mean > result.best_control[1]
    assert len(candidates) == len({c.program for c in candidates})
    sizes = [row.nodes for row in result.front]
    assert sizes == sorted(set(sizes))
    assert sum(row.chosen for row in result.front) == 1
    again = Split(capture, session.texts["test"]).compare([parse(result.program)], numbers[0])
    assert again.ious.mean() == pytest.approx(result.test["iou"].mean, abs=1e-6)


def test_invented_sets_are_the_true_ones(design: Design) -> None:
    job = task(design, 0, 1)
    predicted = job.fit(parse("head x causal:\n ? * log(1 + q - k)")).predicted
    best = max(
        (c for c in Greedy().candidates(job, predicted) if any(
            isinstance(n, t.SetLiteral) for n in c.term.walk())),
        key=lambda c: c.gain,
    )  # fmt: skip
    sets = [set(n.elements) for n in best.term.walk() if isinstance(n, t.SetLiteral)]
    assert {" cat", " dog", " park"} in sets


def test_a_uniform_head_gets_the_empty_program(capture: Capture) -> None:
    session = Session(capture, Settings(DEFAULT, entries=10_000, max_evals=30))
    result, _ = Search(session).head(1, 1, lambda: {"uniform": (1.0, math.nan)})
    assert (result.nodes, result.test["iou"].mean) == (1, pytest.approx(1.0, abs=1e-5))


def test_controls_are_scored_on_the_test_texts_alone(capture: Capture) -> None:
    split = capture.split(0)
    table = control_scores(capture, split, [0, 3])
    assert tuple(table) == NAMES
    assert all(values.shape == (2, 2) for values in table.values())
    assert table["uniform"][0, 1] == pytest.approx(1.0, abs=1e-5)
    assert np.isnan(table["uniform"][1]).all()  # it has no values
    previous = Program.from_tree(parse("head p causal:\n 50 where k == q-1"))
    tokens = texts(12)
    alone = Capture.from_arrays(tokens, [previous(x)[None, None] for x in tokens], causal=True)
    by_offset = control_scores(alone, alone.split(0), [0])
    # The first query can only see itself, so 1 of 24 queries puts its weight on offset 0.
    shared = 1 + 23 / (1 + 1 / 24)
    np.testing.assert_allclose(by_offset["mean by offset"][0], shared / (48 - shared), atol=1e-3)
    np.testing.assert_allclose(by_offset["previous token"][0], 1.0, atol=1e-3)
    assert len(positional_grid(True)) == len(positional_grid(False)) == 72
    rows = capture.attention(split["test"][0], [0])
    assert rows.shape == (1, 24 * 25 // 2)


def test_every_term_of_the_vocabulary_is_valid() -> None:
    for causal in (True, False):
        visibility = "causal" if causal else "bidirectional"
        terms = vocabulary.terms(causal)
        conditions = tuple(t.Where(None, p) for p in vocabulary.conditions(causal))
        for term in (*terms, *conditions):
            check(t.Head("x", visibility, "softmax", (term,)))
        assert len(set(terms)) == len(terms)


def test_a_proposer_of_one_line_is_enough(design: Design) -> None:
    @dataclasses.dataclass(frozen=True)
    class Sinks:
        name: str = "sinks"

        def propose(self, job: HeadTask) -> Iterator[t.Head]:
            yield dataclasses.replace(
                job.empty(), terms=parse("head x causal:\n ? where k == 0").terms
            )

    found = pool(
        task(design, 0, 0),
        [Sinks(), Library(NearestPrograms(design), [*library("causal").values()], most=3)],
    )
    assert found[0].proposer == "sinks"
    assert all(weight is not None for f in found for weight in f.program.weights)
    assert len(found) >= 3


def test_a_head_for_which_nobody_suggests_anything_is_uniform(design: Design) -> None:
    (only,) = pool(task(design, 0, 0), [])
    assert (only.program, only.proposer) == (task(design, 0, 0).empty(), "uniform")


def test_the_pool_keeps_to_its_bounds(design: Design) -> None:
    job = task(design, 0, 0, evals=5)
    pool(job, [Greedy()])
    assert job.evals == 5
    small = HeadTask(design, 0, 0, seed=0, max_nodes=9, max_evals=50)
    assert all(f.nodes <= 9 for f in pool(small, [Greedy()]))
    late = HeadTask(design, 0, 0, seed=0, max_nodes=90, max_evals=50, deadline=0.0)
    assert len(pool(late, [Greedy()])) == 1
    assert late.late


def test_what_was_cut_short_is_named_and_alone_begins_again(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Slow:
        name: str = "slow"

        def propose(self, job: HeadTask) -> Iterator[t.Head]:
            yield job.empty()
            job.deadline = 0.0
            assert job.spent

    slow = registry.Registration("slow", lambda session: Slow(), lambda s: registry.Cost(1.0, 1))
    monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, slow))
    settings = Settings(("library", "slow", "migration"), entries=10_000, max_evals=30)
    search = Search(Session(capture, settings))
    before, _ = search.head(0, 0, dict, time.monotonic() + 1000)
    assert before.cut_short and [*before.unfinished] == ["slow"]
    assert before.unfinished["slow"] >= 0.0
    assert [p.name for p in search._asked(before)] == ["slow", "migration"]
    whole = dataclasses.replace(before, unfinished={})
    assert [p.name for p in search._asked(whole)] == ["migration"]
    assert HeadResult.from_json(before.to_json()).to_json() == before.to_json()


def test_large_sets_get_names_and_small_ones_stay() -> None:
    elements = ", ".join(f'"w{i}"' for i in range(7))
    program = parse(
        f'head x causal:\n 1 where token(k) in {{{elements}}} and token(q) in {{"a", "b"}}\n'
        f" 2 where token(k) in {{{elements}}}"
    )
    named = name_sets(program, 5)
    assert [d.name for d in named.sets] == ["Keys1"]
    assert show(named).count("Keys1") == 3
    assert parse(show(named)) == named


def test_a_front_is_thinned_where_it_is_dense() -> None:
    rows = [(1, 0.2), (4, 0.4), (5, 0.41), (7, 0.415), (9, 0.5), (30, 0.501)]
    for count, sizes in ((6, [1, 4, 5, 7, 9, 30]), (4, [1, 4, 9, 30]), (1, [1, 30])):
        assert [size for size, _ in thinned(rows, count, lambda x: x[1])] == sizes
    assert thinned([], 3) == []


def test_fronts_and_choices() -> None:
    rows = front(
        [(9, 0.4), (5, 0.5), (9, 0.7), (20, 0.8), (30, 0.8)], lambda x: x[0], lambda x: x[1]
    )
    assert rows == [(5, 0.5), (9, 0.7), (20, 0.8)]
    assert choose([0.3, 0.69, 0.7], [3, 9, 40], price=0.001) == 1
    assert choose([0.3, 0.69, 0.7], [3, 9, 40], price=0.0) == 2
    assert gains_by_node([0.5, 0.75], [1, 3])[1] == pytest.approx(np.log(2) / 2, abs=1e-6)
