"""The benchmarks: all of them start with the names of today, and their figures are what they say."""

from __future__ import annotations

import doctest
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

import attn_dsl

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
NAMES = "cost evaluator measuring outputs real_model run".split()


@pytest.mark.parametrize("name", NAMES)
def test_it_starts(name: str) -> None:
    importlib.import_module(name)


def test_examples() -> None:
    outcome = doctest.testmod(importlib.import_module("measuring"))
    assert outcome.attempted
    assert not outcome.failed


def test_figures_are_those_of_the_run_and_of_rows_picked_on_select(
    small_capture: Path, tmp_path: Path
) -> None:
    from measuring import SMALL, rows
    from outputs import figures

    run = attn_dsl.fit(capture=small_capture, out=tmp_path / "run", heads="L0")
    expected = []
    for result in run.results:
        chosen, small, best = rows(result)
        assert chosen.program == result.program
        assert best.score == max(row.score for row in result.front)
        assert small.score == max(row.score for row in result.front if row.nodes <= SMALL)
        expected.append([result.test["iou"].mean, small.iou_test, best.iou_test])
    shown = [figure.reached for figure in figures(run.path, "a run")]
    means = [float(reached.split()[0]) for reached in shown[:3]]
    assert means == pytest.approx(np.mean(expected, axis=0), abs=6e-4)
