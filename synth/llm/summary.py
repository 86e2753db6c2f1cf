"""A summary of a head that a model can read: what it attends to, in the language's own terms.

Beside the strongest pairs of tokens in strata (as in the paper) it has shares of attention by
predicate against chance, and rows. Everything is from the fit split.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.printer import expression, quote
from attn_dsl.synth import vocabulary
from attn_dsl.synth.proposer import Fitted, HeadTask

TOP, STRATA = 0.025, 5
"""The share of the largest weights that pairs of tokens are taken from, and its parts."""
LONGEST = 40
"""The most lines of a part."""
CONTEXT, KEYS = 10, 4
"""Tokens before a query, and keys, that a row shows."""


class Summary:
    """The lines that tell a model about a head.

    >>> print(Summary(task).lines(40)[0])
    A causal head, seen on 812 queries of 36 texts.
    """

    def __init__(self, task: HeadTask) -> None:
        self.task, self.actual, self.starts = task, task.rows.actual, task.rows.starts
        self.widths = np.diff(self.starts)
        self.row_of = np.repeat(np.arange(len(self.widths)), self.widths)
        self.queries = np.concatenate(task.design.rows)
        keys = np.arange(len(self.actual)) - self.starts[:-1][self.row_of]
        self.gaps = self.queries[self.row_of] - keys
        parts = {
            "Shares of its attention where a predicate holds (by chance):": self._preferences(),
            "Strongest pairs, query token -> key token:": self._pairs(),
            "Rows, with the keys that it attends to most:": self._rows(),
        }
        self.parts = {title: [*itertools.islice(part, LONGEST)] for title, part in parts.items()}

    def lines(self, most: int) -> list[str]:
        """Return a line on the head in general, and so many of each part."""
        kind = "causal" if self.task.causal else "bidirectional"
        texts = len(self.task.design.rows)
        found = [f"A {kind} head, seen on {len(self.widths)} queries of {texts} texts."]
        for title, part in self.parts.items():
            if most and part:
                found += [title, *(f"  {line}" for line in part[:most])]
        return found

    def _preferences(self) -> Iterator[str]:
        """Yield predicates of the search's vocabulary, those that tell most first."""
        design, count = self.task.design, len(self.widths)
        chosen = vocabulary.truths(design.causal)
        terms = itertools.compress(vocabulary.terms(design.causal), chosen)
        predicates = [term.condition for term in terms if isinstance(term, t.Where)]
        chance = (1 / self.widths[self.row_of]).astype(np.float32)
        planes = design.vocabulary[chosen]
        shares = [planes @ entries / count for entries in (self.actual, chance)]
        mass, even = (np.clip(share, 1e-4, 1 - 1e-4) for share in shares)
        told = mass * np.log(mass / even) + (1 - mass) * np.log((1 - mass) / (1 - even))
        for i in np.argsort(-told, kind="stable"):
            if told[i] > 0.003:
                yield f"{expression(predicates[i])}: {mass[i]:.2f} ({even[i]:.2f})"

    def _pairs(self) -> Iterator[str]:
        """Yield pairs of tokens from strata of the largest weights, in turns."""
        design, rng = self.task.design, np.random.default_rng(self.task.seed)
        large = np.argsort(-self.actual, kind="stable")[: max(1, round(TOP * len(self.actual)))]
        strata = [rng.permutation(part) for part in np.array_split(large, STRATA)]
        seen: set[tuple[int, int, int]] = set()
        for entry in itertools.chain.from_iterable(itertools.zip_longest(*strata)):
            if entry is not None:
                query = int(design.query_symbols[self.row_of[entry]])
                pair = query, int(design.key_symbols[entry]), int(self.gaps[entry])
                if pair not in seen:
                    seen.add(pair)
                    one, other = (quote(design.symbols[s]) for s in pair[:2])
                    yield f"{one} -> {other}, q - k = {pair[2]}: {self.actual[entry]:.2f}"

    def _rows(self) -> Iterator[str]:
        """Yield rows that are drawn."""
        far = np.flatnonzero(self.widths > min(4, self.widths.max() - 1))
        for row in np.random.default_rng(self.task.seed + 1).permutation(far):
            place, top = self._row(row, self.actual)
            yield f"{place}: {top}"

    def _row(self, row: int, values: np.ndarray) -> tuple[str, str]:
        """Write a query with the tokens before it, and the keys that have most of some weight."""
        design, q = self.task.design, int(self.queries[row])
        strings = design.batch.texts[design.text_of_rows[row]].strings
        part = values[self.starts[row] : self.starts[row + 1]]
        best = np.argsort(-part, kind="stable")[:KEYS]
        keys = ", ".join(f"{quote(strings[k])} at q{k - q:+d} {part[k]:.2f}" for k in best)
        before = "".join(strings[max(0, q - CONTEXT) : q])
        return f"{quote(before)} then {quote(strings[q])}", keys

    def compared(self, fitted: Fitted, best: int, worst: int) -> list[str]:
        """Show the rows on which a program does worst and best, with its own weights.

        Args:
            best, worst: how many of each.
        """
        overlap = np.add.reduceat(np.minimum(self.actual, fitted.predicted), self.starts[:-1])
        rows = np.flatnonzero(self.widths > 2)
        rows = rows[np.argsort(overlap[rows], kind="stable")]
        lines = []
        for title, some in (("Worst rows:", rows[:worst]), ("Best rows:", rows[::-1][:best])):
            lines.append(title)
            for row in some:
                place, head = self._row(row, self.actual)
                _, program = self._row(row, fitted.predicted)
                lines += [f"  {place}", f"    head:    {head}", f"    program: {program}"]
        return lines
