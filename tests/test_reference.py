"""The reference semantics: the case table, and that every program gives a matrix on every text."""

from __future__ import annotations

import dataclasses

import pytest
from cases import CASES, Case
from hypothesis import given

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.limits import TERM_LIMIT
from attn_dsl.dsl.parser import parse, parse_predicate
from attn_dsl.dsl.reference import Interpreter, Places, evaluate
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.testing import assert_row_stochastic, programs, tokens


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_cases(case: Case) -> None:
    matrix = evaluate(parse(case.source), Tokens.from_strings(case.tokens))
    assert len(matrix) == len(case.tokens)
    for (q, k), weight in case.expected.items():
        assert matrix[q][k] == pytest.approx(weight, abs=1e-12), (q, k, matrix[q])


def test_case_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_the_cases_use_every_construct() -> None:
    used = {type(node) for case in CASES for node in parse(case.source).walk()}
    kinds = {c for c in vars(t).values() if isinstance(c, type) and issubclass(c, t.Node)}
    assert kinds - used == {t.Node, t.Statement, t.Use, t.Property, t.MassProperty}
    names = {n.name for c in CASES for n in parse(c.source).walk() if isinstance(n, t.Quantifier)}
    assert names == {"nearest", "first", "last", "count", "any"}


@given(programs(), tokens(max_size=8))
def test_every_program_gives_distributions_on_every_text(program: t.Head, text: Tokens) -> None:
    assert_row_stochastic(program, text, tolerance=1e-9)


@given(programs(visibility="causal"), tokens(min_size=1, max_size=6))
def test_a_bidirectional_program_of_one_token_is_the_causal_one(program: t.Head, text: Tokens) -> None:
    both = dataclasses.replace(program, visibility="bidirectional")
    assert evaluate(program, text.prefix(1)) == evaluate(both, text.prefix(1)) == [[1.0]]


@given(programs(normaliser="softmax"), tokens(max_size=6))
def test_what_reads_the_query_alone_does_not_change_a_softmax(program: t.Head, text: Tokens) -> None:
    extra = t.Where(1.5, parse_predicate("punct(q) or q == 1"))
    more = dataclasses.replace(program, terms=(*program.terms, extra))
    for row, other in zip(evaluate(program, text), evaluate(more, text), strict=True):
        assert row == pytest.approx(other, abs=1e-9)


def test_holes_cannot_be_evaluated() -> None:
    with pytest.raises(ValueError, match="fit its weights first"):
        evaluate(parse("head a causal:\n ? where k == 0"), Tokens.from_strings(["a"]))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_term_is_bounded(sign: int) -> None:
    program = parse(f"head a causal:\n {1000 * sign} * (k + 100000 + 100000)")
    interpreter = Interpreter(program, Analysis(Tokens.from_strings(["a"])))
    assert interpreter.term(program.terms[0], Places(0, 0, 0)) == sign * TERM_LIMIT
