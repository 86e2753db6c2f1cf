"""The final refit: small programs are fitted once more, on many more rows than they were found on."""

from __future__ import annotations

from collections.abc import Iterable

from attn_dsl.dsl import tree as t
from attn_dsl.eval.set_parameters import set_program
from attn_dsl.synth import weights as w
from attn_dsl.synth.design import Design
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.sparse_design import SparseDesign

SMALL = 100
"""Programs of more nodes are left as they are: those were fitted on the many rows."""
STEPS = 40
"""How often the rows are predicted."""


def refitted(task: HeadTask, large: Design, programs: Iterable[Fitted]) -> list[Fitted]:
    """Move all weights of small programs uphill in IoU on the rows of a large sample, and round them.

    Args:
        large: its rows are of the same texts as the task's.

    Returns:
        The programs, with their IoU on the task's rows, which may be a little less than before.
    """
    rows = large.target(task.layer, task.head)
    return [_refitted(task, large, rows, fitted) for fitted in programs]


def _refitted(task: HeadTask, large: Design, rows: w.Rows, fitted: Fitted) -> Fitted:
    if fitted.nodes > SMALL:
        return fitted
    program, start = set_program(fitted.program, plain=False)
    if not len(start):
        return fitted
    design = SparseDesign.of(large, rows, program)
    found = program.written(design.shortened(design.climb(start, STEPS)))
    if t.nodes(found) > fitted.nodes:
        return fitted
    return task.polish(task.measured(found, fitted.proposer))
