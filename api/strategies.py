"""Hypothesis strategies: random texts, token sequences and programs.

Programs are drawn as syntax trees, so a failing program shrinks to few terms, small numbers and short
words. Every program passes the checker, and parsing its source gives the same tree.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple, get_args

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import check
from attn_dsl.dsl.errors import ProgramError
from attn_dsl.dsl.features import FEATURES, Type
from attn_dsl.dsl.functions import FUNCTIONS
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.dsl.scope import type_of
from attn_dsl.dsl.tokens import Tokens


def _split(joined: str) -> tuple[str, ...]:
    return tuple(joined.split("|"))


WORDS = _split("a|b| the| she| it| a| cat|The| dog| and|She| Tom| is| don't|n't|'s| e.g|Mr| U|ing|s|ed|un|UP"
               "| McD|x1|é")  # fmt: skip
MARKS = _split(""".|,|!|?| (|)|"| "|'|’|“|”|[|]|{|}|...|))|."|.)|:|;|-| -|--|_|=|»|«|。|？|「|」|\\|#""")
SPACES = ("\n", "\n\n", " ", "  ", "\t", "\r\n", "    ", ".\n", "\n  ", " \n")
NUMBERS = ("1", " two", "42", " 1984", "٣", "²")
OTHERS = ("中", " 日本", "ß", "İ", "ǅ", "\u0301", "\u200b", "😀", "\u2028", "")
SPECIALS = ("<s>", "</s>", "<|endoftext|>", "[CLS]", "[SEP]", "<pad>")
BYTES = ("<0xE2>", "<0x80>", "<0x94>", "<0xC3>", "<0xA9>", "<0x0A>", "<0x20>", "<0x41>", "<0xFF>")
TOGETHER = (
    *map(_split, ("un|do", " re|do|ing", " it|'|s", ".| The", '.|"| She', "(|a|)", " [|b|](|c|))")),
    *map(_split, ('"|Hi|"', " “|x|”", "{|}", "\n|    |x", ".|\n|\n", "<s>|a", "e.g|.| it")),
    *map(_split, (" no|.| 2", "<0xE2>|<0x80>|<0x94>", " caf|<0xC3>|<0xA9>", "<0xF0>|<0x9F>")))  # fmt: skip

_COMPARABLE = _split('the|she|a|cat|.|,|(|"|\n||ing|Xx|x| the|é')
_REAL = [name for name, function in FUNCTIONS.items() if not function.rated]
"""The names of the term functions."""
_MANY = 100_000
_STRINGS = st.sampled_from(_COMPARABLE) | st.text(max_size=4)
_SMALL = st.integers(-3, 6) | st.integers(-_MANY, _MANY)
_SHIFTS = st.just(0) | st.integers(-3, 2) | _SMALL
_SET_WEIGHTS = (st.integers(-300, 300) | st.integers(-10_000, 10_000)).map(lambda i: i / 100)
_SET_LITERALS = st.one_of(st.lists(_STRINGS, min_size=1, max_size=5).map(lambda e: t.SetLiteral(tuple(e))),
                          st.dictionaries(_STRINGS, _SET_WEIGHTS, min_size=1, max_size=5).map(
                              lambda d: t.SetLiteral(tuple(d), tuple(d.values()))))  # fmt: skip


class _Scope(NamedTuple):
    """What nodes may use: features that read the whole text, optional packages, names, variables."""

    full: bool
    extras: tuple[str, ...]
    sets: tuple[str, ...]
    scores: tuple[str, ...] = ()
    functions: tuple[tuple[str, Type], ...] = ()
    variables: str = "kq"  # in a definition, ``i``; in a search, ``ij``
    causal: bool = False
    ahead: bool = True  # whether more may be read than what stays the same for later queries

    @property
    def steady(self) -> bool:
        """Whether it is that of a causal search over all positions."""
        return self.causal and not self.ahead and self.variables == "ij"


def pieces(unicode: bool = True) -> SearchStrategy[tuple[str, ...]]:
    """Return a strategy of one token string, or several that belong together, such as pieces of a word."""
    kinds = map(st.sampled_from, (WORDS, MARKS, SPACES, NUMBERS, SPECIALS, BYTES, OTHERS))
    one = st.one_of([*kinds, st.text(max_size=3)] if unicode else [*kinds])
    return st.one_of(one.map(lambda s: (s,)), st.sampled_from(TOGETHER))


@st.composite
def tokens(draw: st.DrawFn, max_size: int = 24, min_size: int = 0, unicode: bool = True,
           gaps: bool = False, words: Collection[str] = ()) -> Tokens:  # fmt: skip
    """Return a strategy of the tokens of a text. Few are distinct, so that tokens recur.

    >>> from attn_dsl.testing import smallest
    >>> smallest(tokens(), lambda drawn: "." in drawn).strings
    ('.',)

    Args:
        max_size, min_size: bounds on the number of tokens.
        unicode: whether to draw any characters, besides words, word pieces, marks, numbers, white
            space, special tokens and bytes of split characters.
        gaps: whether the text may have characters that no token covers.
        words: more token strings to draw.
    """
    more = st.sampled_from([*words]).map(lambda s: (s,)) if words else st.nothing()
    vocabulary = draw(st.lists(pieces(unicode) | more, min_size=1, max_size=8, unique=True))
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
    text, spans = "", []
    for start, end in made.spans:
        text += between if end > start else ""
        spans.append((len(text), len(text) + end - start))
        text += made.text[start:end]
    return Tokens(made.strings, text + between, tuple(spans), made.special)


def texts(max_size: int = 40) -> SearchStrategy[str]:
    """Return a strategy of strings with sentences, quotations, brackets, lines and rare characters.

    >>> from attn_dsl.testing import smallest
    >>> smallest(texts(), lambda text: "=" in text)
    '='
    """
    parts = st.sampled_from([*WORDS, *MARKS, *SPACES, *NUMBERS, *OTHERS]) | st.text(max_size=2)
    return st.lists(parts, max_size=max_size).map("".join)


@st.composite
def programs(draw: st.DrawFn, visibility: t.Visibility | None = None, normaliser: t.Normaliser | None = None,
             max_terms: int = 4, holes: bool = False, lookahead: bool = False,
             extras: Collection[str] = ()) -> t.Head:  # fmt: skip
    """Return a strategy of valid programs, with every construct and feature of the language.

    >>> from attn_dsl.dsl.printer import show
    >>> from attn_dsl.testing import smallest
    >>> print(show(smallest(programs(), lambda program: len(program.terms) == 1)), end="")
    head random causal softmax:
        0 where true

    Args:
        visibility, normaliser: those of the programs; None draws them too.
        max_terms: the largest number of terms.
        holes: whether a weight may be a hole, ``?``.
        lookahead: whether a causal program may use features that read the whole text.
        extras: optional packages (``"spacy"``) whose features may occur.
    """
    head, scope = draw(_definitions(visibility, normaliser, lookahead, tuple(sorted(extras))))
    terms = draw(st.lists(_terms(scope, head.normaliser == "linear", holes), max_size=max_terms))
    return replace(head, terms=tuple(terms))


@st.composite
def _definitions(draw: st.DrawFn, visibility: t.Visibility | None, normaliser: t.Normaliser | None,
                 lookahead: bool, extras: tuple[str, ...]) -> tuple[t.Head, _Scope]:  # fmt: skip
    """Draw a program without terms, and what its terms may use."""
    either, forms = st.sampled_from(get_args(t.Visibility)), st.sampled_from(get_args(t.Normaliser))
    seen: t.Visibility = draw(either) if visibility is None else visibility
    form: t.Normaliser = draw(forms) if normaliser is None else normaliser
    names = draw(st.lists(st.sampled_from(["A", "Stop", "X_1"]), max_size=2, unique=True))
    sets = tuple(t.SetDefinition(name, draw(_SET_LITERALS)) for name in names)
    full = lookahead or seen == "bidirectional"
    scope = _Scope(full, extras, tuple(names), causal=seen == "causal")
    functions = list[t.Definition]()
    for name in draw(st.lists(st.sampled_from(["f", "g", "once"]), max_size=3, unique=True)):
        one = t.Definition(name, draw(_values(scope._replace(variables="i"))))
        if _valid(t.Head("random", seen, sets=sets, functions=(*functions, one))):
            functions.append(one)
            kind = type_of(one.value, dict(scope.functions))
            scope = scope._replace(functions=(*scope.functions, (name, kind)))
    lines = st.lists(_lines(scope._replace(variables="i", ahead=False, functions=())), min_size=1,
                     max_size=4).map(tuple)  # fmt: skip
    titles = draw(st.lists(st.sampled_from(["S", "Noun"]), max_size=2, unique=True))
    scores = tuple(t.ScoreDefinition(title, draw(lines)) for title in titles)
    head = t.Head("random", seen, form, (), sets, scores, (), tuple(functions))
    return head, scope._replace(scores=tuple(titles))


@lru_cache(maxsize=256)
def _values(scope: _Scope) -> SearchStrategy[t.Int | t.Predicate | t.Symbol]:
    """Draw what a function may be; not all of it is valid in a causal program."""
    return st.one_of(_integers(scope, 1), _predicates(scope, 1), _symbols(scope, 0))


def _valid(program: t.Head) -> bool:
    try:
        check(program)
    except ProgramError:
        return False
    return True


def features(kind: Type, full: bool = False, extras: Collection[str] = ()) -> list[str]:
    """Return the names of the features of one position of a type: "bool", "int" or "symbol".

    ``full`` adds features that read the whole text, ``extras`` those that need these packages.

    >>> features("int")[:3]
    ['length', 'number', 'word_number']
    """
    return [f.name for f in FEATURES.values() if f.type == kind and f.arity == 1
            and (full or f.reads != "full") and (not f.extra or f.extra in extras)]  # fmt: skip


@lru_cache(maxsize=8)
def weights(positive: bool = False, holes: bool = False) -> SearchStrategy[float | None]:
    """Draw weights with few decimals. Most are small; some are at the bounds."""
    low = 0 if positive else -1
    usual: list[SearchStrategy[float | None]] = [
        st.integers(5 * low, 5).map(float), st.integers(500 * low, 500).map(lambda i: i / 100),
        st.integers(1_000_000 * low, 1_000_000).map(lambda i: i / 1000),
        st.sampled_from([0.0, 0.001, 1000.0, 1000.0 * low])]  # fmt: skip
    return st.one_of([*usual, st.none()] if holes else usual)


@lru_cache(maxsize=256)
def _lines(scope: _Scope) -> SearchStrategy[t.Where]:
    """Draw the lines of scores."""
    return st.builds(t.Where, _SET_WEIGHTS, _predicates(scope, 2))


@lru_cache(maxsize=256)
def _positions(scope: _Scope) -> SearchStrategy[t.Position]:
    return st.builds(t.Position, st.sampled_from(scope.variables), _SHIFTS)


@lru_cache(maxsize=256)
def _terms(scope: _Scope, positive: bool, holes: bool) -> SearchStrategy[t.Term]:
    weight, integer = weights(positive, holes), _integers(scope, 2)
    condition = st.none() | _predicates(scope, 1)
    names = map(st.just, scope.scores)
    uses = [st.builds(t.Score, name, st.sampled_from("kq"), _SHIFTS) for name in names]
    factor: SearchStrategy[t.Factor] = st.one_of(
        integer, st.builds(t.Real, st.sampled_from(_REAL), integer),
        st.builds(t.Decay, integer, st.integers(1, 999).map(lambda i: i / 1000)),
        st.builds(t.Weight, _symbols(scope, 1), _sets(scope)), *uses)  # fmt: skip
    bounds = st.lists(_SMALL, min_size=1, max_size=5, unique=True).map(sorted)
    steps = st.lists(weight, min_size=5, max_size=5)
    entries = st.builds(lambda bounds, steps: tuple(map(t.Entry, bounds, steps)), bounds, steps)
    values = st.one_of(factor, st.builds(t.Product, factor, factor))
    scaled = st.builds(t.Part, weight, factor)
    parts, sums = (st.lists(part, min_size=2, max_size=4).map(tuple)
                   for part in (st.builds(t.Part, weight) | scaled, scaled))  # fmt: skip
    return st.one_of(st.builds(t.Where, weight, _predicates(scope, 2)),
                     st.builds(t.Scaled, weight, values, condition),
                     st.builds(t.Sum, parts, _predicates(scope, 1)), st.builds(t.Sum, sums),
                     st.builds(t.Table, integer, entries, condition),
                     *(st.builds(t.Scaled, weight, use, condition) for use in uses))  # fmt: skip


@lru_cache(maxsize=256)
def _integers(scope: _Scope, depth: int) -> SearchStrategy[t.Int]:
    options: list[SearchStrategy[t.Int]] = [st.builds(t.Integer, st.integers(0, 9) | st.integers(0, _MANY)),
                                            _positions(scope), _calls(scope, "int", 0)]  # fmt: skip
    if scope.variables == "kq":
        options.append(st.just(t.Arithmetic("-", t.Position("q"), t.Position("k"))))
    if scope.full:
        options.append(st.just(t.Call("n", ())))
    if depth:
        below, searches = _integers(scope, depth - 1), ("nearest", "first", "last", "count")
        options += [st.builds(_arithmetic, st.sampled_from("+-"), below, below), st.builds(t.Absolute, below),
                    st.builds(t.Modulo, below, st.integers(1, 9) | st.integers(1, _MANY)),
                    st.builds(t.Extremum, st.sampled_from(["min", "max"]), below, below),
                    _calls(scope, "int", depth - 1),
                    st.builds(t.Call, st.just("match"), st.tuples(*[_ats(scope, below)] * 2))]  # fmt: skip
        options.append(_searches(scope, searches))
        if scope.variables == "kq":
            body = _predicates(scope, depth - 1)
            options.append(st.builds(t.Quantifier, st.sampled_from(searches), body))
    return st.one_of(options)


@lru_cache(maxsize=256)
def _searches(scope: _Scope, names: tuple[str, ...]) -> SearchStrategy[t.Search]:
    """Draw searches over positions for one of them."""
    variables, back = scope.variables.replace("j", ""), scope.causal and not scope.ahead
    overs = ["<", "<="] if back or "j" in scope.variables else ["", "<", "<=", ">", ">="]

    @st.composite
    def searches(draw: st.DrawFn) -> t.Search:
        over: Any = draw(st.sampled_from(overs))
        steady = scope.causal and over not in ("<", "<=")
        inside = scope._replace(variables="ij", ahead=not steady)
        if steady:
            inside = inside._replace(functions=())
        body = draw(_predicates(inside, 0 if scope.variables == "ij" else 1))
        at = draw(st.sampled_from(variables))
        if not over and "i" not in {p.variable for p in t.positions(body)}:
            at = variables.replace("k", "")  # such a search is for the query
        return t.Search(draw(st.sampled_from(names)), over, body, t.Position(at))  # type: ignore[arg-type]

    return searches()


@lru_cache(maxsize=256)
def _predicates(scope: _Scope, depth: int) -> SearchStrategy[t.Predicate]:
    symbol, integer = _symbols(scope, depth), _integers(scope, depth)
    equal = st.sampled_from(["==", "!="])
    orders = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
    options: list[SearchStrategy[t.Predicate]] = [
        st.just(t.Always()), st.builds(t.Compare, orders, integer, integer), _calls(scope, "bool", depth),
        st.builds(t.Compare, equal, symbol, symbol),
        st.builds(t.Compare, equal, symbol, st.builds(t.Text, _STRINGS)),
        st.builds(t.Member, symbol, _sets(scope)),
        st.builds(lambda i, a, b: t.Between(i, min(a, b), max(a, b)), integer, _SMALL, _SMALL),
        st.builds(t.Affix, st.sampled_from(["starts", "ends", "contains"]), symbol, _STRINGS)]  # fmt: skip
    if depth:
        below = _predicates(scope, depth - 1)
        options += [st.builds(t.Not, below), st.builds(t.And, below, below), st.builds(t.Or, below, below)]
        options.append(_searches(scope, ("any",)))
        if scope.variables == "kq":
            options.append(st.builds(t.Quantifier, st.just("any"), below))
    return st.one_of(options)


def _calls(scope: _Scope, kind: Type, depth: int) -> SearchStrategy[t.Call]:
    names = [name for name in features(kind, scope.full, scope.extras) if not scope.steady
             or FEATURES[name].reads != "visible"]  # fmt: skip
    at = _integers(scope, depth) if depth else _positions(scope)
    own = [name for name, of in scope.functions if of == kind]
    one = st.builds(t.Call, st.sampled_from(names), st.tuples(_ats(scope, at)))
    return one | st.builds(t.Call, st.sampled_from(own), st.tuples(at)) if own else one


def _symbols(scope: _Scope, depth: int) -> SearchStrategy[t.Symbol]:
    """Draw features of type symbol, and what shortens them once or twice."""
    call, lengths = _calls(scope, "symbol", depth), st.integers(1, 4) | st.just(64)
    stem = st.builds(t.Shortened, st.just("stem"), call)
    cut = st.builds(t.Shortened, st.sampled_from(["prefix", "suffix"]), call | stem, lengths)
    return call | stem | cut


def _ats(scope: _Scope, at: SearchStrategy[t.Int]) -> SearchStrategy[t.Int]:
    """Draw positions that a feature may read: in a score of a causal program, not after ``i``."""
    if not scope.causal or scope.ahead:
        return at
    if scope.steady:
        at = _positions(scope)

    def before(node: t.Int) -> t.Int:
        shifted = isinstance(node, t.Position)
        return t.Position(node.variable, -abs(node.shift)) if shifted else node  # type: ignore[union-attr]

    return at.map(before)


def _sets(scope: _Scope) -> SearchStrategy[t.SetName | t.SetLiteral]:
    return st.builds(t.SetName, st.sampled_from([*scope.sets, *lexicon()])) | _SET_LITERALS


def _arithmetic(op: str, left: t.Int, right: t.Int) -> t.Int:
    """Make a sum as the parser does: a position plus a number is a shifted position."""
    if isinstance(left, t.Position) and isinstance(right, t.Integer):
        shift = left.shift + (right.value if op == "+" else -right.value)
        return t.Position(left.variable, min(max(shift, -_MANY), _MANY))
    return t.Arithmetic(op, left, right)  # type: ignore[arg-type]


__all__ = ["features", "pieces", "programs", "texts", "tokens", "weights"]
