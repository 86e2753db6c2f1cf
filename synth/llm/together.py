"""Samples put together: the terms of several programs in one, and left out again where they do not pay.

Each sample of a language model has some rules that are right, and so have the programs of proposers
that were asked before it. So the best of them become one program: its weights are fitted, those of sets'
elements with them, and what loses least IoU for its nodes is left out until few are left
(``synth/pruning.py``). What is best then meets the next ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from attn_dsl.eval.set_parameters import set_program
from attn_dsl.synth.enumerate.proposer import tried_terms
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.pruning import shrunk

NAME = "together"
"""What programs put together have as their proposer."""
PARTS = 3
"""How often samples are added …"""
SAMPLES = 12
"""… so many each time."""
TERMS = 110
"""How many terms a program has at the most before any are left out."""
SIZES = (40, 60, 90, 140, 200)
"""How many nodes are left at the most, beside the most that are allowed."""


def together(task: HeadTask, samples: Sequence[Fitted]) -> Iterator[Fitted]:
    """Yield programs of the terms of several samples, adjusted, at several sizes.

    Args:
        samples: programs fitted to the head, in any order, also those of others than the model.
    """
    order = sorted(samples, key=lambda f: (-round(f.iou, 6), f.nodes))
    sizes = {size for size in SIZES if size < task.max_nodes} | {min(task.max_nodes, SIZES[-1])}
    best: list[Fitted] = []
    for at in range(0, PARTS * SAMPLES, SAMPLES):
        new = order[at : at + SAMPLES]
        if not new or len(best) + len(new) < 2 or task.spent:
            return
        terms = tuple(tried_terms([*best, *new])[:TERMS])
        program, start = set_program(
            task.fit(dataclasses.replace(task.empty(), terms=terms)).program
        )
        for found in shrunk(task, program, start, sorted(sizes), NAME):
            best = sorted([*best, found], key=lambda f: -f.iou)[:1]
            yield found
