"""Segmentation: words, sentences, lines, brackets and quotations of a text, character by character.

The labels of a character depend on the characters up to it, never on those after it. So a text may
grow without a change of earlier labels, and labels do not depend on the tokenizer. This is why
features of kind ``left`` are causal.
"""

import unicodedata
from collections.abc import Iterable
from functools import lru_cache

TERMINATORS = frozenset(".!?…。！？")
CLOSERS = frozenset("\"'”’»)]}")
APOSTROPHES = frozenset("'’")
BRACKETS = {"(": ")", "[": "]", "{": "}", "（": "）", "「": "」", "『": "』"}
QUOTES = {"“": "”", "«": "»", "„": "“"}
ABBREVIATIONS = frozenset("mr mrs ms dr prof st sr jr vs etc inc ltd co e.g i.e eg ie cf".split())
"""Words after which a full stop does not end the sentence."""
NUMBERED = frozenset("no nos fig figs vol p pp ch sec eq art".split())
"""Words after which a full stop does not end the sentence if a digit follows."""


@lru_cache(maxsize=4096)
def kind(char: str) -> str:
    """Classify a character: ``space``, ``word``, ``ideograph`` or ``punct``.

    >>> kind("é"), kind("7"), kind("_"), kind("中"), kind("\\n"), kind("!")
    ('word', 'word', 'word', 'ideograph', 'space', 'punct')
    """
    if char.isspace():
        return "space"
    if "\u3040" <= char <= "\u30ff" or "\u4e00" <= char <= "\u9fff":
        return "ideograph"
    if char.isalnum() or char == "_" or unicodedata.category(char).startswith("M"):
        return "word"
    return "punct"


def clean(word: str) -> str:
    """Return a word as ``word(k)`` gives it: in lower case, apostrophes straight, none at its end.

    >>> clean("Dogs'"), clean("don’t"), clean("'")
    ('dogs', "don't", "'")
    """
    return word.rstrip("'’").replace("’", "'").lower() or word


class Segments:
    """Labels of each character of a text that may grow; -1 stands for none.

    >>> Segments("Stop! Now").sentence
    [0, 0, 0, 0, 0, 0, 1, 1, 1]

    Append characters to ``text``, then call ``update``. New characters do not change the labels of
    old ones. They may continue the last word, and so change its entries of ``words`` and ``ends``.

    >>> growing = Segments("It s")
    >>> growing.text += "at."
    >>> growing.update()
    >>> growing.words, growing.word
    (['it', 'sat', '.'], [0, 0, -1, 1, 1, 1, 2])
    """

    def __init__(self, text: Iterable[str] = (), breaks: Iterable[int] = ()) -> None:
        self.text = list(text)
        self.breaks = set(breaks)  # characters at which no word continues
        # Labels of each character. A position, as in ``opener``, is that of a character.
        self.word: list[int] = []  # index of its word or punctuation mark; -1 for white space
        self.sentence: list[int] = []
        self.line: list[int] = []  # a newline belongs to the line that it ends
        self.paragraph: list[int] = []  # blank lines separate paragraphs
        self.indent: list[int] = []  # number of blanks at the start of its line, up to itself
        self.depth: list[int] = []  # number of brackets that are open after it
        self.opener: list[int] = []  # the bracket that it closes, or the innermost open one
        self.quote: list[int] = []  # the mark that opens its quotation; both marks are inside
        self.match: list[int] = []  # the bracket or quotation mark that it closes
        self.opens: list[bool] = []  # whether it opens a bracket or a quotation
        # Each word: its text as ``clean`` writes it, its first and its last character.
        self.words: list[str] = []
        self.starts: list[int] = []
        self.ends: list[int] = []
        # The state of the loops below after the last character that they have read.
        self._run = "space", ""
        self._ending = False, False, "", 0, False
        self._margin = 0, 0, 0, 0, True
        self._brackets: list[int] = []
        self._quotes: list[int] = []
        self.update()

    def update(self) -> None:
        """Label the characters that have been appended to ``text``."""
        start = len(self.word)
        if start < len(self.text):
            new = self.text[start:] if start else self.text
            self._words(new, start)
            self._sentences(new, start)
            self._lines(new)
            self._nesting(new, start)

    def _words(self, new: list[str], start: int) -> None:
        """Find words: runs of word characters, runs of one punctuation mark, single ideographs."""
        label, starts, ends, breaks = self.word, self.starts, self.ends, self.breaks
        before, run = self._run
        changed = max(len(starts) - 1, 0)
        for i, char in enumerate(new, start):
            now = kind(char)
            if i in breaks:
                before = "space"
            if now == "punct" and char in APOSTROPHES and before == "word":
                now = "word"
            if now == "space":
                label.append(-1)
            else:
                if now == before and now != "ideograph" and (now == "word" or char == run):
                    ends[-1] = i
                else:
                    starts.append(i)
                    ends.append(i)
                label.append(len(starts) - 1)
            before, run = now, char
        self._run = before, run
        places = zip(starts[changed:], ends[changed:], strict=True)
        self.words[changed:] = [clean("".join(self.text[b : e + 1])) for b, e in places]

    def _sentences(self, new: list[str], start: int) -> None:
        """Start a sentence after an empty line, or a terminator and space before no small letter."""
        label, text = self.sentence, self.text
        current = label[-1] if label else 0
        terminated, spaced, last, newlines, numbered = self._ending
        for i, char in enumerate(new, start):
            if char.isspace():
                spaced = True
                newlines += char == "\n"
            else:
                ended = terminated and (spaced or last in "。！？") and not char.islower()
                inside = terminated and char in CLOSERS and not spaced
                counted = numbered and char.isdigit()
                if (ended and not inside and not counted) or (newlines >= 2 and i):
                    current += 1
                    terminated = False
                if char in TERMINATORS:
                    named = self.word[i] > 0 and text[i - 1].isalnum()
                    name = self.words[self.word[i] - 1] if named else ""
                    terminated = not (char == "." and name in ABBREVIATIONS)
                    numbered = char == "." and name in NUMBERED
                elif char not in CLOSERS:
                    terminated = False
                spaced, newlines, last = False, 0, char
            label.append(current)
        self._ending = terminated, spaced, last, newlines, numbered

    def _lines(self, new: list[str]) -> None:
        """Count lines, paragraphs, and the blanks at the start of each line."""
        lines, paragraphs, indents = self.line, self.paragraph, self.indent
        line, paragraph, newlines, indent, margin = self._margin
        for char in new:
            if newlines and not char.isspace():
                paragraph += newlines >= 2
                newlines = 0
            if margin:
                margin = char == " " or char == "\t"
                indent += margin
            lines.append(line)
            paragraphs.append(paragraph)
            indents.append(indent)
            if char == "\n":
                line, newlines, indent, margin = line + 1, newlines + 1, 0, True
        self._margin = line, paragraph, newlines, indent, margin

    def _nesting(self, new: list[str], start: int) -> None:
        """Match brackets and quotation marks; a quotation ends with its paragraph at the latest."""
        text, paragraph = self.text, self.paragraph
        brackets, quotes = self._brackets, self._quotes
        for i, char in enumerate(new, start):
            match, opens = -1, False
            if quotes and paragraph[i] != paragraph[i - 1]:
                quotes.clear()
            if char in BRACKETS:
                brackets.append(i)
                opens = True
            bracket = brackets[-1] if brackets else -1
            if bracket >= 0 and char == BRACKETS[text[bracket]]:
                match = brackets.pop()
            mark = quotes[-1] if quotes else -1
            if mark >= 0 and char == QUOTES.get(text[mark], '"'):
                match = quotes.pop()
            elif char == '"' or char in QUOTES:
                quotes.append(i)
                opens, mark = True, i
            self.match.append(match)
            self.opens.append(opens)
            self.depth.append(len(brackets))
            self.opener.append(bracket)
            self.quote.append(mark)
