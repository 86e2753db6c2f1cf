"""Features: the vocabulary of the language, each defined once in the registry ``FEATURES``.

The grammar, the checker, the evaluators, ``attn-dsl features`` and the reference are made from it.
To add a feature, add an entry to ``_ALL``.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from attn_dsl.dsl import syntax
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.limits import MATCH_LIMIT

Type = Literal["bool", "int", "symbol"]
Reads = Literal["left", "visible", "full"]
Value = bool | int | str

NEVER = 2**31 - 1  # a position after every query


@dataclass(frozen=True, slots=True)
class Column:
    """The values of a feature on one text, and from which query on each is settled.

    At a query q, position p (p <= q in a causal program) has the value ``settled[p]`` if
    ``known[p] <= q`` and else ``open[q]``; a bidirectional program sees ``settled`` alone.
    """

    settled: list[Value]  # per position, the value in the whole text
    known: list[int] | None = None  # per position, what settles it, or ``NEVER``; None: itself
    open: list[Value] | None = None  # per query, the value of what is not settled there yet

    def at(self, position: int, query: int, causal: bool) -> Value:
        """Return the value at a position inside the text, as the query sees it."""
        if causal and self.known is not None and self.known[position] > query:
            assert self.open is not None
            return self.open[query]
        return self.settled[position]


class Change(NamedTuple):
    """How new tokens change the column of a ``visible`` feature."""

    first: int  # the first position that may change
    settled: list  # the entries of the column from there on, as in ``known``
    known: list[int]
    open: list  # the entries of the column for the new tokens


@dataclass(frozen=True, slots=True)
class Feature:
    """A function of one position (or of two: ``arity`` 2) of a text.

    It reads tokens up to the position (``left``), or the whole text (``full``), in a causal program
    perhaps only what the query can see of it (``visible``). ``values`` returns the values from a
    position on; of a visible feature what the tokens from that position on change, and of one of
    arity 2 the rows of a matrix.
    """

    name: str
    type: Type
    reads: Reads
    doc: str  # one line for the reference
    example: str  # a term that uses it
    values: Callable[[Analysis, int], list | Change]
    pad: Value  # the value at a position outside what can be seen
    arity: int = 1
    extra: str = ""  # the optional extra of the package that it needs
    python: str = ""  # its values in Python, an expression of the list ``tokens`` of strings

    def column(self) -> Column:
        """Return the column of an empty text."""
        return Column([], [], []) if self.reads == "visible" else Column([])

    def extend(self, analysis: Analysis, column: Column) -> int:
        """Bring a column up to date with a text that has grown.

        Return the first position whose entry of ``settled`` or ``known`` is new or may have changed.
        """
        start = len(column.settled)
        if start == analysis.n:
            return start
        if self.reads == "full" or self.arity == 2:
            start = 0
        made = self.values(analysis, start)
        if not isinstance(made, Change):
            column.settled[start:] = made
            return start
        assert column.known is not None and column.open is not None
        column.settled[made.first :], column.known[made.first :] = made.settled, made.known
        column.open.extend(made.open)
        return made.first

    def compute(self, analysis: Analysis) -> Column | list:
        """Return the column of a text; for arity 2, a matrix as a list of rows."""
        column = self.column()
        self.extend(analysis, column)
        return column if self.arity == 1 else column.settled


def of_string(value: Callable[[str], Value], special: Value = False) -> Callable[..., list]:
    """Make the values of a left feature from a function of the string, without spaces before it.

    Special tokens have the value ``special``.
    """
    return lambda a, start: [
        special if mark else value(string)
        for string, mark in zip(a.strings[start:], a.special[start:], strict=True)
    ]


def _starts(a: Analysis, firsts: list[int], start: int) -> list[bool]:
    """Say which tokens are the first solid ones of their sentence or line."""
    pairs = zip(firsts[start:], a.solid[start:], strict=True)
    return [solid and first == i for i, (first, solid) in enumerate(pairs, start)]


def _word(a: Analysis, start: int) -> Change:
    first = _last_word(a, start)
    words, ends, token_of = a.segments.words, a.segments.ends, a.token_of
    here = a.word[first:]
    settled = [words[w] if w >= 0 else "" for w in here]
    known = [max(i, token_of[ends[w]]) if w >= 0 else i for i, w in enumerate(here, first)]
    return Change(first, settled, known, a.word_so_far[start:])


def _word_last(a: Analysis, start: int) -> Change:
    first = _last_word(a, start)
    ends = dict(zip(a.word_first[first:], range(first, a.n), strict=True))
    last = [ends[piece] for piece in a.word_first[first:]]
    return Change(first, last, last, list(range(start, a.n)))


def _word_final(a: Analysis, start: int) -> Change:
    first = max(start - 1, 0)
    inside = [*(piece > 0 for piece in a.piece[first + 1 :]), False]
    settled = [w >= 0 and not goes_on for w, goes_on in zip(a.word[first:], inside, strict=True)]
    return Change(first, settled, [*range(first + 1, a.n), NEVER], [False] * (a.n - start))


def _last_word(a: Analysis, start: int) -> int:
    """Return the first piece of the word that ends before a position, and may continue there."""
    return a.word_first[start - 1] if start else 0


def _sentence_final(a: Analysis, start: int) -> Change:
    first, sentence = max(start - 1, 0), a.sentence
    while first and not a.solid[first]:
        first -= 1
    settled, known = [False] * (a.n - first), list(range(first, a.n))
    solid = [i for i in range(first, a.n) if a.solid[i]]
    for i, after in itertools.pairwise([*solid, NEVER]):
        settled[i - first] = after == NEVER or sentence[after] != sentence[i]
        known[i - first] = after
    return Change(first, settled, known, [False] * (a.n - start))


def _closed(a: Analysis, start: int) -> Change:
    match, closing = a.match, dict[int, int]()
    first = min([start, *(opener for opener in match[start:] if opener >= 0)])
    for i, opener in enumerate(match[first:], first):
        if 0 <= opener < i:
            closing.setdefault(opener, i)
    places = range(first, a.n)
    known = [closing.get(i, i) for i in places]
    return Change(first, [i in closing for i in places], known, [False] * (a.n - start))


def _indent(a: Analysis, start: int) -> list[int]:
    text, indent = a.segments.text, a.segments.indent
    pairs = zip(a.last[start:], a.spans[start:], strict=True)
    places = [end - 1 if at < 0 or text[at].isspace() else at for at, (_, end) in pairs]
    return [indent[at] if at >= 0 else 0 for at in places]


def shape(string: str) -> str:
    """Describe a string by the kinds of its characters, runs written once.

    >>> shape("McDonald"), shape("1984"), shape("e-mail"), shape("日")
    ('XxXx', 'd', 'x-x', 'o')
    """

    def letter(char: str) -> str:
        if char.isdigit():
            return "d"
        if char.isalpha():
            return "X" if char.isupper() else "x" if char.islower() else "o"
        return char

    return "".join(c for c, _ in itertools.groupby(map(letter, string)))


def _match(a: Analysis, start: int) -> list[list[int]]:
    places: dict[str, list[int]] = {}
    for i, string in enumerate(a.tokens):
        places.setdefault(string, []).append(i)
    rows: list[list[int]] = []
    for string in a.tokens:
        row = [0] * a.n
        for j in places[string]:
            row[j] = min(MATCH_LIMIT, 1 + (rows[-1][j - 1] if rows and j else 0))
        rows.append(row)
    return rows


def _is_punct(s: str) -> bool:
    return bool(s) and all(unicodedata.category(c)[0] in "PS" for c in s)


_NONE = -1
_ALL = [
    # What the token is made of.
    Feature("text", "symbol", "left", "the token without the spaces before it", 'text(k-1) == text(q)',
            lambda a, i: a.strings[i:], "", python='[token.lstrip(" ") or token for token in tokens]'),
    Feature("token", "symbol", "left", "the token exactly as the model sees it",
            'token(k) in {" he", " she"}', lambda a, i: a.tokens[i:], "", python="tokens"),
    Feature("shape", "symbol", "left", "the token's kinds of characters: Xx, x, d, ...",
            'shape(k) == "Xx"', of_string(shape, special=""), ""),
    Feature("length", "int", "left", "characters of the token, spaces before it left out",
            "length(k) >= 4", lambda a, i: [len(s) for s in a.strings[i:]], 0,
            python='[len(token.lstrip(" ") or token) for token in tokens]'),
    Feature("special", "bool", "left", "a special token such as <s> or [SEP]", "special(k)",
            lambda a, i: a.special[i:], False),
    Feature("punct", "bool", "left", "only punctuation marks and symbols", "punct(k)",
            of_string(_is_punct), False),
    Feature("alpha", "bool", "left", "only letters", "alpha(k)", of_string(str.isalpha), False),
    Feature("digit", "bool", "left", "only digits", "digit(k)", of_string(str.isdigit), False),
    Feature("space", "bool", "left", "only white space", "space(k)", of_string(str.isspace), False),
    Feature("newline", "bool", "left", "a line break is in it", "newline(k)",
            of_string(lambda s: "\n" in s), False),
    Feature("capital", "bool", "left", "its first character is a capital letter", "capital(k)",
            of_string(lambda s: s[:1].isupper()), False),
    Feature("upper", "bool", "left", "letters, all of them capitals", "upper(k)",
            of_string(lambda s: s.isupper() and s.upper() != s.lower()), False),
    # Words and their pieces.
    Feature("word", "symbol", "visible", "the word that it is in, in lower case, as far as visible",
            "word(k) in Pronoun", _word, ""),
    Feature("word_before", "symbol", "left", "the word before the one that it is in",
            'word_before(k) == "the"',
            lambda a, i: [a.segments.words[w - 1] if w > 0 else "" for w in a.word[i:]], ""),
    Feature("word_start", "bool", "left", "the first piece of a word", "word_start(k)",
            lambda a, i: [w >= 0 and p == 0 for w, p in zip(a.word[i:], a.piece[i:], strict=True)], False),
    Feature("word_inside", "bool", "left", "a later piece of a word", "word_inside(k)",
            lambda a, i: [p > 0 for p in a.piece[i:]], False),
    Feature("word_final", "bool", "visible", "the last piece of a word; unknown means no",
            "word_final(k)", _word_final, False),
    Feature("word_index", "int", "left", "which word of the text it is in; -1 for none",
            "word_index(k) == word_index(q)", lambda a, i: a.word[i:], _NONE),
    Feature("piece", "int", "left", "which piece of its word it is, from 0", "piece(k) == 0",
            lambda a, i: a.piece[i:], 0),
    Feature("word_first", "int", "left", "position of the first piece of its word",
            "k == word_first(q)", lambda a, i: a.word_first[i:], _NONE),
    Feature("word_last", "int", "visible", "position of the last visible piece of its word",
            "k == word_last(k)", _word_last, _NONE),
    # Sentences, lines, paragraphs.
    Feature("sentence", "int", "left", "which sentence it is in, from 0", "sentence(k) == sentence(q)",
            lambda a, i: a.sentence[i:], _NONE),
    Feature("sentence_start", "bool", "left", "the first token of a sentence", "sentence_start(k)",
            lambda a, i: _starts(a, a.sentence_first, i), False),
    Feature("sentence_final", "bool", "visible", "the last token of a sentence; unknown means no",
            "sentence_final(k)", _sentence_final, False),
    Feature("sentence_first", "int", "left", "position of the first token of its sentence",
            "k == sentence_first(q)", lambda a, i: a.sentence_first[i:], _NONE),
    Feature("line", "int", "left", "which line it is in, from 0", "line(k) == line(q) - 1",
            lambda a, i: a.line[i:], _NONE),
    Feature("line_start", "bool", "left", "the first token of a line", "line_start(k)",
            lambda a, i: _starts(a, a.line_first, i), False),
    Feature("line_first", "int", "left", "position of the first token of its line",
            "k == line_first(q)", lambda a, i: a.line_first[i:], _NONE),
    Feature("indent", "int", "left", "white space at the start of its line, in characters",
            "indent(k) == indent(q)", _indent, 0),
    Feature("paragraph", "int", "left", "which paragraph it is in, from 0",
            "paragraph(k) == paragraph(q)", lambda a, i: a.by_last(a.segments.paragraph, i), _NONE),
    # Brackets and quotations.
    Feature("opens", "bool", "left", "it opens a bracket or a quotation", "opens(k)",
            lambda a, i: [any(a.segments.opens[b:e]) for b, e in a.spans[i:]], False),
    Feature("closes", "bool", "left", "it closes a bracket or a quotation", "closes(k)",
            lambda a, i: [m >= 0 for m in a.match[i:]], False),
    Feature("closed", "bool", "visible", "it opens what has been closed by now",
            "opens(k) and not closed(k)", _closed, False),
    Feature("depth", "int", "left", "how many brackets are open after it", "depth(k) == depth(q)",
            lambda a, i: a.by_last(a.segments.depth, i), 0),
    Feature("opener", "int", "left", "position of the innermost open bracket, or of the one it closes",
            "k == opener(q)", lambda a, i: a.opener[i:], _NONE),
    Feature("quoted", "bool", "left", "inside a quotation, its marks included", "quoted(k)",
            lambda a, i: [x >= 0 for x in a.quote[i:]], False),
    Feature("quote_first", "int", "left", "position of the mark that opened its quotation",
            "k == quote_first(q)", lambda a, i: a.quote[i:], _NONE),
    # Repetition.
    Feature("seen", "bool", "left", "the same token occurred before", "seen(k)",
            lambda a, i: [times > 0 for times, _ in a.earlier[i:]], False,
            python="[token in tokens[:i] for i, token in enumerate(tokens)]"),
    Feature("repeats", "int", "left", "how often the same token occurred before",
            "repeats(k) == repeats(q)", lambda a, i: [times for times, _ in a.earlier[i:]], 0,
            python="[tokens[:i].count(token) for i, token in enumerate(tokens)]"),
    Feature("previous", "int", "left", "position of the last equal token before it; -1 for none",
            "k == previous(q) + 1", lambda a, i: [place for _, place in a.earlier[i:]], _NONE,
            python="[max((j for j in range(i) if tokens[j] == token), default=-1) "
                   "for i, token in enumerate(tokens)]"),
    Feature("word_repeats", "int", "left", "how often the same word occurred before",
            "word_repeats(k) == 0", lambda a, i: [times for times, _ in a.earlier_word[i:]], 0),
    Feature("word_previous", "int", "left", "position of the last equal word before it; -1 for none",
            "k == word_previous(q)", lambda a, i: [place for _, place in a.earlier_word[i:]], _NONE),
    Feature("match", "int", "left", "how many tokens ending at two positions are the same, up to 32",
            "match(k-1, q) >= 2", _match, 0, arity=2),
    # The end of the text: a causal head cannot see it.
    Feature("text_final", "bool", "full", "the last token of the text", "text_final(k)",
            lambda a, _: [i == a.n - 1 for i in range(a.n)], False,
            python="[i == len(tokens) - 1 for i in range(len(tokens))]"),
    Feature("from_end", "int", "full", "how many tokens follow it", "from_end(k) == 1",
            lambda a, _: [a.n - 1 - i for i in range(a.n)], 0,
            python="[len(tokens) - 1 - i for i in range(len(tokens))]"),
    # Syntax, from spaCy.
    Feature("upos", "symbol", "full", "universal part of speech: NOUN, VERB, ...", 'upos(k) == "NOUN"',
            lambda a, _: syntax.parse_tokens(a)["upos"], "", extra="spacy"),
    Feature("dep", "symbol", "full", "dependency label: nsubj, obj, det, ...", 'dep(k) == "nsubj"',
            lambda a, _: syntax.parse_tokens(a)["dep"], "", extra="spacy"),
    Feature("lemma", "symbol", "full", "dictionary form of the word", 'lemma(k) == "be"',
            lambda a, _: syntax.parse_tokens(a)["lemma"], "", extra="spacy"),
    Feature("syntax_head", "int", "full", "position of the head of its word in the dependency tree",
            "k == syntax_head(q)", lambda a, _: syntax.parse_tokens(a)["syntax_head"], _NONE, extra="spacy"),
]  # fmt: skip

FEATURES: dict[str, Feature] = {feature.name: feature for feature in _ALL}
"""All features by name."""
