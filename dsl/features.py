"""Features: the vocabulary of the language, each defined once in the registry ``FEATURES``.

The checker, both evaluators, ``attn-dsl features`` and the reference are made from it. To add a
feature, add an entry here and its name to the terminal of its type in ``grammars/attn.lark``.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from attn_dsl.dsl.analysis import Analysis

Type = Literal["bool", "int", "symbol"]
Reads = Literal["left", "visible", "full"]
Value = bool | int | str

MATCH_LIMIT = 32
"""The longest matching context that ``match`` counts."""


@dataclass(frozen=True, slots=True)
class Column:
    """The values of a feature on one text, and from which query on each is settled.

    At a query q, position p (p <= q in a causal program) has the value ``settled[p]`` if
    ``known[p] <= q`` and else ``open[q]``; a bidirectional program sees ``settled`` alone.

    Attributes:
        settled: per position, the value in the whole text.
        known: per position, the token that settles it (``n`` if none does); None: itself.
        open: per query, the value of what is not settled there yet.
    """

    settled: list[Value]
    known: list[int] | None = None
    open: list[Value] | None = None

    def at(self, position: int, query: int, causal: bool) -> Value:
        """Return the value at a position inside the text, as the query sees it."""
        if causal and self.known is not None and self.known[position] > query:
            assert self.open is not None
            return self.open[query]
        return self.settled[position]


@dataclass(frozen=True, slots=True)
class Feature:
    """A function of one position (or of two: ``arity`` 2) of a text.

    Attributes:
        name: as programs write it.
        type: of the result.
        reads: ``left``: tokens up to the position; ``visible``: the whole text, but in a causal
            program only what the query can see of it; ``full``: the whole text.
        doc: one line for the reference.
        example: a term that uses it.
        compute: the column of a text; for arity 2, a matrix as a list of rows.
        pad: the value at a position outside what can be seen.
        extra: the optional extra of the package that it needs, if any.
    """

    name: str
    type: Type
    reads: Reads
    doc: str
    example: str
    compute: Callable[[Analysis], Column | list[list[int]]]
    pad: Value
    arity: int = 1
    extra: str = ""


def _left(values: list) -> Column:
    return Column(list(values))


def _strings(test: Callable[[str], bool]) -> Callable[[Analysis], Column]:
    """Make a left feature of a test on the token's string; special tokens fail it."""

    def compute(a: Analysis) -> Column:
        pairs = zip(a.strings, a.tokens.special, strict=True)
        return _left([not mark and test(s) for s, mark in pairs])

    return compute


def _word(a: Analysis) -> Column:
    return Column(list(a.word_text), a.word_known, list(a.word_so_far))


def _word_before(a: Analysis) -> Column:
    return _left([a.segments.words[w - 1] if w > 0 else "" for w in a.word])


def _word_end(a: Analysis) -> Column:
    return Column(list(a.word_last), a.word_last, list(range(a.n)))


def _word_final(a: Analysis) -> Column:
    settled: list[Value] = [w >= 0 and i == a.word_last[i] for i, w in enumerate(a.word)]
    return Column(settled, [i + 1 for i in range(a.n)], [False] * a.n)


def _sentence_final(a: Analysis) -> Column:
    solid = [i for i in range(a.n) if not (a.blank[i] or a.tokens.special[i])]
    settled: list[Value] = [False] * a.n
    known = list(range(a.n))
    for i, j in itertools.pairwise([*solid, a.n]):
        settled[i] = j == a.n or a.sentence[j] != a.sentence[i]
        known[i] = j
    return Column(settled, known, [False] * a.n)


def _closed(a: Analysis) -> Column:
    settled: list[Value] = [False] * a.n
    known = list(range(a.n))
    for i, opener in enumerate(a.nesting["match"]):
        if 0 <= opener < i and not settled[opener]:
            settled[opener], known[opener] = True, i
    return Column(settled, known, [False] * a.n)


def _ordinal(labels: list[int]) -> Column:
    return _left(labels)


def _first_of(labels: Callable[[Analysis], list[int]]) -> Callable[[Analysis], Column]:
    def compute(a: Analysis) -> Column:
        firsts = a.firsts(labels(a))
        solid = [not (b or s) for b, s in zip(a.blank, a.tokens.special, strict=True)]
        return _left([solid[i] and first == i for i, first in enumerate(firsts)])

    return compute


def _indent(a: Analysis) -> Column:
    text, values = a.tokens.text, []
    for at, (_, end) in zip(a.last, a.tokens.spans, strict=True):
        stop = at + 1 if text[at : at + 1].strip() else end
        line = text[text.rfind("\n", 0, max(stop - 1, 0)) + 1 : stop]
        values.append(len(line) - len(line.lstrip(" \t")))
    return _left(values)


def _shape(a: Analysis) -> Column:
    return _left(["" if m else shape(s) for s, m in zip(a.strings, a.tokens.special, strict=True)])


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


def _match(a: Analysis) -> list[list[int]]:
    strings, n = a.tokens.strings, a.n
    rows: list[list[int]] = []
    for i in range(n):
        row = [0] * n
        here = strings[i]
        above = rows[i - 1] if i else row
        for j in range(n):
            if strings[j] == here:
                row[j] = min(MATCH_LIMIT, 1 + (above[j - 1] if i and j else 0))
        rows.append(row)
    return rows


def _spacy(attribute: str) -> Callable[[Analysis], Column]:
    def compute(a: Analysis) -> Column:
        from attn_dsl.dsl.syntax import parse_tokens

        return Column(parse_tokens(a)[attribute])

    return compute


def _is_punct(s: str) -> bool:
    return bool(s) and all(unicodedata.category(c)[0] in "PS" for c in s)


def _has_case(s: str) -> bool:
    return s.upper() != s.lower()


_NONE = -1
_ALL = [
    # What the token is made of.
    Feature("text", "symbol", "left", "the token without the spaces before it",
            'text(k-1) == text(q)', lambda a: _left(a.strings), ""),
    Feature("token", "symbol", "left", "the token exactly as the model sees it",
            'token(k) in {" he", " she"}', lambda a: _left(list(a.tokens.strings)), ""),
    Feature("shape", "symbol", "left", "the token's kinds of characters: Xx, x, d, ...",
            'shape(k) == "Xx"', _shape, ""),
    Feature("length", "int", "left", "characters of the token, spaces before it left out",
            "length(k) >= 4", lambda a: _left([len(s) for s in a.strings]), 0),
    Feature("special", "bool", "left", "a special token such as <s> or [SEP]",
            "special(k)", lambda a: _left(list(a.tokens.special)), False),
    Feature("punct", "bool", "left", "only punctuation marks and symbols",
            "punct(k)", _strings(_is_punct), False),
    Feature("alpha", "bool", "left", "only letters",
            "alpha(k)", _strings(str.isalpha), False),
    Feature("digit", "bool", "left", "only digits",
            "digit(k)", _strings(str.isdigit), False),
    Feature("space", "bool", "left", "only white space",
            "space(k)", _strings(str.isspace), False),
    Feature("newline", "bool", "left", "a line break is in it",
            "newline(k)", _strings(lambda s: "\n" in s), False),
    Feature("capital", "bool", "left", "its first character is a capital letter",
            "capital(k)", _strings(lambda s: s[:1].isupper()), False),
    Feature("upper", "bool", "left", "letters, all of them capitals",
            "upper(k)", _strings(lambda s: s.isupper() and _has_case(s)), False),
    # Words and their pieces.
    Feature("word", "symbol", "visible", "the word that it is in, in lower case, as far as visible",
            "word(k) in Pronoun", _word, ""),
    Feature("word_before", "symbol", "left", "the word before the one that it is in",
            'word_before(k) == "the"', _word_before, ""),
    Feature("word_start", "bool", "left", "the first piece of a word",
            "word_start(k)",
            lambda a: _left([w >= 0 and a.word_first[i] == i for i, w in enumerate(a.word)]), False),
    Feature("word_inside", "bool", "left", "a later piece of a word",
            "word_inside(k)",
            lambda a: _left([w >= 0 and a.word_first[i] < i for i, w in enumerate(a.word)]), False),
    Feature("word_final", "bool", "visible", "the last piece of a word; unknown means no",
            "word_final(k)", _word_final, False),
    Feature("word_index", "int", "left", "which word of the text it is in; -1 for none",
            "word_index(k) == word_index(q)", lambda a: _ordinal(a.word), _NONE),
    Feature("piece", "int", "left", "which piece of its word it is, from 0",
            "piece(k) == 0",
            lambda a: _left([i - a.word_first[i] for i in range(a.n)]), 0),
    Feature("word_first", "int", "left", "position of the first piece of its word",
            "k == word_first(q)", lambda a: _left(a.word_first), _NONE),
    Feature("word_last", "int", "visible", "position of the last visible piece of its word",
            "k == word_last(k)", _word_end, _NONE),
    # Sentences, lines, paragraphs.
    Feature("sentence", "int", "left", "which sentence it is in, from 0",
            "sentence(k) == sentence(q)", lambda a: _ordinal(a.sentence), _NONE),
    Feature("sentence_start", "bool", "left", "the first token of a sentence",
            "sentence_start(k)", _first_of(lambda a: a.sentence), False),
    Feature("sentence_final", "bool", "visible", "the last token of a sentence; unknown means no",
            "sentence_final(k)", _sentence_final, False),
    Feature("sentence_first", "int", "left", "position of the first token of its sentence",
            "k == sentence_first(q)", lambda a: _left(a.firsts(a.sentence)), _NONE),
    Feature("line", "int", "left", "which line it is in, from 0",
            "line(k) == line(q) - 1", lambda a: _ordinal(a.line), _NONE),
    Feature("line_start", "bool", "left", "the first token of a line",
            "line_start(k)", _first_of(lambda a: a.line), False),
    Feature("line_first", "int", "left", "position of the first token of its line",
            "k == line_first(q)", lambda a: _left(a.firsts(a.line)), _NONE),
    Feature("indent", "int", "left", "white space at the start of its line, in characters",
            "indent(k) == indent(q)", _indent, 0),
    Feature("paragraph", "int", "left", "which paragraph it is in, from 0",
            "paragraph(k) == paragraph(q)",
            lambda a: _ordinal(a.by_last(a.segments.paragraph)), _NONE),
    # Brackets and quotations.
    Feature("opens", "bool", "left", "it opens a bracket or a quotation",
            "opens(k)", lambda a: _left([bool(x) for x in a.nesting["opens"]]), False),
    Feature("closes", "bool", "left", "it closes a bracket or a quotation",
            "closes(k)", lambda a: _left([m >= 0 for m in a.nesting["match"]]), False),
    Feature("closed", "bool", "visible", "it opens what has been closed by now",
            "opens(k) and not closed(k)", _closed, False),
    Feature("depth", "int", "left", "how many brackets are open after it",
            "depth(k) == depth(q)", lambda a: _left(a.nesting["depth"]), 0),
    Feature("opener", "int", "left", "position of the innermost open bracket, or of the one it closes",
            "k == opener(q)", lambda a: _left(a.nesting["opener"]), _NONE),
    Feature("quoted", "bool", "left", "inside a quotation, its marks included",
            "quoted(k)", lambda a: _left([x >= 0 for x in a.nesting["quote"]]), False),
    Feature("quote_first", "int", "left", "position of the mark that opened its quotation",
            "k == quote_first(q)", lambda a: _left(a.nesting["quote"]), _NONE),
    # Repetition.
    Feature("seen", "bool", "left", "the same token occurred before",
            "seen(k)", lambda a: _left([r > 0 for r in a.earlier[0]]), False),
    Feature("repeats", "int", "left", "how often the same token occurred before",
            "repeats(k) == repeats(q)", lambda a: _left(a.earlier[0]), 0),
    Feature("previous", "int", "left", "position of the last equal token before it; -1 for none",
            "k == previous(q) + 1", lambda a: _left(a.earlier[1]), _NONE),
    Feature("word_repeats", "int", "left", "how often the same word occurred before",
            "word_repeats(k) == 0", lambda a: _left(a.earlier_words[0]), 0),
    Feature("word_previous", "int", "left", "position of the last equal word before it; -1 for none",
            "k == word_previous(q)", lambda a: _left(a.earlier_words[1]), _NONE),
    Feature("match", "int", "left", "how many tokens ending at two positions are the same, up to 32",
            "match(k-1, q) >= 2", _match, 0, arity=2),
    # The end of the text: a causal head cannot see it.
    Feature("text_final", "bool", "full", "the last token of the text",
            "text_final(k)", lambda a: _left([i == a.n - 1 for i in range(a.n)]), False),
    Feature("from_end", "int", "full", "how many tokens follow it",
            "from_end(k) == 1", lambda a: _left([a.n - 1 - i for i in range(a.n)]), 0),
    # Syntax, from spaCy.
    Feature("upos", "symbol", "full", "universal part of speech: NOUN, VERB, ...",
            'upos(k) == "NOUN"', _spacy("upos"), "", extra="spacy"),
    Feature("dep", "symbol", "full", "dependency label: nsubj, obj, det, ...",
            'dep(k) == "nsubj"', _spacy("dep"), "", extra="spacy"),
    Feature("lemma", "symbol", "full", "dictionary form of the word",
            'lemma(k) == "be"', _spacy("lemma"), "", extra="spacy"),
    Feature("syntax_head", "int", "full", "position of the head of its word in the dependency tree",
            "k == syntax_head(q)", _spacy("syntax_head"), _NONE, extra="spacy"),
]  # fmt: skip

FEATURES: dict[str, Feature] = {feature.name: feature for feature in _ALL}
"""All features by name."""
