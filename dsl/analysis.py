"""Analysis: what the features need to know of one text, token by token, while the text grows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from attn_dsl.dsl.segment import Segments, clean
from attn_dsl.dsl.tokens import Tokens

_T = TypeVar("_T")


class growing(Generic[_T]):  # noqa: N801
    """A list with one value per token: made when first asked for, extended as the text grows.

    Args:
        extend: a method of ``Analysis`` that appends the values of the tokens that have come.
    """

    def __init__(self, extend: Callable[[Analysis, list[_T]], None]) -> None:
        self.extend, self.name, self.__doc__ = extend, extend.__name__, extend.__doc__

    def __get__(self, analysis: Analysis, owner: type) -> list[_T]:
        values = analysis.lists.setdefault(self.name, [])
        if len(values) < analysis.n:
            self.extend(analysis, values)
        return values


class Analysis:
    """Labels of the tokens of a text that may grow, each computed when first asked for.

    A token takes the labels of the last character that it covers, white space at its end left
    out. A token that covers nothing (a special token, the first pieces of a split character)
    takes those of the character before it; a special token is in no word, and neither is what
    covers nothing right after it. Text after the last token is left out: no token has read it.
    Labels depend only on the text up to the token, so those of earlier tokens stay.

    >>> analysis = Analysis(Tokens.from_strings(["Un", "do"]))
    >>> analysis.add(" it", "", " it", False)
    >>> analysis.word
    [0, 0, 1]

    Attributes:
        n: the number of tokens.
        tokens, special: per token, what the model sees, and whether it is a special token.
        spans: per token, the stretch of ``segments.text`` that it covers.
        apart: per token, whether it is special, or follows a special one and covers nothing.
        token_of: per character, the token that covers it, or the next one that covers any.
        lists: the labels that have been computed, by name.
    """

    def __init__(self, tokens: Tokens | None = None) -> None:
        self.n = 0
        self.tokens: list[str] = []
        self.special: list[bool] = []
        self.spans: list[tuple[int, int]] = []
        self.apart: list[bool] = []
        self.token_of: list[int] = []
        self.lists: dict[str, list] = {}
        self._segments = Segments()
        self._seen: dict[str, int] = {}
        self._words_seen: dict[str, int] = {}
        if tokens is not None:
            text, at = tokens.text, 0
            rows = zip(tokens.strings, tokens.spans, tokens.special, strict=True)
            for string, (start, end), special in rows:
                self.add(string, text[at:start], text[start:end], special)
                at = end

    def add(self, string: str, gap: str, piece: str, special: bool) -> None:
        """Add a token at the end of the text.

        Args:
            string: what the model sees.
            gap: text before it that no token covers.
            piece: the text that it covers.
            special: whether it is a special token.
        """
        text = self._segments.text
        text += gap
        start = len(text)
        text += piece
        if special:
            self._segments.breaks.add(start)
        self.tokens.append(string)
        self.special.append(special)
        self.spans.append((start, len(text)))
        self.apart.append(special or (not piece and self.apart[-1:] == [True]))
        self.token_of += [self.n] * (len(text) - len(self.token_of))
        self.n += 1

    @property
    def segments(self) -> Segments:
        """The labels of the text's characters; a special token ends the word before it."""
        self._segments.update()
        return self._segments

    @growing
    def strings(self, values: list[str]) -> None:
        """The token strings without the spaces before them; white space alone stays as it is."""
        values += [s.lstrip(" ") or s for s in self.tokens[len(values) :]]

    @growing
    def last(self, values: list[int]) -> None:
        """The last character that each token covers, spaces at its end left out; or before it."""
        text = self._segments.text
        for start, end in self.spans[len(values) :]:
            at = end - 1
            while at > start and text[at].isspace():
                at -= 1
            values.append(at)

    @growing
    def solid(self, values: list[bool]) -> None:
        """Whether each token is neither a special token nor nothing but white space."""
        start = len(values)
        pairs = zip(self.strings[start:], self.special[start:], strict=True)
        values += [not (mark or s.isspace()) for s, mark in pairs]

    @growing
    def word(self, values: list[int]) -> None:
        """The word that each token is in; -1 for white space and special tokens."""
        label, start = self.segments.word, len(values)
        pairs = zip(self.last[start:], self.apart[start:], strict=True)
        values += [-1 if apart or at < 0 else label[at] for at, apart in pairs]

    @growing
    def word_first(self, values: list[int]) -> None:
        """The first token of the word that each token is in; itself where it is in none."""
        word = self.word
        for i in range(len(values), self.n):
            goes_on = i > 0 and word[i] >= 0 and word[i] == word[i - 1]
            values.append(values[i - 1] if goes_on else i)

    @growing
    def piece(self, values: list[int]) -> None:
        """Which piece of its word each token is, from 0; 0 where it is in none."""
        start = len(values)
        values += [i - first for i, first in enumerate(self.word_first[start:], start)]

    @growing
    def word_so_far(self, values: list[str]) -> None:
        """The text of the word that each token is in, up to the end of that token."""
        text, starts, start = self._segments.text, self.segments.starts, len(values)
        pairs = zip(self.word[start:], self.last[start:], strict=True)
        values += [clean("".join(text[starts[w] : at + 1])) if w >= 0 else "" for w, at in pairs]

    @growing
    def sentence(self, values: list[int]) -> None:
        """The sentence that each token is in."""
        values += self.by_last(self.segments.sentence, len(values))

    @growing
    def sentence_first(self, values: list[int]) -> None:
        """The first solid token of the sentence; where none has come yet, the token itself."""
        self._firsts(values, self.sentence)

    @growing
    def line(self, values: list[int]) -> None:
        """The line that each token is in."""
        values += self.by_last(self.segments.line, len(values))

    @growing
    def line_first(self, values: list[int]) -> None:
        """The first solid token of the line; where none has come yet, the token itself."""
        self._firsts(values, self.line)

    @growing
    def previous(self, values: list[int]) -> None:
        """The last token before each that is the same; -1 for none."""
        _find_earlier(values, self.tokens[len(values) :], self._seen)

    @growing
    def repeats(self, values: list[int]) -> None:
        """How often the same token occurred before each."""
        _count_earlier(values, self.previous)

    @growing
    def word_previous(self, values: list[int]) -> None:
        """The last token before each whose word (so far) is the same; -1 for none."""
        words = [word or None for word in self.word_so_far[len(values) :]]
        _find_earlier(values, words, self._words_seen)

    @growing
    def word_repeats(self, values: list[int]) -> None:
        """How often the same word (so far) occurred before each token."""
        _count_earlier(values, self.word_previous)

    @growing
    def match(self, values: list[int]) -> None:
        """The token with the bracket or quotation mark that each closes first; -1 for none."""
        match = self.segments.match
        for start, end in self.spans[len(values) :]:
            closed = [at for at in match[start:end] if at >= 0]
            values.append(self.token_of[closed[0]] if closed else -1)

    @growing
    def opener(self, values: list[int]) -> None:
        """The token with the bracket that each closes first, or else is in; -1 for none."""
        match, opener = self.segments.match, self.segments.opener
        for (start, end), at in zip(
            self.spans[len(values) :], self.last[len(values) :], strict=True
        ):
            pairs = zip(match[start:end], opener[start:end], strict=True)
            closed = [bracket for bracket, inner in pairs if bracket == inner >= 0]
            found = closed[0] if closed else opener[at] if at >= 0 else -1
            values.append(self.token_of[found] if found >= 0 else -1)

    @growing
    def quote(self, values: list[int]) -> None:
        """The token with the mark that opened the quotation that each is in; -1 for none."""
        found, token_of = self.by_last(self.segments.quote, len(values), -1), self.token_of
        values += [token_of[at] if at >= 0 else -1 for at in found]

    def by_last(self, labels: list[int], start: int, default: int = 0) -> list[int]:
        """Turn labels of characters into those of the tokens from ``start`` on."""
        return [labels[at] if at >= 0 else default for at in self.last[start:]]

    def _firsts(self, values: list[int], labels: list[int]) -> None:
        """Append for each token the first solid one with its label, or itself."""
        solid = self.solid
        for i in range(len(values), self.n):
            first = values[i - 1] if i else 0
            values.append(first if solid[first] and labels[first] == labels[i] else i)


def _find_earlier(values: list[int], items: Iterable[str | None], seen: dict[str, int]) -> None:
    """Append for each new item the place of its last equal before; None equals nothing."""
    for i, item in enumerate(items, len(values)):
        if item is None:
            values.append(-1)
        else:
            values.append(seen.get(item, -1))
            seen[item] = i


def _count_earlier(values: list[int], previous: list[int]) -> None:
    """Append for each new item how many equal ones come before it."""
    for at in previous[len(values) :]:
        values.append(values[at] + 1 if at >= 0 else 0)
