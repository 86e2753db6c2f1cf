"""Errors: one family, and messages that show the place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_dsl.dsl import errors
from attn_dsl.dsl.errors import (
    MAX_SHOWN,
    AttnDslError,
    InputError,
    ProgramError,
    ProgramErrors,
    ProgramTypeError,
    Span,
    context,
    did_you_mean,
)


def test_all_errors_are_one_family() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]
    assert len(classes) >= 8
    assert all(issubclass(c, AttnDslError) for c in classes)
    assert not issubclass(InputError, ProgramError)


def test_a_message_says_the_whole_situation() -> None:
    error = ProgramTypeError(
        "no such set", Span(2, 3, 2, 6), "a\nb Sot c\n", expected="a set", hint="did you mean `Stop`?",
        name="x.attn",
    )  # fmt: skip
    assert str(error).split("\n") == [
        "x.attn:2:3: type error: no such set",
        "  2 | b Sot c",
        "    |   ^^^",
        "  expected: a set",
        "  help: did you mean `Stop`?",
    ]


def test_several_errors_are_one() -> None:
    one, two = ProgramError("one", Span(1, 1, 1, 2), "ab"), ProgramTypeError("two")
    both = ProgramErrors([one, two])
    assert str(both) == f"{one}\n{two}"
    assert both.span == one.span
    assert isinstance(both, ProgramError)


@pytest.mark.parametrize(
    ("source", "span", "shown"),
    [
        ("abc", Span(1, 2, 1, 3), ["  1 | abc", "    |  ^"]),
        ("abc", Span(1, 4, 1, 5), ["  1 | abc", "    |    ^"]),
        ("abc", Span(1, 90, 1, 99), ["  1 | abc", "    |    ^"]),
        ("abc", Span(9, 1, 9, 2), ["  9 | abc", "    | ^"]),
        ("ab\ncd", Span(1, 2, 2, 2), ["  1 | ab", "    |  ^"]),
        ("\tab", Span(1, 2, 1, 4), ["  1 | \tab", "    | \t^^"]),
        ("a\x1bb\r\n", Span(1, 3, 1, 4), ["  1 | a\ufffdb", "    |   ^"]),
        ("", Span(1, 1, 1, 2), ["  1 | ", "    | ^"]),
        ("x\n" * 11, Span(11, 1, 11, 2), ["  11 | x", "     | ^"]),
    ],
)
def test_context(source: str, span: Span, shown: list[str]) -> None:
    assert context(source, span) == shown


@pytest.mark.parametrize("column", [1, 50, 500, 990, 1000])
def test_of_a_long_line_the_neighbourhood_is_shown(column: int) -> None:
    source = "".join(chr(97 + i % 26) for i in range(1000))
    line, carets = context(source, Span(1, column, 1, column + 3))
    assert len(line) <= MAX_SHOWN + 10
    at = carets.index("^")
    assert line[at] == source[column - 1]
    assert carets[at:] == "^" * min(3, 1001 - column)


@given(st.text(max_size=300), st.integers(1, 9), st.integers(1, 400), st.integers(0, 400))
def test_every_place_can_be_shown(source: str, line: int, column: int, width: int) -> None:
    shown, carets = context(source, Span(line, column, line, column + width))
    assert "\n" not in shown
    assert carets.rstrip("^") != carets
    assert len(carets) <= len(shown) + 1


@pytest.mark.parametrize(
    ("word", "hint"),
    [("txt", "did you mean `text`?"), ("TEXT", "did you mean `text`?"), ("zzzz", ""),
     ("Stp", "did you mean `Stop`?"), ("wrod", "did you mean `word`?"), ("", "")],
)  # fmt: skip
def test_did_you_mean(word: str, hint: str) -> None:
    assert did_you_mean(word, ["text", "word", "Stop"]) == hint
