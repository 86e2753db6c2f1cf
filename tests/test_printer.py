"""The printer: one canonical form, which stays as it is when it is printed again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import WIDTH, number, quote, show
from attn_dsl.testing import programs


def line(source: str) -> str:
    """Print a program of one term, and return the line of that term."""
    return show(parse(f"head a causal:\n {source}\n")).split("\n")[1].strip()


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        ("2.0 where (k==0)", "2 where k == 0"),
        ("02.50 where k == 0", "2.5 where k == 0"),
        ("-0.0 where k == 0", "0 where k == 0"),
        ("? where k<q", "? where k < q"),
        ("1*( q-k )", "1 * (q - k)"),
        ("1*(k)", "1 * k"),
        ("1*(k-1)", "1 * (k-1)"),
        ("1 * log( 1+q-k )where k==q", "1 * log(1 + q - k) where k == q"),
        ("1 * decay(q-k,0.50)", "1 * decay(q - k, 0.5)"),
        ("by q-k[0:1,2:?]where punct(k)", "by q - k [0: 1, 2: ?] where punct(k)"),
        ("by (q-k) [-2: -1.0]", "by q - k [-2: -1]"),
        ("1 where k - 1 == q + 0", "1 where k-1 == q"),
        ("1 where k-1+3 == 0", "1 where k+2 == 0"),
        ("1 where k - q - 1 == 0", "1 where k - q - 1 == 0"),
        ("1 where k - (q - 1) == 0", "1 where k - (q-1) == 0"),
        ("1 where k - (q - k) == 0", "1 where k - (q - k) == 0"),
        ("1 where (k - q) - k == 0", "1 where k - q - k == 0"),
        ("1 where ((k == 0) and (q == 0)) or punct(k)", "1 where k == 0 and q == 0 or punct(k)"),
        ("1 where (k==0 or q==0) and punct(k)", "1 where (k == 0 or q == 0) and punct(k)"),
        ("1 where k==0 or (q==0 or true)", "1 where k == 0 or (q == 0 or true)"),
        ("1 where not (k==0)", "1 where not k == 0"),
        ("1 where not (k==0 and true)", "1 where not (k == 0 and true)"),
        ("1 where not text(k) in A", "1 where text(k) not in A"),
        ("1 where not not text(k) in A", "1 where not text(k) not in A"),
        ('1 where text(k) in {"b","a","b"}', '1 where text(k) in {"a", "b"}'),
        ("1 where k in 1 .. 4", "1 where k in 1..4"),
        (r'1 where text(k) == "\u0041\u00e9\u0009"', r'1 where text(k) == "Aé\t"'),
        ("1 where any( nearest(punct(k))==k )", "1 where any(nearest(punct(k)) == k)"),
        ("1 where match( k-1 , q )>=2", "1 where match(k-1, q) >= 2"),
        ("1 * (q % 2)", "1 * (q % 2)"),
        ("1 * ((q + 1) % 2) * (n)", "1 * ((q+1) % 2) * n"),
        ("1 where (q%2)%3 == (n - k)%2", "1 where q % 2 % 3 == (n - k) % 2"),
        ("1 where suffix( stem(word(k)) , 2 ) == \"a\"", '1 where suffix(stem(word(k)), 2) == "a"'),
        ("1 where starts( word(k) , \"un\" )", '1 where starts(word(k), "un")'),
        ("1*k*( q )", "1 * k * q"),
        ("1 * ( q-k )*log( k )", "1 * (q - k) * log(k)"),
        ("1*weight( text(k) , A )", "1 * weight(text(k), A)"),
        ('1 * weight(text(k),{"b":1.20,"a":-.0})'.replace("-.0", "-0.0"),
         '1 * weight(text(k), {"a": 0, "b": 1.2})'),
        ('1 * weight(text(k), {"b": 03.00, "a": -0.70})',
         '1 * weight(text(k), {"a": -0.7, "b": 3})'),
        ('1 where text(k) in {"b":1,"a":2.25,"b":1}', '1 where text(k) in {"a": 2.25, "b": 1}'),
        ("1 where abs(q-k)<min(3,k)", "1 where abs(q - k) < min(3, k)"),
    ],
)  # fmt: skip
def test_canonical_terms(source: str, printed: str) -> None:
    assert line(source) == printed
    assert line(printed) == printed


def test_a_canonical_program() -> None:
    source = (
        "# about A\n"
        'set A = {"x"}  # beside A\n'
        'set B = {"y", "z"}\n'
        "\n"
        "# about the head\n"
        "#\n"
        "head two bidirectional linear:  # beside the head\n"
        "    # about the term\n"
        "    1 where k == 0  # beside the term\n"
        "    2.5 * q\n"
        "# the end\n"
    )
    assert show(parse(source)) == source
    assert show(parse(source.replace("    ", "\t").replace("\n", "\r\n"))) == source


def test_long_sets_are_written_over_lines() -> None:
    words = tuple(f"word {i}, and more" for i in range(60))
    program = t.Head("a", "causal", sets=(t.SetDefinition("A", t.SetLiteral(words)),))
    source = show(program)
    assert parse(source) == program
    assert max(map(len, source.split("\n"))) <= WIDTH
    assert show(parse(source)) == source
    weights = tuple(float(i) for i in range(60))
    program = t.Head("a", "causal", sets=(t.SetDefinition("A", t.SetLiteral(words, weights)),))
    source = show(program)
    assert parse(source) == program
    assert max(map(len, source.split("\n"))) <= WIDTH
    assert '"word 0, and more": 0,' in source


@given(programs(holes=True, lookahead=True))
def test_printing_again_changes_nothing(program: t.Head) -> None:
    assert show(parse(show(program))) == show(program)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_read_back_as_they_were(value: float) -> None:
    text = number(value)
    assert float(text) == value
    assert "e" not in text
    assert not text.startswith("-0") or value < 0


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "?"), (2.0, "2"), (-0.0, "0"), (0.1, "0.1"), (1e16, "10000000000000000"),
     (1e-7, "0.0000001"), (-1e-7, "-0.0000001"), (1000.0, "1000"), (1 / 3, "0.3333333333333333")],
)  # fmt: skip
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("text", "literal"),
    [("", '""'), ('say "hi"', r'"say \"hi\""'), ("\\", r'"\\"'), ("\n\r\t", r'"\n\r\t"'),
     ("\0\x1f\x7f", r'"\u0000\u001f\u007f"'), ("\u2028\x85", r'"\u2028\u0085"'),
     ("\ud800", r'"\ud800"'), ("é中😀", '"é中😀"')],
)  # fmt: skip
def test_quotes(text: str, literal: str) -> None:
    assert quote(text) == literal
