"""Analysis: labels of the tokens of one text (word, line, bracket …), from which features are made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from attn_dsl.dsl.segment import Segments, clean
from attn_dsl.dsl.tokens import Tokens

_T = TypeVar("_T")


class growing(Generic[_T]):  # noqa: N801
    """A property of ``Analysis`` that is a list with one value per token, extended as the text grows.

    ``values(analysis, start)`` computes the values of the tokens from ``start`` on. It is called once
    for each token, in order.
    """

    def __init__(self, values: Callable[[Analysis, int], list[_T]]) -> None:
        self.values = values

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, analysis: Analysis, owner: type) -> list[_T]:
        found = analysis.lists.setdefault(self.name, [])
        if len(found) < analysis.n:
            found += self.values(analysis, len(found))
        return found


def _last(a: Analysis, start: int) -> list[int]:
    text, found = a.text, []
    for begin, end in a.spans[start:]:
        at = end - 1
        while at > begin and text[at].isspace():
            at -= 1
        found.append(at)
    return found


def _word(a: Analysis, start: int) -> list[int]:
    label = a.segments.word
    pairs = zip(a.last[start:], a.apart[start:], strict=True)
    return [-1 if apart or at < 0 else label[at] for at, apart in pairs]


def _word_first(a: Analysis, start: int) -> list[int]:
    first = a.memory["word_first"]
    return [first.setdefault(w, i) if w >= 0 else i for i, w in enumerate(a.word[start:], start)]


def _word_so_far(a: Analysis, start: int) -> list[str]:
    text, starts = a.text, a.segments.starts
    pairs = zip(a.word[start:], a.last[start:], strict=True)
    return [clean("".join(text[starts[w] : at + 1])) if w >= 0 else "" for w, at in pairs]


def _opener(a: Analysis, start: int) -> list[int]:
    match, opener, found = a.segments.match, a.segments.opener, []
    for (begin, end), at in zip(a.spans[start:], a.last[start:], strict=True):
        pairs = zip(match[begin:end], opener[begin:end], strict=True)
        closed = [bracket for bracket, inner in pairs if bracket == inner >= 0]
        found.append(closed[0] if closed else opener[at] if at >= 0 else -1)
    return a.tokens_at(found)


def _match(a: Analysis, start: int) -> list[int]:
    match = a.segments.match
    closed = ([at for at in match[begin:end] if at >= 0] for begin, end in a.spans[start:])
    return a.tokens_at([places[0] if places else -1 for places in closed])


class Analysis:
    """Labels of the tokens of a text that may grow; each kind is computed at its first use.

    A token has the labels of the last character that it covers, white space at its end left out.
    A token that covers no character (a special token, the first bytes of a character) has those of
    the character before it. A special token is in no word; nor is a token without characters right
    after a special token. Text after the last token is ignored. A label depends only on the text up
    to its token, so it never changes when tokens are added.

    >>> analysis = Analysis(Tokens.from_strings(["Un", "do"]))
    >>> analysis.add(" it", "", " it", False)
    >>> analysis.word
    [0, 0, 1]
    """

    def __init__(self, tokens: Tokens | None = None) -> None:
        self.n = 0
        self.tokens: list[str] = []  # the token strings
        self.special: list[bool] = []
        self.spans: list[tuple[int, int]] = []  # the ``(start, end)`` of each token in ``text``
        self.apart: list[bool] = []  # special, or without characters after such a token
        self.token_of: list[int] = []  # per character: the token that covers it, or the next token
        self.lists: dict[str, list] = {}  # the labels computed so far, by name
        self.memory: defaultdict[str, dict] = defaultdict(dict)  # state kept between calls
        self._segments = Segments()
        self.text = self._segments.text
        if tokens is not None:
            self.extend(tokens)

    def extend(self, tokens: Tokens, first: int = 0) -> None:
        """Append the tokens from ``first`` on, and the text between them."""
        text, at = tokens.text, 0
        for i, (start, end) in enumerate(tokens.spans):
            if i >= first:
                self.add(tokens.strings[i], text[at:start], text[start:end], tokens.special[i])
            at = end

    def add(self, string: str, gap: str, piece: str, special: bool) -> None:
        """Append a token: its string, the text before it that no token covers, the text it covers."""
        self.text += gap
        start = len(self.text)
        self.text += piece
        if special:
            self._segments.breaks.add(start)
        self.tokens.append(string)
        self.special.append(special)
        self.spans.append((start, len(self.text)))
        self.apart.append(special or (not piece and self.apart[-1:] == [True]))
        self.token_of += [self.n] * (len(self.text) - len(self.token_of))
        self.n += 1

    @property
    def segments(self) -> Segments:
        """The labels of the characters of the text. A special token ends the word before it."""
        self._segments.update()
        return self._segments

    # Per token:
    strings = growing(lambda a, i: [s.lstrip(" ") or s for s in a.tokens[i:]])  # no space before
    solid = growing(lambda a, i: [not (special or string.isspace()) for string, special
                                  in zip(a.strings[i:], a.special[i:], strict=True)])  # fmt: skip
    last = growing(_last)  # its last character that is not white space, or the one before it
    word = growing(_word)  # the index of its word; -1 for white space and special tokens
    word_first = growing(_word_first)  # the first token of its word; itself if it is in no word
    piece = growing(lambda a, i: [j - first for j, first in enumerate(a.word_first[i:], i)])
    word_so_far = growing(_word_so_far)  # the text of its word up to the end of the token
    sentence = growing(lambda a, i: a.by_last(a.segments.sentence, i))
    line = growing(lambda a, i: a.by_last(a.segments.line, i))
    # The first token of its sentence or line that is neither white space nor special; or itself.
    sentence_first = growing(lambda a, i: a.firsts("sentence", a.sentence, i))
    line_first = growing(lambda a, i: a.firsts("line", a.line, i))
    # The number of earlier tokens with the same string or word so far, and the last one (-1: none).
    earlier = growing(lambda a, i: a.count("tokens", a.tokens[i:], i))
    earlier_word = growing(lambda a, i: a.count("words", [w or None for w in a.word_so_far[i:]], i))
    # Tokens, or -1 for none: the one with the first mark that it closes; the one with the first
    # bracket that it closes, or else its innermost open bracket; the one that opens its quotation.
    match = growing(_match)
    opener = growing(_opener)
    quote = growing(lambda a, i: a.tokens_at(a.by_last(a.segments.quote, i, -1)))

    def by_last(self, labels: list[int], start: int, default: int = 0) -> list[int]:
        """Return the labels of the tokens from ``start`` on, given those of all characters."""
        return [labels[at] if at >= 0 else default for at in self.last[start:]]

    def tokens_at(self, places: list[int]) -> list[int]:
        """Return the tokens that cover the characters at some places; -1 stays -1."""
        return [self.token_of[at] if at >= 0 else -1 for at in places]

    def firsts(self, name: str, labels: list[int], start: int) -> list[int]:
        """Return for each token the first solid token with its label, or the token itself."""
        first, pairs = self.memory[name], zip(labels[start:], self.solid[start:], strict=True)
        return [(first.setdefault if solid else first.get)(label, i)
                for i, (label, solid) in enumerate(pairs, start)]  # fmt: skip

    def count(self, name: str, items: Iterable[str | None], start: int) -> list[tuple[int, int]]:
        """Return the number of equal earlier items and the last one (or -1); None equals no item."""
        seen, found = self.memory[name], []
        for i, item in enumerate(items, start):
            times, place = seen.get(item, (0, -1))
            found.append((times, place))
            if item is not None:
                seen[item] = times + 1, i
        return found
