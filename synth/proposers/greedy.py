"""The greedy proposer: builds programs term by term, each the one that gains most for its size.

A new term is a term of the vocabulary, narrowed by a condition on the query, or a rule made of
token sets that are invented from what the program so far gets wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.printer import show_term
from attn_dsl.synth import vocabulary
from attn_dsl.synth.gains import best_set, gain, key_moments, row_moments
from attn_dsl.synth.proposer import HeadTask
from attn_dsl.synth.rewrite import bare, drop_unused, name_sets

INLINE = 5
"""Sets of up to so many elements are written in place, larger ones get a name."""
ONE_TRUTH = np.ones(1, dtype=np.bool_)
SHORTLIST = 12
"""How many planes are tried with query sets at each step."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A term that may be added: its estimated gain (nats over all rows), and its nodes."""

    gain: float
    nodes: int
    term: t.Term

    def score(self, exponent: float) -> float:
        """Weigh gain against size: with exponent 0 the gain alone, with 1 the gain by node."""
        return self.gain / self.nodes**exponent


@dataclass(frozen=True)
class Greedy:
    """Greedy construction; see the module."""

    name: str = "greedy"
    # one program path is grown for each; see ``Candidate.score``
    exponents: tuple[float, ...] = (1.0, 0.3)
    max_terms: int = 12  # the most terms of a program
    set_limit: int = 24  # the most tokens of an invented set
    price: float = 4.0  # gain that each token of a set must bring, in nats
    enough: float = 4e-4  # stop when a term gains less than this by row

    def propose(self, task: HeadTask) -> Iterator[t.Head]:
        """Yield every program on the way of each path."""
        for exponent in self.exponents:
            program = task.empty()
            fitted = task.fit(program)
            yield program
            for _ in range(self.max_terms):
                if task.spent:
                    return
                found = self.candidates(task, fitted.predicted)
                used = set(map(bare, program.terms))
                found = [c for c in found if c.term not in used]
                if not found:
                    break
                best = max(found, key=lambda c: c.score(exponent))
                if best.gain < self.enough * len(task.rows):
                    break
                bigger = dataclasses.replace(program, terms=(*program.terms, best.term))
                bigger = name_sets(bigger, INLINE)
                if t.nodes(bigger) > task.max_nodes:
                    break
                start = np.array([*(x or 0.0 for x in fitted.program.weights), 0.0])
                fitted = task.fit(bigger, start)
                program = bigger
                yield bigger
            yield from self.shrink(task, program)

    def shrink(self, task: HeadTask, program: t.Head) -> Iterator[t.Head]:
        """Yield what is left of a program as its least useful terms are dropped one by one."""
        while len(program.terms) > 2 and not task.spent:
            fitted = task.fit(program)
            planes = task.design.planes(program)
            spread = planes.std(axis=1) * np.abs(np.array(fitted.program.weights))
            least = int(np.argmin(spread))
            terms = program.terms[:least] + program.terms[least + 1 :]
            program = drop_unused(dataclasses.replace(program, terms=terms))
            yield program

    def candidates(self, task: HeadTask, predicted: np.ndarray) -> list[Candidate]:
        """Return the best candidates of each kind, given what the program so far predicts."""
        design, count = task.design, len(task.rows)
        terms, conditions = vocabulary.terms(task.causal), vocabulary.conditions(task.causal)
        aim = task.rows.likelihood_aim(predicted)
        g, h = design.packed.row_moments(aim, predicted)
        ridge = 2.0 + 1e-3 * count
        alone = gain(g.sum(1), h.sum(1), ridge)
        sizes, extra = vocabulary.sizes(task.causal)
        found = [Candidate(float(alone[j]), sizes[j], terms[j]) for j in np.argsort(-alone)[:8]]
        gc, hc = (self.by_condition(design.conditions, m) for m in (g, h))
        narrowed = gain(gc, hc, ridge)
        for at in np.argsort(-narrowed, axis=None)[:16]:
            j, c = divmod(int(at), len(conditions))
            term = narrow(terms[j], conditions[c])
            joined = 0 if isinstance(term, t.Scaled) else 1
            found.append(Candidate(float(narrowed[j, c]), sizes[j] + extra[c] + joined, term))
        found += self.query_sets(task, g, h, ridge)
        found += self.key_sets(task, aim, predicted, ridge)
        return found

    @staticmethod
    def by_condition(conditions: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """Sum moments over the rows where each condition holds; the second half are negations."""
        half = len(conditions) // 2
        held = moments @ conditions[:half].T
        return np.concatenate([held, moments.sum(1, keepdims=True) - held], axis=1)

    def query_sets(
        self, task: HeadTask, g: np.ndarray, h: np.ndarray, ridge: float
    ) -> list[Candidate]:
        """Narrow terms of the vocabulary to sets of query tokens."""
        design, terms = task.design, vocabulary.terms(task.causal)
        width = design.width
        order = np.argsort(-np.abs(g).sum(1) / np.sqrt(h.sum(1) + ridge), kind="stable")
        found = []
        for j in order[:SHORTLIST]:
            gs, hs = (np.bincount(design.query_symbols, m[j], width) for m in (g, h))
            worth, chosen = best_set(gs, hs, ridge, self.price, self.set_limit)
            if len(chosen):
                term = narrow(terms[j], token_set(design.symbols, "q", chosen))
                found.append(Candidate(worth, vocabulary.size(term), term))
        return found

    def key_sets(
        self, task: HeadTask, aim: np.ndarray, predicted: np.ndarray, ridge: float
    ) -> list[Candidate]:
        """Invent rules: a set of key tokens, alone and with a set of query tokens, near and far."""
        design, rows = task.design, task.rows
        width = design.width
        everywhere = np.arange(len(rows))
        found = []
        for place in (None, *_places(task.causal)):
            plane = (
                np.ones(design.entries, np.float32) if place is None else design.vocabulary[place]
            )
            base = None if place is None else vocabulary.terms(task.causal)[place]
            chosen_rows = everywhere
            queries: np.ndarray | None = None
            for _ in range(3):
                moments = np.zeros((2, width))
                key_moments(
                    design.key_symbols, plane, chosen_rows, design.starts, aim, predicted,
                    *moments,
                )  # fmt: skip
                worth, keys = best_set(moments[0], moments[1], ridge, self.price, self.set_limit)
                if not len(keys):
                    break
                key_set = token_set(design.symbols, "k", keys)
                placed = t.Where(None, key_set) if base is None else narrow(base, key_set)
                term = placed
                if queries is not None:
                    term = narrow(placed, token_set(design.symbols, "q", queries))
                found.append(Candidate(worth, vocabulary.size(term), term))
                inside = (plane * _indicator(keys, width)[design.key_symbols])[None]
                g = np.zeros((1, len(rows)), dtype=np.float32)
                h = np.zeros_like(g)
                row_moments(inside, ONE_TRUTH, design.starts, aim, predicted, g, h)
                gs, hs = (np.bincount(design.query_symbols, m[0], width) for m in (g, h))
                worth, queries = best_set(gs, hs, ridge, self.price, self.set_limit)
                if not len(queries):
                    break
                chosen_rows = np.flatnonzero(_indicator(queries, width)[design.query_symbols])
                rule = narrow(placed, token_set(design.symbols, "q", queries))
                found.append(Candidate(worth, vocabulary.size(rule), rule))
        return found


@lru_cache(maxsize=2)
def _places(causal: bool) -> list[int]:
    """Return the terms of the vocabulary that a rule of token sets may be limited to."""
    wanted = ["k == q-1", "q - k in 1..4", "q - k >= 16"] if causal else ["k == q-1", "k == q+1"]
    shown = [show_term(term).removeprefix("? where ") for term in vocabulary.terms(causal)]
    return [shown.index(text) for text in wanted]


def narrow(term: t.Term, condition: t.Predicate) -> t.Term:
    """Return a term that holds only where a further condition does."""
    if isinstance(term, t.Where):
        return dataclasses.replace(term, condition=t.And(term.condition, condition))
    both = condition if term.condition is None else t.And(term.condition, condition)
    return dataclasses.replace(term, condition=both)


def token_set(symbols: dict[int, str], variable: str, chosen: np.ndarray) -> t.Predicate:
    """Return that the token at a variable is one of those chosen.

    Args:
        symbols: the string of each number.
        variable: ``q`` or ``k``.
        chosen: numbers of symbols, at least one.
    """
    elements = tuple(symbols[int(s)] for s in chosen)
    call = t.Call("token", (t.Position(variable),))  # type: ignore[arg-type]
    if len(elements) == 1:
        return t.Compare("==", call, t.Text(elements[0]))
    return t.Member(call, t.SetLiteral(elements))


def _indicator(chosen: np.ndarray, width: int) -> np.ndarray:
    """Return 1 for the chosen of ``width`` symbols and 0 for the others."""
    marks = np.zeros(width, dtype=np.float32)
    marks[chosen] = 1.0
    return marks
