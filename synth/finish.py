"""The finish: small programs are fitted once more, on many more rows than they were found on."""

from __future__ import annotations

from collections.abc import Iterable

from attn_dsl.dsl import tree as t
from attn_dsl.synth import weights as w
from attn_dsl.synth.design import Design
from attn_dsl.synth.open_planes import stacked
from attn_dsl.synth.open_sets import opened
from attn_dsl.synth.proposer import Fitted, HeadTask

SMALL = 100
"""Programs of more nodes are left as they are: those were fitted on the many rows."""
STEPS = 25


def finished(task: HeadTask, wide: Design, programs: Iterable[Fitted]) -> list[Fitted]:
    """Move all weights of small programs uphill in IoU on the rows of a wide design, and round them.

    Args:
        wide: its rows are of the same texts as the task's.

    Returns:
        The programs, with their IoU on the task's rows, which may be a little less than before.
    """
    rows = wide.target(task.layer, task.head)
    return [_finished(task, wide, rows, fitted) for fitted in programs]


def _finished(task: HeadTask, wide: Design, rows: w.Rows, fitted: Fitted) -> Fitted:
    if fitted.nodes > SMALL:
        return fitted
    program, start = opened(fitted.program, plain=False)
    if not len(start):
        return fitted
    planes = stacked(wide, program)
    before = w.softmax(planes.scores(start), rows.starts)
    weights, predicted = w.adjust(planes, rows, start, before, STEPS)
    weights, _ = w.shortened(planes, rows, weights, predicted)
    found = program.closed(program.rounded(weights))
    if t.nodes(found) > fitted.nodes:
        return fitted
    return task.polish(task.measured(found, fitted.proposer))
