"""The benchmarks: all of them start with the names of today, and their figures are what they say."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import attn_dsl
from attn_dsl.dsl.library import library as attn_library
from attn_dsl.dsl.parser import parse

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
NAMES = "cost evaluator library measuring outputs real_model run".split()


@pytest.mark.parametrize("name", NAMES)
def test_it_starts(name: str) -> None:
    importlib.import_module(name)


def test_figures_are_those_of_the_run_and_of_rows_picked_on_select(
    small_capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from measuring import SMALL, Figure, rows
    from outputs import CURVE, figures, growth

    run = attn_dsl.fit(capture=small_capture, out=tmp_path / "run", heads="L0")
    expected = []
    for result in run.results:
        chosen, small, best = rows(result)
        assert chosen.program == result.program
        assert best.score == max(row.score for row in result.front)
        assert small.score == max(row.score for row in result.front if row.nodes <= SMALL)
        expected.append([result.test["iou"].mean, small.iou_test, best.iou_test])
    shown = list(figures(run.path, "smollm2"))
    means = [float(figure.reached.split()[0]) for figure in shown[:3]]
    assert means == pytest.approx(np.mean(expected, axis=0), abs=6e-4)
    shown += [Figure("... shared scores; what they hold", "64; 508 predicates")]
    shown += [Figure("... as chosen, on other.txt", "0.467 [0.447, 0.490] (60 texts); 0.226 (60 texts)")]
    for what, more in CURVE.items():
        sources = ["programs", "tuned", "uniform", "mean by offset"]
        effect = {"ratio": {"mean": 1.5, "low": 1.4, "high": 2}}
        points = [{"fraction": share, "source": source, "effect": effect}
                  for share in ((1,) if more else (0.25, 0.5, 1)) for source in sources]  # fmt: skip
        shown += growth({"points": points}, what)
    shown += list(figures(run.path, "minilm"))
    monkeypatch.syspath_prepend(BENCHMARKS.parent / "docs")
    readme = importlib.import_module("readme")
    table = "".join(f"| {x.name} | {x.reached} | {x.target} |\n" for x in shown)
    made, told = readme.table_figures(table), readme.head_figures(str(run.path), "L0H1")
    known = json.loads((BENCHMARKS.parent / "docs/readme.json").read_text(encoding="utf-8"))
    assert (made | told).keys() == known.keys()
    assert "(" not in made["smollm2_chosen_iou"] and made["growth_100_uniform"] == "+50.0 %"


def test_programs_by_hand_are_what_tracr_compiled() -> None:
    spec = importlib.util.spec_from_file_location("tracr_run", BENCHMARKS / "tracr/run.py")
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    captures = benchmark.captures()
    assert sum(capture.n_heads for capture in captures.values()) == 65
    for name, capture in captures.items():
        for head, program in benchmark.by_hand(name, capture).items():
            assert program is None or benchmark.iou(capture, head, program) > 0.999, (name, head)


def test_measured_programs_say_what_they_weigh() -> None:
    from library import MEASURED, describe

    measured = [entry for entry in attn_library().values() if entry.measured]
    assert len(measured) == MEASURED
    for entry in measured:
        name, comment, category = describe(entry.program)
        assert (entry.doc, entry.category) == (comment, category)
        assert re.fullmatch(name + r"(_\d+)?", entry.name)


def test_a_model_that_is_left_out_picks_nothing_and_gives_no_programs() -> None:
    from library import pick

    one = np.float32([[0.0, 0.9, 0.1, 0.2], [0.0, 0.0, 0.0, 0.5]])
    other = np.float32([[0.0, 0.1, 0.9, 0.8], [0.0, 0.0, 0.0, 0.5]])
    scores = {("one", 128): one, ("one", 24): one, ("other", 128): other}
    sources = ["", "one", "other", "third"]
    assert sorted(pick(scores, sources, without="one")) == [0, 2, 3]
    assert sorted(pick(scores, sources, without="other")) == [0, 1, 3]
    assert sorted(pick(scores, sources, without=None)) == [0, 1, 2, 3]


def test_heads_are_scored_on_openings_of_texts() -> None:
    from library import iou

    capture = two_kinds(1)
    programs = [parse("head u causal:\n"), parse("head f causal:\n 9 where k == 0")]
    programs.append(parse("head later bidirectional:\n 9 where k == q+1"))
    texts = capture.split(0)["test"]
    found = iou(capture, texts, 3, programs)
    assert found.shape == (2, 3, len(texts))
    assert (found[:, 2] == 0).all() and (found[0, 1] < found[0, 0]).all() and (found[1, 1] > 0.99).all()


def test_groups_are_of_like_heads_and_their_programs_are_theirs() -> None:
    from library import candidates, groups, iou

    capture = two_kinds(10)
    rows = np.concatenate([capture.attention(i, range(20)) for i in range(4)], axis=1)
    assert sorted(map(set, (one.tolist() for one in groups(rows, 2))), key=min) == [
        {*range(10)}, {*range(10, 20)}]  # fmt: skip
    found = candidates(capture)
    assert (iou(capture, capture.split(0)["test"], 4, found).mean(2).max(1) > 0.85).all()


def two_kinds(number: int) -> attn_dsl.Capture:
    """Capture one layer: so many heads that look at the query, and so many that look at the first token."""
    first = np.zeros((4, 4))
    first[:, 0] = 1
    heads = np.stack([np.eye(4)] * number + [first] * number)
    texts = [["a", " b", " c", f" {i}"] for i in range(12)]
    return attn_dsl.Capture.from_arrays(texts, [heads[None]] * 12, causal=True)
