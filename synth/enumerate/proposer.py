"""The enumerator: programs of enumerated terms, in the order of a grammar that samples re-weight.

Terms come from a bank (``synth/enumerate/bank.py``), and from the programs already tried for the head, a
language model's samples above all. A step takes the program and the term that together promise the
lowest description length: what is left unexplained, to second order, and the cost of the program
under a probabilistic grammar, at a price that changes from step to step, so that small and large
programs are found. The grammar has seen the programs tried, each as much as it is good
(HYSYNTH, Barke et al. 2024): samples steer the order even where none of them is right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.limits import MAX_INTEGER
from attn_dsl.synth.enumerate.bank import Bank
from attn_dsl.synth.enumerate.pcfg import Bag, Grammar, prior
from attn_dsl.synth.gains import gain, row_moments
from attn_dsl.synth.promises import truth_gains, truth_masses, value_gain
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.proposers.greedy import name_sets, narrow
from attn_dsl.synth.rewrite import in_place
from attn_dsl.synth.vocabulary import size

STEPS = 64
"""How many programs are proposed at the most."""
PRICES = (1e-3, 5e-3, 3e-4)
"""What the steps pay in turn, in nats by row, for a nat of a program's cost under the grammar."""
OPEN = 48
"""How many terms each program offers for the steps after it."""
SIBLING = 0.02
"""What a program pays, in nats by row, for each other that was made of the same one before."""
RIDGE = 2.0
"""Curvature that is added to that of values, so that rare ones do not promise much."""
LEAST = 4e-4
"""Nats by row that a term must promise."""
HALVED = 0.1
"""A program counts half in the grammar for every so much of IoU that it lies below the best."""
RENEWED = 8
"""After so many steps the grammar looks again at what was tried."""
MOST_TERMS = 400
"""How many terms of tried programs are used, those of the best programs first."""


@dataclass
class Candidates:
    """What may be added to which program, one line each.

    Attributes:
        parents: number of the program.
        terms: number of the term, those of the bank first.
        conditions: number of the condition of the bank, -1 for none.
        losses: nats by row that are promised to be left.
    """

    parents: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    terms: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    conditions: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    losses: np.ndarray = field(default_factory=lambda: np.empty(0))

    def add(
        self, parent: int, terms: np.ndarray, conditions: np.ndarray, losses: np.ndarray
    ) -> None:
        """Add what may be added to one more program."""
        self.parents = np.concatenate([self.parents, np.full(len(terms), parent)])
        self.terms = np.concatenate([self.terms, terms])
        self.conditions = np.concatenate([self.conditions, conditions])
        self.losses = np.concatenate([self.losses, losses])

    def drop(self, at: int) -> None:
        """Take one line away."""
        for f in dataclasses.fields(self):
            setattr(self, f.name, np.delete(getattr(self, f.name), at))


@dataclass(frozen=True)
class Enumerate:
    """Programs of enumerated terms; see the module.

    Attributes:
        bank: gives the bank of the session.
        steps: how many programs are proposed at the most.
    """

    bank: Callable[[], Bank]
    steps: int = STEPS
    name: str = "enumerate"

    def propose(self, task: HeadTask) -> Iterator[t.Head]:
        """Yield programs, each a program before it with one more term."""
        search = _Search(self.bank(), task)
        for step in range(self.steps):
            if task.spent:
                return
            if step % RENEWED == 0:
                search.renew()
            program = search.next(PRICES[step % len(PRICES)])
            if program is None:
                return
            yield program


class _Search:
    """The search for one head; terms are those of the bank and then those of tried programs."""

    def __init__(self, bank: Bank, task: HeadTask) -> None:
        self.bank, self.task = bank, task
        self.rows = bank.target(task.rows)
        known = set(bank.terms)
        self.own = [x for x in tried_terms(task.tried) if x not in known][:MOST_TERMS]
        self.planes = np.concatenate([bank.values, bank.planes(self.own)])
        self.actual = self.masses(self.rows.actual)
        self.terms = (*bank.terms, *self.own)
        self.sizes = np.concatenate([bank.sizes, [size(x) for x in self.own]]).astype(np.int64)
        self.bags = Bag(self.terms), Bag(bank.conditions)
        self.found: list[Fitted] = []
        self.structures: list[tuple[t.Term, ...]] = []
        self.seen: set[frozenset[t.Term]] = set()
        self.open = Candidates()
        self.spent: list[float] = []
        self.children: list[int] = []
        self.renew()
        self.expand((), task.fit(task.empty()))

    def renew(self) -> None:
        """Look at what was tried, and price all terms, conditions and programs anew."""
        self.grammar = guided(self.task)
        self.costs, extra = (self.grammar.costs(bag) for bag in self.bags)
        self.narrowed = np.append(extra, 0.0)
        self.spent = [sum(map(self.grammar.cost, terms)) for terms in self.structures]

    def next(self, price: float) -> t.Head | None:
        """Fit the most promising program that is left, and return it; None if there is none."""
        while len(self.open.terms):
            lines = self.open
            cost = self.costs[lines.terms] + self.narrowed[lines.conditions]
            cost += np.array(self.spent)[lines.parents]
            breadth = SIBLING * np.array(self.children)[lines.parents]
            at = int(np.argmin((lines.losses + breadth + price * cost).round(9)))
            parent, number, c = (int(x[at]) for x in (lines.parents, lines.terms, lines.conditions))
            self.open.drop(at)
            term = (
                self.terms[number] if c < 0 else narrow(self.terms[number], self.bank.conditions[c])
            )
            terms = (*self.structures[parent], term)
            program = name_sets(dataclasses.replace(self.task.empty(), terms=terms))
            if frozenset(terms) in self.seen or t.nodes(program) > self.task.max_nodes:
                continue
            self.seen.add(frozenset(terms))
            self.children[parent] += 1
            start = np.array([*(w or 0.0 for w in self.found[parent].program.weights), 0.0])
            self.expand(terms, self.task.fit(program, start))
            return program
        return None

    def expand(self, terms: tuple[t.Term, ...], fitted: Fitted) -> None:
        """Note what may be added to a program."""
        bank, rows, count = self.bank, self.rows, len(self.rows)
        predicted = bank.sample(fitted.predicted)
        gains = np.empty((len(self.terms), 1 + len(bank.conditions)), np.float32)
        truths = len(bank.starts_held) - 1
        truth_gains(self.actual, self.masses(predicted), bank.active, LEAST * count, gains[:truths])
        rest = gains[truths:]
        g, h = (np.empty((len(rest), count), np.float32) for _ in range(2))
        plain = np.zeros(len(rest), np.bool_)
        row_moments(self.planes, plain, rows.starts, rows.actual, predicted, g, h)
        rest[:] = gain(bank.by_condition(g), bank.by_condition(h), RIDGE)
        # To second order all is promised that a far smaller step would bring, several times.
        exact = value_gain(self.planes, rows.starts, rows.actual, predicted)
        rest *= np.minimum(1.0, exact / np.maximum(rest[:, 0], 1e-9))[:, None]
        gains /= count
        loss = cross_entropy(rows.actual, predicted, count)
        term, condition, promised = _best(gains, self.sizes[:, None] + bank.extra)
        self.open.add(len(self.found), term, condition - 1, loss - promised)
        self.structures.append(terms)
        self.found.append(fitted)
        self.children.append(0)
        self.spent.append(sum(map(self.grammar.cost, terms)))

    def masses(self, weights: np.ndarray) -> np.ndarray:
        """Sum weights of entries where each predicate of the bank holds, by condition."""
        bank = self.bank
        out = np.empty((len(bank.starts_held) - 1, len(self.rows)), np.float32)
        truth_masses(bank.holds, bank.starts_held, bank.row, weights, out)
        return self.bank.by_condition(out)


def guided(task: HeadTask) -> Grammar:
    """Return the grammar that has seen what was tried for a head, the better the more.

    A program counts half for every ``HALVED`` of IoU that it lies below the best of them.
    """
    tried = task.tried
    best = max((fitted.iou for fitted in tried), default=0.0)
    return prior(task.causal).reweighted(
        (fitted.program, 0.5 ** ((best - fitted.iou) / HALVED)) for fitted in tried
    )


def tried_terms(tried: Sequence[Fitted]) -> list[t.Term]:
    """Return the terms of programs that were tried, those of the best programs first.

    Named sets are written in place, tables as one term for each step, and weights are holes.
    """
    found: dict[t.Term, None] = {}
    for fitted in sorted(tried, key=lambda f: -round(f.iou, 6)):
        sets = {d.name: d.value for d in fitted.program.sets}
        for term in fitted.program.terms:
            for part in steps(term):
                found.setdefault(in_place(part, sets))
    return list(found)


def steps(term: t.Term) -> Iterator[t.Term]:
    """Yield a term without its weight, a table as one term for each of its steps."""
    if not isinstance(term, t.Table):
        yield dataclasses.replace(term, weight=None, remarks=t.NO_REMARKS)
        return
    bounds = [entry.bound for entry in term.entries]
    for low, after in zip(bounds, [*bounds[1:], None], strict=True):
        inside: t.Predicate = t.Compare(">=", term.value, t.Integer(low))
        if after is not None:
            inside = t.Between(term.value, low, after - 1)
            if after - 1 == low >= 0:
                inside = t.Compare("==", term.value, t.Integer(low))
        if low < 0 and after is None:
            inside = t.Between(term.value, low, MAX_INTEGER)
        yield t.Where(None, inside if term.condition is None else t.And(inside, term.condition))


def cross_entropy(actual: np.ndarray, predicted: np.ndarray, count: int) -> float:
    """Return -sum a ln p by row."""
    return float(-(actual @ np.log(np.maximum(predicted, 1e-12)))) / count


def _best(gains: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose the terms that gain most, and those that gain most by node, each under one condition.

    Args:
        gains, sizes: (terms, conditions).

    Returns:
        Terms, conditions and gains.
    """
    chosen: dict[tuple[int, int], None] = {}
    for worth in (gains, gains / sizes):
        best = worth.argmax(1)
        most = np.take_along_axis(worth, best[:, None], 1)[:, 0]
        for j in np.argsort(-most, kind="stable")[: OPEN // 2].tolist():
            chosen.setdefault((j, int(best[j])))
            chosen.setdefault((j, 0))
    terms, conditions = np.array(list(chosen), dtype=np.int64).reshape(-1, 2).T
    promised = gains[terms, conditions]
    kept = promised > LEAST
    return terms[kept], conditions[kept], promised[kept]
