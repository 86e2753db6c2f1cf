"""Exports compute what the reference means, and say clearly what they cannot express."""

from __future__ import annotations

import cases
import numpy as np
import pytest
import torch
from exporting import (
    CORNERS,
    EVERYTHING,
    SINGLE,
    TOKENS,
    TOLERANCE,
    any_programs,
    assert_agreement,
    assert_balanced,
    by_flex,
    by_torch,
    largest_sum,
    reference,
    torch_module,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import attn_dsl
from attn_dsl import testing
from attn_dsl.compiler.export.latex import to_latex
from attn_dsl.compiler.export.numpy import to_numpy
from attn_dsl.compiler.export.torch import to_torch
from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.library import library
from attn_dsl.dsl.tokens import Tokens


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.id)
def test_every_case_of_the_table(case: cases.Case) -> None:
    program, tokens = attn_dsl.parse(case.source), Tokens.from_strings(case.tokens)
    assert_agreement(program, tokens)
    single = by_torch(program, tokens, torch.float32)
    assert single.dtype == np.float32
    for (q, k), weight in case.expected.items():
        assert single[q, k] == pytest.approx(weight, abs=TOLERANCE), (q, k)


@given(any_programs(), testing.tokens(max_size=14, gaps=True))
def test_random_programs_agree_with_the_reference(program: t.Head, tokens: Tokens) -> None:
    assert_agreement(Program.from_tree(program), tokens)


@pytest.mark.parametrize("visibility", ["causal", "bidirectional"])
def test_long_texts(visibility: str) -> None:
    program = attn_dsl.parse(EVERYTHING.replace("causal", visibility))
    tokens = Tokens.from_strings((TOKENS * 50)[:600])
    assert_agreement(program, tokens, program(tokens))


@pytest.mark.parametrize("visibility", ["causal", "bidirectional"])
@pytest.mark.parametrize("term", CORNERS)
def test_corners_of_the_helpers(term: str, visibility: str) -> None:
    program = attn_dsl.parse(f"head corner {visibility}:\n {term}")
    assert_agreement(program, Tokens.from_strings([" un", "do", "ne", " un", "do", *("a",) * 6]))


def test_names_do_not_collide() -> None:
    program = attn_dsl.parse(
        'set None = {"cat"}\nset Attention = {"a"}\nset Set = {"."}\n\nhead names causal:\n'
        " 1 where text(k) in None\n 2 where text(k) in Attention\n 3 where text(k) in Set\n"
        ' 4 where text(k) in {"the"}\n 5 where text(k) in {"She"}\n 6 where text(k) == "a b"\n'
        ' 7 where text(k) == "c d"\n 8 where word(k) == "cat"\n 9 where word(k) == "cat_open"\n'
        " 1.5 where length(k) == 2"
    )
    assert_agreement(program, Tokens.from_strings(TOKENS))


def test_no_string_or_set_is_taken_for_a_part_of_the_source() -> None:
    program = attn_dsl.parse(
        'set LIST = {"LIST": 2, "string": 1}\n\nhead names causal:\n 1 where text(k) == "LIST"\n'
        ' 2 where starts(word(k), "LIST") or ends(token(k), "{a}")\n 3 * weight(word(k), LIST)\n'
        ' 4 where text(k) in {"xp.", "q - k"} and text(q) in LIST'
    )
    strings = ["LIST", " text", " xp.", " string", " {a}", " LISTS", " q - k"]
    assert_agreement(program, Tokens.from_strings(strings))


@given(testing.programs(), testing.tokens(max_size=12))
def test_single_precision_is_as_exact_as_its_scores(program: t.Head, tokens: Tokens) -> None:
    softmax = program.normaliser == "softmax"
    matrix = by_torch(Program.from_tree(program), tokens, torch.float32)
    tolerance = TOLERANCE + (SINGLE * largest_sum(program, tokens) if softmax else 0)
    np.testing.assert_allclose(matrix, reference(program, tokens), atol=tolerance)


def test_masses_have_double_precision() -> None:
    """Masses of less than 1e-38 have no number in single precision."""
    program = attn_dsl.parse("head far causal linear:\n 1 * decay(q - k + 200, 0.5)")
    tokens = Tokens.from_strings(TOKENS)
    single = by_torch(program, tokens, torch.float32)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, reference(program.tree, tokens), atol=TOLERANCE)


@settings(max_examples=20)
@given(testing.programs(visibility="causal", lookahead=True), testing.tokens(max_size=8))
def test_lookahead_agrees_with_the_reference(program: t.Head, tokens: Tokens) -> None:
    checked = Program.from_tree(program, allow_lookahead=True)
    assert_agreement(checked, tokens)
    for written in (to_numpy(checked), to_torch(checked), to_latex(checked)):
        assert ("It looks ahead" in written) == bool(checked.facts.lookahead)


@given(testing.programs(), st.lists(testing.tokens(max_size=8), min_size=1, max_size=3))
def test_torch_on_a_batch_is_each_text_alone(program: t.Head, texts: list[Tokens]) -> None:
    module = torch_module(Program.from_tree(program), torch.float64)
    columns, lengths = module.batch(texts)
    assert lengths.tolist() == list(map(len, texts))
    n = max(map(len, texts))
    batch = module(columns, lengths).detach().numpy()
    assert batch.shape == (len(texts), n, n)
    for matrix, tokens in zip(batch, texts, strict=True):
        size = len(tokens)
        np.testing.assert_allclose(matrix[:size, :size], reference(program, tokens), atol=TOLERANCE)
        assert not matrix[size:].any() and not matrix[:, size:].any()


@given(
    testing.programs(normaliser="softmax"),
    st.lists(testing.tokens(min_size=1, max_size=12), min_size=1, max_size=3),
)
def test_flex_agrees_with_the_reference(program: t.Head, texts: list[Tokens]) -> None:
    matrices = by_flex(Program.from_tree(program), texts)
    for matrix, tokens in zip(matrices, texts, strict=True):
        np.testing.assert_allclose(matrix, reference(program, tokens), atol=TOLERANCE)


def test_every_program_of_the_library() -> None:
    tokens = Tokens.from_strings(["<s>", *TOKENS, "\n", '"', "Yes", '"', " he", " said", "."])
    for entry in library().values():
        program = Program.from_tree(entry.program, allow_lookahead=True)
        assert_agreement(program, tokens)
        assert_balanced(to_latex(program))
