"""Strategies: random texts, token sequences and programs for Hypothesis, simplest first.

Programs are made as syntax trees, not as source, so that a failing one shrinks to few terms, small
numbers and short words. All of them are canonical (``parse(show(p)) == p``) and pass the checker.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import get_args

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES, Type
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.dsl.tokens import Tokens

WORDS = (
    *("a", "b", " the", " she", " it", " a", " cat", "The", " dog", " and", "She", " Tom", " is"),
    *(" don't", "n't", "'s", " e.g", "Mr", " U", "ing", "s", "ed", "un", "UP", " McD", "x1", "é"),
)
MARKS = (
    *(
        ".",
        ",",
        "!",
        "?",
        " (",
        ")",
        '"',
        ' "',
        "'",
        "’",
        "“",
        "”",
        "[",
        "]",
        "{",
        "}",
        "...",
        "))",
    ),
    *('."', ".)", ":", ";", "-", " -", "--", "_", "=", "»", "«", "。", "？", "「", "」", "\\", "#"),
)
SPACES = ("\n", "\n\n", " ", "  ", "\t", "\r\n", "    ", ".\n", "\n  ", " \n")
NUMBERS = ("1", " 2", "42", " 1984", "٣", "²")
OTHERS = ("中", " 日本", "ß", "İ", "ǅ", "\u0301", "\u200b", "😀", "\u2028", "")
SPECIALS = ("<s>", "</s>", "<|endoftext|>", "[CLS]", "[SEP]", "<pad>")
BYTES = ("<0xE2>", "<0x80>", "<0x94>", "<0xC3>", "<0xA9>", "<0x0A>", "<0x20>", "<0x41>", "<0xFF>")
TOGETHER = (
    *(("un", "do"), (" re", "do", "ing"), (" it", "'", "s"), (".", " The"), (".", '"', " She")),
    *(
        ("(", "a", ")"),
        (" [", "b", "](", "c", "))"),
        ('"', "Hi", '"'),
        (" “", "x", "”"),
        ("{", "}"),
    ),
    *(
        ("\n", "    ", "x"),
        (".", "\n", "\n"),
        ("<s>", "a"),
        ("e.g", ".", " it"),
        (" no", ".", " 2"),
    ),
    *(("<0xE2>", "<0x80>", "<0x94>"), (" caf", "<0xC3>", "<0xA9>"), ("<0xF0>", "<0x9F>")),
)

_COMPARABLE = (
    "the",
    "she",
    "a",
    "cat",
    ".",
    ",",
    "(",
    '"',
    "\n",
    "",
    "ing",
    "Xx",
    "x",
    " the",
    "é",
)
_MANY = 100_000


def pieces(unicode: bool = True) -> SearchStrategy[tuple[str, ...]]:
    """Draw token strings that belong together: one, a word in pieces, a bracket and its like."""
    kinds = [WORDS, MARKS, SPACES, NUMBERS, SPECIALS, BYTES, OTHERS]
    one: list[SearchStrategy[str]] = [st.sampled_from(kind) for kind in kinds]
    if unicode:
        one.append(st.text(max_size=3))
    return st.one_of(st.one_of(one).map(lambda s: (s,)), st.sampled_from(TOGETHER))


@st.composite
def tokens(
    draw: st.DrawFn,
    max_size: int = 24,
    min_size: int = 0,
    unicode: bool = True,
    gaps: bool = False,
) -> Tokens:
    """Draw the tokens of a text: few different ones, so that repetition and induction occur.

    >>> from attn_dsl.testing import smallest
    >>> smallest(tokens(), lambda drawn: "." in drawn).strings
    ('.',)

    Words, word pieces, punctuation, brackets, quotation marks, numbers, white space, special
    tokens, bytes of split characters and arbitrary Unicode.

    Args:
        max_size, min_size: bounds on the number of tokens.
        unicode: whether arbitrary characters occur.
        gaps: whether the text may have characters between its tokens, which no token covers.
    """
    vocabulary = draw(st.lists(pieces(unicode), min_size=1, max_size=8, unique=True))
    least, half = max(min_size, min(1, max_size)), max(min_size, (max_size + 1) // 2)
    if min_size == 0 and draw(st.integers(0, 19)) == 0:
        half = least = max_size = 0
    one = st.sampled_from(vocabulary)
    few = st.lists(one, min_size=least, max_size=half)
    many = st.lists(one, min_size=half, max_size=max_size)
    drawn = [string for piece in draw(few | many) for string in piece][:max_size]
    if len(drawn) <= max_size // 2 and draw(st.booleans()):
        drawn += drawn
    made = Tokens.from_strings(drawn)
    if not gaps or not draw(st.booleans()):
        return made
    between = draw(st.sampled_from([" ", "\n", "x", ". "]))
    parts, spans, at = [], [], 0
    for start, end in made.spans:
        if end > start:
            parts.append(between)
            at += len(between)
        parts.append(made.text[start:end])
        spans.append((at, at + end - start))
        at += end - start
    return Tokens(made.strings, "".join(parts) + between, tuple(spans), made.special)


def texts(max_size: int = 40) -> SearchStrategy[str]:
    """Draw plain texts, rich in sentences, quotations, brackets, lines and odd characters.

    >>> from attn_dsl.testing import smallest
    >>> smallest(texts(), lambda text: "=" in text)
    '='
    """
    parts = st.sampled_from([*WORDS, *MARKS, *SPACES, *NUMBERS, *OTHERS])
    return st.lists(st.one_of(parts, st.text(max_size=2)), max_size=max_size).map("".join)


@st.composite
def programs(
    draw: st.DrawFn,
    visibility: t.Visibility | None = None,
    normaliser: t.Normaliser | None = None,
    max_terms: int = 4,
    holes: bool = False,
    lookahead: bool = False,
    extras: Collection[str] = (),
) -> t.Head:
    """Draw valid programs that use every construct and every feature.

    >>> from attn_dsl.dsl.printer import show
    >>> from attn_dsl.testing import smallest
    >>> print(show(smallest(programs(), lambda program: len(program.terms) == 1)), end="")
    head random causal softmax:
        0 where true

    Args:
        visibility, normaliser: fix them; None draws either.
        max_terms: the most terms.
        holes: whether a weight may be a hole, ``?``.
        lookahead: whether a causal program may read the whole text.
        extras: optional packages (``"spacy"``) whose features may occur.
    """
    either, forms = st.sampled_from(get_args(t.Visibility)), st.sampled_from(get_args(t.Normaliser))
    seen: t.Visibility = draw(either) if visibility is None else visibility
    form: t.Normaliser = draw(forms) if normaliser is None else normaliser
    full = lookahead or seen == "bidirectional"
    names = draw(st.lists(st.sampled_from(["A", "Stop", "X_1"]), max_size=2, unique=True))
    sets = tuple(t.SetDefinition(name, draw(_set_literals())) for name in names)
    grammar = _grammar(full, tuple(sorted(extras)), tuple(names))
    terms = draw(st.lists(grammar.terms(form == "linear", holes), max_size=max_terms))
    return t.Head("random", seen, form, tuple(terms), sets)


def features(kind: Type, full: bool = False, extras: Collection[str] = ()) -> list[str]:
    """List the features of one position of a type: all that read to the left, or really all."""
    return [
        f.name
        for f in FEATURES.values()
        if f.type == kind and f.arity == 1
        and (full or f.reads != "full") and (not f.extra or f.extra in extras)
    ]  # fmt: skip


@lru_cache(maxsize=8)
def weights(positive: bool = False, holes: bool = False) -> SearchStrategy[float | None]:
    """Draw weights with few decimals: mostly small, now and then at the bounds."""
    low = 0 if positive else -1
    usual: list[SearchStrategy[float | None]] = [
        st.integers(5 * low, 5).map(float),
        st.integers(500 * low, 500).map(lambda i: i / 100),
        st.integers(1_000_000 * low, 1_000_000).map(lambda i: i / 1000),
        st.sampled_from([0.0, 0.001, 1000.0, 1000.0 * low]),
    ]
    return st.one_of([*usual, st.none()] if holes else usual)


@lru_cache(maxsize=1)
def _strings() -> SearchStrategy[str]:
    return st.one_of(st.sampled_from(_COMPARABLE), st.text(max_size=4))


@lru_cache(maxsize=1)
def _set_literals() -> SearchStrategy[t.SetLiteral]:
    hundredths = st.integers(-300, 300) | st.integers(-10_000, 10_000)
    weighted = st.dictionaries(
        _strings(), hundredths.map(lambda i: i / 100), min_size=1, max_size=5
    )
    return st.one_of(
        st.lists(_strings(), min_size=1, max_size=5).map(lambda e: t.SetLiteral(tuple(e))),
        weighted.map(lambda d: t.SetLiteral(tuple(d), tuple(d.values()))),
    )


@lru_cache(maxsize=64)
def _grammar(full: bool, extras: tuple[str, ...], sets: tuple[str, ...]) -> _Grammar:
    return _Grammar(full, extras, sets)


class _Grammar:
    """Strategies for the nodes of programs, by their depth."""

    def __init__(self, full: bool, extras: tuple[str, ...], sets: Sequence[str]) -> None:
        self.full, self.extras, self.sets = full, extras, sets
        self.built: dict[tuple[str, int], SearchStrategy] = {}

    def terms(self, positive: bool, holes: bool) -> SearchStrategy[t.Term]:
        name = f"term {positive} {holes}"
        if (name, 0) not in self.built:
            self.built[name, 0] = self._terms(positive, holes)
        return self.built[name, 0]

    def _terms(self, positive: bool, holes: bool) -> SearchStrategy[t.Term]:
        weight = weights(positive, holes)
        condition = st.none() | self.predicates(1)
        bounds = st.lists(_small(), min_size=1, max_size=5, unique=True).map(sorted)
        steps = st.lists(weight, min_size=5, max_size=5)
        entries = st.builds(_entries, bounds, steps)
        return st.one_of(
            st.builds(t.Where, weight, self.predicates(2)),
            st.builds(t.Scaled, weight, self.values(), condition),
            st.builds(
                t.Scaled, weight, st.builds(t.Product, self.values(), self.values()), condition
            ),
            st.builds(t.Table, self.ints(2), entries, condition),
        )

    def values(self) -> SearchStrategy[t.Factor]:
        rates = st.integers(1, 999).map(lambda i: i / 1000)
        return st.one_of(
            self.ints(2),
            st.builds(t.Real, st.sampled_from(["log", "sqrt", "inv"]), self.ints(2)),
            st.builds(t.Decay, self.ints(2), rates),
            st.builds(t.Weight, self.calls("symbol", 1), self.chosen()),
        )

    def ints(self, depth: int) -> SearchStrategy[t.Int]:
        if ("int", depth) not in self.built:
            self.built["int", depth] = self._ints(depth)
        return self.built["int", depth]

    def _ints(self, depth: int) -> SearchStrategy[t.Int]:
        distance = t.Arithmetic("-", t.Position("q"), t.Position("k"))
        options: list[SearchStrategy[t.Int]] = [
            st.builds(t.Integer, st.integers(0, 9) | st.integers(0, _MANY)),
            _positions(),
            st.just(distance),
            self.calls("int", 0),
        ]
        if depth:
            below = self.ints(depth - 1)
            options += [
                st.builds(_arithmetic, st.sampled_from("+-"), below, below),
                st.builds(t.Absolute, below),
                st.builds(t.Extremum, st.sampled_from(["min", "max"]), below, below),
                self.calls("int", depth - 1),
                st.builds(t.Call, st.just("match"), st.tuples(below, below)),
                st.builds(
                    t.Quantifier, st.sampled_from(["nearest", "first", "last", "count"]),
                    self.predicates(depth - 1),
                ),
            ]  # fmt: skip
        return st.one_of(options)

    def calls(self, kind: Type, depth: int) -> SearchStrategy[t.Call]:
        names = st.sampled_from(features(kind, self.full, self.extras))
        at = self.ints(depth) if depth else _positions()
        return st.builds(t.Call, names, st.tuples(at))

    def chosen(self) -> SearchStrategy[t.SetName | t.SetLiteral]:
        names = st.sampled_from([*self.sets, *lexicon()])
        return st.builds(t.SetName, names) | _set_literals()

    def predicates(self, depth: int) -> SearchStrategy[t.Predicate]:
        if ("predicate", depth) not in self.built:
            self.built["predicate", depth] = self._predicates(depth)
        return self.built["predicate", depth]

    def _predicates(self, depth: int) -> SearchStrategy[t.Predicate]:
        symbol, text = self.calls("symbol", depth), st.builds(t.Text, _strings())
        integer, equal = self.ints(depth), st.sampled_from(["==", "!="])
        orders = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
        options: list[SearchStrategy[t.Predicate]] = [
            st.just(t.Always()),
            st.builds(t.Compare, orders, integer, integer),
            self.calls("bool", depth),
            st.builds(t.Compare, equal, symbol, symbol),
            st.builds(t.Compare, equal, symbol, text),
            st.builds(t.Member, symbol, self.chosen()),
            st.builds(_between, integer, _small(), _small()),
            st.builds(t.Affix, st.sampled_from(["starts", "ends"]), symbol, _strings()),
        ]
        if depth:
            below = self.predicates(depth - 1)
            options += [
                st.builds(t.Not, below),
                st.builds(t.And, below, below),
                st.builds(t.Or, below, below),
                st.builds(t.Quantifier, st.just("any"), below),
            ]
        return st.one_of(options)


@lru_cache(maxsize=1)
def _small() -> SearchStrategy[int]:
    return st.integers(-3, 6) | st.integers(-_MANY, _MANY)


@lru_cache(maxsize=1)
def _positions() -> SearchStrategy[t.Position]:
    return st.builds(t.Position, st.sampled_from("kq"), st.just(0) | st.integers(-3, 2) | _small())


def _entries(bounds: list[int], steps: list[float | None]) -> tuple[t.Entry, ...]:
    return tuple(map(t.Entry, bounds, steps))


def _arithmetic(op: str, left: t.Int, right: t.Int) -> t.Int:
    """Make a sum as the parser does: a position plus a number is a shifted position."""
    if isinstance(left, t.Position) and isinstance(right, t.Integer):
        shift = left.shift + (right.value if op == "+" else -right.value)
        return t.Position(left.variable, min(max(shift, -_MANY), _MANY))
    return t.Arithmetic(op, left, right)  # type: ignore[arg-type]


def _between(value: t.Int, a: int, b: int) -> t.Between:
    return t.Between(value, min(a, b), max(a, b))


__all__ = ["features", "pieces", "programs", "texts", "tokens", "weights"]
