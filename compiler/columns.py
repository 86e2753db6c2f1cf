"""Columns: features of a batch of texts as int32 arrays, each computed at its first use."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from attn_dsl.compiler.graph import ColumnKey, integers
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.features import FEATURES, Value
from attn_dsl.dsl.tokens import Tokens

Ints = np.ndarray
TOKEN = ColumnKey("token")
SLACK = 16
"""Unused entries after the last token, so that a vector of keys may begin at it."""


class ColumnArrays(NamedTuple):
    """A column of all texts of a batch, concatenated, int32; see ``dsl.features.Column``.

    A symbol is its number in ``Batch.symbols``. ``known`` and ``open`` are 0 unless it is partial.
    """

    settled: Ints
    known: Ints
    open: Ints


class Batch:
    """Texts and their columns, on which programs are evaluated.

    >>> batch = Batch([Tokens.from_strings(["a", " b", "a"])])
    >>> batch.column(ColumnKey("repeats")).settled
    array([0, 0, 1], dtype=int32)
    """

    def __init__(self, texts: Iterable[Tokens]) -> None:
        self.texts = tuple(texts)
        # int64, the tokens of each text, and the index of its first token in the columns
        self.sizes = np.array([len(text) for text in self.texts], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        self.symbols: dict[str, int] = {"": 0}  # numbers of the values of symbol features
        self._analyses: list[Analysis] | None = None
        self._columns: dict[ColumnKey, ColumnArrays] = {}
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self.texts)

    def entries(self, causal: bool) -> Ints:
        """Return the number of visible entries of the matrix of each text."""
        return self.sizes * (self.sizes + 1) // 2 if causal else self.sizes**2

    def column(self, key: ColumnKey) -> ColumnArrays:
        """Return a column of all texts; it is computed at the first call."""
        with self._lock:
            if key not in self._columns:
                plain = key.kind == "feature" and not key.functions
                made = self._feature(key) if plain else self._test(key)
                self._columns[key] = made
            return self._columns[key]

    def token_ids(self) -> Ints:
        """Return the symbol of the string of each token, for ``match``."""
        return self.column(TOKEN).settled

    def _feature(self, key: ColumnKey) -> ColumnArrays:
        """Compute a column of kind ``feature``."""
        if self._analyses is None:
            self._analyses = [Analysis(text) for text in self.texts]
        feature, total = FEATURES[key.name], int(self.starts[-1])
        settled, known, opened = np.zeros((3, total), dtype=np.int32)
        number = self._symbols if feature.type == "symbol" else list
        for start, analysis in zip(self.starts, self._analyses, strict=False):
            column = feature.compute(analysis)
            here = slice(int(start), int(start) + analysis.n)
            settled[here] = number(column.settled)
            if column.known is not None and column.open is not None:
                known[here], opened[here] = column.known, number(column.open)
        return ColumnArrays(settled, known, opened)

    def _test(self, key: ColumnKey) -> ColumnArrays:
        """Compute a column of another kind: test or shorten each symbol once, and look up each token's."""
        base = self.column(ColumnKey(key.name))
        symbols = self.symbols
        table = np.zeros(len(symbols), dtype=np.int32)
        if key.kind == "feature":
            table[:] = self._symbols(list(map(key.symbol, symbols)))
        elif key.kind in ("in", "weight") and not key.functions:
            weights = integers(key.elements)
            for element in weights.keys() & symbols.keys():
                table[symbols[element]] = weights[element]
        else:
            table[:] = [key.value(symbol) for symbol in symbols]
        opened = table.take(base.open) if key.partial else base.open
        return ColumnArrays(table.take(base.settled), base.known, opened)

    def _symbols(self, values: Sequence[Value]) -> list[int]:
        """Return the numbers of strings; a new string gets the next free number."""
        symbols = self.symbols
        return [symbols.setdefault(value, len(symbols)) for value in values]  # type: ignore[arg-type]


@lru_cache(maxsize=128)
def batch_of(text: Tokens) -> Batch:
    """Return the batch of a single text; the last 128 are kept, with about 1 KiB a token."""
    return Batch([text])


def features(tokens: Sequence[str] | Tokens, names: Iterable[str]) -> dict[str, list]:
    """Compute features of a text as lists. Exported modules import this function.

    >>> features(["Un", "do", " it"], ["word_index", "word"])["word"]
    ['undo', 'undo', 'it']

    A feature that reads ``visible`` text, such as ``word``, has two more lists: ``word_known``, per
    position the first query that knows the value, and ``word_open``, per query the value at positions
    that it does not know.
    """
    analysis, lists = Analysis(Tokens.from_strings(tokens)), dict[str, list]()
    for name in names:
        column = FEATURES[name].compute(analysis)
        lists[name] = column.settled
        if column.known is not None and column.open is not None:
            lists |= {f"{name}_known": column.known, f"{name}_open": column.open}
    return lists


def stack(keys: Sequence[ColumnKey], batch: Batch, causal: bool) -> tuple[Ints, Ints, Ints, Ints]:
    """Stack columns into the arrays that the interpreter reads.

    Returns:
        settled, known and open values, int32 (columns, tokens + ``SLACK``); and marks, int32
        (columns, 2): the padding value, and whether ``known`` and ``open`` are read.
    """
    settled, known, opened = np.zeros((3, len(keys), int(batch.starts[-1]) + SLACK), dtype=np.int32)
    for row, key in enumerate(keys):
        column = batch.column(key)
        settled[row, :-SLACK] = column.settled
        if causal and key.partial:
            known[row, :-SLACK], opened[row, :-SLACK] = column.known, column.open
    return settled, known, opened, marks(keys, causal)


def marks(keys: Sequence[ColumnKey], causal: bool) -> Ints:
    """Return the padding value of each column, and whether ``known`` is read; int32 (columns, 2)."""
    pairs = [(key.pad, causal and key.partial) for key in keys]
    return np.array(pairs, dtype=np.int32).reshape(-1, 2)
