"""Simplification: the same matrix, fewer nodes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import check
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import show, show_term
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.synth.simplify import simplify
from attn_dsl.testing import matrix_of, programs, tokens

REWRITTEN = {
    "2 where not not punct(k)": "2 where punct(k)",
    "2 where punct(k) and punct(k) and k == 0": "2 where punct(k) and k == 0",
    "2 where punct(k) and true": "2 where punct(k)",
    "2 where punct(k) and (punct(k) or alpha(q))": "2 where punct(k)",
    "2 where punct(k) or punct(k) and alpha(q)": "2 where punct(k)",
    '2 where text(k) in {"a"}': '2 where text(k) == "a"',
    '2 where text(k) == "a" or text(k) == "b"': '2 where text(k) in {"a", "b"}',
    '2 where text(k) in {"a", "b"} and text(k) in {"b", "c"}': '2 where text(k) == "b"',
    "2 where q - k >= 1 and q - k <= 4": "2 where q - k in 1..4",
    "2 where q - k == 3": "2 where k == q-3",
    "2 where q - k in 2..2": "2 where k == q-2",
    "2 where not (k == 0)": "2 where k != 0",
    "2 where not (not punct(k) or not alpha(q))": "2 where punct(k) and alpha(q)",
    "2 where not punct(k)": "-2 where punct(k)",
    "2 * length(k) where true": "2 * length(k)",
    "2 where punct(k)\n 3 where punct(k)": "5 where punct(k)",
    "? where punct(k)\n 3 where punct(k)": "? where punct(k)",
    "2 where punct(k)\n 1 where not punct(k)": "1 where punct(k)",
    "2 where punct(k)\n 3 where alpha(q)": "2 where punct(k)",
    "2 where punct(k)\n 3 where k == 1 and true\n -3 where k == 1": "2 where punct(k)",
    "1 * inv(length(k))\n 2 * inv(length(k))": "3 * inv(length(k))",
    "by q - k [0: 1, 4: 2]\n by q - k [0: 1, 4: -1]": "by q - k [0: 2, 4: 1]",
}


@pytest.mark.parametrize("source", REWRITTEN)
def test_each_rule(source: str) -> None:
    program = parse(f"head a causal:\n {source}")
    found = simplify(program)
    assert "\n".join(map(show_term, found.terms)) == REWRITTEN[source]
    assert t.nodes(found) < t.nodes(program)


@pytest.mark.parametrize(
    "source",
    [
        "head a causal:\n 2 where punct(k) and not alpha(k)\n 1 where q - k in 1..4",
        "head a causal linear:\n 2 where not punct(k)\n 3 where alpha(q)",
        "head a causal:\n 600 where punct(k)\n 600 where punct(k)",
        "head a causal:\n",
    ],
)
def test_what_is_simple_stays(source: str) -> None:
    assert simplify(parse(source)) == parse(source)


def test_sets_that_no_term_names_go() -> None:
    program = parse('set A = {"x", "y"}\nhead a causal:\n 2 where punct(k)\n 1 where text(q) in A')
    assert simplify(program) == parse("head a causal:\n 2 where punct(k)")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(), tokens())
def test_the_matrix_stays_the_same(program: t.Head, text: Tokens) -> None:
    found = simplify(program)
    assert t.nodes(found) <= t.nodes(program)
    check(found, allow_lookahead=True)
    assert parse(show(found)) == found
    np.testing.assert_allclose(matrix_of(found, text), matrix_of(program, text), atol=1e-6)
