"""Features: the table ``FEATURES`` of the functions of positions of a text that programs may read.

The grammar, the checker, the compiler, the exports, ``attn-dsl features`` and the reference are made
from this table. To add a feature, add an entry to ``_ALL``. Texts may grow token by token: each
feature computes the values of new tokens from an ``Analysis`` and updates its ``Column``.
"""

import itertools
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from attn_dsl.dsl import syntax
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.limits import MATCH_LIMIT, MAX_NUMBER

Type = Literal["bool", "int", "symbol"]
Reads = Literal["left", "visible", "full"]
Value = bool | int | str

NEVER = 2**31 - 1  # a position after every query


@dataclass(frozen=True, slots=True)
class Column:
    """The values of a feature at every position of one text, as each query sees them.

    In a causal program, query q sees ``settled[p]`` at position p (p <= q) if ``known[p] <= q``,
    and ``open[q]`` otherwise. A bidirectional program sees ``settled[p]``. Example: the word of
    a first piece is ``settled`` once the query has reached the last piece of the word.
    """

    settled: list[Value]  # per position, the value in the whole text
    known: list[int] | None = None  # per position, the first query that sees ``settled``
    # (``NEVER``: none does); None for a feature that is not ``visible``
    open: list[Value] | None = None  # per query, the value where ``settled`` is not known yet

    def at(self, position: int, query: int, causal: bool) -> Value:
        """Return the value at a position that the query sees, as that query sees it."""
        if causal and self.known is not None and self.known[position] > query:
            assert self.open is not None
            return self.open[query]
        return self.settled[position]


class Change(NamedTuple):
    """New entries of the column of a ``visible`` feature after tokens were appended to the text."""

    first: int  # the first position whose entry of ``settled`` or ``known`` may change
    settled: list  # the entries of the positions from ``first`` on
    known: list[int]  # likewise
    open: list  # the entries of the new tokens


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature: a function of one position of a text, of two (``arity`` 2), or of the text (0).

    ``reads`` is the text that its value may depend on: ``left``, up to the position; ``visible``,
    what the query sees; ``full``, all of it. ``values(analysis, start)`` computes the values. It
    returns a list of those from position ``start`` on; for a ``visible`` feature the ``Change`` by
    the tokens from ``start`` on; for arity 2 all rows of an n by n matrix.
    """

    name: str
    type: Type
    reads: Reads
    doc: str  # one line for the reference; "it" is the token at the position
    example: str  # a predicate that uses it
    values: Callable[[Analysis, int], list | Change]
    pad: Value  # the value at a position that the query does not see
    arity: int = 1
    extra: str = ""  # the optional dependency of attn-dsl that it needs, such as ``spacy``
    noun: str = ""  # in English: the tokens at which it holds, or what it is of its token
    python: str = ""  # for exports: its values, as Python source that reads the list ``tokens``

    def column(self) -> Column:
        """Return the column of an empty text."""
        return Column([], [], []) if self.reads == "visible" else Column([])

    def extend(self, analysis: Analysis, column: Column) -> int:
        """Update a column after tokens were appended; return the first position that may have changed."""
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

    def compute(self, analysis: Analysis) -> Column:
        """Compute the column of a text; for arity 2, ``settled`` has the rows of the matrix."""
        column = self.column()
        self.extend(analysis, column)
        return column


def of_string(value: Callable[[str], Value], special: Value = False) -> Callable[..., list]:
    """Make the function ``values`` of a feature that depends on the string of its token alone.

    ``value`` gets the string without the spaces before it. Special tokens have the value ``special``.
    """
    return lambda a, start: [
        special if mark else value(string)
        for string, mark in zip(a.strings[start:], a.special[start:], strict=True)]  # fmt: skip


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


def _word_number(a: Analysis, start: int) -> Change:
    first, settled, known, opened = _word(a, start)
    return Change(first, list(map(number, settled)), known, list(map(number, opened)))


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
    """Return the first piece of the word at ``start - 1``, which the next tokens may continue."""
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
    """Return the kinds of the characters of a string, each run of one kind written once.

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


def lower(string: str) -> str:
    """Return a string in lower case, with straight apostrophes."""
    return string.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")


_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_UNITS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
          "sixteen seventeen eighteen nineteen")  # fmt: skip
_NUMBERS = {**{word: i for i, word in enumerate(_UNITS.split())},
            **{word: 10 * i for i, word in enumerate(_TENS.split(), 2)}, "hundred": 100,
            "thousand": 1000}  # fmt: skip


def number(string: str) -> int:
    """Return the number that a string writes, in digits or as an English word; -1 if it writes none.

    >>> number("042"), number("Seven"), number("x")
    (42, 7, -1)
    """
    if not string.isdecimal():
        return _NUMBERS.get(string.lower(), _NONE)
    found = 0
    for digit in string:
        found = min(10 * found + int(digit), MAX_NUMBER)
    return found


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
    Feature("text", "symbol", "left", "string of the token without the spaces before it",
            'text(k-1) == text(q)', lambda a, i: a.strings[i:], "",
            python='[token.lstrip(" ") or token for token in tokens]', noun="text"),
    Feature("token", "symbol", "left", "string of the token exactly as the model sees it",
            'token(k) in {" he", " she"}', lambda a, i: a.tokens[i:], "", python="tokens", noun="exact text"),
    Feature("lower", "symbol", "left", "the same in lower case, with straight apostrophes",
            'lower(k) in Pronoun', lambda a, i: [lower(s) for s in a.strings[i:]], "",
            noun="lower-cased text"),
    Feature("shape", "symbol", "left", "kinds of its characters, runs written once: Xx, x, d",
            'shape(k) == "Xx"', of_string(shape, special=""), "", noun="shape (such as Xx)"),
    Feature("length", "int", "left", "number of its characters, without the spaces before it",
            "length(k) >= 4", lambda a, i: [len(s) for s in a.strings[i:]], 0,
            python='[len(token.lstrip(" ") or token) for token in tokens]', noun="length"),
    Feature("special", "bool", "left", "it is a special token such as <s> or [SEP]", "special(k)",
            lambda a, i: a.special[i:], False, noun="special tokens"),
    Feature("punct", "bool", "left", "it has only punctuation marks and symbols", "punct(k)",
            of_string(_is_punct), False, noun="punctuation"),
    Feature("alpha", "bool", "left", "it has only letters", "alpha(k)", of_string(str.isalpha), False,
            noun="tokens of letters"),
    Feature("digit", "bool", "left", "it has only digits", "digit(k)", of_string(str.isdigit), False,
            noun="numbers"),
    Feature("space", "bool", "left", "it has only white space", "space(k)", of_string(str.isspace), False,
            noun="white space"),
    Feature("newline", "bool", "left", "it has a line break", "newline(k)",
            of_string(lambda s: "\n" in s), False, noun="line breaks"),
    Feature("capital", "bool", "left", "it begins with a capital letter", "capital(k)",
            of_string(lambda s: s[:1].isupper()), False, noun="capitalised tokens"),
    Feature("upper", "bool", "left", "it has letters, all of them capitals", "upper(k)",
            of_string(lambda s: s.isupper() and s.upper() != s.lower()), False),
    Feature("number", "int", "left", "the number that it writes, in digits or as a word; -1 for none",
            "number(k) < number(q)", of_string(number, _NONE), _NONE, noun="number"),
    # Words and their pieces.
    Feature("word", "symbol", "visible", "its word in lower case, as far as visible",
            "word(k) in Pronoun", _word, "", noun="word"),
    Feature("word_number", "int", "visible", "the number that its word writes, as far as visible; or -1",
            "word_number(k) >= 0", _word_number, _NONE, noun="number that the word writes"),
    Feature("word_before", "symbol", "left", "the word before its word, in lower case",
            'word_before(k) == "the"',
            lambda a, i: [a.segments.words[w - 1] if w > 0 else "" for w in a.word[i:]], "",
            noun="previous word"),
    Feature("word_start", "bool", "left", "it is the first piece of a word", "word_start(k)",
            lambda a, i: [w >= 0 and p == 0 for w, p in zip(a.word[i:], a.piece[i:], strict=True)], False,
            noun="first pieces of words"),
    Feature("word_inside", "bool", "left", "it is a piece of a word, but not the first", "word_inside(k)",
            lambda a, i: [p > 0 for p in a.piece[i:]], False),
    Feature("word_final", "bool", "visible", "it is the last piece of a word; false while unknown",
            "word_final(k)", _word_final, False, noun="last pieces of words"),
    Feature("word_index", "int", "left", "index of its word in the text, from 0; -1 for none",
            "word_index(k) == word_index(q)", lambda a, i: a.word[i:], _NONE, noun="word number"),
    Feature("piece", "int", "left", "index of the piece in its word, from 0", "piece(k) == 0",
            lambda a, i: a.piece[i:], 0),
    Feature("word_first", "int", "left", "position of the first piece of its word",
            "k == word_first(q)", lambda a, i: a.word_first[i:], _NONE),
    Feature("word_last", "int", "visible", "position of the last visible piece of its word",
            "k == word_last(k)", _word_last, _NONE),
    # Sentences, lines, paragraphs.
    Feature("sentence", "int", "left", "index of its sentence, from 0", "sentence(k) == sentence(q)",
            lambda a, i: a.sentence[i:], _NONE, noun="sentence number"),
    Feature("sentence_start", "bool", "left", "it is the first token of a sentence", "sentence_start(k)",
            lambda a, i: _starts(a, a.sentence_first, i), False, noun="first tokens of sentences"),
    Feature("sentence_final", "bool", "visible", "it is the last token of a sentence; false while unknown",
            "sentence_final(k)", _sentence_final, False, noun="last tokens of sentences"),
    Feature("sentence_first", "int", "left", "position of the first token of its sentence",
            "k == sentence_first(q)", lambda a, i: a.sentence_first[i:], _NONE),
    Feature("line", "int", "left", "index of its line, from 0", "line(k) == line(q) - 1",
            lambda a, i: a.line[i:], _NONE, noun="line number"),
    Feature("line_start", "bool", "left", "it is the first token of a line", "line_start(k)",
            lambda a, i: _starts(a, a.line_first, i), False, noun="first tokens of lines"),
    Feature("line_first", "int", "left", "position of the first token of its line",
            "k == line_first(q)", lambda a, i: a.line_first[i:], _NONE),
    Feature("indent", "int", "left", "number of blanks and tabs at the start of its line",
            "indent(k) == indent(q)", _indent, 0, noun="indentation"),
    Feature("paragraph", "int", "left", "index of its paragraph, from 0",
            "paragraph(k) == paragraph(q)", lambda a, i: a.by_last(a.segments.paragraph, i), _NONE,
            noun="paragraph number"),
    # Brackets and quotations.
    Feature("opens", "bool", "left", "it opens a bracket or a quotation", "opens(k)",
            lambda a, i: [any(a.segments.opens[b:e]) for b, e in a.spans[i:]], False),
    Feature("closes", "bool", "left", "it closes a bracket or a quotation", "closes(k)",
            lambda a, i: [m >= 0 for m in a.match[i:]], False),
    Feature("closed", "bool", "visible", "it opens a bracket or a quotation that is closed by now",
            "opens(k) and not closed(k)", _closed, False),
    Feature("depth", "int", "left", "number of brackets that are open after it", "depth(k) == depth(q)",
            lambda a, i: a.by_last(a.segments.depth, i), 0, noun="depth of brackets"),
    Feature("opener", "int", "left", "position of the bracket that it closes, or of the innermost open one",
            "k == opener(q)", lambda a, i: a.opener[i:], _NONE),
    Feature("quoted", "bool", "left", "it is in a quotation, marks included", "quoted(k)",
            lambda a, i: [x >= 0 for x in a.quote[i:]], False, noun="quoted tokens"),
    Feature("quote_first", "int", "left", "position of the mark that opens its quotation",
            "k == quote_first(q)", lambda a, i: a.quote[i:], _NONE),
    # Repetition.
    Feature("seen", "bool", "left", "it has an equal token before it, spaces compared too", "seen(k)",
            lambda a, i: [times > 0 for times, _ in a.earlier[i:]], False,
            python="[token in tokens[:i] for i, token in enumerate(tokens)]", noun="repeated tokens"),
    Feature("repeats", "int", "left", "number of equal tokens before it, spaces compared too",
            "repeats(k) == repeats(q)", lambda a, i: [times for times, _ in a.earlier[i:]], 0,
            python="[tokens[:i].count(token) for i, token in enumerate(tokens)]"),
    Feature("previous", "int", "left", "position of the last equal token before it; -1 for none",
            "k == previous(q) + 1", lambda a, i: [place for _, place in a.earlier[i:]], _NONE,
            python="[max((j for j in range(i) if tokens[j] == token), default=-1) "
                   "for i, token in enumerate(tokens)]"),
    Feature("word_repeats", "int", "left", "number of earlier tokens with an equal word up to them",
            "word_repeats(k) == 0", lambda a, i: [times for times, _ in a.earlier_word[i:]], 0),
    Feature("word_previous", "int", "left", "position of the last token that word_repeats counts, or -1",
            "k == word_previous(q)", lambda a, i: [place for _, place in a.earlier_word[i:]], _NONE),
    Feature("match", "int", "left", "length of the longest equal run of tokens that ends at both, at most 32",
            "match(k-1, q) >= 2", _match, 0, arity=2),
    # The end of the text: a causal head cannot see it.
    Feature("text_final", "bool", "full", "it is the last token of the text", "text_final(k)",
            lambda a, _: [i == a.n - 1 for i in range(a.n)], False,
            python="[i == len(tokens) - 1 for i in range(len(tokens))]"),
    Feature("from_end", "int", "full", "number of tokens after it", "from_end(k) == 1",
            lambda a, _: [a.n - 1 - i for i in range(a.n)], 0,
            python="[len(tokens) - 1 - i for i in range(len(tokens))]"),
    Feature("n", "int", "full", "number of tokens of the text", "k == n - 1 - q", lambda a, _: [a.n] * a.n, 0,
            arity=0, python="[len(tokens) for _ in tokens]", noun="number of tokens"),
    # Syntax, from spaCy.
    Feature("upos", "symbol", "full", "universal part of speech of its word: NOUN, VERB, ...",
            'upos(k) == "NOUN"', lambda a, _: syntax.parse_tokens(a)["upos"], "", extra="spacy",
            noun="part of speech"),
    Feature("dep", "symbol", "full", "dependency label of its word: nsubj, obj, det, ...",
            'dep(k) == "nsubj"', lambda a, _: syntax.parse_tokens(a)["dep"], "", extra="spacy",
            noun="dependency label"),
    Feature("lemma", "symbol", "full", "dictionary form of its word", 'lemma(k) == "be"',
            lambda a, _: syntax.parse_tokens(a)["lemma"], "", extra="spacy", noun="dictionary form"),
    Feature("syntax_head", "int", "full", "position of the dependency head of its word",
            "k == syntax_head(q)", lambda a, _: syntax.parse_tokens(a)["syntax_head"], _NONE, extra="spacy"),
]  # fmt: skip

FEATURES: dict[str, Feature] = {feature.name: feature for feature in _ALL}  # all features by name
