"""Pruning: leaves out the terms that a program loses least score without, until few nodes are left."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.synth.sparse_design import SparseDesign


def sizes_of(terms: Sequence[t.Term]) -> list[int]:
    """Return the nodes of each term.

    Terms of one condition become a sum (``tree.joined``), of which each later one takes less room.

    >>> from attn_dsl.dsl.parser import parse_term
    >>> sizes_of([parse_term("1 where k == 0"), parse_term("2 * log(q) where k == 0")])
    [4, 4]
    """
    found: list[int] = []
    shared: dict[t.Predicate, int] = {}
    for term in terms:
        size, condition = t.nodes(term), getattr(term, "condition", None)
        if condition is not None:
            there = shared[condition] = shared.get(condition, 0) + 1
            if there > 1:  # the condition is written once, and the sum is a node
                size += (there == 2) - t.nodes(condition)
        found.append(size)
    return found


def pruned(
    design: SparseDesign, x: np.ndarray, sizes: Sequence[int], spent: Callable[[], bool], steps: int
) -> Iterator[tuple[SparseDesign, np.ndarray]]:
    """Yield programs of at most so many nodes, the largest first, and their weights.

    At every size the terms that lose least score for their nodes go, each looked at by itself with the
    other weights as they are; then all weights that are left are moved uphill in score.

    Args:
        design: of a program of plain terms with one weight each.
        steps: how often the rows are predicted at each size.
    """
    fresh = True
    for limit in sorted(sizes, reverse=True):
        if spent():
            return
        program = design.program
        each = sizes_of(program.terms)
        nodes = t.nodes(program.empty) + sum(each)
        if nodes > limit:
            left = kept(each, design.losses(x), nodes - limit)
            terms = tuple(term for term, stays in zip(program.terms, left, strict=True) if stays)
            design, fresh = design.with_program(dataclasses.replace(program, terms=terms)), True
            x = design.maximise(x[left], steps, stop=spent)
        if not len(x):
            return
        if fresh:
            yield design, x
        fresh = False


def kept(sizes: Sequence[int], losses: np.ndarray, excess: int) -> np.ndarray:
    """Leave out the terms that lose least by node until so many nodes are gone; bool (terms).

    What went before the last and larger ones comes back where there is room for it.

    >>> kept([4, 2, 3], np.array([1.0, 0.2, 9.0]), 4).tolist()
    [False, True, True]
    """
    left = np.ones(len(sizes), dtype=np.bool_)
    gone: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: losses[i] / sizes[i]):
        if excess <= 0:
            break
        left[i] = False
        excess -= sizes[i]
        gone.append(i)
    for i in reversed(gone[:-1]):
        if sizes[i] <= -excess:
            left[i] = True
            excess += sizes[i]
    return left
