"""Columns: features of texts as arrays of integers, computed when a program first asks for them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from attn_dsl.compiler.graph import ColumnKey
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.features import FEATURES, Column, Value
from attn_dsl.dsl.tokens import Tokens

Ints = np.ndarray
TOKEN = ColumnKey("token")
SLACK = 16
"""Room behind the last token, for vectors of keys that begin at it."""
KEPT = 1 << 17
"""How many tokens of single texts are kept with their columns, about 1 KiB each."""
EACH = 256
"""So many tokens each text counts for besides its own."""


@dataclass(frozen=True, slots=True)
class ColumnArrays:
    """A column of all texts of a batch, text after text; see ``dsl.features.Column``.

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

    >>> batch = Batch([Tokens.from_strings(["a", " b", "a"])])
    >>> batch.column(ColumnKey("repeats")).settled
    array([0, 0, 1], dtype=int32)

    Attributes:
        texts: the texts.
        sizes, starts: int64, how many tokens each has, and where they begin among all.
        symbols: the number of every string that a symbol feature has had.
    """

    def __init__(self, texts: Iterable[Tokens]) -> None:
        self.texts = tuple(texts)
        self.sizes = np.array([len(text) for text in self.texts], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        self.symbols: dict[str, int] = {"": 0}
        self._analyses: list[Analysis] | None = None
        self._columns: dict[ColumnKey, ColumnArrays] = {}
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self.texts)

    def entries(self, causal: bool) -> Ints:
        """Count the visible entries of each text's matrix."""
        return self.sizes * (self.sizes + 1) // 2 if causal else self.sizes**2

    def column(self, key: ColumnKey) -> ColumnArrays:
        """Return a column of all texts."""
        found = self._columns.get(key)
        if found is None:
            with self._lock:
                found = self._columns.get(key)
                if found is None:
                    made = self._feature(key) if key.kind == "feature" else self._test(key)
                    found = self._columns[key] = made
        return found

    def token_ids(self) -> Ints:
        """Return the symbol of every token string, for ``match``."""
        return self.column(TOKEN).settled

    def _feature(self, key: ColumnKey) -> ColumnArrays:
        """Compute a feature."""
        if self._analyses is None:
            self._analyses = [Analysis(text) for text in self.texts]
        feature, total = FEATURES[key.name], int(self.starts[-1])
        settled, known, opened = np.zeros((3, total), dtype=np.int32)
        number = self._symbols if feature.type == "symbol" else _values
        for start, analysis in zip(self.starts, self._analyses, strict=False):
            column = feature.compute(analysis)
            assert isinstance(column, Column)
            here = slice(int(start), int(start) + analysis.n)
            settled[here] = number(column.settled)
            if column.known is not None and column.open is not None:
                known[here], opened[here] = column.known, number(column.open)
        return ColumnArrays(settled, known, opened, key.partial, key.pad)

    def _test(self, key: ColumnKey) -> ColumnArrays:
        """Look up a test of a symbol feature in a table of all symbols."""
        base = self.column(ColumnKey(key.name))
        symbols = self.symbols
        table = np.zeros(len(symbols), dtype=np.int32)
        if key.kind in ("in", "weight"):
            for element, weight in key.elements:
                number = symbols.get(element, -1)
                if number >= 0:
                    table[number] = weight
        else:
            table[:] = [key.value(symbol) for symbol in symbols]
        opened = table.take(base.open) if base.partial else base.open
        return ColumnArrays(table.take(base.settled), base.known, opened, base.partial, key.pad)

    def _symbols(self, values: Sequence[Value]) -> list[int]:
        """Turn strings into numbers; new ones get the next free number."""
        symbols = self.symbols
        return [symbols.setdefault(value, len(symbols)) for value in values]  # type: ignore[arg-type]


def _values(values: Sequence[Value]) -> Sequence[Value]:
    return values


class Texts:
    """Batches of single texts, kept for when they come again, up to so many tokens in all."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._batches: OrderedDict[Tokens, Batch] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, tokens: Tokens) -> Batch:
        """Return the batch of a text; what was not asked for longest makes room for a new one."""
        with self._lock:
            batch = self._batches.pop(tokens, None)
            if batch is None:
                batch, self.size = Batch([tokens]), self.size + len(tokens) + EACH
            self._batches[tokens] = batch
            while self.size > self.limit and len(self._batches) > 1:
                self.size -= len(self._batches.popitem(last=False)[0]) + EACH
        return batch


batch_of = Texts(KEPT)


def features(tokens: Sequence[str] | Tokens, names: Iterable[str]) -> dict[str, list]:
    """Compute features of a text as lists; exported modules import it.

    >>> features(["Un", "do", " it"], ["word_index", "word"])["word"]
    ['undo', 'undo', 'it']

    Returns:
        per feature its n values. One that may not be settled at its position has two lists more:
        ``word_known``, the token from which on each value is known, and ``word_open``, what a
        causal query takes for the values that it does not know.
    """
    text = tokens if isinstance(tokens, Tokens) else Tokens.from_strings(tokens)
    analysis, lists = Analysis(text), dict[str, list]()
    for name in names:
        column = FEATURES[name].compute(analysis)
        assert isinstance(column, Column)
        lists[name] = column.settled
        if column.known is not None and column.open is not None:
            lists |= {f"{name}_known": column.known, f"{name}_open": column.open}
    return lists


def stack(keys: Sequence[ColumnKey], batch: Batch, causal: bool) -> tuple[Ints, Ints, Ints, Ints]:
    """Stack columns as the interpreter reads them.

    Returns:
        settled, known and open values, int32 (columns, tokens and ``SLACK`` more); and marks, int32
        (columns, 2): the padding value, and whether ``known`` counts.
    """
    settled, known, opened = np.zeros((3, len(keys), int(batch.starts[-1]) + SLACK), dtype=np.int32)
    marks = np.zeros((len(keys), 2), dtype=np.int32)
    for row, key in enumerate(keys):
        column = batch.column(key)
        settled[row, :-SLACK], marks[row, 0] = column.settled, column.pad
        if causal and column.partial:
            known[row, :-SLACK], opened[row, :-SLACK] = column.known, column.open
            marks[row, 1] = 1
    return settled, known, opened, marks
