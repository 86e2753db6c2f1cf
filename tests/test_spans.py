"""Spans are where nodes stand, and operators are counted by term."""

from __future__ import annotations

import cases
import pytest

from attn_dsl.dsl import parser
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import CostError, Span

SOURCES = sorted({x.source for x in cases.CASES if "def " not in x.source and "(j" not in x.source})
"""Without functions and searches, whose parts mean something only where they stand."""


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
    with pytest.raises(CostError, match="more than 100 operators in one term"):
        parser.parse(f"head a causal:\n{term}{' and k == q' * 60}\n")
