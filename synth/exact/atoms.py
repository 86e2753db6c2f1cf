"""Atoms: what the exact search builds its rules from, computed once on a design's rows.

Predicates and values of keys as planes, conditions on queries, and **scales**: whole numbers such
as ``q - k`` or ``length(k)``, of which every threshold, value and interval is a predicate.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from attn_dsl.compiler.evaluate import Plan
from attn_dsl.compiler.graph import ColumnKey
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.dsl.parser import parse_predicate, parse_term
from attn_dsl.synth import vocabulary
from attn_dsl.synth.design import Design

SHIFTS = (0, -1, -2)
POINTERS = ("word_first", "sentence_first", "line_first", "opener", "quote_first", "previous",
            "word_previous", "word_last")  # fmt: skip
ORDINALS = ("word_index", "sentence", "line", "paragraph", "depth", "indent", "piece", "repeats",
            "word_repeats", "length")  # fmt: skip
COUNTS = {"length": 16, "piece": 6, "repeats": 8, "word_repeats": 8, "word_index": 16,
          "sentence": 10, "depth": 4, "line": 8, "paragraph": 6, "indent": 8}  # fmt: skip
FAR = 128
"""Distances and positions from here on are one."""
TRUTH, VALUE, SCALE, AFFIX, ONE, POINTED = range(6)


T = TypeVar("T")


class Known(Generic[T]):
    """What was computed before, by what it was computed of; forgotten when it has become much."""

    def __init__(self, most: int) -> None:
        self.most, self._found = most, dict[Hashable, T]()

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what is known under a key, or compute it."""
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= self.most:
                self._found.clear()
            found = self._found[key] = compute()
        return found


@dataclass(frozen=True, slots=True)
class Scale:
    """A whole number of an entry, ``left`` or ``left - right``, within bounds.

    Attributes:
        low, high: values outside are taken for these.
        first: where its columns begin among those of all scales.
    """

    left: t.Int
    right: t.Int | None
    low: int
    high: int
    first: int

    @property
    def value(self) -> t.Int:
        """What is counted."""
        return self.left if self.right is None else t.Arithmetic("-", self.left, self.right)

    def predicate(self, low: int, high: int) -> t.Predicate:
        """Write that the number is in an interval, whose ends are open at the scale's bounds."""
        if low <= self.low and high >= self.high:
            return t.Always()
        if low <= self.low:
            return self.compare("<=", high)
        if high >= self.high:
            return self.compare(">=", low)
        return self.compare("==", low) if low == high else t.Between(self.value, low, high)

    def compare(self, op: str, number: int) -> t.Predicate:
        """Write a comparison of the number."""
        if self.right is None:
            return t.Compare(op, self.left, t.Integer(number))  # type: ignore[arg-type]
        if isinstance(self.right, t.Position) and isinstance(self.left, t.Position):
            if op == "==":
                return t.Compare("==", self.right, t.Position("q", -number))
            return t.Compare(op, self.value, t.Integer(number))  # type: ignore[arg-type]
        right = self.right
        if number:
            right = t.Arithmetic("+" if number > 0 else "-", right, t.Integer(abs(number)))
        return t.Compare(op, self.left, right)  # type: ignore[arg-type]


def _int(source: str) -> t.Int:
    return parse_term(f"? * ({source})").value  # type: ignore[union-attr, return-value]


def scales(causal: bool) -> tuple[Scale, ...]:
    """Return all scales; the first is ``q - k``, the second ``k``."""
    made: list[tuple[str, str | None, int, int]] = [
        ("q", "k", 0 if causal else -FAR, FAR), ("k", None, 0, FAR)
    ]  # fmt: skip
    if not causal:
        made += [("abs(q - k)", None, 0, FAR), ("from_end(k)", None, 0, 8)]
    made += [(f"{name}(k)", None, 0, high) for name, high in COUNTS.items()]
    made += [(f"{name}(k)", f"{name}(q)", -9, 9) for name in ORDINALS]
    made += [
        ("k", f"{name}(q{shift or ''})", -4, 4) for name in POINTERS for shift in SHIFTS
    ]  # fmt: skip
    made += [("match(k-1, q)", None, 0, 6), ("match(k, q)", None, 0, 6)]
    found, first = [], 0
    for left, right, low, high in made:
        found.append(Scale(_int(left), right and _int(right), low, high, first))  # type: ignore[arg-type]
        first += high - low + 1
    return tuple(found)


def values(causal: bool) -> tuple[t.Value, ...]:
    """Return the values that a term may scale."""
    gap = "q - k" if causal else "abs(q - k)"
    rates = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
    sources = [f"log(1 + {gap})", f"({gap})", f"sqrt({gap})", f"inv(1 + {gap})"]
    sources += [f"decay({gap}, {rate})" for rate in rates]
    sources += ["log(1 + k)", "match(k-1, q)", "length(k)", "repeats(k)", "log(1 + repeats(k))",
                "log(1 + length(k))", "match(k, q)"]  # fmt: skip
    return tuple(parse_term(f"? * {s}").value for s in sources)  # type: ignore[union-attr]


def _names(kind: str, causal: bool) -> list[str]:
    return [
        f.name for f in FEATURES.values()
        if f.type == kind and f.arity == 1 and not f.extra and not (causal and f.reads == "full")
    ]  # fmt: skip


def _at(variable: str, shift: int) -> str:
    return f"{variable}{shift or ''}"


def _classes(place: str) -> list[str]:
    return [
        f"{'word' if entry.file == 'english.toml' else 'text'}({place}) in {name}"
        for name, entry in lexicon().items()
        if entry.file in ("english.toml", "punctuation.toml")
    ]


def truths(causal: bool) -> tuple[t.Predicate, ...]:
    """Return the predicates of keys and queries that are no interval of a scale."""
    found: list[str] = []
    for shift in SHIFTS:
        place = _at("k", shift)
        found += [f"{name}({place})" for name in _names("bool", causal)] + _classes(place)
    symbols = _names("symbol", causal)
    for name in symbols:
        for left in SHIFTS:
            for right in SHIFTS:
                same = f"{name}({_at('k', left)}) == {name}({_at('q', right)})"
                found += [same, f"{same} and k != q"] if left == right else [same]
        found += [f"{name}({_at('k', s)}) == {other}({_at('q', r)})"
                  for other in symbols if other != name for s, r in ((0, 0), (-1, 0), (0, -1))]  # fmt: skip
    found += ["text(k-1) == text(q) and text(k-2) == text(q-1)", "text(k+1) == text(q)",
              "match(previous(k), q) >= 2"]  # fmt: skip
    bodies = [f"{name}(k)" for name in _names("bool", causal)] + _classes("k")
    for body in bodies:
        for which in ("nearest", "first", "last"):
            for more in ("", " and k < q"):
                found += [f"k {op} {which}({body}{more})" for op in ("==", ">=")]
    kept = [parse_predicate(source) for source in found]
    kept += [
        term.condition for term in vocabulary.terms(causal)
        if isinstance(term, t.Where) and not isinstance(term.condition, t.Between)
    ]  # fmt: skip
    return tuple(dict.fromkeys(kept))


def conditions(causal: bool) -> tuple[t.Predicate, ...]:
    """Return the conditions on the query that hold of some rows, without their negations."""
    found = [f"q >= {c}" for c in range(1, 65)]
    found += [f"length(q) >= {c}" for c in range(2, 9)]
    for shift in SHIFTS:
        found += [f"{name}({_at('q', shift)})" for name in _names("bool", causal)]
    found += _classes("q") + _classes("q-1") + ["match(previous(q), q) >= 2", "piece(q) >= 1"]
    return tuple(dict.fromkeys(parse_predicate(source) for source in found))


class Atoms:
    """The atoms of a design; shared by the searches of all heads.

    Attributes:
        truths, values, conditions: as their functions return them, without those that say the
            same of all entries as an earlier one.
        row: int32 (entries), the row of each entry.
        planes: uint8 (truths, entries). curves: float32 (values, entries).
        rows: float32 (conditions, rows). codes: int16 (scales, entries), the number's column.
        keys: int32 (shifts, entries): the token string of each entry's key, shifted; -1 for none.
        queries: int32 (shifts, rows). words: int32 (entries): the key's word as the query sees it.
        places: int32 (entries): k. places_of_queries: int32 (rows): q.
        sizes: nodes by rule. affixes: symbols by what they start or end with.
    """

    def __init__(self, design: Design) -> None:
        self.design, self.causal = design, design.causal
        self.sizes, self.affixes = Known[int](200_000), Known[np.ndarray](4_096)
        self.starts = design.starts
        widths = np.diff(design.starts)
        self.row = np.repeat(np.arange(len(widths), dtype=np.int32), widths)
        self.truths, planes = self._distinct(truths(design.causal), design.starts)
        self.planes = planes.astype(np.uint8)
        self.values = values(design.causal)
        self.curves = self._compute([t.Scaled(None, v) for v in self.values])
        found = conditions(design.causal)
        rows = self._compute([t.Where(None, p) for p in found])[:, design.starts[:-1]]
        seen: dict[bytes, int] = {}
        for i, plane in enumerate(rows):
            if 0 < plane.sum() < len(plane):
                seen.setdefault(plane.tobytes(), i)
        chosen = sorted(seen.values())
        self.conditions = tuple(found[i] for i in chosen)
        self.rows = np.ascontiguousarray(rows[chosen])
        self.scales = scales(design.causal)
        numbers = self._compute([t.Scaled(None, s.value) for s in self.scales])
        self.codes = np.stack([
            np.clip(np.rint(plane), s.low, s.high).astype(np.int16) - s.low
            for s, plane in zip(self.scales, numbers, strict=True)
        ])  # fmt: skip
        self._symbols()

    def _symbols(self) -> None:
        """Look up the symbols of all entries and rows."""
        design = self.design
        batch = design.batch
        begin = np.repeat(batch.starts[:-1], [len(r) for r in design.rows])
        query = np.concatenate(design.rows)
        key = design.key_places
        first = begin[self.row]
        self.places, self.places_of_queries = key.astype(np.int32), query.astype(np.int32)

        self.keys = np.stack([design.symbols_at("k", s, outside=-1) for s in SHIFTS])
        self.queries = np.stack([design.symbols_at("q", s, outside=-1) for s in SHIFTS])
        column = batch.column(ColumnKey("word"))
        self.words = column.settled[first + key]
        if column.partial and self.causal:
            late = column.known[first + key] > query[self.row]
            self.words = np.where(late, column.open[(begin + query)[self.row]], self.words)
        self.words = self.words.astype(np.int32)
        self.texts = batch.column(ColumnKey("text")).settled[first + key].astype(np.int32)
        self.names = {number: string for string, number in batch.symbols.items()}
        self.width = len(batch.symbols)

    def _compute(self, terms: list[t.Term], most: int = 64) -> np.ndarray:
        visibility: t.Visibility = "causal" if self.causal else "bidirectional"
        parts = []
        for at in range(0, len(terms), most):
            head = t.Head("atoms", visibility, "softmax", tuple(terms[at : at + most]))
            plan = Plan([head], self.design.batch)
            parts.append(plan.planes(self.design.rows)[list(plan.code.programs[0])])
        return np.concatenate(parts)

    def _distinct(
        self, found: tuple[t.Predicate, ...], starts: np.ndarray
    ) -> tuple[tuple[t.Predicate, ...], np.ndarray]:
        """Keep the predicates that differ within some row, and the smallest of equals."""
        kept: dict[bytes, tuple[int, t.Predicate, np.ndarray]] = {}
        for at in range(0, len(found), 64):
            some = found[at : at + 64]
            planes = self._compute([t.Where(None, p) for p in some]).astype(np.uint8)
            low = np.minimum.reduceat(planes, starts[:-1], axis=1)
            high = np.maximum.reduceat(planes, starts[:-1], axis=1)
            varies = (high > low).sum(1) >= 3
            for i in np.flatnonzero(varies):
                key, size = planes[i].tobytes(), vocabulary.size(some[i])
                if key not in kept or kept[key][0] > size:
                    kept[key] = (size, some[i], planes[i])
        return tuple(p for _, p, _ in kept.values()), np.stack([x for _, _, x in kept.values()])
