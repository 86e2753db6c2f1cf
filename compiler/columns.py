"""Columns: features of a batch of texts as int32 arrays, each computed at its first use."""

import itertools
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from attn_dsl.compiler import interpreter
from attn_dsl.compiler.code import Code
from attn_dsl.compiler.graph import MATCH, ColumnKey, Graph, Key, SearchKey, integers
from attn_dsl.compiler.operations import CODES, ROWS
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.expand import expand
from attn_dsl.dsl.features import FEATURES, Value
from attn_dsl.dsl.parser import definitions_tree
from attn_dsl.dsl.scope import Scope
from attn_dsl.dsl.tokens import Tokens

Ints = np.ndarray
TOKEN = ColumnKey("token")
TABLES_KEPT = 1 << 26  # about how many bytes of tables a batch keeps
SLACK = 16  # unused entries after the last token, so that a vector of keys may begin at it


class ColumnArrays(NamedTuple):
    """A column of all texts of a batch, concatenated, int32; see ``dsl.features.Column``.

    A symbol is its number in ``Batch.symbols``. ``known`` and ``open`` are 0 unless it is partial.
    """

    settled: Ints
    known: Ints
    open: Ints


class Batch:
    """Texts and their columns, on which programs are evaluated."""

    def __init__(self, texts: Iterable[Tokens]) -> None:
        self.texts = tuple(texts)
        # int64, the tokens of each text, and the index of its first token in the columns
        self.sizes = np.array([len(text) for text in self.texts], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        self.symbols: dict[str, int] = {"": 0}  # numbers of the values of symbol features
        self._analyses: list[Analysis] | None = None
        self._columns: dict[Key, ColumnArrays] = {}
        self._tables: dict[tuple[SearchKey, int], Ints] = {}
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self.texts)

    def entries(self, causal: bool) -> Ints:
        """Return the number of visible entries of the matrix of each text."""
        return self.sizes * (self.sizes + 1) // 2 if causal else self.sizes**2

    def column(self, key: Key) -> ColumnArrays:
        """Return a column of all texts; it is computed at the first call."""
        with self._lock:
            if key not in self._columns:
                if isinstance(key, SearchKey):
                    made = self._search(key)
                else:
                    plain = key.kind == "feature" and not key.functions
                    made = self._feature(key) if plain else self._test(key)
                self._columns[key] = made
            return self._columns[key]

    def tables(self, keys: Iterable[SearchKey], text: int) -> Ints:
        """Return the tables of a text, int32 (tables, n, n); the latest ones are kept."""
        made = [self._table(key, text) for key in keys]
        if len(made) == 1:
            return made[0][None]
        return np.stack(made) if made else np.zeros((0, 0, 0), dtype=np.int32)

    def _table(self, key: SearchKey, text: int) -> Ints:
        low, high = map(int, self.starts[text : text + 2])
        if key == MATCH:
            return interpreter.match_table(self.column(TOKEN).settled[low:high])
        with self._lock:
            if (found := self._tables.get((key, text))) is None:
                if sum(one.nbytes for one in self._tables.values()) > TABLES_KEPT:
                    self._tables.clear()
                found = self._tables[key, text] = np.zeros((high - low, high - low), dtype=np.int32)
                finder = Finder(key, table=True)
                arrays = [(*stack(code.graph.keys, self, False), self.tables(code.graph.tables, text))
                          for code in finder.codes]  # fmt: skip
                finder.extend(0, high - low, low, arrays, found)
            return found

    def _search(self, key: SearchKey) -> ColumnArrays:
        """Compute what a search finds for each position, as a query there sees the text."""
        finder = Finder(key, table=False)
        (code,), total = finder.codes, int(self.starts[-1])
        found, arrays = np.zeros(total, dtype=np.int32), stack(code.graph.keys, self, key.at_query)
        for text, (low, high) in enumerate(itertools.pairwise(self.starts.tolist())):
            given = (*arrays, self.tables(code.graph.tables, text))
            finder.rows(0, high - low, low, given, found[low:high])
        none = np.zeros(total, dtype=np.int32)
        return ColumnArrays(found, none, none)

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


class Finder:
    """Computes what a search finds, by the code of its body.

    A column needs one code, with ``i`` as query and ``j`` as key; a table needs the other way round too.
    """

    def __init__(self, key: SearchKey, table: bool) -> None:
        self.codes = [_body(key, "q", "k"), *([_body(key, "k", "q")] if table else [])]
        self.instructions = [code.instructions for code in self.codes]
        self.nodes = [code.planes[0].factor.node for code in self.codes]
        self.kind = CODES[key.name], interpreter.OVER.index(key.over)
        self.causal = key.at_query

    def renumber(self, columns: Mapping[Key, int], tables: Mapping[SearchKey, int]) -> None:
        """Read columns and tables by other numbers than those of the codes."""
        for place, code in enumerate(self.codes):
            rows = self.instructions[place] = code.instructions.copy()
            keys, seen = code.graph.keys, tuple(code.graph.tables)
            for row in rows:
                name = ROWS[row[0]].name
                if name.startswith("column"):
                    row[4] = columns[keys[row[4]]]
                elif name == "table":
                    row[4] = tables[seen[row[4]]]

    def rows(self, first: int, n: int, start: int, columns: tuple[Ints, ...], out: Ints) -> None:
        """Fill a column from the position ``first`` on; see ``interpreter.search_rows``."""
        interpreter.search_rows(self.instructions[0], self.nodes[0], *self.kind, self.causal, first, n, start,
                                columns, out)  # fmt: skip

    def extend(self, first: int, n: int, start: int, columns: Sequence[tuple], table: Ints) -> None:
        """Fill the rows of a table from ``first`` on; see ``interpreter.extend_searches``."""
        interpreter.extend_searches(self.instructions[0], self.nodes[0], self.instructions[1], self.nodes[1],
                                    *self.kind, first, n, start, *columns, table)  # fmt: skip


def finders(graph: Graph) -> dict[tuple[SearchKey, bool], Finder]:
    """Return what computes the searches of a graph, those that others read first; also whether tables."""
    found: dict[tuple[SearchKey, bool], Finder] = {}
    searches = [(key, False) for key in graph.keys if isinstance(key, SearchKey)]
    for key, table in [*searches, *((key, True) for key in graph.tables if key != MATCH)]:
        finder = Finder(key, table)
        for code in finder.codes:
            found |= finders(code.graph)
        found[key, table] = finder
    return found


@lru_cache(maxsize=256)
def _body(key: SearchKey, own: Literal["q", "k"], other: Literal["q", "k"]) -> Code:
    """Return the code of the body of a search, with ``i`` and ``j`` as query and key or the reverse."""
    body = t.renamed(t.renamed(key.body, "i", own), "j", other)
    visibility: t.Visibility = "causal" if key.at_query else "bidirectional"
    return Code([t.Head("search", visibility, terms=(t.Where(1.0, body),))], key.causal)


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


def search_column(tokens: Sequence[str] | Tokens, source: str, causal: bool) -> list:
    """Compute what a search finds. Exported modules import this function.

    >>> search_column(["a", "b", "a"], "def found(i) = count(j <= i where text(j) == text(i))", True)
    [1, 1, 2]

    Args:
        source: functions in the language; the value of the last one is the search.
        causal: whether the program is causal.

    Returns:
        An integer for each position. A search over all positions, or those after ``i``, has one such list
        for each query of a causal program.
    """
    functions = {one.name: one for one in definitions_tree(source, "<search>").functions}
    node = expand(t.Call([*functions][-1], (t.Position("i"),)), Scope({}, {}, (), functions))
    assert isinstance(node, t.Search)
    key, batch = (SearchKey(node.name, node.over, node.body, causal), Batch([Tokens.from_strings(tokens)]))
    found = batch.tables([key], 0)[0] if key.by_query else batch.column(key).settled
    return found.astype(bool if key.truth else int).tolist()


def stack(keys: Sequence[Key], batch: Batch, causal: bool) -> tuple[Ints, Ints, Ints, Ints]:
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


def marks(keys: Sequence[Key], causal: bool) -> Ints:
    """Return the padding value of each column, and whether ``known`` is read; int32 (columns, 2)."""
    pairs = [(key.pad, causal and key.partial) for key in keys]
    return np.array(pairs, dtype=np.int32).reshape(-1, 2)
