"""Thrift: what of an open program is worth its nodes, by the IoU that it loses without it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.synth import weights as w
from attn_dsl.synth.open_sets import Opened
from attn_dsl.synth.proposer import HeadTask
from attn_dsl.synth.vocabulary import size

FIRST = 15
"""How far weights are moved at first …"""
STEPS = 6
"""… and at every size."""


def shrunk(
    task: HeadTask, program: Opened, start: np.ndarray, sizes: Sequence[int]
) -> Iterator[tuple[Opened, np.ndarray]]:
    """Yield a program with at most so many nodes, the largest first, and its adjusted weights.

    At every size the units that lose least IoU for their nodes go, each looked at by itself with the
    other weights as they are; then all that are left are moved uphill.

    Args:
        task: the head whose rows count.
        program: has the weights ``program.wide.weights``.
        start: the weights of ``program.wide`` to move from.
        sizes: how many nodes are left at the most; where a program has no more, it stays.
    """
    rows, planes = task.rows, task.design.compute(program.wide)
    weights = _uphill(planes, rows, start, FIRST)
    fresh = True
    for limit in sorted(sizes, reverse=True):
        if task.spent:
            return
        units = units_of(program)
        nodes = 1 + sum(unit.nodes for unit in units if unit.whole)
        if nodes > limit:
            fresh = True
            some = _kept(units, _losses(units, planes, weights, rows), nodes - limit, len(planes))
            program, planes = program.kept(some), np.ascontiguousarray(planes[some])
            weights = _uphill(planes, rows, weights[some], STEPS)
            if any(one.factor for one in program.sets):
                program, weights = program.turned(weights)
                planes = task.design.compute(program.wide)
                weights = _uphill(planes, rows, weights, STEPS)
        if not len(planes):
            return
        if fresh:
            fresh = False
            yield program, weights


@dataclass(frozen=True, slots=True)
class Unit:
    """What can be left out of a program: a term, a set, or an element of one.

    Attributes:
        block: the numbers of its weights.
        nodes: how many nodes it has.
        whole: whether it is a term or a set.
    """

    block: tuple[int, ...]
    nodes: int
    whole: bool = True


def units_of(program: Opened) -> list[Unit]:
    """Return what can be left out of a program."""
    units: list[Unit] = []
    at = 0
    for term in program.terms:
        count = len(t.weights_of(term))
        units.append(Unit(tuple(range(at, at + count)), size(term)))
        at += count
    for one in program.sets:
        block = tuple(range(at, at + len(one.elements)))
        units.append(Unit(block, one.overhead + len(block)))
        units += [Unit((i,), 1, whole=False) for i in block if len(block) > 1]
        at += len(block)
    return units


def _uphill(planes: np.ndarray, rows: w.Rows, start: np.ndarray, steps: int) -> np.ndarray:
    """Return weights moved uphill in IoU."""
    predicted = np.empty(planes.shape[1], dtype=np.float32)
    w.predict(planes, start, rows.starts, predicted)
    return w.adjust(planes, rows, start, predicted, steps)[0]


def _losses(
    units: Sequence[Unit], planes: np.ndarray, weights: np.ndarray, rows: w.Rows
) -> list[float]:
    """Return the IoU that is lost without each unit, the other weights left as they are."""
    scores = (weights.astype(np.float32) @ planes)[None]
    predicted = np.empty(planes.shape[1], np.float32)

    def iou(block: Sequence[int]) -> float:
        without = np.concatenate([scores, planes[list(block)]])
        w.predict(without, np.array([1.0, *-weights[list(block)]]), rows.starts, predicted)
        return w.iou_of(rows.actual, predicted, len(rows))

    best = iou(())
    return [best - iou(unit.block) for unit in units]


def _kept(units: Sequence[Unit], losses: Sequence[float], excess: int, count: int) -> np.ndarray:
    """Leave out the units that lose least by node until so many nodes are gone; bool (weights)."""
    left = np.ones(count, dtype=np.bool_)
    for i in sorted(range(len(units)), key=lambda i: losses[i] / units[i].nodes):
        block = list(units[i].block)
        missing = int((~left[block]).sum())
        if excess > 0 and missing < len(block):
            left[block] = False
            excess -= units[i].nodes - missing
    return left
