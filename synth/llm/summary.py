"""A summary of a head that a model can read: what it attends to, in the language's own terms.

Beside the strongest pairs of tokens in strata (as in the paper) it has what those leave out: shares
of attention by predicate against chance, a profile of distances, entropy, rows. Everything is from
the fit split.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cached_property

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
"""Tokens before a query, and keys, that an example shows."""


class Summary:
    """The lines that tell a model about a head, the most important first.

    >>> print(Summary(task).lines(40)[0])
    A causal head, seen on 812 queries of 36 texts.
    """

    def __init__(self, task: HeadTask) -> None:
        design = task.design
        self.task, self.actual, self.starts = task, task.rows.actual, task.rows.starts
        self.widths = np.diff(self.starts)
        self.texts = design.text_of_rows
        self.queries = np.concatenate(design.rows)
        self.row_of = np.repeat(np.arange(len(self.widths)), self.widths)
        self.keys = np.arange(len(self.actual)) - self.starts[:-1][self.row_of]
        self.gaps = self.queries[self.row_of] - self.keys

    def lines(self, most: int) -> list[str]:
        """Return what the head does in general, and so many lines of each further part."""
        figures, parts = self._written
        found = list(figures)
        for title, part in parts.items():
            if most and part:
                found += [title, *(f"  {line}" for line in part[:most])]
        return found

    @cached_property
    def _written(self) -> tuple[list[str], dict[str, list[str]]]:
        """The lines that come first, and the parts that can be of any length, by their titles."""
        parts = {
            "Shares of its attention where a predicate holds (by chance):": self._preferences(),
            "Strongest pairs, query token -> key token:": self._pairs(),
            "Rows, with the keys that it attends to most:": self._rows(),
        }
        shown = {title: list(itertools.islice(part, LONGEST)) for title, part in parts.items()}
        return list(self._figures()), shown

    def _figures(self) -> Iterator[str]:
        """Say what the head does in general."""
        kind = "causal" if self.task.causal else "bidirectional"
        texts = len(self.task.design.rows)
        yield f"A {kind} head, seen on {len(self.widths)} queries of {texts} texts."
        surprise = -self.actual * np.log(np.maximum(self.actual, 1e-12))
        entropy = np.add.reduceat(surprise, self.starts[:-1]).mean()
        largest = np.maximum.reduceat(self.actual, self.starts[:-1]).mean()
        yield (
            f"Entropy of its rows: {entropy:.2f} nats, where uniform attention has "
            f"{np.log(self.widths).mean():.2f}; the largest weight of a row: {largest:.2f} in the mean."
        )

    def _preferences(self) -> Iterator[str]:
        """Yield predicates of the search's vocabulary, those that tell most first."""
        design, count = self.task.design, len(self.widths)
        chosen = vocabulary.truths(design.causal)
        planes, terms = design.vocabulary[chosen], vocabulary.terms(design.causal)
        used = [term for term, use in zip(terms, chosen, strict=True) if use]
        chance = (1 / self.widths[self.row_of]).astype(np.float32)
        mass, even = (
            np.clip(planes @ entries / count, 1e-4, 1 - 1e-4) for entries in (self.actual, chance)
        )
        told = mass * np.log(mass / even) + (1 - mass) * np.log((1 - mass) / (1 - even))
        for i in np.argsort(-told, kind="stable"):
            term = used[i]
            if told[i] > 0.003 and isinstance(term, t.Where):
                yield f"{expression(term.condition)}: {mass[i]:.2f} ({even[i]:.2f})"

    def _pairs(self) -> Iterator[str]:
        """Yield pairs of tokens from strata of the largest weights, in turns."""
        design, rng = self.task.design, np.random.default_rng(self.task.seed)
        large = np.argsort(-self.actual, kind="stable")[: max(1, round(TOP * len(self.actual)))]
        strata = [rng.permutation(part) for part in np.array_split(large, STRATA)]
        seen: set[tuple[int, int, int]] = set()
        for turn in itertools.zip_longest(*strata):
            for entry in (int(x) for x in turn if x is not None):
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
            yield f"{self._place(row)}: {self._top(row, self.actual)}"

    def _place(self, row: int) -> str:
        """Write a query with the tokens before it."""
        text, q = self.task.design.batch.texts[self.texts[row]], int(self.queries[row])
        before = "".join(text.strings[max(0, q - CONTEXT) : q])
        return f"{quote(before)} then {quote(text.strings[q])}"

    def _top(self, row: int, values: np.ndarray) -> str:
        """Write the keys of a row that have most weight."""
        text, q = self.task.design.batch.texts[self.texts[row]], int(self.queries[row])
        part = values[self.starts[row] : self.starts[row + 1]]
        best = np.argsort(-part, kind="stable")[:KEYS]
        return ", ".join(f"{quote(text.strings[k])} at q{k - q:+d} {part[k]:.2f}" for k in best)

    def compared(self, fitted: Fitted, best: int, worst: int) -> list[str]:
        """Show the rows on which a program does worst and best, with its own weights.

        Args:
            best, worst: how many of each.
        """
        same = np.minimum(self.actual, fitted.predicted)
        overlap = np.add.reduceat(same, self.starts[:-1])
        rows = np.flatnonzero(self.widths > 2)
        rows = rows[np.argsort(overlap[rows], kind="stable")]
        lines = []
        for title, some in (("Worst rows:", rows[:worst]), ("Best rows:", rows[::-1][:best])):
            lines.append(title)
            for row in some:
                lines += [
                    f"  {self._place(row)}",
                    f"    head:    {self._top(row, self.actual)}",
                    f"    program: {self._top(row, fitted.predicted)}",
                ]
        return lines
