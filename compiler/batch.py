"""Batches of texts: features of many texts as arrays, computed when a program first asks for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np

from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.features import FEATURES, Column, Value
from attn_dsl.dsl.tokens import Tokens

Ints = np.ndarray


@dataclass(frozen=True, slots=True)
class ColumnArrays:
    """A feature of all texts of a batch, text after text; see ``dsl.features.Column``.

    Attributes:
        settled, known, open: int32, one entry per token of the batch. Symbols are numbers of the
            batch's symbol table, truth values 0 and 1. ``known`` counts within the text; for a
            feature that is always settled it is all 0.
        partial: whether ``known`` and ``open`` count for a causal program.
        pad: the value outside what is visible.
    """

    settled: Ints
    known: Ints
    open: Ints
    partial: bool
    pad: int


class Batch:
    """Texts ready to be evaluated on.

    >>> batch = Batch([Tokens.from_strings(["a", " b", " a"])])
    >>> batch.column("repeats").settled
    array([0, 0, 1], dtype=int32)
    """

    def __init__(self, texts: Iterable[Tokens]) -> None:
        self.texts = tuple(texts)
        self.sizes = np.array([len(text) for text in self.texts], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        self.symbols: dict[str, int] = {"": 0}
        self._analyses: list[Analysis] | None = None
        self._columns: dict[tuple, ColumnArrays] = {}
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def analyses(self) -> list[Analysis]:
        """The analysis of each text."""
        if self._analyses is None:
            self._analyses = [Analysis(text) for text in self.texts]
        return self._analyses

    def entries(self, causal: bool) -> Ints:
        """Count the visible entries of each text's matrix."""
        return self.sizes * (self.sizes + 1) // 2 if causal else self.sizes**2

    def column(self, name: str) -> ColumnArrays:
        """Return a feature of one position on all texts."""
        key = ("feature", name)
        with self._lock:
            if key not in self._columns:
                self._columns[key] = self._compute(name)
            return self._columns[key]

    def members(self, name: str, elements: frozenset[str]) -> ColumnArrays:
        """Return, for a symbol feature, whether its value is one of some strings."""
        return self._derived(("in", name, elements), name, self._weighed(elements, 1))

    def weights(self, name: str, hundredths: tuple[tuple[str, int], ...]) -> ColumnArrays:
        """Return, for a symbol feature, the weight of its value in a set, in hundredths.

        Args:
            hundredths: the elements of the set and what each weighs; all others weigh 0.
        """
        elements, weights = zip(*hundredths, strict=True) if hundredths else ((), 0)
        return self._derived(("weight", name, hundredths), name, self._weighed(elements, weights))

    def affix(self, name: str, kind: str, text: str) -> ColumnArrays:
        """Return, for a symbol feature, whether its value starts or ends with a string."""
        test = str.startswith if kind == "starts" else str.endswith

        def table() -> Ints:
            tests = (test(symbol, text) for symbol in self.symbols)
            return np.fromiter(tests, np.int32, count=len(self.symbols))

        return self._derived((kind, name, text), name, table)

    def token_ids(self) -> Ints:
        """Return the symbol of every token string, for ``match``."""
        return self.column("token").settled

    def _compute(self, name: str) -> ColumnArrays:
        feature = FEATURES[name]
        total = int(self.starts[-1])
        settled = np.zeros(total, dtype=np.int32)
        known = np.zeros(total, dtype=np.int32)
        opened = np.zeros(total, dtype=np.int32)
        partial, symbolic = False, feature.type == "symbol"
        for start, analysis in zip(self.starts, self.analyses, strict=False):
            column = feature.compute(analysis)
            assert isinstance(column, Column)
            here = slice(int(start), int(start) + analysis.n)
            settled[here] = self._numbers(column.settled, symbolic)
            if column.known is not None and column.open is not None:
                partial = True
                known[here] = column.known
                opened[here] = self._numbers(column.open, symbolic)
        return ColumnArrays(settled, known, opened, partial, self._number(feature.pad))

    def _weighed(
        self, elements: Collection[str], weights: int | tuple[int, ...]
    ) -> Callable[[], Ints]:
        """Return what makes the table of all symbols in which some elements have weights."""

        def table() -> Ints:
            made = np.zeros(len(self.symbols), dtype=np.int32)
            numbers = np.array([self.symbols.get(element, -1) for element in elements], dtype=int)
            known = numbers >= 0
            made[numbers[known]] = np.broadcast_to(weights, numbers.shape)[known]
            return made

        return table

    def _derived(self, key: tuple, name: str, make: Callable[[], Ints]) -> ColumnArrays:
        """Return what a table of all symbols makes of a symbol feature."""
        with self._lock:
            if key not in self._columns:
                base = self.column(name)
                table = make()
                self._columns[key] = ColumnArrays(
                    table.take(base.settled), base.known,
                    table.take(base.open) if base.partial else base.open, base.partial,
                    int(table[base.pad]),
                )  # fmt: skip
            return self._columns[key]

    def _number(self, value: Value) -> int:
        return self._numbers([value], isinstance(value, str))[0]

    def _numbers(self, values: list[Value], symbolic: bool) -> list[int]:
        """Turn values into numbers; strings get the next free one when first seen."""
        if not symbolic:
            return values  # type: ignore[return-value]
        symbols = self.symbols
        return [symbols.setdefault(value, len(symbols)) for value in values]  # type: ignore[arg-type]
