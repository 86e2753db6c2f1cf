"""Sums: terms of several weighted parts under one condition, taken apart and joined."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given

from attn_dsl.compiler.code import Code
from attn_dsl.compiler.export.latex import to_latex
from attn_dsl.compiler.program import Program, parse
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import ProgramTypeError
from attn_dsl.dsl.parser import parse_term
from attn_dsl.dsl.printer import show, show_term
from attn_dsl.dsl.reference import evaluate
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.replace.tunable import Tunable
from attn_dsl.eval.replace.tune import with_first_token
from attn_dsl.strategies import programs, tokens

K, Q = t.Position("k"), t.Position("q")
SOURCE = """head a causal softmax:
    4.1 - 1.3 * q + 0.2 * log(1 + q) where k == 0
    ? * k - 2 * q
    by q - k [0: 1, 2: 3]
"""


def terms(*sources: str) -> list[t.Term]:
    return list(map(parse_term, sources))


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        ("4 -1.3 * k where true", "4 - 1.3 * k where true"),
        ("4 + -1.3*k - -1 where true", "4 - 1.3 * k + 1 where true"),
        ("-0 - ? * k - 0 * q where true", "0 + ? * k + 0 * q where true"),
        ("1 * k-1 * (k-1)", "1 * k - 1 * (k-1)"),
    ],
)
def test_the_canonical_form(source: str, printed: str) -> None:
    assert show_term(parse_term(source)) == printed
    assert parse_term(printed) == parse_term(source)


def test_weights_are_those_of_the_parts_in_source_order() -> None:
    program = parse(SOURCE)
    assert program.source == SOURCE
    assert program.tree.weights == (4.1, -1.3, 0.2, None, -2.0, 1.0, 3.0)
    assert program.facts.holes == 1
    assert program.nodes == 1 + (1 + 3 + 1 + 4 + 3) + (1 + 2 + 2) + (1 + 3 + 2)
    changed = program.tree.with_weights([1.0, 2, 3, 4, 5, 6, 7])
    assert "1 + 2 * q + 3 * log(1 + q) where k == 0\n    4 * k + 5 * q\n" in show(changed)
    assert len(Code([changed]).programs[0]) == 7


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (t.Sum((t.Part(1.0), t.Part(2.0, K))), "a weight alone counts for all keys alike"),
        (t.Sum((t.Part(2.0, K),)), "two parts or more"),
        (t.Sum((t.Part(2.0, K), t.Part(2000.0, K))), "2000 is out of range"),
        (t.Sum((t.Part(2.0, K), t.Part(1.0, t.Score("No", "k")))), "unknown score `No`"),
    ],
)
def test_sums_are_checked(term: t.Sum, message: str) -> None:
    with pytest.raises(ProgramTypeError, match=message):
        Program.from_tree(t.Head("a", "causal", terms=(term,)))


def test_an_error_is_shown_at_its_part() -> None:
    with pytest.raises(ProgramTypeError) as caught:
        parse("head a causal linear:\n    1 * k + 2 * q - 3 * k\n")
    span = caught.value.span
    assert span and (span.column, span.end_column) == (21, 26)


def test_terms_of_a_condition_are_joined_where_that_is_shorter() -> None:
    found = t.joined(
        terms("4 where k == 0  # one", "1 * q", "2 where true", "by q [0: 1] where k == 0",
              "-1 * q where k == 0", "1 * k - 2 * q", "3 * k where true", "2 + 1 * k where k == 0",
              "1 * q", "5 where k == 1")
    )  # fmt: skip
    assert [show_term(term) for term in found] == [
        "4 - 1 * q + 2 + 1 * k where k == 0", "1 * q", "2 where true", "by q [0: 1] where k == 0",
        "1 * k - 2 * q", "3 * k where true", "1 * q", "5 where k == 1",
    ]  # fmt: skip
    assert isinstance(found[0], t.Sum) and found[0].remarks.beside == "one"


@given(programs(), tokens(max_size=6))
def test_joined_programs_are_never_larger_and_mean_the_same(program: t.Head, text: Tokens) -> None:
    parts = tuple(part for term in program.terms for part in t.parts_of(term))
    apart = dataclasses.replace(program, terms=parts)
    assert evaluate(apart, text) == evaluate(program, text)
    for one in (program, apart, dataclasses.replace(program, terms=2 * program.terms)):
        whole = dataclasses.replace(one, terms=t.joined(one.terms))
        assert t.nodes(whole) <= t.nodes(one)
        expected = np.array(evaluate(one, text))
        np.testing.assert_allclose(np.array(evaluate(whole, text)), expected, atol=1e-6)
        assert t.joined(whole.terms) == whole.terms


def test_parts_are_parameters_of_their_own() -> None:
    source = 'head a causal:\n 1 + 2 * weight(token(k), {"a": 2, "b": 1}) - 3 * q where k == 0\n 1 * q'
    tunable = Tunable([parse(source)])
    assert tunable.weights.tolist() == [1, 2, -3, 1]
    (tuned,) = tunable.written(np.array([1, 4, -3, 1]))
    assert show_term(tuned.tree.terms[0]) == (
        '1 + 4 * weight(token(k), {"a": 2, "b": 1}) - 3 * q where k == 0'
    )


def test_a_part_may_be_the_term_for_the_first_token() -> None:
    there, other = (parse(f"head a causal:\n {term} where k == 0") for term in ("1 - 2 * q", "1 * k - 2 * q"))
    assert with_first_token(there) is there
    assert with_first_token(other).source == other.source + "    0 where k == 0\n"


def test_latex_brackets_a_sum_once() -> None:
    latex = to_latex(parse(SOURCE))
    assert r"(4.1 - 1.3 \cdot q + 0.2 \cdot \ln \max(1 + q, 1)) \, [k = 0]" in latex
    assert r"&\quad {} + \theta_{1} \cdot k" in latex and r"&\quad {} - 2 \cdot q" in latex
