"""A summary of a head that a model can read: what it attends to, in the language's own terms.

Beside the strongest pairs of tokens in strata (as in the paper), it has what those leave out: shares
of attention by predicate and by word class against chance, a profile of distances, entropy, rows.
Everything is from the fit split.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.printer import expression, quote
from attn_dsl.synth import vocabulary
from attn_dsl.synth.proposer import Fitted, HeadTask

TOP = 0.025
"""The share of the largest weights that pairs of tokens are taken from."""
STRATA = 5
"""Into so many parts, equal in number, the largest weights are divided."""
LONGEST = 60
"""The most lines of a part."""
CONTEXT = 10
"""Tokens before a query that an example shows."""
KEYS = 4
"""Keys that an example shows."""


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

    @cached_property
    def _parts(self) -> dict[str, list[str]]:
        """The parts that can be of any length, by their titles."""
        found = {
            "Shares of its attention where a predicate holds (by chance):": self._preferences(),
            "Strongest pairs, query token -> key token:": self._pairs(),
            "Rows, with the keys that it attends to most:": self._rows(),
        }
        return {title: list(itertools.islice(part, LONGEST)) for title, part in found.items()}

    @cached_property
    def _first(self) -> list[str]:
        return list(self._figures())

    def lines(self, most: int) -> list[str]:
        """Return at most so many lines: the parts take turns, so that none is crowded out."""
        left = max(0, most - len(self._first) - len(self._parts))
        taken = dict.fromkeys(self._parts, 0)
        while left and any(n < len(self._parts[title]) for title, n in taken.items()):
            for title, part in self._parts.items():
                if left and taken[title] < len(part):
                    taken[title] += 1
                    left -= 1
        found = list(self._first)
        for title, number in taken.items():
            if number:
                found += [title, *(f"  {line}" for line in self._parts[title][:number])]
        return found[:most]

    def _figures(self) -> Iterator[str]:
        """Say what the head does in general."""
        task = self.task
        kind = "causal" if task.causal else "bidirectional"
        yield f"A {kind} head, seen on {len(self.widths)} queries of {len(task.design.rows)} texts."
        p = np.maximum(self.actual, 1e-12)
        entropy = np.add.reduceat(-self.actual * np.log(p), self.starts[:-1])
        flat = np.log(self.widths)
        yield (
            f"Entropy of its rows: {entropy.mean():.2f} nats, where uniform attention has "
            f"{flat.mean():.2f}; the largest weight of a row: "
            f"{np.maximum.reduceat(self.actual, self.starts[:-1]).mean():.2f} in the mean."
        )
        gap = self.queries[self.row_of] - self.keys
        shares = [f"{d}: {self._share(gap == d):.2f}" for d in range(7)]
        shares += [f"{a}..{b}: {self._share((gap >= a) & (gap <= b)):.2f}" for a, b in _BANDS]
        if not task.causal:
            shares += [f"{-d}: {self._share(gap == -d):.2f}" for d in range(1, 5)]
            shares.append(f"below -4: {self._share(gap < -4):.2f}")
        yield f"Attention by distance q - k: {', '.join(shares)}."
        strings = task.design.key_symbols == task.design.query_symbols[self.row_of]
        follow = self._follows()
        yield (
            f"On the first token: {self._share(self.keys == 0):.2f}; on the same token elsewhere: "
            f"{self._share(strings & (gap != 0)):.2f}; on what followed it: {self._share(follow):.2f}."
        )

    def _follows(self) -> np.ndarray:
        """Find the entries whose key stands behind an earlier copy of the query's token."""
        symbols = self.task.design.key_symbols
        before = np.full(len(symbols), -1, dtype=np.int64)
        before[1:] = symbols[:-1]
        before[self.keys == 0] = -1
        return before == self.task.design.query_symbols[self.row_of]

    def _share(self, where: np.ndarray) -> float:
        return float(self.actual[where].sum() / len(self.widths))

    def _preferences(self) -> Iterator[str]:
        """Yield predicates of the search's vocabulary, those that tell most first."""
        design = self.task.design
        chosen = vocabulary.truths(design.causal)
        planes = design.vocabulary[chosen]
        terms = [
            term for term, use in zip(vocabulary.terms(design.causal), chosen, strict=True) if use
        ]
        count = len(self.widths)
        mass = planes @ self.actual / count
        even = planes @ (1 / self.widths[self.row_of]).astype(np.float32) / count
        mass, even = np.clip(mass, 1e-4, 1 - 1e-4), np.clip(even, 1e-4, 1 - 1e-4)
        told = mass * np.log(mass / even) + (1 - mass) * np.log((1 - mass) / (1 - even))
        for i in np.argsort(-told, kind="stable"):
            term = terms[i]
            assert isinstance(term, t.Where)
            if told[i] > 0.003:
                yield f"{expression(term.condition)}: {mass[i]:.2f} ({even[i]:.2f})"

    def _pairs(self) -> Iterator[str]:
        """Yield pairs of tokens from strata of the largest weights, in turns."""
        large = np.argsort(-self.actual, kind="stable")[: max(1, round(TOP * len(self.actual)))]
        rng = np.random.default_rng(self.task.seed)
        strata = [list(rng.permutation(part)) for part in np.array_split(large, STRATA)]
        seen: set[tuple[int, int, int]] = set()
        design = self.task.design
        while any(strata):
            for stratum in strata:
                while stratum:
                    entry = int(stratum.pop())
                    row = self.row_of[entry]
                    gap = int(self.queries[row] - self.keys[entry])
                    symbols = int(design.query_symbols[row]), int(design.key_symbols[entry])
                    if (*symbols, gap) in seen:
                        continue
                    seen.add((*symbols, gap))
                    query, key = (quote(design.symbols[s]) for s in symbols)
                    yield f"{query} -> {key}, q - k = {gap}: {self.actual[entry]:.2f}"
                    break

    def _rows(self) -> Iterator[str]:
        """Yield rows that are drawn."""
        rng = np.random.default_rng(self.task.seed + 1)
        far = np.flatnonzero(self.widths > min(4, self.widths.max() - 1))
        for row in rng.permutation(far):
            yield f"{self._place(row)}: {self._top(row, self.actual)}"

    def _place(self, row: int) -> str:
        """Write a query with the tokens before it."""
        text = self.task.design.batch.texts[self.texts[row]]
        q = int(self.queries[row])
        before = "".join(text.strings[max(0, q - CONTEXT) : q])
        return f"{quote(before)} then {quote(text.strings[q])}"

    def _top(self, row: int, values: np.ndarray) -> str:
        """Write the keys of a row that have most weight."""
        text = self.task.design.batch.texts[self.texts[row]]
        part = values[self.starts[row] : self.starts[row + 1]]
        best = np.argsort(-part, kind="stable")[:KEYS]
        q = int(self.queries[row])
        return ", ".join(f"{quote(text.strings[k])} at q{k - q:+d} {part[k]:.2f}" for k in best)

    def compared(self, fitted: Fitted, best: int, worst: int) -> list[str]:
        """Show the rows on which a program does best and worst, with its own weights.

        Args:
            best, worst: how many of each.
        """
        same = np.minimum(self.actual, fitted.predicted)
        overlap = np.add.reduceat(same, self.starts[:-1])
        order = np.argsort(overlap + np.where(self.widths > 2, 0.0, 2.0), kind="stable")
        few = order[: int((self.widths > 2).sum())]
        lines = []
        for title, rows in (("Worst rows:", few[:worst]), ("Best rows:", few[::-1][:best])):
            lines.append(title)
            for row in rows:
                lines += [
                    f"  {self._place(row)}",
                    f"    head:    {self._top(row, self.actual)}",
                    f"    program: {self._top(row, fitted.predicted)}",
                ]
        return lines


_BANDS = ((7, 12), (13, 24), (25, 9999))


def fitting(
    make: Callable[[int], str], count: Callable[[str], int], budget: int, most: int
) -> str | None:
    """Return the text with the most lines that stays within a budget of tokens; None if none does.

    >>> fitting(lambda lines: "x" * lines, len, budget=3, most=10)
    'xxx'

    Args:
        make: writes the text with so many lines, at least 0 and at most ``most``.
        count: counts its tokens.
    """
    low, high = -1, most
    while low < high:
        middle = (low + high + 1) // 2
        if count(make(middle)) <= budget:
            low = middle
        else:
            high = middle - 1
    return None if low < 0 else make(low)
