"""Tasks for tests of the search: one head, and the front of a round before."""

from __future__ import annotations

import math

from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import show
from attn_dsl.eval.results import FrontRow, HeadResult
from attn_dsl.synth.design import Design
from attn_dsl.synth.proposer import HeadTask

WORDS = "the cat saw a dog . Tom and Mia ran to the park , and she said hi to him !".split()


def task(design: Design, evals: int = 200) -> HeadTask:
    return HeadTask(design, 0, 0, seed=0, max_nodes=200, max_evals=evals)


def before(job: HeadTask, *sources: str) -> HeadResult:
    """Return a result whose front are some programs, fitted."""
    fitted = [job.fit(parse(source)) for source in sources]
    unknown = math.nan, math.nan
    rows = tuple(
        FrontRow(f.nodes, *[f.iou] * 3, *unknown, f.score, 0.0, False, "test", show(f.program))
        for f in fitted
    )
    return HeadResult(
        0,
        0,
        rows[-1].program,
        rows[-1].nodes,
        0.0,
        0.0,
        {},
        (),
        {},
        "",
        (),
        0,
        0.0,
        False,
        rows,
    )
