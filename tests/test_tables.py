"""The parsing loop accepts what Lark accepts, and its spans are where things stand."""

from __future__ import annotations

import cases
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lark.exceptions import UnexpectedInput

from attn_dsl.dsl import parser
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import CostError, Span
from attn_dsl.dsl.tables import Lines

SOURCES = sorted({case.source for case in cases.CASES})


def accepted(text: str) -> bool:
    try:
        parser._lark("start").parse(text)
    except UnexpectedInput:
        return False
    return True


@given(
    st.sampled_from(SOURCES), st.integers(0, 200), st.integers(0, 3),
    st.sampled_from(["", " ", "\n", "#", "(", ")", '"', "q", "k", "not ", "1", "?", "-", ",", "in "]),
)  # fmt: skip
def test_damaged_programs_are_refused_exactly_when_lark_refuses_them(
    source: str, place: int, cut: int, put: str
) -> None:
    at = place % (len(source) + 1)
    text = source[:at] + put + source[at + cut :]
    assert (parser._tables("start").parse(text) is not None) == accepted(text)


def sliced(source: str, span: Span) -> str:
    lines = source.split("\n")[span.line - 1 : span.end_line]
    lines[-1] = lines[-1][: span.end_column - 1]
    lines[0] = lines[0][span.column - 1 :]
    return "\n".join(lines)


@pytest.mark.parametrize("source", SOURCES)
def test_spans_are_where_nodes_stand(source: str) -> None:
    """What a predicate's or a term's span holds parses to the same node."""
    for node in parser.parse(source).walk():
        if isinstance(node, t.And | t.Or | t.Not | t.Compare | t.Between | t.Affix):
            assert node.span is not None
            text = sliced(source, node.span)
            if isinstance(node, t.Not) and isinstance(node.value, t.Member):
                continue  # `not in` has the span of both of its nodes
            assert parser.parse_predicate(text) == node
        elif isinstance(node, t.Where | t.Scaled):
            assert node.span is not None
            assert parser.parse_term(sliced(source, node.span)) == node


def test_too_many_operators_are_counted_by_term() -> None:
    term = " 1 where " + " and ".join(["k == q"] * 60)
    assert len(parser.parse(f"head a causal:\n{term}\n{term}\n").terms) == 2
    for wide in (term + " and k == q" * 60, term.replace(" and k", "andk") + "andk == q" * 60):
        with pytest.raises(CostError, match="more than 100 operators in one term"):
            parser.parse(f"head a causal:\n{wide}\n")


def test_lines_tell_where_a_place_is() -> None:
    lines = Lines("ab\ncd\n\nef")
    assert lines.span(0, 2) == Span(1, 1, 1, 3)
    assert lines.span(1, 4) == Span(1, 2, 2, 2)
    assert lines.span(7, 9) == Span(4, 1, 4, 3)
    assert [lines.span(place, place).line for place in (0, 2, 3, 6, 7)] == [1, 1, 2, 3, 4]
