"""Streams: rows of causal programs on a growing text, for generation with a key-value cache.

A new token costs its own features and its own row. Earlier text is not read again. Only the few
values of earlier tokens that the new one settles are updated, such as the word that it continues.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np

from attn_dsl.compiler import interpreter
from attn_dsl.compiler.code import Code
from attn_dsl.compiler.columns import SLACK, TOKEN, finders, marks
from attn_dsl.compiler.evaluate import parts
from attn_dsl.compiler.graph import MATCH, ColumnKey
from attn_dsl.compiler.program import Program
from attn_dsl.compiler.text_planes import spread_rows
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.features import FEATURES, Value
from attn_dsl.dsl.tokens import Tokens

_CAPACITY = 64  # the number of tokens that the first arrays have room for


class Stream:
    """A growing text, and the attention rows of one or more causal programs on it.

    >>> from attn_dsl.compiler.program import parse
    >>> stream = Stream(parse("head copies causal linear:\\n    1 where text(k) == text(q)"))
    >>> stream.append(["a", " b"])
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    >>> stream.append([" a"])
    array([[0.5, 0. , 0.5]], dtype=float32)

    Raises:
        InputError: a weight is a hole, or a program reads text after the query.
    """

    def __init__(self, programs: Program | Code) -> None:
        self.code = programs.code if isinstance(programs, Program) else programs
        self._single = isinstance(programs, Program)
        ahead = [name for name in self.code.graph.features if FEATURES[name].reads == "full"]
        if not self.code.causal or ahead:
            names = ", ".join(head.name for head in self.code.graph.heads)
            why = f"looks ahead ({', '.join(ahead)})" if ahead else "is bidirectional"
            raise InputError(f"the program {names} {why}, so its rows change with every token; only causal "
                             "programs that read to the left can be streamed")  # fmt: skip
        self._finders = finders(self.code.graph)
        graphs = [self.code.graph, *(c.graph for one in self._finders.values() for c in one.codes)]
        keys = [key for graph in graphs for key in graph.keys]
        tables = dict.fromkeys(key for graph in graphs for key in graph.tables)
        self._keys = tuple(dict.fromkeys([*keys, TOKEN] if MATCH in tables else keys))
        self._numbers = {key: number for number, key in enumerate(tables)}
        for finder in self._finders.values():
            finder.renumber({key: row for row, key in enumerate(self._keys)}, self._numbers)
        self._users: dict[str, list[tuple[int, ColumnKey]]] = {}
        for row, key in enumerate(self._keys):
            if isinstance(key, ColumnKey):
                self._users.setdefault(key.name, []).append((row, key))
        self.reset()

    def __len__(self) -> int:
        return self._analysis.n

    def reset(self) -> None:
        """Start a new, empty text."""
        self._analysis = Analysis()
        self._read_tokens = 0
        self._tail: list[str] = []
        self._symbols: dict[str, int] = {"": 0}
        self._columns = {name: FEATURES[name].column() for name in self._users}
        self._arrays = np.zeros((3, len(self._keys), _CAPACITY + SLACK), dtype=np.int32)
        self._marks = marks(self._keys, causal=True)
        side = _CAPACITY if self._numbers else 0
        self._tables = np.zeros((len(self._numbers), side, side), dtype=np.int32)

    def append(self, tokens: Sequence[str] | Tokens, special: Iterable[bool] | None = None) -> np.ndarray:
        """Append tokens to the text and compute their rows.

        Args:
            tokens: as for ``Program``. The bytes of a character may be split over several calls.
            special: whether each token string is special; by default those that look so.

        Returns:
            float32 (new tokens, tokens so far), with the programs of a ``Code`` as first index.
        """
        skip = 0
        if not isinstance(tokens, Tokens):
            strings, skip = [*self._tail, *tokens], len(self._tail)
            known = None if special is None else [*([False] * skip), *special]
            tokens = Tokens.from_strings(strings, known)
        first = len(self)
        self._analysis.extend(tokens, skip)
        self._update()
        self._tail = _unfinished(tokens)
        rows = self.rows(first)
        return rows[0] if self._single else rows

    def read(self, string: str, piece: str, special: bool) -> None:
        """Append a token, which covers the text ``piece``, without computing its row."""
        self._analysis.add(string, "", piece, special)
        self._update()

    def read_all(self, tokens: Tokens) -> None:
        """Append tokens to the text, without computing their rows."""
        self._analysis.extend(tokens)
        self._update()

    def rows(self, first: int) -> np.ndarray:
        """Compute the rows from query ``first`` on, float32 (programs, rows, tokens so far)."""
        n = len(self)
        out = np.zeros((self.code.size, n - first, n), dtype=np.float32)
        for part in parts(self.code, n, 0, self._all, first) if n > first else ():
            low, high = part.queries.start, part.queries.stop
            spread_rows(part.rows, low, True, n, out[part.programs, low - first : high - first])
        return out

    def copy(self) -> Self:
        """Return an independent stream with the same text."""
        twin = copy.copy(self)
        twin._analysis, twin._columns = copy.deepcopy((self._analysis, self._columns))
        twin._arrays, twin._tables = self._arrays.copy(), self._tables.copy()
        twin._symbols, twin._tail = dict(self._symbols), list(self._tail)
        return twin

    def _update(self) -> None:
        """Update the columns after tokens were appended to the analysis."""
        n, capacity = len(self), self._arrays.shape[2] - SLACK
        if n > capacity:
            more = max(capacity, n - capacity)
            self._arrays = np.pad(self._arrays, ((0, 0), (0, 0), (0, more)))
            if self._numbers:
                self._tables = np.pad(self._tables, ((0, 0), (0, more), (0, more)))
        settled, known, opened = self._arrays
        before, self._read_tokens = self._read_tokens, n
        for name, users in self._users.items():
            column = self._columns[name]
            low = FEATURES[name].extend(self._analysis, column)
            for row, key in users:
                settled[row, low:n] = [self._number(key, value) for value in column.settled[low:]]
                if column.known is not None and column.open is not None:
                    known[row, low:n] = column.known[low:]
                    opened[row, before:n] = [self._number(key, v) for v in column.open[before:]]
        if MATCH in self._numbers:
            tokens, table = settled[self._keys.index(TOKEN), :n], self._tables[self._numbers[MATCH]]
            for i in range(before, n):
                interpreter.extend_match(tokens, table, i)
        for (search, by_query), finder in self._finders.items():
            if by_query:
                table = self._tables[self._numbers[search]]
                finder.extend(before, n, 0, (self._all, self._all), table)
            else:
                finder.rows(before, n, 0, self._all, settled[self._keys.index(search)])

    @property
    def _all(self) -> tuple[np.ndarray, ...]:
        """The arrays that the interpreter reads."""
        return *self._arrays, self._marks, self._tables

    def _number(self, key: ColumnKey, value: Value) -> int:
        if not isinstance(value, str):
            return int(value)
        if key.kind != "feature":
            return key.value(value)
        return self._symbols.setdefault(key.symbol(value), len(self._symbols))


def newest_rows(streams: Iterable[Stream], width: int) -> np.ndarray:
    """Return the newest row of the same programs on several texts, float32 (programs, texts, 1, width).

    Rows of texts that are shorter than ``width`` end in zeros.
    """
    chosen = list(streams)
    out = np.zeros((chosen[0].code.size, len(chosen), 1, width), dtype=np.float32)
    for i, stream in enumerate(chosen):
        n = len(stream)
        if n:
            out[:, i, :, :n] = stream.rows(n - 1)
    return out


def _unfinished(tokens: Tokens) -> list[str]:
    """Return the tokens at the end of a text that are bytes of an incomplete character."""
    first = len(tokens)
    while first and tokens.strings[first - 1].startswith("<0x"):
        start, end = tokens.spans[first - 1]
        if end > start or tokens.special[first - 1]:
            break
        first -= 1
    return list(tokens.strings[first:])
