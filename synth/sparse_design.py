"""Sparse design: a program's weights on the rows of one head: objective, gradient, losses of terms."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Sequence

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import COMPILED, SUMS
from attn_dsl.compiler.softmax import exponentials
from attn_dsl.dsl import tree as t
from attn_dsl.eval.term_scores import Planes, TermScores
from attn_dsl.synth import weights as w
from attn_dsl.synth.design import Design
from attn_dsl.synth.gains import moments
from attn_dsl.synth.lbfgs import maximise
from attn_dsl.synth.objective import HeadRows
from attn_dsl.synth.rewrite import bare

_OPTIONS = {**COMPILED, "fastmath": {*SUMS, "arcp", "nnan"}}
REFIT, FIT_HOLES = 25, 40
"""How often the rows are predicted to move all weights of a program, and for each aim of its holes."""
LIMIT = 60.0  # the scores of a part that is left out are kept within this magnitude


class TermPlanes:
    """The planes of some terms on the rows of a design, each computed when first needed.

    Attributes:
        arrays: the planes; rows that were not asked for are untouched memory.

    Args:
        terms: some that may be asked for.
        empty: a program that defines the sets and scores that terms name.
        room: for how many more truth values and values there is room.
        known: planes of the same design that may be copied.
    """

    def __init__(self, design: Design, terms: Sequence[t.Term], empty: t.Head | None = None,
                 room: tuple[int, int] = (0, 0), known: TermPlanes | None = None) -> None:  # fmt: skip
        self.design, self.empty, self.known = design, empty or design.empty, known
        self._counts = [0, 0]
        self._numbers: dict[t.Term, tuple[int, ...]] = {}
        self._name(terms)
        truths, values = (count + more for count, more in zip(self._counts, room, strict=True))
        self.arrays = Planes(np.empty((truths, design.entries), np.uint8),
                             np.empty((values, design.entries), np.float32))  # fmt: skip
        self._made: set[t.Term] = set()
        self._lock = threading.Lock()

    def _name(self, terms: Sequence[t.Term]) -> None:
        """Give the weights of new terms their planes."""
        counts = self._counts
        for term in map(bare, terms):
            if term not in self._numbers:
                value, count = not isinstance(term, t.Where), len(t.weights_of(term))
                here = range(counts[value], counts[value] + count)
                self._numbers[term] = tuple(i if value else -2 - i for i in here)
                counts[value] += count

    def numbers(self, terms: Sequence[t.Term]) -> list[tuple[int, ...]]:
        """Return the plane of each weight of some terms, as in ``TermScores``."""
        wanted = [bare(term) for term in terms]
        if not self._made.issuperset(wanted):
            with self._lock:
                self._make([x for x in dict.fromkeys(wanted) if x not in self._made])
        return [self._numbers[term] for term in wanted]

    def plane(self, number: int) -> np.ndarray:
        """Return a plane by its number."""
        return self.arrays.truths[-2 - number] if number < 0 else self.arrays.values[number]

    def _make(self, terms: Sequence[t.Term]) -> None:
        self._name(terms)
        known = [] if self.known is None else [x for x in terms if x in self.known._numbers]
        new = [x for x in terms if x not in known]
        if self.known is not None:
            for term, numbers in zip(known, self.known.numbers(known), strict=True):
                for to, number in zip(self._numbers[term], numbers, strict=True):
                    self.plane(to)[:] = self.known.plane(number)
        if new:
            made = self.design.compute(dataclasses.replace(self.empty, terms=tuple(new)))
            places = [number for term in new for number in self._numbers[term]]
            for number, plane in zip(places, made, strict=True):
                self.plane(number)[:] = plane
        self._made.update(terms)


class SparseDesign:
    """A softmax program on the rows of one head; it moves the program's weights and tells what they bring.

    Its own weights do not count: those of vectors do, in the order of ``Head.weights``.

    Attributes:
        program: the structure.
        planes: of its terms, on the design that the rows are of.
        numbers: int64 (weights), the plane of each.
        rows: the head's.
        predicted: float32 (entries), the program's rows for the last weights that were looked at.
        residual: float32 (entries), the gradient of the objective by the scores.
        iou, score: of the predicted rows, over all rows; without outputs where ``mix`` is 0.
        ridge: pull of every weight to 0, in nats by squared weight.
    """

    def __init__(self, planes: TermPlanes, rows: HeadRows, program: t.Head, ridge: float = 0.1) -> None:
        self.planes, self.rows, self.program, self.ridge = planes, rows, program, ridge
        self.predicted = np.empty(len(rows.actual), dtype=np.float32)
        self.residual = np.empty(len(rows.actual), dtype=np.float32)
        self.iou = self.score = math.nan
        self.numbers = np.array([n for own in planes.numbers(program.terms) for n in own], dtype=np.int64)
        terms = np.full((len(self.numbers), 4), (0, 0, -1, -1))
        terms[:, 1] = self.numbers
        self.scores = TermScores(rows.starts, planes.arrays, terms, np.arange(len(terms)))

    @classmethod
    def of(cls, design: Design, rows: HeadRows, program: t.Head) -> SparseDesign:
        """Make one with planes of its own."""
        return cls(TermPlanes(design, program.terms, program), rows, program)

    def with_terms(self, terms: Sequence[t.Term]) -> SparseDesign:
        """Return the design of other terms, which have planes."""
        program = dataclasses.replace(self.program, terms=tuple(terms))
        return SparseDesign(self.planes, self.rows, program, self.ridge)

    def value(self, x: np.ndarray, mix: float = 1.0) -> float:
        """Predict the rows, and return the objective.

        Args:
            mix: the objective is twice ``mix`` times what the rows are scored by (shared mass, and
                output R² times their number) less ``1 - mix`` times the cross-entropy.
        """
        self.predicted[:] = 0.0
        self.scores.add(x, self.predicted[None])
        rows, weights = self.rows, self.rows.objective
        objective, shared = _objective(rows.starts, rows.actual, 1.0 - mix, 2.0 * mix * weights.attention,
                                       self.predicted, self.residual)  # fmt: skip
        share = 2.0 * mix * weights.output
        output_r2 = math.nan
        if share and rows.outputs is not None:
            output_r2 = rows.output_residual(self.predicted, self.residual, share)
            objective += share * len(rows) * output_r2
        self.iou = shared / (2 * len(rows) - shared)
        self.score = weights.score(self.iou, output_r2)
        return objective

    def moments(self, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return gradient and curvature of every weight (``gains.moments``) by the rows predicted last."""
        return moments(self.planes.arrays, self.numbers, self.rows.starts, residual, self.predicted)

    def maximise(self, start: np.ndarray, steps: int, mix: float = 1.0,
                 stop: Callable[[], bool] = lambda: False,
                 free: np.ndarray | None = None) -> np.ndarray:  # fmt: skip
        """Move all or the ``free`` weights uphill, predicting the rows ``steps`` times at most."""

        def value(x: np.ndarray) -> tuple[float, np.ndarray]:
            objective = self.value(x, mix) - 0.5 * self.ridge * float(x @ x)
            uphill = self.scores.gradient(x, self.residual[None])[0] - self.ridge * x
            return objective, uphill if free is None else np.where(free, uphill, 0.0)

        if not len(start):
            return start
        self.value(start, mix)
        scale = self.moments(self.residual)[1] + self.ridge + 1e-3
        return maximise(value, start, scale, steps, stop=stop)

    def shortened(self, x: np.ndarray, most: float = 0.002) -> np.ndarray:
        """Round weights to two digits, or to three, where that costs at most so much score."""
        self.value(x)
        before = self.score
        for digits in (2, 3):
            short = w.rounded(x, digits)
            self.value(short)
            if self.score >= before - most:
                return short
        return x

    def losses(self, x: np.ndarray) -> np.ndarray:
        """Return what the objective loses without each weight of the program."""
        self.value(x)
        before = self.rows.row_scores(self.predicted).sum()
        found = np.empty(len(x))
        for i in range(len(x)):
            own = dataclasses.replace(self.scores, terms=self.scores.terms[i : i + 1],
                                      weights=self.scores.weights[i : i + 1])  # fmt: skip
            score = np.zeros_like(self.predicted)
            own.add(x, score[None])
            changed = np.exp(np.clip(-score, -LIMIT, LIMIT))
            _multiply_rows(self.rows.starts, self.predicted, changed)
            found[i] = before - self.rows.row_scores(changed).sum()
        return found


def refit(design: Design, rows: HeadRows, program: t.Head) -> t.Head:
    """Move the weights of a program uphill in score on some rows, and round them where that costs little."""
    found, start = (
        SparseDesign.of(design, rows, program),
        np.array([w or 0.0 for w in program.weights]),
    )
    made = program.with_weights(found.shortened(found.maximise(start, REFIT)).tolist())
    return dataclasses.replace(made, terms=t.joined(made.terms))


def fit_holes(design: Design, rows: HeadRows, program: t.Head) -> t.Head:
    """Fit the weights of a program that are holes: to the likelihood, then to the score."""
    free = np.array([weight is None for weight in program.weights])
    x = np.array([weight or 0.0 for weight in program.weights])
    found = SparseDesign.of(design, rows, program)
    for mix in (0.0, 1.0):
        x = found.maximise(x, FIT_HOLES, mix, free=free)
    return program.with_weights(np.where(free, found.shortened(x), x).tolist())


@njit(**_OPTIONS)
def _objective(starts, actual, pull, share, predicted, residual):
    """Turn scores into rows, in place; write the gradient, return the objective and the shared mass."""
    zero, one = np.float32(0.0), np.float32(1.0)
    likelihood, shared_all, by_mass = 0.0, 0.0, np.float32(share)
    by_likelihood = np.float32(pull)
    for r in range(starts.shape[0] - 1):
        p = predicted[starts[r] : starts[r + 1]]
        a = actual[starts[r] : starts[r + 1]]
        d = residual[starts[r] : starts[r + 1]]
        top = p[0]
        for i in range(1, p.shape[0]):
            top = max(top, p[i])
        held = zero
        for i in range(p.shape[0]):
            x = max(p[i] - top, np.float32(-80.0))
            p[i] = x
            held += a[i] * x
        exponentials(p, p)
        mass = zero
        for i in range(p.shape[0]):
            mass += p[i]
        scale, inside, shared = one / mass, zero, zero
        for i in range(p.shape[0]):
            x = p[i] * scale
            p[i] = x
            inside += x if x < a[i] else zero
            shared += min(x, a[i])
        likelihood += float(held) - math.log(mass)
        shared_all += float(shared)
        for i in range(p.shape[0]):
            below = one if p[i] < a[i] else zero
            d[i] = by_likelihood * (a[i] - p[i]) + by_mass * p[i] * (below - inside)
    return pull * likelihood + share * shared_all, shared_all


@njit(**_OPTIONS)
def _multiply_rows(starts, predicted, change):
    """Multiply rows by a change of their unnormalised entries, in the place of the change."""
    for r in range(starts.shape[0] - 1):
        p = predicted[starts[r] : starts[r + 1]]
        c = change[starts[r] : starts[r + 1]]
        mass = np.float32(0.0)
        for i in range(p.shape[0]):
            c[i] *= p[i]
            mass += c[i]
        scale = np.float32(1.0) / mass
        for i in range(p.shape[0]):
            c[i] *= scale
