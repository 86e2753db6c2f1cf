"""Analysis: what the features need to know of one text, computed once, token by token."""

from __future__ import annotations

from functools import cached_property

from attn_dsl.dsl.segment import Segments, clean, segment
from attn_dsl.dsl.tokens import Tokens


class Analysis:
    """Labels of the tokens of one text, each computed when first asked for.

    A token takes the labels of the last character that it covers, white space at its end left
    out. A token that covers nothing (a special token, the first pieces of a split character)
    takes those of the character before it; a special token is in no word, and neither is what
    covers nothing right after it. Text after the last token is left out: no token has read it.

    >>> Analysis(Tokens.from_strings(["Un", "do", " it"])).word
    [0, 0, 1]
    """

    def __init__(self, tokens: Tokens) -> None:
        self.n = len(tokens)
        self.tokens = tokens.prefix(self.n)

    @cached_property
    def segments(self) -> Segments:
        """The labels of the text's characters; a special token ends the word before it."""
        marked = zip(self.tokens.spans, self.tokens.special, strict=True)
        return segment(self.tokens.text, frozenset(start for (start, _), m in marked if m))

    @cached_property
    def strings(self) -> list[str]:
        """The token strings without the spaces before them; white space alone stays as it is."""
        return [s.lstrip(" ") or s for s in self.tokens.strings]

    @cached_property
    def last(self) -> list[int]:
        """The last character that each token covers, spaces at its end left out; or before it."""
        text = self.tokens.text
        result = []
        for start, end in self.tokens.spans:
            at = end - 1
            while at > start and text[at].isspace():
                at -= 1
            result.append(at)
        return result

    @cached_property
    def token_of(self) -> list[int]:
        """The token that covers each character, or the next one that covers any."""
        result, at = [], 0
        for i, (_, end) in enumerate(self.tokens.spans):
            result += [i] * (end - at)
            at = max(at, end)
        return result + [max(self.n - 1, 0)] * (len(self.tokens.text) - at)

    @cached_property
    def blank(self) -> list[bool]:
        """Whether each token is nothing but white space (a special token is not)."""
        return [
            s.isspace() and not m for s, m in zip(self.strings, self.tokens.special, strict=True)
        ]

    @cached_property
    def word(self) -> list[int]:
        """The word that each token is in; -1 for white space and special tokens."""
        label, result = self.segments.word, []
        cut = False
        for (start, end), special, at in zip(
            self.tokens.spans, self.tokens.special, self.last, strict=True
        ):
            cut = special or (cut and start == end)
            result.append(-1 if cut or at < 0 else label[at])
        return result

    @cached_property
    def word_first(self) -> list[int]:
        """The first token of the word that each token is in; itself where it is in none."""
        first: dict[int, int] = {}
        return [first.setdefault(w, i) if w >= 0 else i for i, w in enumerate(self.word)]

    @cached_property
    def word_known(self) -> list[int]:
        """The token that completes the word that each token is in."""
        ends, token_of = self.segments.ends, self.token_of
        return [max(i, token_of[ends[w]]) if w >= 0 else i for i, w in enumerate(self.word)]

    @cached_property
    def word_last(self) -> list[int]:
        """The last token that is labelled with the word that each token is in."""
        last = {w: i for i, w in enumerate(self.word) if w >= 0}
        return [last[w] if w >= 0 else i for i, w in enumerate(self.word)]

    @cached_property
    def word_text(self) -> list[str]:
        """The text of the whole word that each token is in."""
        return [self.segments.words[w] if w >= 0 else "" for w in self.word]

    @cached_property
    def word_so_far(self) -> list[str]:
        """The text of the word that each token is in, up to the end of that token."""
        text, label = self.tokens.text, self.segments.word
        starts: dict[int, int] = {}
        for i, w in enumerate(label):
            starts.setdefault(w, i)
        return [
            clean(text[starts[w] : at + 1]) if w >= 0 else ""
            for w, at in zip(self.word, self.last, strict=True)
        ]

    def by_last(self, labels: list[int], default: int = 0) -> list[int]:
        """Turn labels of characters into labels of tokens."""
        return [labels[at] if at >= 0 else default for at in self.last]

    @cached_property
    def sentence(self) -> list[int]:
        """The sentence that each token is in."""
        return self.by_last(self.segments.sentence)

    @cached_property
    def line(self) -> list[int]:
        """The line that each token is in."""
        return self.by_last(self.segments.line)

    def firsts(self, labels: list[int]) -> list[int]:
        """For each token the first one of its label that is neither special nor white space.

        Where none has come yet, the token itself.
        """
        first: dict[int, int] = {}
        for i, label in enumerate(labels):
            if not (self.tokens.special[i] or self.blank[i]):
                first.setdefault(label, i)
        return [min(first.get(label, i), i) for i, label in enumerate(labels)]

    @cached_property
    def earlier(self) -> tuple[list[int], list[int]]:
        """How often each token string occurred before, and where last (-1: never)."""
        return earlier(self.tokens.strings)

    @cached_property
    def earlier_words(self) -> tuple[list[int], list[int]]:
        """How often each word (so far) occurred before, and where last (-1: never)."""
        return earlier([w or None for w in self.word_so_far])

    @cached_property
    def nesting(self) -> dict[str, list[int]]:
        """Brackets and quotations by token; positions are those of tokens, -1 stands for none.

        ``depth`` and ``quote`` are those after the token's last character. ``match`` is what the
        first closing mark in the token closes, ``opens`` whether there is an opening mark in it,
        and ``opener`` the bracket that the first closing one closes, else the innermost open one.
        """
        token_of, s = self.token_of, self.segments
        match, opens, opener = [], [], self.by_last(s.opener, -1)
        for i, (start, end) in enumerate(self.tokens.spans):
            closing = [c for c in range(start, end) if s.match[c] >= 0]
            match.append(s.match[closing[0]] if closing else -1)
            opens.append(any(s.opens[start:end]))
            brackets = [c for c in closing if s.match[c] == s.opener[c]]
            if brackets:
                opener[i] = s.opener[brackets[0]]
        return {
            "opener": [token_of[c] if c >= 0 else -1 for c in opener],
            "quote": [token_of[c] if c >= 0 else -1 for c in self.by_last(s.quote, -1)],
            "match": [token_of[c] if c >= 0 else -1 for c in match],
            "depth": self.by_last(s.depth),
            "opens": [int(x) for x in opens],
        }


def earlier(items: list[str | None] | tuple[str, ...]) -> tuple[list[int], list[int]]:
    """Count for each item its earlier equals and find the last one; None equals nothing.

    >>> earlier(["a", "b", "a", None, None])
    ([0, 0, 1, 0, 0], [-1, -1, 0, -1, -1])
    """
    counts: dict[str, int] = {}
    seen: dict[str, int] = {}
    repeats, previous = [], []
    for i, item in enumerate(items):
        if item is None:
            repeats.append(0)
            previous.append(-1)
            continue
        repeats.append(counts.get(item, 0))
        previous.append(seen.get(item, -1))
        counts[item] = counts.get(item, 0) + 1
        seen[item] = i
    return repeats, previous
