"""The final refit: small programs are fitted once more, on many more rows than they were found on."""

from __future__ import annotations

from collections.abc import Iterable

from attn_dsl.dsl import tree as t
from attn_dsl.synth.design import Design
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.sparse_design import refit

SMALL = 100
"""Programs of more nodes are left as they are: those were fitted on the many rows."""
STEPS = 40
"""How often the rows are predicted."""


def refitted(task: HeadTask, large: Design, programs: Iterable[Fitted]) -> list[Fitted]:
    """Move all weights of small programs uphill in score on the rows of a large sample, and round them.

    Args:
        large: its rows are of the same texts as the task's.

    Returns:
        The programs, with their score on the task's rows, which may be a little less than before.
    """
    rows, found = large.target(task.layer, task.head), []
    for fitted in programs:
        if fitted.nodes <= SMALL and fitted.program.weights and not task.spent:
            program = refit(large, rows, fitted.program, STEPS)
            if t.nodes(program) <= fitted.nodes:
                fitted = task.polish(task.measured(program, fitted.proposer))
        found.append(fitted)
    return found
