"""Hostile text is read in time linear in its length, and refused with a message."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from attn_dsl.dsl.check import check
from attn_dsl.dsl.definitions import canonical
from attn_dsl.dsl.errors import AttnDslError
from attn_dsl.dsl.parser import parse
from attn_dsl.synth.llm.parse_output import extracted, whole_terms

HEAD = "head a causal:\n    "
SOURCES: dict[str, Callable[[int], str]] = {
    "escaped quotes": lambda n: HEAD + '2 where token(k) == "' + '\\"' * (n // 2),
    "quotes": lambda n: HEAD + "2 where token(k) == " + '"' * n,
    "digits": lambda n: HEAD + ("1" * 400 + " ") * (n // 401),
    "one number": lambda n: HEAD + "1" * n,
    "one word": lambda n: HEAD + "2 where " + "a" * n,
    "calls": lambda n: HEAD + "2 where " + "punct(k) " * (n // 9),
    "open calls": lambda n: HEAD + "2 where " + "a(" * n,
    "words": lambda n: HEAD + "2 where " + "ab " * (n // 3),
    "spaces": lambda n: HEAD + "2 where " + " " * n + "&",
    "elements": lambda n: HEAD + "2 where token(k) in {" + '"a",' * (n // 4) + "&",
    "terms": lambda n: HEAD + "2 where k == 0\n    " * (n // 20) + "&",
    "errors": lambda n: HEAD + "2 where token(k) in Foo\n    " * (n // 28) + "1 where k == 0\n",
    "sums": lambda n: HEAD + "2" + " + 2" * (n // 4),
    "lines": lambda n: "\n" * n,
    "comments": lambda n: "#\n" * (n // 2),
    "functions": lambda n: "def a(i) = punct(i)\n" * (n // 20) + HEAD + "2 where b(k)",
    "files": lambda n: 'use "' + '\\"' * (n // 2),
    "surrogates": lambda n: HEAD + '2 where token(k) == "' + "\ud800" * n,
    "fences": lambda n: "```" * (n // 3),
    "fenced lines": lambda n: "```\n" * (n // 4),
    "heads": lambda n: "head a\n" * (n // 7),
    "blank lines": lambda n: HEAD + "\n" + " \n" * (n // 2) + "x",
}


@pytest.mark.parametrize("name", SOURCES)
def test_hostile_text_is_read_to_its_end_with_a_bounded_message(name: str) -> None:
    """A quadratic reader would take minutes for the longest."""
    for size in (100, 8_000, 64_000):
        text, told = SOURCES[name](size), ""
        with suppress(AttnDslError):
            canonical(text, "a.attn")
        try:
            check(parse(text), source=text)
        except AttnDslError as error:
            told = str(error)
        extracted(text)
        whole_terms(text)
        assert len(told) < 50_000
