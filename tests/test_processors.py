"""Results do not depend on the processor's vector instructions, beyond a stated tolerance.

A process that is told to use none beyond the oldest (SSE 2 to 4) stands in for another processor.
"""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import succeed
from fuzzing import _TEXTS, evaluated, family

from attn_dsl.compiler.code import Code
from attn_dsl.eval.run import Run
from attn_dsl.synth.runs.worker import processor

PLAIN = {
    "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "OPENBLAS_CORETYPE": "Nehalem",
    "ATEN_CPU_CAPABILITY": "default",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
}  # fmt: skip
PROGRAMS = int(os.environ.get("ATTN_DSL_PROCESSORS", "500"))
MATRICES, SCORES, MEAN = 1e-5, 1e-6, 0.01
"""The most by which entries of matrices, scores of programs, and the mean IoU of a search may differ."""
LIBRARY = sorted((Path(__file__).parents[1] / "grammars" / "library").glob("*.attn"))


def computed(capture: str) -> dict[str, Any]:
    """Return matrices of random programs and scores of the library, as this process computes them."""
    draw, matrices = random.Random(0), list[float]()
    for _ in range(PROGRAMS // 32):
        programs, tokens = family(draw), _TEXTS.draw(draw)
        for matrix in evaluated(Code(programs), tokens):
            matrices += matrix.ravel().tolist()
    scores = json.loads(succeed("score", *LIBRARY, "--capture", capture, "--json"))
    return {"processor": processor(), "matrices": matrices, "scores": scores}


def elsewhere(*command: object) -> str:
    """Return what a Python process prints on the processor without vector instructions."""
    return subprocess.run([sys.executable, *map(str, command)], env={**os.environ, **PLAIN}, check=True,
                          stdout=subprocess.PIPE, text=True).stdout  # fmt: skip


def test_programs_and_scores(small_capture: Path) -> None:
    here, there = computed(str(small_capture)), json.loads(elsewhere(__file__, small_capture))
    assert there["processor"] == "generic" != here["processor"]
    found = np.abs(np.subtract(here["matrices"], there["matrices"]))
    figures = [[[x for x in row.values() if isinstance(x, float)] for row in one["scores"]]
               for one in (here, there)]  # fmt: skip
    scores = np.abs(np.subtract(*figures)) / np.maximum(1, np.abs(figures[0]))
    print(f"{len(found):,} weights, {np.mean(found > 0):.2%} differ, at most by {found.max():.1e}; "
          f"{scores.size:,} figures, at most by {scores.max():.1e}")  # fmt: skip
    assert found.max() <= MATRICES
    assert scores.max() <= SCORES
    assert found.any() or scores.any(), "another processor rounds otherwise"


@pytest.mark.skipif("ATTN_DSL_PROCESSORS" not in os.environ, reason="two searches, minutes each")
def test_searches(tmp_path: Path) -> None:
    """The demo model is captured and searched; another program may be chosen for some heads."""
    capture, runs = tmp_path / "capture", [tmp_path / "here", tmp_path / "there"]
    succeed("capture", "demo", "--out", capture)
    succeed("fit", "--capture", capture, "--out", runs[0])
    elsewhere("-m", "attn_dsl.cli", "fit", "--capture", capture, "--out", runs[1])
    heads = [Run.open(run).results for run in runs]
    pairs = [*zip(*heads, strict=True)]
    others = sum(a.program != b.program for a, b in pairs)
    iou = [[float(row["iou_test"]) for row in csv.DictReader((run / "heads.csv").open())] for run in runs]
    change = np.subtract(iou[1], iou[0])
    print(f"{others} of {len(pairs)} heads have another program; IoU changes by {change.min():.4f} to "
          f"{change.max():.4f}, {change.mean():.4f} in the mean")  # fmt: skip
    assert abs(change.mean()) <= MEAN


if __name__ == "__main__":
    print(json.dumps(computed(sys.argv[1])))
