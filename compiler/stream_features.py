"""Features of a text that grows: characters and tokens are labelled as they come.

``Characters`` labels as ``dsl/segment.py`` labels a whole text, and ``LATEST`` gives the features
of ``dsl/features.py`` at the newest token; these two say what the labels mean, and a test holds
them together with what is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from attn_dsl.dsl import segment as s
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.features import FEATURES, Column, Value
from attn_dsl.dsl.tokens import Tokens

Change = tuple[str, int, Value]

_ALONE = frozenset(
    "text token shape length special punct alpha digit space newline capital upper".split()
)
"""The features that a token's string decides alone."""


@lru_cache(maxsize=65_536)
def _alone(name: str, string: str, special: bool) -> Value:
    column = FEATURES[name].compute(Analysis(Tokens((string,), "", ((0, 0),), (special,))))
    assert isinstance(column, Column)
    return column.settled[0]


class Characters:
    """Labels of characters as they come: those of ``dsl.segment.segment``, which has their meaning.

    >>> characters = Characters()
    >>> characters.add("It s"), characters.add("at.")
    (None, None)
    >>> characters.words, characters.word
    (['It', 'sat', '.'], [0, 0, -1, 1, 1, 1, 2])
    """

    def __init__(self) -> None:
        self.text = ""
        self.word: list[int] = []
        self.words: list[str] = []
        self.starts: list[int] = []
        self.sentence: list[int] = []
        self.line: list[int] = []
        self.paragraph: list[int] = []
        self.depth: list[int] = []
        self.opener: list[int] = []
        self.quote: list[int] = []
        self.match: list[int] = []
        self.opens: list[bool] = []
        self.cut = False
        self._before, self._run = "space", ""
        self._terminated = self._spaced = self._numbered = False
        self._last, self._blank, self._newlines = "", 0, 0
        self._brackets: list[int] = []
        self._quoted: list[int] = []

    def add(self, string: str) -> None:
        """Label the next characters."""
        self.text += string
        for i in range(len(self.word), len(self.text)):
            char = self.text[i]
            self._word(char, i)
            self._sentence(char, i)
            self._line(char)
            self._nesting(char, i)

    def _word(self, char: str, i: int) -> None:
        now, before = s.kind(char), "space" if self.cut else self._before
        self.cut = False
        if now == "punct" and char in s.APOSTROPHES and before == "word":
            now = "word"
        if now == "space":
            self.word.append(-1)
        else:
            if now == before and now != "ideograph" and (now == "word" or char == self._run):
                self.words[-1] += char
            else:
                self.words.append(char)
                self.starts.append(i)
            self.word.append(len(self.words) - 1)
        self._before, self._run = now, char

    def _sentence(self, char: str, i: int) -> None:
        current = self.sentence[-1] if i else 0
        if char.isspace():
            self._spaced = True
            self._blank += char == "\n"
        else:
            between = self._spaced or self._last in "。！？"
            ended = self._terminated and between and not char.islower()
            inside = self._terminated and char in s.CLOSERS and not self._spaced
            counted = self._numbered and char.isdigit()
            if (ended and not inside and not counted) or (self._blank >= 2 and i):
                current += 1
                self._terminated = False
            if char in s.TERMINATORS:
                named = self.word[i] > 0 and self.text[i - 1].isalnum()
                name = self.words[self.word[i] - 1].lower() if named else ""
                self._terminated = not (char == "." and name in s.ABBREVIATIONS)
                self._numbered = char == "." and name in s.NUMBERED
            elif char not in s.CLOSERS:
                self._terminated = False
            self._spaced, self._blank, self._last = False, 0, char
        self.sentence.append(current)

    def _line(self, char: str) -> None:
        line = self.line[-1] + (self.text[len(self.line) - 1] == "\n") if self.line else 0
        paragraph = self.paragraph[-1] if self.paragraph else 0
        if self._newlines and not char.isspace():
            paragraph += self._newlines >= 2
            self._newlines = 0
        self._newlines += char == "\n"
        self.line.append(line)
        self.paragraph.append(paragraph)

    def _nesting(self, char: str, i: int) -> None:
        brackets, quoted, text = self._brackets, self._quoted, self.text
        match, opens = -1, False
        if i and self.paragraph[i] != self.paragraph[i - 1]:
            quoted.clear()
        if char in s.BRACKETS:
            brackets.append(i)
            opens = True
        inner = brackets[-1] if brackets else -1
        if inner >= 0 and char == s.BRACKETS[text[inner]]:
            match = brackets.pop()
        marks = quoted[-1] if quoted else -1
        if marks >= 0 and char == s.QUOTES.get(text[marks], '"'):
            match = quoted.pop()
        elif char == '"' or char in s.QUOTES:
            quoted.append(i)
            opens, marks = True, i
        self.match.append(match)
        self.opens.append(opens)
        self.depth.append(len(brackets))
        self.opener.append(inner)
        self.quote.append(marks)


class Reader:
    """The features of tokens as they come, each as the newest token sees it.

    >>> reader = Reader(["word_final"])
    >>> reader.add("so", "", "so", False), reader.add(" it", "", " it", False)
    ([('word_final', 0, False)], [('word_final', 1, False), ('word_final', 0, True)])

    Args:
        names: the features that are asked for.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = names = frozenset(names)
        self.alone = sorted(names & _ALONE)
        self.latest = sorted(names & set(LATEST))
        unknown = names - _ALONE - set(LATEST) - _SETTLED_LATER
        if unknown:
            raise ValueError(f"features that cannot be streamed: {', '.join(sorted(unknown))}")
        self.reads_text = bool(names - _ALONE)
        self.n: int = 0
        self.word_index: int = -1
        self.at: int = -1
        self.characters = Characters()
        self.token_of: list[int] = []
        self.pieces: dict[int, list[int]] = {}
        self.nesting: dict[str, int] = {
            "match": -1,
            "opener": -1,
            "quote": -1,
            "depth": 0,
            "opens": 0,
        }
        self.seen: dict[str, tuple[int, int]] = {}
        self.seen_words: dict[str, tuple[int, int]] = {}
        self.earlier: tuple[int, int] = (0, -1)
        self.earlier_words: tuple[int, int] = (0, -1)
        self._firsts: dict[tuple[str, int], int] = {}
        self.solid: bool = False
        self._word_before = self._solid_before = -1
        self._sentence_before = 0
        self._apart = False

    def add(self, string: str, gap: str, piece: str, special: bool) -> list[Change]:
        """Read a token; return its values, and the values of earlier ones that it changes.

        Args:
            string: what the model sees.
            gap: text before it that no token covers.
            piece: the text that it covers.
            special: whether it is a special token.

        Returns:
            changes: feature, position, value.
        """
        changes: list[Change] = [(f, self.n, _alone(f, string, special)) for f in self.alone]
        if self.reads_text:
            bare = string.lstrip(" ") or string
            self.solid = not (special or bare.isspace())
            changes += self._characters(gap, piece, special)
            self.earlier = _count(self.seen, string, self.n)
            self.earlier_words = (
                _count(self.seen_words, self.so_far, self.n) if self.so_far else (0, -1)
            )
            changes += self._sentence_final()
            changes += [(name, self.n, LATEST[name](self)) for name in self.latest]
        self.n += 1
        return [change for change in changes if change[0] in self.names]

    def _characters(self, gap: str, piece: str, special: bool) -> list[Change]:
        """Label the new characters and with them the token and the words that go on."""
        c, i = self.characters, self.n
        oldest = max(len(c.words) - 1, 0)
        c.add(gap)
        c.cut |= special
        start = len(c.text)
        c.add(piece)
        self.start, self.end = start, len(c.text)
        at = self.end - 1
        while at > start and c.text[at].isspace():
            at -= 1
        self.at = at
        self.token_of += [i] * (self.end - len(self.token_of))
        self._apart = special or (self._apart and start == self.end)
        w = self.word_index = -1 if self._apart or at < 0 else c.word[at]
        self.so_far = s.clean(c.text[c.starts[w] : at + 1]) if w >= 0 else ""
        changes: list[Change] = [("word", i, ""), ("word_last", i, i), ("word_final", i, False)]
        if i:
            before = self._word_before
            changes.append(("word_final", i - 1, before >= 0 and before != w))
        self._word_before = w
        if w >= 0:
            self.pieces.setdefault(w, []).append(i)
            changes += [("word_last", p, i) for p in self.pieces[w]]
        for word in range(oldest, len(c.words)):
            positions = self.pieces.get(word)
            if positions:
                text = s.clean(c.words[word])
                changes += [("word", p, text) for p in positions]
        self._nesting()
        opener = self.nesting["match"]
        changes.append(("closed", i, False))
        if 0 <= opener < i:
            changes.append(("closed", opener, True))
        return changes

    def _nesting(self) -> None:
        """Find brackets and quotations of the token, as ``Analysis.nesting`` does."""
        c, covered = self.characters, range(self.start, self.end)
        closing = [x for x in covered if c.match[x] >= 0]
        opener = c.opener[self.at] if self.at >= 0 else -1
        brackets = [x for x in closing if c.match[x] == c.opener[x]]
        places = {
            "match": c.match[closing[0]] if closing else -1,
            "opener": c.opener[brackets[0]] if brackets else opener,
            "quote": c.quote[self.at] if self.at >= 0 else -1,
        }
        self.nesting = {name: self.token_of[x] if x >= 0 else -1 for name, x in places.items()}
        self.nesting["depth"] = self.label("depth")
        self.nesting["opens"] = int(any(c.opens[x] for x in covered))

    def _sentence_final(self) -> list[Change]:
        """Settle whether the last solid token ended its sentence."""
        changes: list[Change] = [("sentence_final", self.n, False)]
        if self.solid:
            sentence = self.label("sentence")
            if self._solid_before >= 0:
                ended = self._sentence_before != sentence
                changes.append(("sentence_final", self._solid_before, ended))
            self._solid_before, self._sentence_before = self.n, sentence
        return changes

    def label(self, name: str) -> int:
        """Return a label of the last character that the token covers."""
        return int(getattr(self.characters, name)[self.at]) if self.at >= 0 else 0

    def first(self, name: str) -> int:
        """Return the first solid token with the same label; where none has come, the newest."""
        place = (name, self.label(name))
        if self.solid:
            self._firsts.setdefault(place, self.n)
        return self._firsts.get(place, self.n)

    def indent(self) -> int:
        """Return the white space at the start of the line, in characters."""
        text, at = self.characters.text, self.at
        stop = at + 1 if text[at : at + 1].strip() else self.end
        line = text[text.rfind("\n", 0, max(stop - 1, 0)) + 1 : stop]
        return len(line) - len(line.lstrip(" \t"))

    def word_before(self) -> str:
        """Return the word before the newest token's word."""
        w = self.word_index
        return s.clean(self.characters.words[w - 1]) if w > 0 else ""

    def word_first(self) -> int:
        """Return the first piece of the newest token's word."""
        return self.pieces[self.word_index][0] if self.word_index >= 0 else self.n


def _count(seen: dict[str, tuple[int, int]], item: str, position: int) -> tuple[int, int]:
    """Return how often an item occurred before and where last, and count it."""
    found = seen.get(item, (0, -1))
    seen[item] = (found[0] + 1, position)
    return found


_SETTLED_LATER = {"word", "word_last", "word_final", "sentence_final", "closed", "match"}
LATEST: dict[str, Callable[[Reader], Value]] = {
    "word_before": Reader.word_before,
    "word_start": lambda r: r.word_index >= 0 and r.word_first() == r.n,
    "word_inside": lambda r: r.word_index >= 0 and r.word_first() < r.n,
    "word_index": lambda r: r.word_index,
    "piece": lambda r: r.n - r.word_first(),
    "word_first": Reader.word_first,
    "sentence": lambda r: r.label("sentence"),
    "sentence_start": lambda r: r.solid and r.first("sentence") == r.n,
    "sentence_first": lambda r: r.first("sentence"),
    "line": lambda r: r.label("line"),
    "line_start": lambda r: r.solid and r.first("line") == r.n,
    "line_first": lambda r: r.first("line"),
    "indent": Reader.indent,
    "paragraph": lambda r: r.label("paragraph"),
    "opens": lambda r: bool(r.nesting["opens"]),
    "closes": lambda r: r.nesting["match"] >= 0,
    "depth": lambda r: r.nesting["depth"],
    "opener": lambda r: r.nesting["opener"],
    "quoted": lambda r: r.nesting["quote"] >= 0,
    "quote_first": lambda r: r.nesting["quote"],
    "seen": lambda r: r.earlier[0] > 0,
    "repeats": lambda r: r.earlier[0],
    "previous": lambda r: r.earlier[1],
    "word_repeats": lambda r: r.earlier_words[0],
    "word_previous": lambda r: r.earlier_words[1],
}
"""Features of the newest token, by name."""
