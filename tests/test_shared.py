"""What heads have in common: shared libraries."""

import csv

import numpy as np
import pytest

from attn_dsl import fit
from attn_dsl.compiler.program import parse
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.run import Run
from attn_dsl.synth.program_cover import COVER, cover

WORDS = "the cat saw a dog . Tom and Mia ran to the park , and she said hi to him !".split()
PREVIOUS = parse("head previous causal:\n    4 where k == q-1\n")
FIRST = parse("head first causal:\n    3 where k == 0\n    1 where punct(k)\n")
HEADS = [PREVIOUS, FIRST, PREVIOUS, FIRST, PREVIOUS, PREVIOUS]


@pytest.fixture(scope="module")
def capture() -> Capture:
    rng = np.random.default_rng(3)
    tokens = [Tokens.from_strings([" " + word for word in rng.choice(WORDS, size=20)]) for _ in range(40)]
    attention = [np.stack([program(text) for program in HEADS])[None] for text in tokens]
    return Capture.from_arrays(tokens, attention, causal=True)


@pytest.fixture(scope="module")
def run(capture: Capture, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("shared") / "run"
    return fit(capture=capture, out=out, proposers=["library"], max_evals=40, jobs=1)


def test_two_kinds_of_heads_need_two_programs(run: Run) -> None:
    rows = list(csv.DictReader((run.path / "library.csv").open()))
    assert len(rows) == run.info["library"]["programs"] == 2
    assert {row["heads"] for row in rows} == {
        "L00H00 L00H02 L00H04 L00H05",
        "L00H01 L00H03",
    }
    own = np.mean([r.iou_select for r in run.results])
    assert float(rows[0]["iou_select"]) < COVER * own <= float(rows[1]["iou_select"])
    assert run.info["library"]["iou_test"] > 0.9


def test_a_library_of_all_is_taken_when_nothing_is_shared() -> None:
    assert cover(np.eye(3), 0.99) == [0, 1, 2]
