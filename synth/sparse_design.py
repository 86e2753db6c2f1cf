"""Sparse design: a program's parameters on the rows of one head: objective, gradient, losses of parts."""

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
from attn_dsl.eval.set_parameters import (
    Lookup,
    SetProgram,
    SetTerm,
    TableTerm,
    TokenSymbols,
    set_program,
)
from attn_dsl.eval.set_scores import FIRST, ONE, Planes, Rows, SetScores
from attn_dsl.synth import weights as w
from attn_dsl.synth.design import Design
from attn_dsl.synth.lbfgs import maximise
from attn_dsl.synth.objective import HeadRows
from attn_dsl.synth.rewrite import bare

_OPTIONS = {**COMPILED, "fastmath": {*SUMS, "arcp", "nnan"}}
MOST = 64
"""Programs of at most so many weights, those of elements included, have all of them refitted."""
REFIT, FIT_HOLES = 25, 40
"""How often the rows are predicted to move all weights of a program, and for each aim of its holes."""
LIMIT = 60.0  # the scores of a part that is left out are kept within this magnitude


class TermPlanes:
    """The planes of some terms on the rows of a design, each computed when first needed.

    Attributes:
        arrays: the planes; rows that were not asked for are untouched memory.
        rows: where the rows stand.
        queries: int64 (rows): the token of each row.
        symbols: of the tokens.

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
        self.queries = design.firsts + design.queries
        self.rows = Rows(design.starts, design.firsts)
        self.symbols = TokenSymbols(design.batch, design.causal)
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
        """Return the plane of each weight of some terms, as in ``SetScores``."""
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
    """A program on the rows of one head; it moves the program's parameters and tells what they bring.

    Attributes:
        program: its structure.
        planes: of its terms, on the design that the rows are of.
        rows: the head's.
        predicted: float32 (entries), the program's rows for the last parameters that were looked at.
        residual: float32 (entries), the gradient of the objective by the scores.
        iou, score: of the predicted rows, over all rows; without outputs where ``mix`` is 0.
        ridge: pull of every parameter to 0, in nats by squared weight.
    """

    def __init__(self, planes: TermPlanes, rows: HeadRows, program: SetProgram,
                 ridge: float = 0.1) -> None:  # fmt: skip
        self.planes, self.rows, self.program, self.ridge = planes, rows, program, ridge
        self.predicted = np.empty(len(rows.actual), dtype=np.float32)
        self.residual = np.empty(len(rows.actual), dtype=np.float32)
        self.iou = self.score = math.nan
        self.scores = self._scores()

    @classmethod
    def of(cls, design: Design, rows: HeadRows, program: SetProgram) -> SparseDesign:
        """Make one with planes of its own."""
        plain: list[t.Term] = []
        for one in program.sets:
            if isinstance(one, TableTerm):
                plain += one.planes()
            elif one.plain is not None:
                plain.append(one.plain)
        planes = TermPlanes(design, [*program.terms, *plain], program.empty)
        return cls(planes, rows, program)

    def with_program(self, program: SetProgram) -> SparseDesign:
        """Return the design of another program, of terms that have planes."""
        return SparseDesign(self.planes, self.rows, program, self.ridge)

    def _scores(self) -> SetScores:
        """Lay the parameters of the program out."""
        program, planes = self.program, self.planes
        terms, weights = [], []
        sides: dict[str, list[np.ndarray]] = {"q": [], "k": []}
        plain = iter(planes.numbers(program.terms))

        def add(lookup: Lookup, first: int) -> int:
            variable = lookup.position.variable
            numbers = planes.symbols.numbers(lookup.value, lookup.elements, first)
            sides[variable].append(numbers[planes.queries] if variable == "q" else numbers)
            return len(sides[variable]) - 1

        for term, at in program.parts():
            if not isinstance(term, SetTerm):
                table = isinstance(term, TableTerm)
                steps = [x for (x,) in planes.numbers(term.planes())] if table else next(plain)  # type: ignore[union-attr]
                for i, plane in enumerate(steps):
                    terms.append((0, plane, -1, -1, 0))
                    weights.append(FIRST + at.start + i)
                continue
            plane = planes.numbers([term.plain])[0][0] if term.plain is not None else -1
            terms.append((0, plane, *term.places(at.start, planes.design.causal, add)))
            weights.append(ONE)
        widths = {"q": len(planes.queries), "k": int(planes.design.batch.starts[-1])}
        return SetScores(
            planes.rows, planes.arrays, np.array(terms, dtype=np.int64).reshape(-1, 5),
            np.array(weights, dtype=np.int64),
            *(np.array(sides[x], dtype=np.int32).reshape(-1, widths[x]) for x in "qk"))  # fmt: skip

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

    def curvature(self, x: np.ndarray) -> np.ndarray:
        """Return a bound of the diagonal of the curvature of the cross-entropy, by the last rows."""
        return self.scores.gradient(x, self.predicted[None], squared=True)

    def maximise(self, start: np.ndarray, steps: int, mix: float = 1.0,
                 stop: Callable[[], bool] = lambda: False,
                 free: np.ndarray | None = None) -> np.ndarray:  # fmt: skip
        """Move all or the ``free`` parameters uphill, predicting the rows ``steps`` times at most."""

        def value(x: np.ndarray) -> tuple[float, np.ndarray]:
            objective = self.value(x, mix) - 0.5 * self.ridge * float(x @ x)
            uphill = self.scores.gradient(x, self.residual[None]) - self.ridge * x
            return objective, uphill if free is None else np.where(free, uphill, 0.0)

        if not len(start):
            return start
        self.value(start, mix)
        scale = self.curvature(start) + self.ridge + 1e-3
        return maximise(value, start, scale, steps, stop=stop)

    def shortened(self, x: np.ndarray, most: float = 0.002) -> np.ndarray:
        """Round parameters to two digits, or to three, where that costs at most so much score."""
        self.value(x)
        before = self.score
        for digits in (2, 3):
            short = w.rounded(x, digits)
            self.value(self.program.rounded(short))
            if self.score >= before - most:
                return short
        return x

    def losses(self, x: np.ndarray) -> np.ndarray:
        """Return what the objective loses without each of the program's plain terms of one weight."""
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
    parameters, start = set_program(program, plain=False)
    if not parameters.sets or len(start) > MOST:
        start = np.array([x or 0.0 for x in program.weights])
        parameters = SetProgram(dataclasses.replace(program, terms=()), program.terms)
    found = SparseDesign.of(design, rows, parameters)
    program = parameters.written(found.shortened(found.maximise(start, REFIT)))
    return dataclasses.replace(program, terms=t.joined(program.terms))


def fit_holes(design: Design, rows: HeadRows, program: t.Head) -> t.Head:
    """Fit the weights of a program that are holes: to the likelihood, then to the score."""
    free = np.array([weight is None for weight in program.weights])
    x = np.array([weight or 0.0 for weight in program.weights])
    parameters = SetProgram(dataclasses.replace(program, terms=()), program.terms)
    found = SparseDesign.of(design, rows, parameters)
    for mix in (0.0, 1.0):
        x = found.maximise(x, FIT_HOLES, mix, free=free)
    return parameters.written(np.where(free, found.shortened(x), x))


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
