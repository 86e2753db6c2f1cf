"""A summary of a head that a model can read: what it attends to, in the language's own terms.

It has shares of attention by predicate against chance, pairs of tokens among the largest weights,
and rows. Everything is from the fit split.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.printer import expression, quote
from attn_dsl.synth import vocabulary
from attn_dsl.synth.proposer import Fitted, HeadTask

TOP = 0.025  # the share of the largest weights that pairs of tokens are drawn from
LONGEST = 40  # the most lines of a part
BEST, WORST = 3, 5  # rows on which a program does best and worst that are shown
CONTEXT, KEYS = 10, 4  # tokens before a query, and keys, that a row shows


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
        parts = {"Shares of its attention where a predicate holds (by chance):": self._preferences(),
                 "Strong pairs, query token -> key token:": self._pairs(),
                 "Rows, with the keys that it attends to most:": self._rows()}  # fmt: skip
        self.parts = {title: [*itertools.islice(part, LONGEST)] for title, part in parts.items()}

    def lines(self, most: int) -> list[str]:
        """Return a line on the head in general, and so many of each part."""
        kind = "causal" if self.task.causal else "bidirectional"
        texts = len(self.design.rows)
        found = [f"A {kind} head, seen on {len(self.widths)} queries of {texts} texts."]
        for title, part in self.parts.items():
            if most and part:
                found += [title, *(f"  {line}" for line in part[:most])]
        return found

    def _preferences(self) -> Iterator[str]:
        """Yield predicates of the search's vocabulary, those that tell most first."""
        chosen = vocabulary.truths(self.task.causal)
        terms = itertools.compress(vocabulary.terms(self.task.causal), chosen)
        predicates = [term.condition for term in terms if isinstance(term, t.Where)]
        chance = (1 / self.widths[self.row_of]).astype(np.float32)
        planes = self.design.vocabulary[chosen]
        shares = (planes @ entries / len(self.widths) for entries in (self.actual, chance))
        mass, even = (np.clip(share, 1e-4, 1 - 1e-4) for share in shares)
        told = mass * np.log(mass / even) + (1 - mass) * np.log((1 - mass) / (1 - even))
        for i in np.argsort(-told, kind="stable"):
            if told[i] > 0.003:
                yield f"{expression(predicates[i])}: {mass[i]:.2f} ({even[i]:.2f})"

    def _pairs(self) -> Iterator[str]:
        """Yield pairs of tokens, drawn among the largest weights."""
        design, rng = self.design, np.random.default_rng(self.task.seed)
        large = np.argsort(-self.actual, kind="stable")[: max(1, round(TOP * len(self.actual)))]
        seen = set()
        for entry in rng.permutation(large):
            row = self.row_of[entry]
            gap = self.queries[row] - (entry - self.starts[row])
            symbols = design.query_symbols[row], design.key_symbols[entry]
            if (*symbols, gap) not in seen:
                seen.add((*symbols, gap))
                one, other = (quote(design.symbols[symbol]) for symbol in symbols)
                yield f"{one} -> {other}, q - k = {gap}: {self.actual[entry]:.2f}"

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
        """Show the rows on which a program does worst and best, with its own weights."""
        overlap = np.add.reduceat(np.minimum(self.actual, fitted.predicted), self.starts[:-1])
        rows = np.flatnonzero(self.widths > 2)
        rows = rows[np.argsort(overlap[rows], kind="stable")]
        lines = []
        for title, some in (("Worst rows:", rows[:WORST]), ("Best rows:", rows[::-1][:BEST])):
            lines.append(title)
            for row in some:
                place, head, program = self._row(row, self.actual, fitted.predicted)
                lines += [f"  {place}", f"    head:    {head}", f"    program: {program}"]
        return lines
