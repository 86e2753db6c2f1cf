"""Columns of joint plans: features of texts as arrays, with nothing computed twice.

What a token's string decides alone is looked up in a table of the strings met so far; what needs
the text is computed once for a text and kept for when it comes again, whichever programs ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from attn_dsl.compiler.kernel_graph import ColumnKey
from attn_dsl.compiler.stream_features import _ALONE, _alone
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.features import FEATURES, Column, Value
from attn_dsl.dsl.tokens import Tokens

TEXTS = 512
"""How many texts are remembered with their features."""
SYMBOLS = 1 << 18
"""How many strings a plan tells apart before it starts to count anew."""

Parts = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Settled, known and open: int32 (columns, tokens), see ``dsl.features.Column``."""


class TextFeatures:
    """The features of one text, each computed when first asked for."""

    def __init__(self, tokens: Tokens) -> None:
        self.analysis = Analysis(tokens)
        self._columns: dict[str, Column] = {}
        self._numbers: dict[str, Parts] = {}

    def column(self, name: str) -> Column:
        """Return a feature as the registry computes it."""
        found = self._columns.get(name)
        if found is None:
            made = FEATURES[name].compute(self.analysis)
            assert isinstance(made, Column)
            found = self._columns[name] = made
        return found

    def numbers(self, name: str) -> Parts:
        """Return a feature of numbers or truth values as arrays of one row."""
        found = self._numbers.get(name)
        if found is None:
            column = self.column(name)
            known, opened = times(column, self.analysis.n)
            settled = np.array(column.settled, dtype=np.int32)
            found = self._numbers[name] = (settled, known, np.array(opened, dtype=np.int32))
        return found


def times(column: Column, n: int) -> tuple[np.ndarray, Sequence[Value]]:
    """Return from when each value of a column counts, and what counts before."""
    if column.known is None or column.open is None:
        return np.zeros(n, dtype=np.int32), [0] * n
    return np.array(column.known, dtype=np.int32), column.open


@lru_cache(maxsize=TEXTS)
def features_of(tokens: Tokens) -> TextFeatures:
    """Return the features of a text, kept for when it comes again."""
    return TextFeatures(tokens)


class Columns:
    """The columns of a plan, on any texts.

    >>> columns = Columns([ColumnKey("feature", "length"), ColumnKey("in", "text", frozenset("a"))])
    >>> columns.read(Tokens.from_strings(["a", " bc"]))[0].tolist()
    [[1, 2], [1, 0]]

    Args:
        keys: what the plan reads.
    """

    def __init__(self, keys: Sequence[ColumnKey]) -> None:
        self.keys = tuple(keys)
        self._alone = [i for i, key in enumerate(keys) if key.name in _ALONE]
        self._rest: dict[str, list[int]] = {}
        for i, key in enumerate(keys):
            if key.name not in _ALONE:
                self._rest.setdefault(key.name, []).append(i)
        # by feature and string: which rows of the feature's table hold something for it
        self._members: dict[str, dict[str, list[tuple[int, int]]]] = {}
        for name, users in self._rest.items():
            members = self._members[name] = {}
            for row, i in enumerate(users):
                for value in keys[i].detail if keys[i].kind == "in" else ():
                    members.setdefault(value, []).append((row, 1))
                for value, weight in keys[i].hundredths:
                    members.setdefault(value, []).append((row, weight))
        self._start()

    def _start(self) -> None:
        self._symbols: dict[Value, int] = {"": 0}
        self._names: list[str] = [""]
        self._types: dict[tuple[str, bool], int] = {}
        self._by_type = np.zeros((len(self._alone), 256), dtype=np.int32)
        self._tables: dict[str, tuple[np.ndarray, int]] = {}

    def read(self, tokens: Tokens) -> Parts:
        """Return all columns on a text."""
        if len(self._symbols) > SYMBOLS:
            self._start()
        n = len(tokens)
        settled, known, opened = (np.zeros((len(self.keys), n), dtype=np.int32) for _ in range(3))
        if self._alone:
            pairs = list(zip(tokens.strings, tokens.special, strict=True))
            types = [self._types.get(pair, -1) for pair in pairs]
            if -1 in types:
                types = [self._type(*pair) for pair in pairs]
            settled[self._alone] = self._by_type[:, types]
        if self._rest:
            text = features_of(tokens)
            for name, users in self._rest.items():
                if FEATURES[name].type == "symbol":
                    self._symbolic(text, name, users, settled, known, opened)
                    continue
                parts = text.numbers(name)
                for i in users:
                    settled[i], known[i], opened[i] = parts
        return settled, known, opened

    def _symbolic(
        self,
        text: TextFeatures,
        name: str,
        users: list[int],
        settled: np.ndarray,
        known: np.ndarray,
        opened: np.ndarray,
    ) -> None:
        """Write a feature of strings, and the tests of it."""
        column = text.column(name)
        numbers = self._numbers(column.settled)
        before = [] if column.known is None else self._numbers(column.open or [])
        table = self._tests(name)
        settled[users] = table[:, numbers]
        if column.known is not None:
            known[users] = column.known
            opened[users] = table[:, before]

    def _numbers(self, values: Sequence[Value]) -> list[int]:
        """Number strings; those never met get the next free numbers."""
        known = self._symbols
        numbers = [known.get(value, -1) for value in values]
        if -1 in numbers:
            return [self._symbol(str(value)) for value in values]
        return numbers

    def _symbol(self, value: str) -> int:
        number = self._symbols.setdefault(value, len(self._symbols))
        if number == len(self._names):
            self._names.append(value)
        return number

    def _tests(self, name: str) -> np.ndarray:
        """Return what the columns of a symbol feature hold for all symbols met so far."""
        table, done = self._tables.get(name, (np.zeros((0, 0), dtype=np.int32), 0))
        count = len(self._names)
        if done == count:
            return table
        users = self._rest[name]
        if table.shape[1] < count:
            wider = np.zeros((len(users), max(256, 2 * count)), dtype=np.int32)
            wider[: len(table), : table.shape[1]] = table
            table = wider
        members = self._members[name]
        rows = [row for row, i in enumerate(users) if self.keys[i].kind in ("starts", "ends")]
        plain = [row for row, i in enumerate(users) if self.keys[i].kind == "feature"]
        for number in range(done, count):
            value = self._names[number]
            for row, weight in members.get(value, ()):
                table[row, number] = weight
            for row in rows:
                table[row, number] = self.keys[users[row]].test(value)
        table[plain, done:count] = np.arange(done, count)
        self._tables[name] = (table, count)
        return table

    def _type(self, string: str, special: bool) -> int:
        """Number a token string, and compute what it decides alone."""
        number = self._types.get((string, special))
        if number is not None:
            return number
        number = self._types[string, special] = len(self._types)
        if number == self._by_type.shape[1]:
            self._by_type = np.concatenate([self._by_type, np.zeros_like(self._by_type)], axis=1)
        for row, i in enumerate(self._alone):
            key = self.keys[i]
            value = _alone(key.name, string, special)
            if isinstance(value, str):
                value = self._symbol(value) if key.kind == "feature" else int(key.test(value))
            self._by_type[row, number] = value
        return number
