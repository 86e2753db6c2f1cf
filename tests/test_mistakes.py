"""Mistakes in programs: each is explained at its place, and no text takes the parser long."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_dsl.dsl import limits
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import CostError, ProgramError, ProgramSyntaxError, Span
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import show
from attn_dsl.dsl.syntax_errors import KEYWORDS

Q, K = t.Position("q"), t.Position("k")
K0 = t.Compare("==", K, t.Integer(0))
HEAD = "head a causal:\n"


def head(*terms: str) -> str:
    return HEAD + "".join(f"    {term}\n" for term in terms)


# Mistakes, with the place that is marked between ‹ and ›, and a part of the message.
MISTAKES = [
    (head("2 where k ‹=› 0"), "write `==`"),
    (head("2 where k == 0 ‹&&› q == 1"), "write `and`"),
    (head("2 where k == ‹'›a'"), "double quotes"),
    (head('2 where text(k) == ‹"›a'), "does not end"),
    (head(r'2 where text(k) == ‹"›\x"'), "escape that is not known"),
    (head('2 where ‹txt›(k) == "a"'), "did you mean `text`"),
    (head("2 where ‹blue›(k)"), "`attn-dsl features` lists all of them"),
    (head("2 where punct‹›"), "ends too early"),
    (head("2 where text(k)‹›"), "expected: `==` or `!=`, `in` or `not`"),
    (head("2 where k == 0 or‹›"), "expected: a predicate"),
    (head("2 where (k == 0‹›"), "`)`"),
    (head("2 where k == 0‹)›"), "`)` does not fit"),
    (head("2 where text(k) ‹<› text(q)"), "`<` does not fit"),
    (head("2 where text(k) == ‹3›"), 'a string such as "the"'),
    (head("2 where text(k) in ‹stop›"), "a name such as Pronoun"),
    (head("2 where text(k) in {‹}›"), "a string such as"),
    (head("2 where k == ‹-›1"), "in -1..-1"),
    (head("2 where k == 1‹.›5"), "`.` does not fit"),
    (head('2 where number(k) == ‹"›3"'), "as in `number(k) == 3`"),
    (head("2 * k ‹%› 2"), "in parentheses: `2 * (k % 2)`"),
    (head("2 where k % ‹q› == 0"), "divides by a whole number, as in `k % 2`"),
    (head("2 where k % ‹-›2 == 0"), "divides by a whole number"),
    (head('2 where prefix(word(k)‹)› == "a"'), "expected: `,`"),
    (head('2 where stem(‹k›) == "a"'), "expected: a text feature such as text(k)"),
    (head("2 where punct(k) ‹==› true"), "a predicate stands alone"),
    (head('2 where starts(‹k›, "a")'), "`k` does not fit"),
    (head("2 where ‹True›"), "did you mean `true`"),
    (head("2 where text‹[›k]"), "expected: `(`"),
    (head("2 where ‹\u00a0›k == 0"), "U+00A0"),
    (head("2 ‹when› k == 0"), "did you mean `where`"),
    (head("‹where› k == 0"), "write `? where k == 0`"),
    (head("‹text›(k) == text(q)"), "write `? where text(k) == text(q)`"),
    (head("‹log›(1 + q - k)  # far"), "write `? * log(1 + q - k)`, where `?` is a weight"),
    (head("‹-› punct(k)"), "write `-1 where punct(k)`"),
    (head("6*‹punct›(k)"), "write `6 where punct(k)`"),
    (
        head("6 * ‹punct›(k) * log(1 + q) where k == 0"),
        "`6 * log(1 + q) where punct(k) and k == 0`",
    ),
    (head("? * k ‹==› 0"), "write `? where k == 0`"),
    (head("2 * ‹punct›(k) + 1 * k"), "write `2 where …`"),
    ("score S:\n    ‹punct›(i)\n" + HEAD, "write `1 where punct(i)`"),
    (head("2 * q - ‹k›"), "a part of a sum begins with a weight"),
    (head("2 * q ‹k›"), "`where` or the end of the line"),
    (head("2‹›"), "a weight alone counts for all keys alike"),
    (head("2 * q - 1 + 3 * k‹›"), "a weight alone counts for all keys alike"),
    (head("2 where k == 0 + 1 ‹*› k"), "the condition of a sum follows its last part"),
    (head("2 * ‹text›(k)"), "`text` gives a text"),
    (head("2 * decay(q - k, ‹1›.5)"), "a rate such as 0.9"),
    (head("by q - k [‹]›"), "a whole number"),
    (head("2 * weight(‹k›, A)"), "`weight(token(k), Starts)`"),
    (head("2 * weight(‹punct›(k), A)"), "a text feature that has a weight"),
    (head("2 * weight(token(k)‹)›"), "expected: `,`"),
    (head("2 * weight(token(k), ‹verbs›)"), "a name such as Pronoun"),
    (head('2 * weight(token(k), ‹"›a")'), "`{` or a name"),
    (head("2 where ‹is_upper›(k)"), "did you mean `upper`"),
    (head("2 * Starts(‹word›(q-1))"), "write `weight(word(q-1), Starts)` if `Starts` is a set"),
    (head("2 * Starts(‹previous›(k))"), "a score is taken at `q` or `k`"),
    (head("2 * Starts(k - ‹k›)"), "a score is taken at `q` or `k`"),
    (head("2 where ‹Starts›(k)"), "a score is a value: `1 * Starts(k)`"),
    ("score S:\n    ‹?› where punct(i)\n" + HEAD, "of scores are numbers"),
    ("score S:\n    2 ‹*› i\n" + HEAD, "a line of a score is a weight where a predicate holds"),
    ("score S:\n    ‹by› i [0: 1]\n" + HEAD, "a line of a score is a weight where"),
    ("score S:\n‹head› a causal:\n", "expected: a weight"),
    ('set A = {"x"}\n‹use› "a.attn"\n' + HEAD, "files are used in the first lines"),
    (head("2 * ‹token›(q)"), "`weight(token(q), Starts)`"),
    (head("2 where ‹weight›(token(k), A) > 1"), "test `token(k) in Starts`"),
    (head("‹weight›(token(k), A)"), "write `? * weight(token(k), A)`"),
    (head("2 * log(‹weight›(token(k), A))"), "write it as a value of a term"),
    (head("2 * ‹weights›(token(k), A)"), "did you mean `weight`"),
    (head("2 * k * q ‹*› q"), "one value or two"),
    (head("2 * weight(token(k), A) ‹=› 1"), "`*`, `where` or the end of the line"),
    (head('2 * weight(token(k), {"a": 1, "b"‹}›)'), "a weight, or none"),
    (
        head('2 * weight(token(k), {"a"‹:› 1, "b"})').replace('"a"‹:› 1, "b"', '"b", "a"‹:› 1'),
        "a weight, or none",
    ),
    ('set A = {"a": 1, "b"‹,› "c": 2}\n' + HEAD, "a weight, or none"),
    ('set A = {"a": ‹?›}\n' + HEAD, "weights of elements and of scores are numbers"),
    (head("by q - k [0: 1, 2‹]›"), "expected: `:`"),
    (head("1‹e3› where k == 0"), "`e3`"),
    (head('‹set› B = {"a"}'), "move it above the line that begins with `head`"),
    (HEAD + "‹head› b causal:\n", "write this one in a file of its own"),
    ("head ‹Induction_2› causal:\n", "write `induction_2`"),
    ("head a‹-›b causal:\n", "names have letters, digits and `_`"),
    ("head causal ‹softmax›:\n", "write `head my_head causal softmax`"),
    ("score ‹noun›:\n    1 where punct(i)\n" + HEAD, "write `Noun`"),
    ("head a ‹casual›:\n", "did you mean `causal`"),
    ("head ‹A› causal:\n", "a name such as induction"),
    ("head a causal‹›\n", "`:`"),
    ("head a causal: ‹2› where k == 0\n", "the end of the line"),
    ('set ‹a› = {"x"}\n' + HEAD, "a name such as"),
    ('set A = ‹"›x"\n' + HEAD, "a string does not fit"),
    ('set A = {"x"}‹›\n', "`head`, `score` or `set`"),
    ("‹›", "`head`, `score`, `set` or `use`"),
]


@pytest.mark.parametrize(("marked", "message"), MISTAKES, ids=lambda x: repr(x)[-24:])
def test_mistakes_are_explained(marked: str, message: str) -> None:
    before, found, _ = re.split("[‹›]", marked)
    with pytest.raises(ProgramSyntaxError) as caught:
        parse(marked.replace("‹", "").replace("›", ""), "p.attn")
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    assert caught.value.span == Span(line, column, line, column + max(len(found), 1))
    assert str(caught.value).startswith(f"p.attn:{line}:{column}: syntax error: ")
    assert message in str(caught.value)


def test_a_message_shows_the_line_and_a_caret() -> None:
    with pytest.raises(ProgramSyntaxError) as caught:
        parse(head('2 where txt(k) == "a"'), "p.attn")
    assert str(caught.value).split("\n") == [
        "p.attn:2:13: syntax error: unknown feature or function `txt`",
        '  2 |     2 where txt(k) == "a"',
        "    |             ^^^",
        "  expected: a predicate, a number such as q - k or a text feature such as text(k)",
        "  help: did you mean `text`?",
    ]


def test_lines_are_counted_as_the_parser_counts_them() -> None:
    with pytest.raises(ProgramSyntaxError) as caught:
        parse(HEAD + "# a\x0cb\u2028c\r d\r\n  1 where kk\n")
    assert caught.value.span == Span(3, 11, 3, 13)
    assert "1 where kk\n" in str(caught.value)


HOSTILE = {
    "parentheses": head("1 where " + "(" * 5000 + "k == 0" + ")" * 5000),
    "parentheses over lines": HEAD + "by (\n" * 5000,
    "calls": head("1 where " + "punct(" * 500 + "k" + ")" * 500),
    "and": head("1 where " + " and ".join(["k == 0"] * 3000)),
    "or without spaces": head("1 where k==0" + "ork==0" * 3000),
    "not": head("1 where " + "not " * 3000 + "punct(k)"),
    "not without spaces": head("1 where " + "not" * 3000 + "punct(k)"),
    "plus": head("1 where k == q" + "+k" * 3000),
    "minus": head("1 * (q" + "-k" * 3000 + ")"),
    "a long whole number": head("1 where k == " + "9" * 5000),
    "a long bound": head("1 where k in 0.." + "9" * 5000),
    "a long weight": head("1" + "0" * 5000 + " where k == 0"),
    "a megabyte and more": HEAD + "#" * limits.MAX_SOURCE,
    "a megabyte of blanks": " " * (limits.MAX_SOURCE - 1),
    "a megabyte of quotes": '"' * (limits.MAX_SOURCE - 1),
    "a megabyte of letters": "x" * (limits.MAX_SOURCE - 1),
    "a null byte": head("1 where \0k == 0"),
    "a null byte in a string": head('1 where text(k) == "\0"'),
    "an escape sequence": head("1 where \x1b[31mk"),
    "unicode": head("1 where ｋ == ０"),
    "a byte order mark": "\ufeff" + HEAD,
    "a lone surrogate": head("1 where \ud800"),
    "lines that end in a carriage return": "head a causal:\r1 where k == 0\r",
    "an unfinished set": 'set A = {"a",\n' * 2000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_gets_an_error(name: str) -> None:
    with pytest.raises((CostError, ProgramSyntaxError)) as caught:
        parse(HOSTILE[name])
    message = str(caught.value)
    assert len(message) < 2000
    assert all(char.isprintable() or char == "\n" for char in message)


PARTS = (*'abkq(){}[]"\\.,:=<>+-*?#_0159 \n\r\t\0é', " where ", " ", *KEYWORDS, HEAD)


@given(st.lists(st.sampled_from(PARTS), max_size=40).map("".join))
def test_any_text_parses_or_gets_an_error(text: str) -> None:
    for source in (text, HEAD + text):
        with contextlib.suppress(ProgramError):
            assert parse(show(parse(source))) == parse(source)


def test_many_comments_and_terms_are_read() -> None:
    program = parse(HEAD + "# c\n" * 20_000 + "  1 where k == 0  # d\n" * 300)
    assert len(program.terms[0].remarks.above) == 20_000


def test_the_bounds_admit_what_they_promise() -> None:
    parens = "(" * limits.MAX_NESTING + "k == 0" + ")" * limits.MAX_NESTING
    assert parse(head(f"1 where {parens}")).terms == (t.Where(1.0, K0),)
    chain = " and ".join(["not punct(k)"] * ((limits.MAX_OPERATORS + 1) // 2))
    program = parse(head(f"1 where {chain}"))
    assert parse(show(program)) == program
    with pytest.raises(CostError, match="operators"):
        parse(head(f"1 where {chain} and not punct(k)"))
