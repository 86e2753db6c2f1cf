"""Tokens: which characters each one covers, special tokens, split characters, prefixes."""

from __future__ import annotations

import pytest
from hypothesis import given

from attn_dsl.dsl.tokens import Tokens, looks_special
from attn_dsl.testing import tokens


def spans(*strings: str) -> list[str]:
    """The characters that each token covers."""
    made = Tokens.from_strings(strings)
    return [made.text[start:end] for start, end in made.spans]


@pytest.mark.parametrize(
    "string",
    ["<s>", "</s>", "<pad>", "[CLS]", "[MASK]", "<|endoftext|>", "<|im_start|>", "<|a_1|>"],
)
def test_special_tokens_are_known_by_their_look(string: str) -> None:
    assert looks_special(string)
    assert spans("a", string, " b") == ["a", "", " b"]


@pytest.mark.parametrize("string", ["s", "<", "[cls]", "[X]", "<b>", "<|a b|>", "<||>", " <s>", ""])
def test_other_tokens_are_not_special(string: str) -> None:
    assert not looks_special(string)
    assert spans("a", string) == ["a", string]


def test_special_tokens_can_be_named() -> None:
    made = Tokens.from_strings(["<s>", "[X]", "a"], special=[False, True, False])
    assert made.text == "<s>a"
    assert made.special == (False, True, False)


@pytest.mark.parametrize(
    ("strings", "covered"),
    [
        (["<0x41>"], ["A"]),
        (["<0x0A>", "a"], ["\n", "a"]),
        ([" caf", "<0xC3>", "<0xA9>", "s"], [" caf", "", "é", "s"]),
        (["<0xe2>", "<0x80>", "<0x94>"], ["", "", "—"]),
        (["<0xF0>", "<0x9F>", "<0x98>", "<0x80>"], ["", "", "", "😀"]),
        (["<0xC3>"], [""]),
        (["<0xC3>", "a", "<0xA9>"], ["", "a", "\ufffd"]),
        (["<0xC3>", "<s>", "<0xA9>"], ["", "", "\ufffd"]),
        (["<0xFF>", "a"], ["\ufffd", "a"]),
        (["<0xC3>", "<0x28>", "a"], ["", "\ufffd", "a"]),
        (["<0xG1>", "<0x1>", " <0x41>"], ["<0xG1>", "<0x1>", " <0x41>"]),
    ],
)  # fmt: skip
def test_bytes_cover_a_character_once_it_is_complete(strings: list[str], covered: list[str]) -> None:
    assert spans(*strings) == covered


@given(tokens(gaps=True))
def test_spans_follow_each_other(made: Tokens) -> None:
    end = 0
    for (start, stop), special in zip(made.spans, made.special, strict=True):
        assert end <= start <= stop <= len(made.text)
        assert not special or start == stop
        end = stop


@given(tokens())
def test_the_spans_of_strings_leave_no_gap(made: Tokens) -> None:
    assert "".join(spans(*made.strings)) == made.text


@given(tokens())
def test_a_prefix_is_the_tokens_of_the_first_strings(made: Tokens) -> None:
    for n in range(len(made) + 1):
        assert made.prefix(n) == Tokens.from_strings(made.strings[:n])


def test_tokens_are_a_sequence_of_strings() -> None:
    made = Tokens.from_strings(["a", " b", "a"])
    assert (len(made), list(made), made[1], made[-1], made[:2]) == (3, ["a", " b", "a"], " b", "a",
                                                                     ("a", " b"))  # fmt: skip
    assert " b" in made
    assert made.index("a") == 0
    assert made == Tokens.from_strings(("a", " b", "a"))
    assert len({made, Tokens.from_strings(["a", " b", "a"])}) == 1
    assert len(Tokens.from_strings([])) == 0


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        (((0, 1),), "one entry per token"),
        (((0, 2), (1, 3)), r"\(1, 3\) comes after 2"),
        (((0, 1), (1, 9)), "inside the text of 3"),
        (((1, 0), (1, 1)), "must follow each other"),
    ],
)
def test_spans_that_do_not_fit_are_refused(spans: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tokens(("a", "b"), "abc", spans, (False, False))
