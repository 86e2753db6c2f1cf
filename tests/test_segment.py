"""Segmentation: words, sentences, lines, brackets and quotations; nothing looks ahead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_dsl.dsl.segment import Segments
from attn_dsl.testing import texts

LABELS = (
    "word", "sentence", "line", "paragraph", "indent", "depth", "opener", "quote", "match", "opens",
)  # fmt: skip


def sentences(text: str) -> list[str]:
    """Cut a text where its sentence label changes, without the spaces around."""
    parts: dict[int, str] = {}
    for char, label in zip(text, Segments(text).sentence, strict=True):
        parts[label] = parts.get(label, "") + char
    return [part.strip() for part in parts.values()]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("One two", ["one", "two"]),
        ("don't", ["don't"]),
        ("don’t", ["don't"]),
        ("the dogs' bone", ["the", "dogs", "bone"]),
        ("'tis", ["'", "tis"]),
        ("'word'", ["'", "word"]),
        ("e-mail", ["e", "-", "mail"]),
        ("Wait...what?!", ["wait", "...", "what", "?", "!"]),
        ("snake_case x1", ["snake_case", "x1"]),
        ("3.14", ["3", ".", "14"]),
        ("a\n\tb", ["a", "b"]),
        ("日本 go", ["日", "本", "go"]),
        ("e\u0301te", ["e\u0301te"]),
        ("((a))", ["((", "a", "))"]),
        ("😀😀!", ["😀😀", "!"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    made = Segments(text)
    assert made.words == words
    for index, end in enumerate(made.ends):
        assert made.word[end] == index
        assert index not in made.word[end + 1 :]


def test_a_break_ends_a_word() -> None:
    assert Segments("abcd", frozenset({2})).words == ["ab", "cd"]
    assert Segments("ab cd", frozenset({3})).words == ["ab", "cd"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Stop! Now.", ["Stop!", "Now."]),
        ("Stop. now", ["Stop. now"]),
        ("It is 3.14 now. Yes", ["It is 3.14 now.", "Yes"]),
        ("Mr. Smith came. He sat.", ["Mr. Smith came.", "He sat."]),
        ("Cats, dogs etc. Here", ["Cats, dogs etc. Here"]),
        ("See no. 5 there. End", ["See no. 5 there.", "End"]),
        ("I said no. He left.", ["I said no.", "He left."]),
        ('"Go!" she said. "Now."', ['"Go!" she said.', '"Now."']),
        ('He said "go." Then', ['He said "go."', "Then"]),
        ("(Yes.) No", ["(Yes.)", "No"]),
        ("What?! No", ["What?!", "No"]),
        ("Wait... What", ["Wait...", "What"]),
        ("好。是！", ["好。", "是！"]),
        ("a title\n\nthe text", ["a title", "the text"]),
        ("a line\nthe same", ["a line\nthe same"]),
    ],
)
def test_sentences(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


def test_lines_and_paragraphs() -> None:
    text = "a\nb\n\nc"
    assert Segments(text).line == [0, 0, 1, 1, 2, 3]
    assert Segments(text).paragraph == [0, 0, 0, 0, 0, 1]


def test_brackets() -> None:
    made = Segments("f(a[0], (b)")
    assert made.depth == [0, 1, 1, 2, 2, 1, 1, 1, 2, 2, 1]
    assert made.opener == [-1, 1, 1, 3, 3, 3, 1, 1, 8, 8, 8]
    assert made.match == [-1] * 5 + [3] + [-1] * 4 + [8]
    assert [i for i, opens in enumerate(made.opens) if opens] == [1, 3, 8]


def test_a_bracket_of_another_kind_closes_nothing() -> None:
    assert Segments("(a]").match == [-1, -1, -1]
    assert Segments(")a(").depth == [0, 0, 1]


def test_quotations() -> None:
    made = Segments('a "b" c')
    assert made.quote == [-1, -1, 2, 2, 2, -1, -1]
    assert made.match[4] == 2
    assert Segments("“a «b» c”").quote == [0, 0, 0, 3, 3, 3, 0, 0, 0]
    assert Segments("„a“").match == [-1, -1, 0]


def test_a_quotation_ends_with_its_paragraph() -> None:
    assert Segments('"a\n\nb').quote[-1] == -1
    assert Segments('"a\nb').quote[-1] == 0


@given(texts(max_size=14))
def test_the_labels_of_a_prefix_are_the_prefix_of_the_labels(text: str) -> None:
    whole = Segments(text)
    for i in range(len(text)):
        part = Segments(text[:i])
        for name in LABELS:
            assert getattr(part, name) == getattr(whole, name)[:i], (name, i)
        finished = len(part.words) - 1
        assert part.words[:finished] == whole.words[: max(finished, 0)] or finished < 0
        assert part.ends[: max(finished, 0)] == whole.ends[: max(finished, 0)]


@given(st.lists(st.tuples(texts(max_size=5), st.booleans()), max_size=8))
def test_a_text_that_grows_has_the_labels_of_the_whole_one(parts: list[tuple[str, bool]]) -> None:
    growing, breaks = Segments(), set()
    for part, cut in parts:
        if cut:
            breaks.add(len(growing.text))
            growing.breaks.add(len(growing.text))
        growing.text += part
        growing.update()
    assert vars(growing) == vars(Segments("".join(part for part, _ in parts), breaks))


def test_indents() -> None:
    assert Segments("  a b\n\tc\nd").indent == [1, 2, 2, 2, 2, 2, 1, 1, 1, 0]
