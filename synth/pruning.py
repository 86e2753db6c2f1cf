"""Pruning: leaves out the terms that a program loses least score without, until few nodes are left.

What a term is worth is told as by optimal brain surgery (Hassibi and Stork, 1993): the other weights
are moved to where the program does best without it, by the curvature of the likelihood.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.synth import weights as w
from attn_dsl.synth.proposer import HeadTask
from attn_dsl.synth.rewrite import drop_unused
from attn_dsl.synth.sparse_design import SparseDesign

REGROWN = 45  # programs of fewer nodes are given terms before they are pruned

STEPS = 12  # how often the rows are predicted to move the weights of a program that was trimmed


def sizes_of(terms: Sequence[t.Term]) -> list[int]:
    """Return by how many nodes a program is smaller without each of its terms.

    Terms of one condition become a sum (``tree.joined``), in which the condition is written once.
    """
    shared = Counter(term.condition for term in terms)
    found: list[int] = []
    for term in terms:
        size, condition = t.nodes(term), term.condition
        if condition is not None and shared[condition] > 1:
            size += (shared[condition] == 2) - t.nodes(condition)  # the sum is a node
        found.append(size)
    return found


def pruned(
    design: SparseDesign, x: np.ndarray, sizes: Sequence[int], spent: Callable[[], bool], steps: int,
    grown: Callable[[SparseDesign, np.ndarray], tuple[SparseDesign, np.ndarray]],
) -> Iterator[tuple[SparseDesign, np.ndarray]]:  # fmt: skip
    """Yield programs of at most so many nodes, the largest first, and their weights.

    At every size the terms that lose least score for their nodes go; then all weights that are left
    are moved uphill in score. Small programs are given terms before: what the terms that went leave
    open, others may say in fewer nodes.

    Args:
        design: of a program of terms with one weight each.
        steps: how often the rows are predicted at each size.
        grown: adds terms to a program.
    """
    fresh = True
    for limit in sorted(sizes, reverse=True):
        if spent():
            return
        if limit < REGROWN:
            design, x = grown(design, x)
        program = design.program
        room = limit - t.nodes(dataclasses.replace(program, terms=()))
        if sum(map(t.nodes, t.joined(program.terms))) > room:
            left, x = kept(program.terms, x, design.losses(x), curvature(design), room)
            design = design.with_terms(left)
            x, fresh = design.maximise(x, steps, stop=spent), True
        if not len(x):
            return
        if fresh:
            yield design, x
        fresh = False


def curvature(design: SparseDesign) -> np.ndarray:
    """Return the curvature of the cross-entropy by the weights, at the rows that were predicted last."""
    planes = np.array([design.planes.plane(n) for n in design.numbers], dtype=np.float32)
    found = w.derivatives(planes, design.rows, design.predicted)[1]
    return found + design.ridge * np.eye(len(planes))


def kept(terms: Sequence[t.Term], x: np.ndarray, losses: np.ndarray, bend: np.ndarray,
         room: int) -> tuple[tuple[t.Term, ...], np.ndarray]:  # fmt: skip
    """Leave out terms that lose least by node until there is room; return the others, with weights moved.

    Args:
        x: their weights.
        losses: of each alone, while the other weights stay.
        bend: their ``curvature``.
        room: how many nodes the terms that stay may have.
    """
    x, inverse, left = x.copy(), np.linalg.inv(bend), list(range(len(x)))
    # from the likelihood that is lost to second order to the score
    scale = losses / np.maximum(0.5 * np.diag(bend) * x**2, 1e-9)
    while left and sum(map(t.nodes, t.joined([terms[i] for i in left]))) > room:
        sizes = np.array(sizes_of([terms[i] for i in left]))
        worth = scale[left] * 0.5 * x[left] ** 2 / inverse[left, left] / sizes
        i = left.pop(int(np.argmin(worth)))
        column = inverse[:, i].copy()
        x -= x[i] / column[i] * column
        inverse -= np.outer(column, column) / column[i]
    return tuple(terms[i] for i in left), x[left]


def trim(task: HeadTask, program: t.Head, score: Callable[[Sequence[t.Head]], np.ndarray],
         price: float) -> t.Head | None:  # fmt: skip
    """Leave out the terms that are not worth their nodes on other texts; None if all are worth theirs.

    The terms that are not worth theirs alone are left out together as far as that pays, until every
    term is worth its nodes.

    Args:
        score: of programs, on the other texts.
        price: the score that a node must bring.
    """

    def worths(every: Sequence[tuple[t.Head, np.ndarray]]) -> tuple[list[t.Head], np.ndarray]:
        programs = [written(*one) for one in every]
        return programs, score(programs) - price * np.array([t.nodes(one) for one in programs])

    parts = tuple(part for term in program.terms for part in t.parts_of(term))
    whole = dataclasses.replace(program, terms=parts)
    design, x = SparseDesign.of(task.design, task.rows, whole), np.array(program.weights)
    found, (_, before) = None, worths([(design.program, x)])
    while count := len(design.program.terms):
        design.value(x)
        inverse = np.linalg.inv(curvature(design))
        alone = worths([without(design.program, x, inverse, [i]) for i in range(count)])[1]
        idle = [int(i) for i in np.argsort(-alone) if alone[i] > before[0]]
        if not idle:
            break
        several = [without(design.program, x, inverse, idle[: i + 1]) for i in range(len(idle))]
        less, start = several[int(np.argmax(worths(several)[1]))]
        smaller = design.with_terms(less.terms)
        start = smaller.maximise(start, STEPS)
        (shown,), now = worths([(less, start)])
        if now[0] <= before[0]:
            break
        design, x, before, found = smaller, start, now, shown
    return found


def without(program: t.Head, x: np.ndarray, inverse: np.ndarray,
            gone: Sequence[int]) -> tuple[t.Head, np.ndarray]:  # fmt: skip
    """Return a program without some terms, and its weights, moved to make up (``weights.without``)."""
    ends = np.cumsum([0, *(len(t.weights_of(term)) for term in program.terms)])
    out = np.concatenate([np.arange(ends[i], ends[i + 1]) for i in gone])
    left = tuple(term for i, term in enumerate(program.terms) if i not in gone)
    return dataclasses.replace(program, terms=left), np.delete(w.without(x, inverse, out), out)


def written(program: t.Head, x: np.ndarray) -> t.Head:
    """Return a program with rounded weights, in which the parts of each condition are a sum."""
    whole = program.with_weights([float(one) for one in w.rounded(x)])
    return drop_unused(dataclasses.replace(whole, terms=t.joined(whole.terms)))
