"""The search: exact weights, honest gains, sets that are found again, fronts that are fronts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from attn_dsl import fit
from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import check
from attn_dsl.dsl.library import library
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import show, show_term
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.controls import control_scores, positional_grid
from attn_dsl.eval.results import CONTROLS
from attn_dsl.eval.run import Run
from attn_dsl.eval.split import Split
from attn_dsl.eval.term_scores import Planes
from attn_dsl.synth import search_terms
from attn_dsl.synth import weights as w
from attn_dsl.synth.design import Design
from attn_dsl.synth.gains import moments
from attn_dsl.synth.pareto import choose, front, gains_by_node, thinned
from attn_dsl.synth.proposer import HeadTask, pool
from attn_dsl.synth.proposers.library import Library
from attn_dsl.synth.pruning import curvature, kept, trim
from attn_dsl.synth.rewrite import bare
from attn_dsl.synth.search import Search
from attn_dsl.synth.session import Session, Settings
from attn_dsl.synth.sparse_design import SparseDesign

WORDS = "the cat saw a dog . Tom and Mia ran to the park , and she said hi to him !".split()
TRUE = {
    (0, 0): "head a causal:\n 4 where text(k-1) == text(q)\n 2 where k == 0",
    (0, 1): 'head b causal:\n 3 where token(k) in {" cat", " dog", " park"}\n -1 * log(1 + q - k)',
    (1, 0): "head c causal:\n 2.5 where k == q-1 and punct(q)\n 1.5 where word(k) in Pronoun",
    (1, 1): "head d causal:\n",
}
LIBRARY = [one.program for one in library("causal").values() if not one.measured]


def texts(count: int, n: int = 24) -> list[Tokens]:
    rng = np.random.default_rng(5)
    return [Tokens.from_strings([" " + word for word in rng.choice(WORDS, size=n)]) for _ in range(count)]


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
def test_weights_of_the_true_structure_are_found_exactly(design: Design, layer: int, head: int) -> None:
    true = parse(TRUE[layer, head])
    job = task(design, layer, head)
    found, predicted = w.fit_weights(design.planes(true), job.rows, ridge=0.0)
    np.testing.assert_allclose(found, true.weights, atol=0.02)
    assert job.rows.scores(predicted)[0] > 0.999


def test_the_fit_is_the_minimum_that_torch_finds(design: Design) -> None:
    """Newton's weights have the loss that L-BFGS on the same loss reaches, with real heads' noise."""
    job = task(design, 1, 0)
    planes = design.planes(parse("head x causal:\n ? where k == q-1\n ? * log(1+q-k)\n ? where k == 0"))
    ours, _ = w.fit_weights(planes, job.rows, ridge=1e-3)
    x = torch.tensor(planes, dtype=torch.float64)
    a = torch.tensor(job.rows.actual, dtype=torch.float64)
    lengths = np.diff(job.rows.starts)
    row = torch.tensor(np.repeat(np.arange(len(lengths)), lengths))

    def loss(weights: torch.Tensor) -> torch.Tensor:
        scores = weights @ x
        top = torch.zeros(len(lengths), dtype=torch.float64).scatter_reduce(0, row, scores, "amax")
        mass = torch.zeros(len(lengths), dtype=torch.float64).index_add(0, row, (scores - top[row]).exp())
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


def test_terms_that_say_the_same_go_first(design: Design) -> None:
    """Of terms whose weights cancel none matters, however much a program loses without it alone."""
    source = "head x causal:\n 20 where k == 0\n -18 where k <= 0\n 2.5 where k == q-1 and punct(q)"
    job, program = task(design, 1, 0), parse(source)
    planes = SparseDesign.of(design, job.rows, program)
    x = np.array(program.weights)
    left, moved = kept(program.terms, x, planes.losses(x), curvature(planes), 11)
    assert len(left) == 2 and program.terms[2] in left
    assert moved[0] == pytest.approx(2.0, abs=0.05)


def test_trimming_leaves_out_what_is_not_worth_its_nodes(design: Design) -> None:
    job, true = task(design, 1, 0), parse(TRUE[1, 0])
    more = parse(TRUE[1, 0] + "\n 0.02 where k == 1\n 0.01 * log(1 + k)")

    def score(programs: Sequence[t.Head]) -> np.ndarray:
        return np.array([job.measured(one).iou for one in programs])

    smaller = trim(job, more, score, price=0.001)
    assert smaller is not None
    assert {bare(term) for term in smaller.terms} == {bare(term) for term in true.terms}
    np.testing.assert_allclose(smaller.weights, true.weights, atol=0.1)
    assert trim(job, smaller, score, price=0.001) is None


def test_moments_are_their_definitions(design: Design) -> None:
    job = task(design, 0, 0)
    rng = np.random.default_rng(0)
    planes = rng.normal(size=(3, design.entries)).astype(np.float32)
    truths = np.array([True, False, True])
    planes[truths] = planes[truths] > 0.5
    widths = np.diff(design.starts)
    predicted = np.concatenate([np.full(n, 1 / n, dtype=np.float32) for n in widths])
    every = Planes(planes[truths].astype(np.uint8), planes[~truths])
    residual, numbers = job.rows.actual - predicted, np.array([-2, 0, -3])
    g, h = moments(every, numbers, design.starts, residual, predicted)
    mean = np.add.reduceat(planes * predicted, design.starts[:-1], axis=1)
    square = np.add.reduceat(planes**2 * predicted, design.starts[:-1], axis=1)
    np.testing.assert_allclose(g, planes @ (job.rows.actual - predicted), rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(h, (square - mean**2).sum(1), rtol=1e-4)


@pytest.fixture(scope="module")
def run(capture: Capture, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    return fit(capture=capture, out=out, max_evals=80, jobs=1)


@pytest.mark.parametrize(
    ("place", "least", "nodes"), [(0, 0.97, 33), (1, 0.7, 80), (2, 0.9, 48), (3, 0.9999, 1)]
)
def test_the_search_finds_what_a_head_is_made_of(
    run: Run, capture: Capture, place: int, least: float, nodes: int
) -> None:
    result = run.results[place]
    assert result.test["iou"].mean > least
    assert result.nodes <= nodes
    assert result.test["iou"].mean > result.best_control[1] - 1e-9
    sizes = [row.nodes for row in result.front]
    assert sizes == sorted(set(sizes))
    assert sum(row.chosen for row in result.front) == 1
    split = Split(capture, capture.split(0)["test"])
    again = split.compare([parse(result.program, resolve=run.resolve)], place)
    assert again.ious.mean() == pytest.approx(result.test["iou"].mean, abs=1e-6)


def test_more_effort_searches_more_samples_of_rows(capture: Capture) -> None:
    def search(effort: int, entries: int) -> Search:
        return Search(Session(capture, Settings(("library",), entries=entries, effort=effort)))

    once, thrice = search(1, 2000), search(3, 2000)
    samples = [session.design.queries.tolist() for session, _ in thrice.samples]
    assert samples[0] == once.session.design.queries.tolist()
    assert len({*map(tuple, samples)}) == 3
    assert len(search(3, 20_000).samples) == 1  # all rows there are
    result, candidates = once.head(0, 1, (0, 1))
    more, further = thrice.head(0, 1, (0, 1))
    assert further[: len(candidates)] == candidates and more.evals == 3 * result.evals
    assert max(row.score for row in more.front) >= max(row.score for row in result.front)
    exact, _ = thrice.head(1, 1, (0, 1))
    assert exact.evals == once.head(1, 1, (0, 1))[0].evals  # nothing better is looked for


def test_controls_are_scored_on_the_test_texts_alone(capture: Capture) -> None:
    split = capture.split(0)
    table = control_scores(capture, split, [0, 3])
    assert tuple(table) == CONTROLS
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
        terms = search_terms.terms(causal)
        for term in terms:
            check(t.Head("x", visibility, "softmax", (term,)))
        assert len(set(terms)) == len(terms)


@pytest.mark.parametrize("causal", [True, False])
def test_terms_of_numbers_are_empty_where_there_are_none(causal: bool) -> None:
    """So a search on texts without numbers never picks them."""
    terms = tuple(x for x in search_terms.terms(causal) if "number" in show_term(x))
    head = t.Head("numbers", "causal" if causal else "bidirectional", terms=terms)
    plan = Plan([head], Batch([Tokens.from_strings([" she", " 7", ".", " two", " 9"])]))
    planes = plan.planes([np.arange(5)])
    assert len(terms) == 4 and planes.any(axis=1).all()
    plan = Plan([head], Batch([Tokens.from_strings([" she", " ran", " ho", "me", "."])]))
    assert not plan.planes([np.arange(5)]).any()


def test_a_proposer_of_one_line_is_enough(design: Design) -> None:
    @dataclasses.dataclass(frozen=True)
    class Sinks:
        name: str = "sinks"

        def propose(self, job: HeadTask) -> Iterator[t.Head]:
            yield dataclasses.replace(job.empty(), terms=parse("head x causal:\n ? where k == 0").terms)

    found = pool(
        task(design, 0, 0),
        [Sinks(), Library(design, LIBRARY, most=3)],
    )
    assert found[0].proposer == "sinks"
    assert all(weight is not None for f in found for weight in f.program.weights)
    assert len(found) >= 3


def test_the_library_proposes_programs_with_definitions(design: Design) -> None:
    source = (
        'set Mark = {".", ","}\ndef mark(i) = text(i) in Mark\ndef level(i) = count(j <= i where mark(j))\n\n'
        "head level causal:\n    3 where level(k) == level(q)\n"
    )
    (found,) = pool(task(design, 0, 0), [Library(design, [parse(source)])])
    assert [one.name for one in found.program.functions] == ["mark", "level"]
    assert found.program.weights != (3,)
    assert parse(show(found.program)) == found.program


def test_a_head_for_which_nobody_suggests_anything_is_uniform(design: Design) -> None:
    (only,) = pool(task(design, 0, 0), [])
    assert (only.program, only.proposer) == (task(design, 0, 0).empty(), "uniform")


def test_the_pool_keeps_to_its_bounds(design: Design) -> None:
    known = Library(design, LIBRARY)
    job = task(design, 0, 0, evals=5)
    pool(job, [known])
    assert job.evals == 5
    small = HeadTask(design, 0, 0, seed=0, max_nodes=9, max_evals=50)
    assert all(f.nodes <= 9 for f in pool(small, [known]))
    late = HeadTask(design, 0, 0, seed=0, max_nodes=90, max_evals=50, deadline=0.0)
    assert len(pool(late, [known])) == 1
    assert late.late


def test_the_program_of_a_head_is_the_nearest_to_it(design: Design) -> None:
    others = ("head a causal:\n    3 where k == 0\n", TRUE[0, 1], "head b causal:\n")
    assert Library(design, [*map(parse, others)]).nearest(1)[0] == parse(TRUE[0, 1])


def test_a_front_is_thinned_where_it_is_dense() -> None:
    rows = [(1, 0.2), (4, 0.4), (5, 0.41), (7, 0.415), (9, 0.5), (30, 0.501)]
    for count, sizes in ((6, [1, 4, 5, 7, 9, 30]), (4, [1, 4, 9, 30]), (1, [1, 30])):
        assert [size for size, _ in thinned(rows, count, lambda x: x[1])] == sizes
    assert thinned([], 3) == []


def test_fronts_and_choices() -> None:
    rows = front([(9, 0.4), (5, 0.5), (9, 0.7), (20, 0.8), (30, 0.8)], lambda x: x[0], lambda x: x[1])
    assert rows == [(5, 0.5), (9, 0.7), (20, 0.8)]
    assert choose([0.3, 0.69, 0.7], [3, 9, 40], price=0.001) == 1
    assert choose([0.3, 0.69, 0.7], [3, 9, 40], price=0.0) == 2
    assert gains_by_node([0.5, 0.75], [1, 3])[1] == pytest.approx(np.log(2) / 2, abs=1e-6)
