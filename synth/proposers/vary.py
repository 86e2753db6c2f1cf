"""Variation: changes, drops, exchanges and simplifies the terms of a head's front, round by round.

A step looks at every small program of the front: at what a small change makes of each of its terms, at
the terms of the other programs of the front and of other heads, and at leaving a term out. Each
is judged on probe rows, the other weights left as they are; only what promises most is fitted, and
what is better than the front becomes part of it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.synth import vocabulary
from attn_dsl.synth import weights as w
from attn_dsl.synth.enumerate.proposer import cross_entropy
from attn_dsl.synth.gains import best_set, key_moments
from attn_dsl.synth.nearest import NearestPrograms
from attn_dsl.synth.probe import Probe
from attn_dsl.synth.promises import exact_gain, row_sums, value_gain
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.proposers.greedy import name_sets, narrow, token_set
from attn_dsl.synth.proposers.neighbours import neighbours
from attn_dsl.synth.rewrite import in_place
from attn_dsl.synth.simplify import bare, conjuncts, simplify

SMALL = 80
"""Programs of at most so many nodes are varied …"""
TERMS = 12
"""… and of at most so many terms."""
STEPS = 4
"""How often the front is looked at."""
FITS = 8
"""How many programs are fitted in a step."""
ALIKE = 3
"""How many of them change the same term."""
ELEMENTS = (2.0, 8.0, 32.0)
"""Nats over all rows of the design that each element of an invented set must promise, by turns."""
MOST_ELEMENTS = 16
FOREIGN = 24
"""Nodes of the largest term that is taken from another program."""
RIDGE = 2.0
"""Curvature that is added to that of values."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a program may become.

    Attributes:
        terms: all of them, with holes.
        start: the weights to fit them from.
        nodes, loss: about its nodes, and the nats by row that it promises to leave at the most.
        key: the numbers of its terms.
        place: the term that is changed, and those of the program it was in.
    """

    terms: tuple[t.Term, ...]
    start: np.ndarray
    nodes: int
    loss: float
    key: frozenset[int]
    place: tuple[int, tuple[t.Term, ...]]


@dataclass(frozen=True)
class Vary:
    """Variation of a front; see the module.

    Attributes:
        probe: gives the rows that changes are judged on.
        nearest: ranks the programs of other heads.
        steps: how often the front is looked at.
    """

    probe: Callable[[], Probe]
    nearest: Callable[[], NearestPrograms]
    steps: int = STEPS
    name: str = "local_search"

    def propose(self, task: HeadTask) -> Iterator[t.Head | Fitted]:
        """Yield what is simpler than the front and computes the same, then what is better."""
        known: list[Fitted] = []
        rows = () if task.before is None else task.before.front
        for row in rows:
            program = parse(row.program)
            simple = simplify(program)
            if simple != program:
                yield task.measured(simple, self.name)
            if task.spent:
                return
            if _varied(simple):
                start = np.array(simple.weights, dtype=np.float64)
                known.append(task.fit(dataclasses.replace(simple, name=task.name), start))
        judge = _Judge(self.probe(), task)
        foreign = [
            simplify(p)
            for p in self.nearest().of(task.number, task.others, 3)
            if p.normaliser == "softmax"
        ]
        pool = dict.fromkeys(
            x
            for row in (*(parse(r.program) for r in rows), *foreign)
            for x in parts(row)
            if len(t.weights_of(x)) == 1  # not a table of several steps
        )
        for _ in range(self.steps):
            better = False
            best = list(known)
            for change in judge.best(known, [x for x in pool if size(x) <= FOREIGN]):
                if task.spent:
                    return
                judge.seen.add(change.key)
                program = name_sets(dataclasses.replace(task.empty(), terms=change.terms))
                if t.nodes(program) > task.max_nodes:
                    continue
                fitted = task.fit(program, change.start)
                yield program
                if fitted.iou > max((f.iou for f in best if f.nodes <= fitted.nodes), default=0.0):
                    known.append(fitted)
                    better = True
            if not better:
                return


def _varied(program: t.Head) -> bool:
    return 1 < t.nodes(program) <= SMALL and len(program.weights) == len(program.terms) <= TERMS


class _Judge:
    """Judges changes of a head's programs on probe rows."""

    def __init__(self, probe: Probe, task: HeadTask) -> None:
        self.probe, self.task = probe, task
        self.rows = probe.target(task.rows)
        self.planes: dict[t.Term, np.ndarray] = {}
        self.masses: dict[t.Term, np.ndarray] = {}
        self.known: dict[tuple[t.Term, ...], list[Change]] = {}
        self.numbers: dict[t.Term, int] = {}
        self.near: dict[t.Term, list[t.Term]] = {}
        self.seen: set[frozenset[int]] = set()
        self.keys = probe.sample(task.design.key_symbols)
        self.queries = probe.sample_rows(task.design.query_symbols)
        self.held = probe.sample_rows(task.design.conditions)

    def best(self, programs: Sequence[Fitted], pool: Sequence[t.Term]) -> list[Change]:
        """Return the changes that promise most against the program of the front at their size."""
        uniform = self.task.fit(self.task.empty())
        losses = [(f.nodes, self.loss(f.predicted)) for f in (uniform, *programs)]
        ranked: list[tuple[float, Change]] = []
        for fitted in programs:
            if self.task.spent:
                break
            terms = parts(fitted.program)
            if terms not in self.known:
                self.known[terms] = list(self.changes(fitted, terms, pool))
            for change in self.known[terms]:
                rival = min(x for n, x in losses if n <= change.nodes)
                promise = round(rival - change.loss, 9)
                if promise > 0 and change.key not in self.seen and change.terms:
                    ranked.append((promise, change))
        ranked.sort(key=lambda pair: -pair[0])
        taken = Counter[tuple[int, tuple[t.Term, ...]]]()
        found: dict[frozenset[int], Change] = {}
        for _, change in ranked:
            if change.key not in found and taken[change.place] < ALIKE:
                taken[change.place] += 1
                found[change.key] = change
                if len(found) == FITS:
                    break
        return list(found.values())

    def loss(self, predicted: np.ndarray) -> float:
        """Return the cross-entropy of a program that predicts so on the design, by row."""
        return cross_entropy(self.rows.actual, self.probe.sample(predicted), len(self.rows))

    def changes(
        self, fitted: Fitted, terms: tuple[t.Term, ...], pool: Sequence[t.Term]
    ) -> Iterator[Change]:
        """Yield what one program may become, the weights of its other terms left as they are."""
        weights = np.array(fitted.program.weights, dtype=np.float64)
        nodes, loss = fitted.nodes, self.loss(fitted.predicted)
        numbers = [self.number(x) for x in terms]
        new = [x for x in pool if x not in terms]
        gains = self.gains(new, self.probe.sample(fitted.predicted))
        for x, gained in zip(new, gains, strict=True):
            key = frozenset((*numbers, self.number(x)))
            start = np.append(weights, 0.0)
            yield Change((*terms, x), start, nodes + size(x), loss - gained, key, (-1, terms))
        planes = self.of(terms)
        for j, term in enumerate(terms):
            rest, saved = np.delete(weights, j), size(term)
            left, others = (*terms[:j], *terms[j + 1 :]), {*numbers[:j], *numbers[j + 1 :]}
            without = np.empty(self.probe.entries, np.float32)
            w.predict(np.delete(planes, j, axis=0), rest, self.rows.starts, without)
            options = [*self.changed(term), *self.invented(term, without), *new]
            gains = self.gains(options, without)
            alone = cross_entropy(self.rows.actual, without, len(self.rows))
            place = j, terms
            yield Change(left, rest, nodes - saved, alone, frozenset(others), place)
            start = np.append(rest, 0.0)
            pairs = [*zip(options, gains, strict=True), *self.narrowed(term, planes[j], without)]
            for x, gained in pairs:
                larger, after = nodes + size(x) - saved, alone - gained
                yield Change(
                    (*left, x), start, larger, after, frozenset((*others, self.number(x))), place
                )

    def number(self, term: t.Term) -> int:
        """Number terms, since numbers are compared sooner."""
        return self.numbers.setdefault(term, len(self.numbers))

    def invented(self, term: t.Term, without: np.ndarray) -> Iterator[t.Term]:
        """Yield a term with other sets of key or query tokens, those that gain most."""
        if not isinstance(term, t.Where):
            return
        whole = list(conjuncts(term.condition))
        rows, symbols, ridge = self.rows, self.task.design.symbols, RIDGE + 1e-3 * len(self.rows)
        for variable in ("k", "q"):
            rest = [part for part in whole if not _of_tokens(part, variable)]
            base = t.Where(None, functools.reduce(t.And, rest)) if rest else None
            plane = self.of([base])[0] if base else np.ones(self.probe.entries, np.float32)
            width = int(max(self.keys.max(initial=0), self.queries.max(initial=0))) + 1
            moments = np.zeros((2, width))
            if variable == "k":
                every = np.arange(len(rows))
                key_moments(self.keys, plane, every, rows.starts, rows.actual, without, *moments)
            else:
                a, m = (
                    self.by_row(plane[None], rows.actual)[0],
                    self.by_row(plane[None], without)[0],
                )
                moments[0] = np.bincount(self.queries, a - m, width)
                moments[1] = np.bincount(self.queries, np.maximum(m - m * m, 0), width)
            before: tuple[int, ...] = ()
            for price in ELEMENTS:
                part = price * len(rows) / len(self.task.rows)
                _, chosen = best_set(moments[0], moments[1], ridge, part, MOST_ELEMENTS)
                if len(chosen) and tuple(chosen) != before:
                    before = tuple(chosen)
                    inside = token_set(symbols, variable, chosen)
                    yield t.Where(None, inside) if base is None else narrow(base, inside)

    def narrowed(
        self, term: t.Term, plane: np.ndarray, without: np.ndarray
    ) -> Iterator[tuple[t.Term, float]]:
        """Yield what conditions on the query make of a term, and what that gains."""
        if not isinstance(term, t.Where):
            return
        a, m = self.actual([term]), self.by_row(plane[None], without)
        gains = exact_gain(a * self.held, m * self.held) / len(self.rows)
        conditions = vocabulary.conditions(self.task.causal)
        for c in np.argsort(-gains, kind="stable")[:FITS].tolist():
            yield narrow(term, conditions[c]), gains[c]

    def of(self, terms: Sequence[t.Term]) -> np.ndarray:
        """Return the planes of some terms, which are kept."""
        new = [x for x in dict.fromkeys(terms) if x not in self.planes]
        self.planes.update(zip(new, self.probe.planes(new), strict=True))
        if not terms:
            return np.empty((0, self.probe.entries), np.float32)
        return np.stack([self.planes[x] for x in terms])

    def changed(self, term: t.Term) -> list[t.Term]:
        """Return the neighbours of a term."""
        if term not in self.near:
            self.near[term] = neighbours(term, self.task.causal)
        return self.near[term]

    def gains(self, terms: Sequence[t.Term], predicted: np.ndarray) -> np.ndarray:
        """Return what each term would gain with one weight, in nats by row."""
        found = np.zeros(len(terms))
        truths = np.array([isinstance(x, t.Where) for x in terms], dtype=np.bool_)
        if truths.any():
            some = [x for x in terms if isinstance(x, t.Where)]
            found[truths] = exact_gain(self.actual(some), self.by_row(self.of(some), predicted))
        if not truths.all():
            some_others = [x for x in terms if not isinstance(x, t.Where)]
            found[~truths] = value_gain(
                self.of(some_others), self.rows.starts, self.rows.actual, predicted
            )
        return found / len(self.rows)

    def actual(self, terms: Sequence[t.Term]) -> np.ndarray:
        """Return the head's masses where each predicate holds, which are kept."""
        new = [x for x in dict.fromkeys(terms) if x not in self.masses]
        if new:
            self.masses.update(zip(new, self.by_row(self.of(new), self.rows.actual), strict=True))
        return np.stack([self.masses[x] for x in terms])

    def by_row(self, planes: np.ndarray, masses: np.ndarray) -> np.ndarray:
        """Sum planes times masses over each row."""
        out = np.empty((len(planes), len(self.rows)), np.float32)
        row_sums(planes, self.rows.starts, masses, out)
        return out


@functools.lru_cache(maxsize=8192)
def size(node: t.Term | t.Predicate) -> int:
    """Count the nodes of a term or predicate."""
    return vocabulary.size(node)


def _of_tokens(part: t.Predicate, variable: str) -> bool:
    """Say whether a condition is on the string of the key (or query) token."""
    match part:
        case t.Compare("==", t.Call(name, (t.Position(v, _),)), t.Text()):
            return name in ("token", "text") and v == variable
        case t.Member(t.Call(name, (t.Position(v, _),)), t.SetLiteral()):
            return name in ("token", "text") and v == variable
    return False


def parts(program: t.Head) -> tuple[t.Term, ...]:
    """Return the terms of a program with holes for weights, and with sets in place."""
    sets = {d.name: d.value for d in program.sets}
    return tuple(bare(in_place(term, sets)) for term in program.terms)
