"""The recovery benchmark: its programs are what it says they are, and its score can fail."""

from __future__ import annotations

import dataclasses
import doctest
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.compiler.graph import ColumnKey
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import check
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import show
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.metrics import ious
from attn_dsl.eval.shipped import stories_path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import outcomes
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
def made(texts: list[Tokens]) -> dict[bool, list[rp.Made]]:
    return {
        causal: [rp.Maker(texts, causal, seed).program(n, f"p{n}")
                 for seed in (1, 2, 3) for n in (1, 2, 4)]
        for causal in (True, False)
    }  # fmt: skip


@pytest.mark.parametrize("causal", [True, False])
def test_programs_are_valid_canonical_and_of_the_size_asked_for(
    made: dict[bool, list[rp.Made]], causal: bool
) -> None:
    for one in made[causal]:
        check(one.program)
        assert one.program.causal == causal
        assert len(one.program.terms) == len(one.forms) == int(one.program.name[1:])
        assert parse(show(one.program)) == one.program


@pytest.mark.parametrize("causal", [True, False])
def test_every_term_matters_however_the_others_are_weighted(
    made: dict[bool, list[rp.Made]], texts: list[Tokens], causal: bool
) -> None:
    """Without a term, the best weights of the others stay away from the matrices on all texts."""
    for one in made[causal]:
        probe = rp.Probe(texts, causal, seed=9)
        target = probe.predict(one.program)
        for i in range(len(one.program.terms)):
            left = one.program.terms[:i] + one.program.terms[i + 1 :]
            smaller = dataclasses.replace(one.program, terms=left)
            assert probe.reached(probe.planes(smaller), target) < 1 - rp.MATTERS / 4


def test_a_term_that_changes_nothing_is_found_useless(texts: list[Tokens]) -> None:
    probe = rp.Probe(texts, True, seed=1)
    source = "head x causal:\n 3 where k == q-1\n 1.5 where q - k == 1\n 2 where k == 0"
    terms = parse(source).terms
    planes = [probe.planes(t.Head("one", "causal", terms=(term,))) for term in terms]
    assert probe.useless(terms, planes) == [1, 0]
    assert probe.useless([terms[0], terms[2]], [planes[0], planes[2]]) == []
    assert probe.useless([terms[2], terms[0], terms[1]], [planes[2], *planes[:2]]) == [2]


def test_the_same_seed_draws_the_same_programs(texts: list[Tokens]) -> None:
    drawn = [[m.program for m in cell.made] for _ in range(2)
             for cell in recovery.draw({"stories": texts}, [1, 3], 4, seed=5)]  # fmt: skip
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != recovery.draw({"stories": texts}, [1, 3], 4, seed=6)[0].made


def test_every_form_and_every_feature_can_be_drawn(texts: list[Tokens]) -> None:
    maker = rp.Maker(texts[:6], False, seed=0)
    forms, names = set(), set()
    for _ in range(1_500):
        drawn = maker._term()
        if drawn is not None:
            form, term, _ = drawn
            forms.add(form.split(" + ")[0].removesuffix(" negated"))
            names |= {node.name for node in term.walk() if isinstance(node, t.Call)}
    assert forms == set(rp.FORMS)
    columns = {name: Batch(texts[:6]).column(ColumnKey(name)) for name, f in FEATURES.items()
               if not f.extra and f.arity == 1}  # fmt: skip
    common = {name: np.unique(column.settled, return_counts=True)[1].max() / len(column.settled)
              for name, column in columns.items()}  # fmt: skip
    rare = {name for name, share in common.items() if share > 0.98}
    assert len(rare) < 14
    assert columns.keys() - names <= rare
    assert "match" in names


@pytest.mark.parametrize("causal", [True, False])
def test_noise_leaves_the_true_program_at_its_iou(texts: list[Tokens], causal: bool) -> None:
    visibility = "causal" if causal else "bidirectional"
    head = parse(f"head x {visibility}:\n 2 where k == q-1\n 1.5 where text(k) == text(q)")
    rng = np.random.default_rng(0)
    plan = Plan([head], Batch(texts))
    rows = [plan.packed(at)[0].copy() for at in range(len(texts))]
    level = recovery.concentration(rows[:8], texts[:8], causal, rng)
    noisy = [
        recovery.noisy(r, len(x), causal, level, rng) for r, x in zip(rows, texts, strict=True)
    ]
    scores = [ious(a[None], b[None])[0, 0] for a, b in zip(noisy, rows, strict=True)]
    assert np.mean(scores) == pytest.approx(0.9, abs=0.01)
    mean = np.mean(
        [recovery.noisy(rows[0], len(texts[0]), causal, level, rng) for _ in range(200)], 0
    )
    np.testing.assert_allclose(mean, rows[0], atol=0.05)


def test_intervals_of_shares() -> None:
    assert outcomes.wilson(0, 10)[0] == pytest.approx(0.0)
    assert outcomes.wilson(10, 10)[1] == pytest.approx(1.0)
    assert outcomes.wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    low, high = outcomes.wilson(380, 400)
    assert 0.92 < low < 0.95 < high < 0.97


def _outcome(terms: int, iou: float, true: float = 1.0, found: int = 12) -> outcomes.Outcome:
    missed = () if iou >= outcomes.RECOVERED else ("curve",)
    return outcomes.Outcome(
        "cell", 0, terms, 10, ("curve",) * terms, true, found, iou, iou, found, iou, missed, 1.0,
        "", "",
    )  # fmt: skip


def test_scores_count_what_they_say() -> None:
    found = [_outcome(1, 0.995), _outcome(1, 0.985), _outcome(5, 0.999), _outcome(10, 0.5)]
    rows = {row["terms"]: row for row in outcomes.summary(found, noise=False)}
    assert [rows[name]["recovered"] for name in ("1", "5", "10", "1 to 5", "1 to 10")] == [
        0.5, 1.0, 0.0, pytest.approx(2 / 3), 0.5,
    ]  # fmt: skip
    assert rows["1 to 10"]["size_ratio"] == 1.2
    noisy = [_outcome(2, 0.895, true=0.9), _outcome(2, 0.88, true=0.9)]
    assert outcomes.summary(noisy, noise=True)[0]["recovered"] == 0.5
    forms = outcomes.by_form(found, noise=False)
    assert forms == [{"form": "curve", "terms": 17, "missed": 2, "worst": 2}]


def test_the_found_program_is_picked_on_select() -> None:
    from attn_dsl.eval.results import FrontRow

    def row(nodes: int, select: float, test: float) -> FrontRow:
        return FrontRow(nodes, select, select, test, 0.0, False, "greedy", "")

    class Result:
        front = (row(5, 0.9, 0.999), row(9, 0.991, 0.98), row(20, 0.992, 0.97), row(40, 0.9925, 1))

    assert recovery.found_row(Result(), 0.002).nodes == 9  # type: ignore[arg-type]
    assert recovery.found_row(Result(), 0.0002).nodes == 40  # type: ignore[arg-type]


def test_a_small_run_finds_what_the_search_knows_and_says_what_it_missed(
    texts: list[Tokens], tmp_path: Path
) -> None:
    """From matrices to outcomes: an easy head is recovered, and a lost term is named."""
    from attn_dsl.synth.fit import fit

    easy = parse("head easy causal:\n 3 where k == q-1\n 2 where text(k) == text(q)")
    cell = recovery.Cell("stories", True, (rp.Made(easy, ("offset", "same")),))
    capture = recovery.capture_of(cell, texts, noise=False, seed=0)
    run = fit(capture=capture, out=tmp_path / "run", seed=0, jobs=1, max_evals=60)
    (outcome,) = recovery.outcomes(cell, run, capture, texts)
    assert outcome.recovered
    assert outcome.missed == ()
    assert outcome.iou_true == pytest.approx(1.0, abs=1e-4)
    half = parse("head half causal:\n 3 where k == q-1")
    assert recovery.missed_terms(cell.made[0], half, texts, True) == ["same"]


@pytest.mark.parametrize("module", [outcomes, recovery, rp])
def test_examples(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]
