"""A summary of a head that a model can read: what it attends to, in the language's own terms.

It has shares of attention by predicate and by token against chance, and rows, all from the fit split.
"""

import itertools
from collections.abc import Iterator
from functools import cached_property

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.printer import expression, quote
from attn_dsl.synth import search_terms
from attn_dsl.synth.proposer import Fitted, HeadTask

LONGEST = 40  # the most lines of a part
LEAST = 0.003  # nats that a line on a predicate or token must tell
A_LINE = 4  # tokens on a line
WORST = 2  # rows on which a program does worst that are shown
CONTEXT, KEYS = 6, 3  # tokens before a query, and keys, that a row shows


class Summary:
    """The lines that tell a model about a head.

    >>> print(Summary(task).lines(40)[0])
    A causal head, seen on 812 queries of 36 texts.
    """

    def __init__(self, task: HeadTask) -> None:
        self.task, self.design = task, task.design
        self.actual, self.starts = task.rows.actual, task.rows.starts
        self.widths = np.diff(self.starts)
        self.queries = self.design.queries
        self.row_of = np.repeat(np.arange(len(self.widths)), self.widths)
        self.chance = (1 / self.widths[self.row_of]).astype(np.float32)
        planes, n = self.design.vocabulary[search_terms.truths(task.causal)], len(self.widths)
        # by predicate of the search's vocabulary, the share of attention where it holds, and by chance
        self.shares, self.even = (planes @ x / n for x in (self.actual, self.chance))

    @cached_property
    def parts(self) -> dict[str, list[str]]:
        """The lines of each part, those that tell most first."""
        parts = {"Shares of its attention where a predicate holds (by chance):": self.preferences(),
                 "Tokens by their share (by chance):": self._tokens(),
                 "Rows, with the keys that it attends to most:": self._rows()}  # fmt: skip
        return {title: [*itertools.islice(part, LONGEST)] for title, part in parts.items()}

    def lines(self, most: int, rows: bool = True) -> list[str]:
        """Return a line on the head in general, and so many of each part; fewer rows, or none."""
        kind = "causal" if self.task.causal else "bidirectional"
        texts = len(self.design.rows)
        found = [f"A {kind} head, seen on {len(self.widths)} queries of {texts} texts."]
        for title, part in self.parts.items():
            if most and part:
                some = part[: rows * most // 3 if title.startswith("Rows") else most]
                found += [title, *(f"  {line}" for line in some)] if some else []
        return found

    def preferences(self) -> Iterator[str]:
        """Yield predicates of the search's vocabulary, those that tell most first, of equal ones one."""
        chosen = search_terms.truths(self.task.causal)
        terms = itertools.compress(search_terms.terms(self.task.causal), chosen)
        predicates = [term.condition for term in terms if isinstance(term, t.Where)]
        mass, even, seen = self.shares, self.even, set[str]()
        told = _gains(mass, even)
        for i in np.argsort(-told, kind="stable"):
            numbers = f"{mass[i]:.2f} ({even[i]:.2f})"
            if told[i] > LEAST and numbers not in seen:
                seen.add(numbers)
                yield f"{expression(predicates[i])}: {numbers}"

    def _tokens(self) -> Iterator[str]:
        """Yield key tokens that get more attention than by chance, a few a line."""
        keys, n = self.design.key_symbols, len(self.widths)
        mass, even = (np.bincount(keys, weights) / n for weights in (self.actual, self.chance))
        told = _gains(mass, even) * (mass > np.maximum(even, 0.01))
        order = [i for i in np.argsort(-told, kind="stable")[: 3 * A_LINE] if told[i] > LEAST]
        for some in (order[at : at + A_LINE] for at in range(0, len(order), A_LINE)):
            yield ", ".join(f"{quote(self.design.symbols[i])} {mass[i]:.2f} ({even[i]:.2f})" for i in some)

    def _rows(self) -> Iterator[str]:
        """Yield rows that are drawn."""
        far = np.flatnonzero(self.widths > min(4, self.widths.max() - 1))
        for row in np.random.default_rng(self.task.seed + 1).permutation(far):
            yield ": ".join(self._row(row, self.actual))

    def _row(self, row: int, *weights: np.ndarray) -> list[str]:
        """Write a query with the tokens before it, and the keys that have most of each weight."""
        strings = self.design.batch.texts[self.design.text_of_rows[row]].strings
        q = int(self.queries[row])
        lines = [f"{quote(''.join(strings[max(0, q - CONTEXT) : q]))} then {quote(strings[q])}"]
        for values in weights:
            part = values[self.starts[row] : self.starts[row + 1]]
            best = np.argsort(-part, kind="stable")[:KEYS]
            keys = (f"{quote(strings[k])} at q{k - q:+d} {part[k]:.2f}" for k in best)
            lines.append(", ".join(keys))
        return lines

    def compared(self, fitted: Fitted) -> list[str]:
        """Show the rows on which a program does worst, with its own weights."""
        overlap = np.add.reduceat(np.minimum(self.actual, fitted.predicted), self.starts[:-1])
        rows = np.flatnonzero(self.widths > 2)
        lines = ["Rows on which the best program is wrong:"]
        for row in rows[np.argsort(overlap[rows], kind="stable")][:WORST]:
            place, head, program = self._row(row, self.actual, fitted.predicted)
            lines += [f"  {place}", f"    head:    {head}", f"    program: {program}"]
        return lines


def _gains(mass: np.ndarray, even: np.ndarray) -> np.ndarray:
    """Return how many nats shares tell, against those by chance."""
    mass, even = (np.clip(x, 1e-4, 1 - 1e-4) for x in (mass, even))
    return np.asarray(mass * np.log(mass / even) + (1 - mass) * np.log((1 - mass) / (1 - even)))
