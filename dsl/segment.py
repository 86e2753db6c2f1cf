"""Segmentation: words, sentences, lines, brackets and quotes of a text, character by character.

The automaton reads from left to right and labels each character from what came before it and
the character itself, never from what follows. So the labels of a prefix of a text are the
prefix of its labels, whichever tokenizer cuts it: what a causal head may see is built in here.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Segments:
    """Labels of each character of a text; ``-1`` stands for none.

    Attributes:
        word: index of the word or punctuation mark that it belongs to; ``-1`` for white space.
        sentence: index of its sentence.
        line: index of its line; a newline belongs to the line that it ends.
        paragraph: index of its paragraph (blank lines separate paragraphs).
        depth: number of brackets open after it.
        opener: the character that opened the innermost bracket it is in, or that it closes.
        quote: the character that opened the quotation it is in (the marks included).
        match: for a closing bracket or quotation mark, the character that it closes.
        opens: whether it opens a bracket or a quotation.
        words: the text of each word, in lower case, apostrophes at its end removed.
        ends: the last character of each word.
    """

    word: list[int]
    sentence: list[int]
    line: list[int]
    paragraph: list[int]
    depth: list[int]
    opener: list[int]
    quote: list[int]
    match: list[int]
    opens: list[bool]
    words: list[str]
    ends: list[int]


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
    """Write a word as ``word(k)`` gives it: lower case, apostrophes straight, none at its end.

    >>> clean("Dogs'"), clean("don’t"), clean("'")
    ('dogs', "don't", "'")
    """
    return word.rstrip("'’").replace("’", "'").lower() or word


def segment(text: str, breaks: frozenset[int] = frozenset()) -> Segments:
    """Label every character of a text; no word reaches across a character in ``breaks``.

    >>> segment('Hi, "Tom" (9).').words
    ['hi', ',', '"', 'tom', '"', '(', '9', ')', '.']
    >>> segment("Stop! Now").sentence
    [0, 0, 0, 0, 0, 0, 1, 1, 1]
    """
    n = len(text)
    word, raw, ends = _words(text, breaks)
    sentence = _sentences(text, word, raw)
    line, paragraph = _lines(text)
    depth, opener, quote = [0] * n, [-1] * n, [-1] * n
    match, opens = [-1] * n, [False] * n
    brackets: list[int] = []
    quoted: list[int] = []
    for i, char in enumerate(text):
        if i and paragraph[i] != paragraph[i - 1]:
            quoted.clear()
        if char in BRACKETS:
            brackets.append(i)
            opens[i] = True
        inner = brackets[-1] if brackets else -1
        if inner >= 0 and char == BRACKETS[text[inner]]:
            match[i] = brackets.pop()
        marks = quoted[-1] if quoted else -1
        if marks >= 0 and char == QUOTES.get(text[marks], '"'):
            match[i] = quoted.pop()
        elif char == '"' or char in QUOTES:
            quoted.append(i)
            opens[i], marks = True, i
        depth[i], opener[i], quote[i] = len(brackets), inner, marks
    return Segments(
        word, sentence, line, paragraph, depth, opener, quote, match, opens,
        [clean(w) for w in raw], ends,
    )  # fmt: skip


def _words(text: str, breaks: frozenset[int]) -> tuple[list[int], list[str], list[int]]:
    """Give each character its word: runs of word characters, and of one punctuation mark."""
    label: list[int] = []
    words: list[str] = []
    ends: list[int] = []
    before, run = "space", ""
    for i, char in enumerate(text):
        now = kind(char)
        if i in breaks:
            before = "space"
        if now == "punct" and char in APOSTROPHES and before == "word":
            now = "word"
        if now == "space":
            label.append(-1)
        else:
            if now == before and now != "ideograph" and (now == "word" or char == run):
                words[-1] += char
                ends[-1] = i
            else:
                words.append(char)
                ends.append(i)
            label.append(len(words) - 1)
        before, run = now, char
    return label, words, ends


def _sentences(text: str, word: list[int], words: list[str]) -> list[int]:
    """Give each character its sentence, which starts after a terminator, spaces and a capital."""
    label: list[int] = []
    current, terminated, spaced, last, blank, numbered = 0, False, False, "", 0, False
    for i, char in enumerate(text):
        if char.isspace():
            spaced = True
            blank += char == "\n"
        else:
            ended = terminated and (spaced or last in "。！？") and not char.islower()
            inside = terminated and char in CLOSERS and not spaced
            counted = numbered and char.isdigit()
            if (ended and not inside and not counted) or (blank >= 2 and i):
                current += 1
                terminated = False
            if char in TERMINATORS:
                name = words[word[i] - 1].lower() if word[i] > 0 and text[i - 1].isalnum() else ""
                terminated = not (char == "." and name in ABBREVIATIONS)
                numbered = char == "." and name in NUMBERED
            elif char not in CLOSERS:
                terminated = False
            spaced, blank, last = False, 0, char
        label.append(current)
    return label


def _lines(text: str) -> tuple[list[int], list[int]]:
    """Give each character its line and its paragraph."""
    lines: list[int] = []
    paragraphs: list[int] = []
    line = paragraph = newlines = 0
    for char in text:
        if newlines and not char.isspace():
            paragraph += newlines >= 2
            newlines = 0
        lines.append(line)
        paragraphs.append(paragraph)
        if char == "\n":
            line += 1
            newlines += 1
    return lines, paragraphs
