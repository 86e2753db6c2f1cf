"""The recovery benchmark: its programs are what it says they are, and its score can fail."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.graph import ColumnKey
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import check
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import show
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.results import FrontRow
from attn_dsl.eval.shipped import stories_path
from attn_dsl.synth.session import Settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import fronts
import random_programs as rp
import recovery


@pytest.fixture(scope="module")
def texts() -> list[Tokens]:
    """Stories of the demo model in words, long ones in two pieces, behind a special token."""
    from attn_dsl.eval.texts import read_texts

    found = []
    for text in read_texts(str(stories_path()))[:60]:
        pieces = ["<s>"]
        for piece in re.findall(r"\n| ?\w+| ?[^\w\s]+", text)[:44]:
            pieces += [piece[:5], piece[5:]] if len(piece) > 6 else [piece]
        found.append(Tokens.from_strings(pieces[:48]))
    return found


@pytest.fixture(scope="module")
def made(texts: list[Tokens]) -> list[t.Head]:
    return [
        rp.Maker(texts, causal, seed).program(n, f"p{n}")
        for causal in (True, False) for seed in (1, 2, 3) for n in (1, 2, 4)
    ]  # fmt: skip


def test_programs_are_valid_canonical_and_of_the_size_asked_for(made: list[t.Head]) -> None:
    for program in made:
        check(program)
        assert len(program.terms) == int(program.name[1:])
        assert parse(show(program)) == program


def test_every_term_matters_however_the_others_are_weighted(
    made: list[t.Head], texts: list[Tokens]
) -> None:
    """Without a term, the best weights of the others stay away from the matrices on all texts."""
    for program in made:
        probe = rp.Probe(texts, program.causal, seed=9)
        target = probe.rows_of(probe.planes(program), program.weights)
        for i in range(len(program.terms)):
            left = program.terms[:i] + program.terms[i + 1 :]
            planes = [probe.planes(t.Head("x", program.visibility, terms=left, sets=program.sets))]
            planes = planes if left else [np.empty((0, len(target.actual)), dtype=np.float32)]
            assert probe.reached(planes[0], target) < 1 - rp.MATTERS / 4


def test_a_term_that_changes_nothing_is_found_useless(texts: list[Tokens]) -> None:
    probe = rp.Probe(texts, True, seed=1)
    source = "head x causal:\n 3 where k == q-1\n 1.5 where q - k == 1\n 2 where k == 0"
    terms = parse(source).terms
    planes = [probe.planes(t.Head("one", "causal", terms=(term,))) for term in terms]
    assert probe.useless(terms, planes) == [1, 0]
    assert probe.useless([terms[0], terms[2]], [planes[0], planes[2]]) == []
    assert probe.useless([terms[2], terms[0], terms[1]], [planes[2], *planes[:2]]) == [2]


def test_the_same_seed_draws_the_same_programs(texts: list[Tokens]) -> None:
    first, again, other = (
        [cell.programs for cell in recovery.draw({"stories": texts}, [1, 3], 4, seed)]
        for seed in (5, 5, 6)
    )
    assert [len(programs) for programs in first] == [4, 4]
    assert first == again != other


def test_every_feature_can_be_drawn(texts: list[Tokens]) -> None:
    maker, names = rp.Maker(texts[:6], False, seed=0), set()
    for _ in range(1_500):
        drawn = maker._term()
        if drawn is not None:
            names |= {node.name for node in drawn[0].walk() if isinstance(node, t.Call)}
    columns = {name: Batch(texts[:6]).column(ColumnKey(name)) for name, f in FEATURES.items()
               if not f.extra and f.arity == 1}  # fmt: skip
    common = {name: np.unique(column.settled, return_counts=True)[1].max() / len(column.settled)
              for name, column in columns.items()}  # fmt: skip
    rare = {name for name, share in common.items() if share > 0.98}
    assert len(rare) < 14
    assert columns.keys() - names <= rare
    assert "match" in names


def row(nodes: int, select: float, test: float) -> FrontRow:
    return FrontRow(nodes, select, select, test, 0.0, False, "greedy", "")


def test_the_found_program_is_picked_on_select() -> None:
    front = [row(5, 0.9, 0.999), row(9, 0.9924, 0.98), row(20, 0.9925, 0.97), row(40, 0.991, 1)]
    assert recovery.found_row(front).nodes == 9


def test_fronts_are_read_without_a_look_at_the_test_split() -> None:
    class Result:
        front = (row(12, 0.5, 0.9), row(30, 0.6, 0.4), row(40, 0.58, 0.95), row(90, 0.8, 0.1))

    picked = {most: fronts.pick(Result(), most) for most in (None, 40, 30, 11)}  # type: ignore[arg-type]
    assert picked[None].nodes == 90
    assert picked[40].nodes == picked[30].nodes == 30
    assert picked[11] is None


def test_scores_count_what_they_say() -> None:
    true = parse("head x causal:\n 1 where k == 0")
    found = [
        recovery.Outcome(dataclasses.replace(true, terms=true.terms * n), "", nodes, iou, 2.0)
        for n, iou, nodes in ((1, 0.995, 5), (1, 0.985, 10), (6, 0.5, 25))
    ]
    assert [*recovery.table(found)][2:] == [
        "| 1 | 1 of 2 | 1.50 | 2.0 |",
        "| 6 | 0 of 1 | 1.00 | 2.0 |",
        "| up to 5 | 1 of 2 | 1.50 | 2.0 |",
    ]


def test_a_small_run_finds_what_the_search_knows(texts: list[Tokens]) -> None:
    """From matrices to outcomes: an easy head is recovered, and by the wrong proposer it is not."""
    easy = parse("head easy causal:\n 3 where k == q-1\n 2 where text(k) == text(q)")
    cell = recovery.Cell("stories", True, (easy,))
    (outcome,) = recovery.outcomes(cell, texts, Settings(proposers=("recovery",), entries=10_000))
    assert outcome.iou > 0.9999 and outcome.found_nodes <= 2 * t.nodes(easy)
    settings = Settings(proposers=("library",), entries=10_000)
    (outcome,) = recovery.outcomes(cell, texts, settings)
    assert outcome.iou < recovery.RECOVERED


def test_the_figures_of_a_run_are_those_of_its_own_results(
    texts: list[Tokens], tmp_path: Path
) -> None:
    """What is measured again from the run directory agrees with what the run says."""
    from attn_dsl.synth.fit import fit

    heads = [parse(f"head h{i} causal:\n 3 where k == q-{i}\n 1 where text(k) == text(q)")
             for i in (1, 2)]  # fmt: skip
    capture = recovery.capture_of(recovery.Cell("stories", True, tuple(heads)), texts)
    run = fit(capture=capture, out=tmp_path / "run", seed=0, jobs=1, max_evals=40)
    found = fronts.figures(run.path, capture)
    for at, result in enumerate(run.results):
        assert found["heads_chosen"][at] == pytest.approx(result.test["iou"].mean, abs=1e-6)
        assert found["nodes_chosen"][at] == result.nodes
        best = max(result.front, key=lambda row: (row.iou_select, -row.nodes))
        assert found["heads_any"][at] == pytest.approx(best.iou_test, abs=1e-6)
    assert found["any"]["mean"] == pytest.approx(np.mean(found["heads_any"]))
    assert found["any"]["low"] <= found["any"]["mean"] <= found["any"]["high"]
    assert set(found["controls"]) >= {"uniform", "positional grid"}
