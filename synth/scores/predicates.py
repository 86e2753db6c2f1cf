"""The predicates of a position that scores weigh, and their values on texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.graph import ColumnKey
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.lexicon import lexicon, lexicon_literal

SHIFTS = {True: (0, -1, -2), False: (0, -1, 1)}
"""Which positions beside its own a score looks at, in causal models and in others."""
FREQUENT = 128
"""How many of the most frequent tokens are told by name."""
ENDINGS = "ed", "ing", "ly", "s", "er"
LENGTHS = (
    t.Compare("==", t.Call("length", (t.Position("i"),)), t.Integer(1)),
    *(t.Compare(">=", t.Call("length", (t.Position("i"),)), t.Integer(n)) for n in (3, 5, 8)),
)
PROSE = "english.toml", "punctuation.toml"
"""The files of the lexicon whose sets are looked at."""
RARE = 1e-3
"""A predicate that holds at a smaller share of the positions, or at all but that, is left out."""


def candidates(batch: Batch, causal: bool) -> list[t.Predicate]:
    """Return the predicates that scores are made of: tokens by name, word sets, features, endings."""
    counts = Counter(string for text in batch.texts for string in text.strings)
    here = t.Position("i")
    token, lower = t.Call("token", (here,)), t.Call("lower", (here,))
    base: list[t.Predicate] = [
        t.Compare("==", token, t.Text(string)) for string, _ in counts.most_common(FREQUENT)
    ]
    base += [
        t.Member(lower, t.SetName(name)) for name, entry in lexicon().items() if entry.file in PROSE
    ]
    base += [
        t.Call(f.name, (here,)) for f in FEATURES.values()
        if f.type == "bool" and f.reads == "left" and f.arity == 1 and not f.extra
    ]  # fmt: skip
    base += [t.Affix("ends", lower, ending) for ending in ENDINGS]
    base += LENGTHS
    return [shifted(one, shift) for shift in SHIFTS[causal] for one in base]


def shifted(node: t.Predicate, shift: int) -> t.Predicate:
    """Return a predicate of the position that is ``shift`` tokens further."""

    def move(part: t.Node) -> t.Node:
        return t.Position("i", part.shift + shift) if isinstance(part, t.Position) else part

    return t.rewrite(node, move) if shift else node


def chosen(batch: Batch, causal: bool) -> tuple[list[t.Predicate], np.ndarray]:
    """Return the candidates that hold neither too rarely nor nearly always, once each.

    Returns:
        The predicates, and their values at every token: float32 (tokens, predicates).
    """
    found: dict[bytes, tuple[t.Predicate, np.ndarray]] = {}
    for one in candidates(batch, causal):
        values = holds(batch, one, {})
        if RARE < values.mean() < 1 - RARE:
            found.setdefault(np.packbits(values).tobytes(), (one, values))
    columns = [values for _, values in found.values()]
    matrix = np.ascontiguousarray(np.array(columns, dtype=np.float32).T)
    return [one for one, _ in found.values()], matrix.reshape(int(batch.starts[-1]), len(columns))


def score_columns(batch: Batch, definitions: t.Definitions, names: Sequence[str]) -> np.ndarray:
    """Return the values of some scores at every token, float32 (tokens, scores)."""
    found = np.zeros((int(batch.starts[-1]), len(names)), dtype=np.float32)
    for s, name in enumerate(names):
        for line in definitions.scores[name].terms:
            assert line.weight is not None
            found[:, s] += np.float32(line.weight) * holds(batch, line.condition, definitions.sets)
    return found


def holds(batch: Batch, node: t.Predicate, sets: Mapping[str, t.SetLiteral]) -> np.ndarray:
    """Say at which tokens a predicate of ``i`` holds, bool (tokens).

    Raises:
        TypeError: it is none that ``candidates`` makes.
    """
    match node:
        case t.Not(inner):
            return ~holds(batch, inner, sets)
        case t.And(left, right):
            return holds(batch, left, sets) & holds(batch, right, sets)
        case t.Compare(op, t.Call(name, (t.Position(_, shift),)), t.Text(text)):
            found = _column(batch, ColumnKey(name, "in", frozenset([(text, 1)])), shift) != 0
            return found if op == "==" else ~found
        case t.Compare(op, t.Call(name, (t.Position(_, shift),)), t.Integer(value)):
            found = _column(batch, ColumnKey(name), shift)
            return found >= value if op == ">=" else found == value
        case t.Member(t.Call(name, (t.Position(_, shift),)), t.SetName(which)):
            elements = (sets.get(which) or lexicon_literal(which)).elements
            key = ColumnKey(name, "in", frozenset((e, 1) for e in elements))
            return _column(batch, key, shift) != 0
        case t.Affix(kind, t.Call(name, (t.Position(_, shift),)), text):
            return _column(batch, ColumnKey(name, kind, frozenset([(text, 1)])), shift) != 0
        case t.Call(name, (t.Position(_, shift),)):
            return _column(batch, ColumnKey(name), shift) != 0
    raise TypeError(f"not a predicate of scores: {node!r}")


def _column(batch: Batch, key: ColumnKey, shift: int) -> np.ndarray:
    """Return a column at positions that are ``shift`` tokens further, int32 (tokens)."""
    values = batch.column(key).settled
    if not shift:
        return values
    found = np.full_like(values, key.pad)
    for start, end in zip(batch.starts, batch.starts[1:], strict=False):
        low, high = start + max(-shift, 0), end - max(shift, 0)
        if high > low:
            found[low:high] = values[low + shift : high + shift]
    return found
