"""The benchmarks: all of them start with the names of today, and their figures are what they say."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

import attn_dsl
from attn_dsl.synth.proposers import registry

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))


@pytest.mark.parametrize(
    "name",
    ["ablation", "agreement", "cost", "evaluator", "measuring", "run", "scale", "synthesis"],
)
def test_it_starts(name: str) -> None:
    importlib.import_module(name)


def test_figures_are_of_the_rows_that_they_name(small_capture: Path, tmp_path: Path) -> None:
    from measuring import SMALL, rows

    run = attn_dsl.fit(
        capture=small_capture, out=tmp_path / "run", heads="L0H0", proposers=["greedy", "graded"]
    )
    (result,) = run.results
    chosen, small, best = rows(result)
    assert chosen.chosen
    assert small.nodes <= SMALL
    assert best.iou_select == max(row.iou_select for row in result.front)
    assert small.iou_select == max(row.iou_select for row in result.front if row.nodes <= SMALL)


def test_an_ablation_leaves_out_and_adds_each_proposer_once() -> None:
    from ablation import variants

    found = [(what, effort, set(proposers)) for what, effort, proposers in variants()]
    assert [effort for what, effort, _ in found if what == "complete"] == [1, 2]
    everything = set(registry.DEFAULT)
    changed = [proposers ^ everything for what, _, proposers in found if what != "complete"]
    names = {one.name for one in registry.BUILT_IN if one.name != "llm"}
    assert sorted(map(list, changed)) == sorted([name] for name in names)
    for _, effort, proposers in found:
        asked = [registry.find(name) for name in everything ^ proposers]
        assert all(one.effort <= effort for one in asked)


def test_equal_time_is_on_the_line_in_the_logarithm_of_time() -> None:
    from ablation import Row, at_time

    first, second = Row(10.0, np.array([[0.4, 0.6]])), Row(40.0, np.array([[0.6, 0.8]]))
    assert at_time(first, second, 20.0) == pytest.approx([0.6])
    assert at_time(first, second, 5.0) == pytest.approx([0.4])
