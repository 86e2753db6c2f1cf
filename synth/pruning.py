"""Pruning: leaves out what a program loses least score without, for its nodes, until few are left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.eval.set_parameters import SetProgram, SetTerm, TableTerm
from attn_dsl.synth.sparse_design import SparseDesign

FIRST = 30
"""How often the rows are predicted while parameters are moved at first …"""
STEPS = 12
"""… and at every size."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What can be left out of a program: a term, or a parameter of a set term."""

    block: tuple[int, ...]  # the numbers of its parameters
    nodes: int  # how many nodes it has
    whole: bool = True  # whether it is a term


def units(program: SetProgram) -> list[Unit]:
    """Return what can be left out of a program, in the order of ``SparseDesign.losses``.

    Terms of one condition become a sum (``tree.joined``), of which each later one takes less room.
    """
    found: list[Unit] = []
    shared: dict[t.Predicate, int] = {}
    for term, at in program.parts():
        block = tuple(range(at.start, at.stop))
        if isinstance(term, SetTerm | TableTerm):
            found.append(Unit(block, term.overhead + len(block)))
            found += [Unit((i,), 1, whole=False) for i in block if len(block) > 1]
        else:
            size, condition = t.nodes(term), getattr(term, "condition", None)
            if condition is not None and not isinstance(term, t.Table):
                there = shared[condition] = shared.get(condition, 0) + 1
                if there > 1:  # the condition is written once, and the sum is a node
                    size += (there == 2) - t.nodes(condition)
            found.append(Unit(block, size))
    return found


def pruned(
    design: SparseDesign, x: np.ndarray, sizes: Sequence[int], spent: Callable[[], bool],
    steps: int = STEPS, mix: float = 1.0,
) -> Iterator[tuple[SparseDesign, np.ndarray]]:  # fmt: skip
    """Yield programs of at most so many nodes, the largest first, and their parameters.

    At every size the units that lose least score for their nodes go, each looked at by itself with the
    other parameters as they are; then all that are left are moved uphill.
    """
    fresh = True
    for limit in sorted(sizes, reverse=True):
        if spent():
            return
        parts = units(design.program)
        nodes = t.nodes(design.program.empty) + sum(unit.nodes for unit in parts if unit.whole)
        if nodes > limit:
            some = kept(parts, design.losses(x), nodes - limit, len(x))
            program, some = design.program.kept(some)
            design, fresh = design.with_program(program), True
            x = design.maximise(x[some], steps, mix, spent)
        if not len(x):
            return
        if fresh:
            yield design, x
        fresh = False


def kept(parts: Sequence[Unit], losses: np.ndarray, excess: int, count: int) -> np.ndarray:
    """Leave out the units that lose least by node until so many nodes are gone; bool (parameters).

    What went before the last and larger ones comes back where there is room for it.
    """
    left = np.ones(count, dtype=np.bool_)
    gone: list[tuple[Unit, list[int]]] = []
    for i in sorted(range(len(parts)), key=lambda i: losses[i] / parts[i].nodes):
        if excess <= 0:
            break
        block = [j for j in parts[i].block if left[j]]
        if block:
            left[block] = False
            excess -= parts[i].nodes - (len(parts[i].block) - len(block))
            gone.append((parts[i], block))
    owners = {j: unit for unit in parts if unit.whole for j in unit.block}
    for unit, block in reversed(gone[:-1]):
        nodes = unit.nodes - (len(unit.block) - len(block))
        alive = unit.whole or any(left[j] for j in owners[block[0]].block)
        if alive and nodes <= -excess:
            left[block] = True
            excess += nodes
    return left
