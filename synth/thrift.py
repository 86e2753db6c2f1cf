"""Thrift: what of an open program is worth its nodes, by the IoU that it loses without it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.synth import weights as w
from attn_dsl.synth.open_planes import stacked
from attn_dsl.synth.open_sets import Opened
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.stacks import Stack, element_losses
from attn_dsl.synth.vocabulary import size

FIRST = 15
"""How far weights are moved at first …"""
STEPS = 6
"""… and at every size."""


def shrunk(
    task: HeadTask, program: Opened, start: np.ndarray, sizes: Sequence[int], proposer: str
) -> Iterator[Fitted]:
    """Yield a program with at most so many nodes, the largest first, its weights adjusted.

    At every size the units that lose least IoU for their nodes go, each looked at by itself with the
    other weights as they are; then all that are left are moved uphill.

    Args:
        task: the head whose rows count.
        program: has the weights ``program.wide.weights``.
        start: the weights of ``program.wide`` to move from.
        sizes: how many nodes are left at the most; where a program has no more, it stays.
        proposer: who suggests them.
    """
    rows = task.rows
    planes = stacked(task.design, program)
    weights, hessian = _uphill(planes, rows, start, FIRST)
    fresh = True
    for limit in sorted(sizes, reverse=True):
        if task.spent:
            return
        units = units_of(program)
        nodes = 1 + sum(unit.nodes for unit in units if unit.whole)
        if nodes > limit:
            fresh = True
            losses = _losses(program, planes, weights, rows)
            some = _kept(units, losses, nodes - limit, len(planes))
            hessian = planes.merged(hessian, some)
            program, planes = program.kept(some), planes.kept(some)
            weights, hessian = _uphill(planes, rows, weights[some], STEPS, hessian)
            if program.products:
                program, weights = program.turned(weights)
                planes = stacked(task.design, program)
                weights, hessian = _uphill(planes, rows, weights, STEPS)
        if not len(planes):
            return
        if fresh:
            fresh = False
            task.evals += 1
            final = program.rounded(weights)
            predicted = w.softmax(planes.scores(final), rows.starts)
            iou = w.iou_of(rows.actual, predicted, len(rows))
            yield Fitted(program.closed(final), iou, predicted, proposer)


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


def _uphill(
    planes: Stack, rows: w.Rows, start: np.ndarray, steps: int, hessian: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights moved uphill in IoU, and the curvature that scaled the steps."""
    predicted = w.softmax(planes.scores(start), rows.starts)
    hessian = planes.curvature(rows, predicted) if hessian is None else hessian
    return w.adjust(planes, rows, start, predicted, steps, hessian)[0], hessian


def _losses(program: Opened, planes: Stack, weights: np.ndarray, rows: w.Rows) -> list[float]:
    """Return the shared mass that is lost without each unit, the other weights left as they are."""
    scores = planes.scores(weights)
    predicted = np.empty(len(rows.actual), dtype=np.float32)

    def shared(without: np.ndarray | float) -> float:
        w.predict((scores - without)[None], np.ones(1), rows.starts, predicted)
        return w.shared_mass(rows.actual, predicted)

    fixed, *parts = planes.split(weights)
    best, found, at = shared(0.0), [], 0
    now = predicted.copy()
    for term in program.terms:
        block = slice(at, at + len(t.weights_of(term)))
        found.append(best - shared(fixed[block].astype(np.float32) @ planes.dense[block]))
        at = block.stop
    for one, part in zip(planes.sets, parts, strict=True):
        found.append(best - shared(one.scores(part)))
        if one.count > 1:
            found += list(element_losses(one, part, rows, now))
    return found


def _kept(units: Sequence[Unit], losses: Sequence[float], excess: int, count: int) -> np.ndarray:
    """Leave out the units that lose least by node until so many nodes are gone; bool (weights).

    What went before the last and larger ones comes back where there is room for it.
    """
    left = np.ones(count, dtype=np.bool_)
    gone: list[tuple[Unit, list[int]]] = []
    for i in sorted(range(len(units)), key=lambda i: losses[i] / units[i].nodes):
        block = [j for j in units[i].block if left[j]]
        if excess > 0 and block:
            left[block] = False
            excess -= units[i].nodes - (len(units[i].block) - len(block))
            gone.append((units[i], block))
    return _refilled(units, left, gone, -excess)


def _refilled(
    units: Sequence[Unit], left: np.ndarray, gone: list[tuple[Unit, list[int]]], room: int
) -> np.ndarray:
    sets = {j: unit for unit in units if unit.whole for j in unit.block}
    for unit, block in reversed(gone[:-1]):
        nodes = unit.nodes - (len(unit.block) - len(block))
        alive = unit.whole or any(left[j] for j in sets[block[0]].block)
        if alive and nodes <= room:
            left[block] = True
            room -= nodes
    return left
