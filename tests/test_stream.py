"""Programs in use: many together on any texts, and row by row on a text that grows."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace

import cases
import numpy as np
import pytest
from exporting import CORNERS, LONG, TOKENS, largest_sum, reference
from hypothesis import given
from hypothesis import strategies as st

import attn_dsl
from attn_dsl import testing
from attn_dsl.compiler.code import Code
from attn_dsl.compiler.program import Program
from attn_dsl.compiler.stream import Stream, newest_rows
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.replace.programs import Programs
from attn_dsl.eval.replace.tunable import Tunable

TOLERANCE = 1e-5


def streamed(programs: list[t.Head], tokens: Tokens) -> np.ndarray:
    """Compute the matrices of programs row by row."""
    n, stream = len(tokens), Stream(Code(programs))
    out = np.zeros((len(programs), n, n), dtype=np.float32)
    for q, (string, (start, end), special) in enumerate(
        zip(tokens.strings, tokens.spans, tokens.special, strict=True)
    ):
        stream.read(string, tokens.text[start:end], special)
        out[:, q, : q + 1] = stream.rows(q)[:, 0]
    return out


def together(programs: list[t.Head], texts: list[Tokens]) -> np.ndarray:
    """Compute the matrices of programs on texts as replacement does."""
    made = [Program.from_tree(p, allow_lookahead=True) for p in programs]
    return Programs(made).bundle(texts).numpy()


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.id)
def test_every_case_of_the_table(case: cases.Case) -> None:
    program, tokens = attn_dsl.parse(case.source), Tokens.from_strings(case.tokens)
    matrix = together([program.tree], [tokens])[0, 0]
    for (q, k), weight in case.expected.items():
        assert matrix[q, k] == pytest.approx(weight, abs=TOLERANCE), (q, k)
    np.testing.assert_allclose(matrix, reference(program.tree, tokens), atol=TOLERANCE)
    if program.causal:
        np.testing.assert_allclose(streamed([program.tree], tokens)[0], matrix, atol=TOLERANCE)


@given(
    st.sampled_from(["causal", "bidirectional"]).flatmap(
        lambda v: st.lists(testing.programs(v), min_size=1, max_size=3)
    ),
    st.lists(testing.tokens(max_size=18), min_size=1, max_size=3),
)
def test_random_programs_together(programs: list[t.Head], texts: list[Tokens]) -> None:
    found = together(programs, texts)
    for i, program in enumerate(programs):
        for j, tokens in enumerate(texts):
            n = len(tokens)
            expected = reference(program, tokens)
            np.testing.assert_allclose(found[i, j, :n, :n], expected, atol=TOLERANCE)
            assert not found[i, j, n:].any()
            assert not found[i, j, :, n:].any()


@given(st.lists(testing.programs("causal"), min_size=1, max_size=3), testing.tokens(max_size=18))
def test_random_programs_streamed(programs: list[t.Head], tokens: Tokens) -> None:
    found = streamed(programs, tokens)
    for i, program in enumerate(programs):
        np.testing.assert_allclose(found[i], reference(program, tokens), atol=TOLERANCE)


@pytest.mark.parametrize("term", CORNERS)
def test_corners(term: str) -> None:
    program = parse(f"head corner causal:\n {term}\n 0.5 where text(k) == text(q)")
    tokens = Tokens.from_strings(["a", " b", " a", " c", " a", " b"])
    expected = reference(program, tokens)
    np.testing.assert_allclose(together([program], [tokens])[0, 0], expected, atol=TOLERANCE)
    np.testing.assert_allclose(streamed([program], tokens)[0], expected, atol=TOLERANCE)


def test_a_copy_goes_its_own_way() -> None:
    program = parse("head copies causal:\n 5 where word(k) == word(q)\n 1 where k == 0")
    stream = Stream(Code([program]))
    stream.read_all(Tokens.from_strings([" un", "do", " it"]))
    twin = stream.copy()
    stream.read(" un", " un", False)
    twin.read("em", "em", False)
    left, right = newest_rows([stream], 4)[0, 0, 0], newest_rows([twin], 4)[0, 0, 0]
    for row, last in ((left, " un"), (right, "em")):
        tokens = Tokens.from_strings([" un", "do", " it", last])
        np.testing.assert_allclose(row, reference(program, tokens)[-1], atol=TOLERANCE)


def test_only_what_reads_to_the_left_can_be_streamed() -> None:
    with pytest.raises(InputError, match="bidirectional"):
        Stream(attn_dsl.parse("head a bidirectional:\n 1 where k == q"))
    ahead = parse("head a causal:\n 1 where text_final(k)")
    with pytest.raises(InputError, match=r"looks ahead \(text_final\)"):
        Stream(Program.from_tree(ahead, allow_lookahead=True))
    with pytest.raises(InputError, match=r"a, b looks ahead \(text_final\)"):
        Stream(Code([ahead, parse("head b causal:\n")]))


@given(testing.programs("causal"), testing.tokens(max_size=24), st.lists(st.integers(0, 5), max_size=6))
def test_appended_rows_are_the_rows_of_the_matrix(program: t.Head, tokens: Tokens, sizes: list[int]) -> None:
    made, at = Program.from_tree(program), 0
    matrix, stream = made(tokens), Stream(made)
    for size in [*sizes, len(tokens)]:
        chunk = tokens.strings[at : at + size]
        rows = stream.append(chunk, tokens.special[at : at + size])
        at += len(chunk)
        assert rows.shape == (len(chunk), at)
        np.testing.assert_allclose(rows, matrix[at - len(chunk) : at, :at], atol=TOLERANCE)
    assert len(stream) == len(tokens)


def test_long_streams() -> None:
    words = (*TOKENS, "\n", " un", "do", " caf", "<0xC3>", "<0xA9>", "<s>", '"', "!", " e.g")
    tokens = Tokens.from_strings(random.Random(0).choices(words, k=300))
    program = attn_dsl.parse(LONG)
    matrix, one, other = program(tokens), Stream(program), Stream(program)
    np.testing.assert_array_equal(one.append(tokens), matrix)
    for i, string in enumerate(tokens):
        np.testing.assert_allclose(other.append([string])[0], matrix[i, : i + 1], atol=1e-6)


def test_characters_whose_bytes_come_one_by_one() -> None:
    stream = Stream(attn_dsl.parse('head a causal linear:\n 1 where word(k) == "café"'))
    rows = [stream.append([string])[0].tolist() for string in (" caf", "<0xC3>", "<0xA9>", " x")]
    third = pytest.approx(1 / 3)
    assert rows == [[1], [0.5, 0.5], [third] * 3, [third] * 3 + [0]]


def test_special_tokens_are_those_that_are_said_to_be() -> None:
    stream = Stream(attn_dsl.parse("head a causal linear:\n 1 where special(k)"))
    assert stream.append(["<s>", "x"]).tolist() == [[1, 0], [1, 0]]
    stream.reset()
    assert stream.append(["<s>", "x"], [False, True]).tolist() == [[1, 0], [0, 1]]


def test_tokens_with_text_between_them() -> None:
    program = attn_dsl.parse("head a causal linear:\n 1 where word_index(k) == 0")
    tokens = Tokens(("a", "b", "c"), "a (b)c", ((0, 1), (3, 4), (5, 6)), (False,) * 3)
    np.testing.assert_array_equal(Stream(program).append(tokens), program(tokens))


def test_a_program_that_has_run_can_be_pickled() -> None:
    program = attn_dsl.parse("head a causal:\n 1 where k == 0")
    matrix = program(["a", " b"])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(program))(["a", " b"]), matrix)


@given(
    st.sampled_from(["causal", "bidirectional"]).flatmap(
        lambda v: st.lists(testing.programs(v), min_size=1, max_size=3)
    ),
    st.lists(testing.tokens(max_size=10), min_size=1, max_size=3),
)
def test_programs_as_parameters_give_the_same(programs: list[t.Head], texts: list[Tokens]) -> None:
    made = [Program.from_tree(replace(p, normaliser="softmax")) for p in programs]
    found = Tunable(made).bundle(texts).detach().numpy()
    # Scores are exact to float32, so what may differ grows with them.
    largest = max((largest_sum(p.tree, text) for p in made for text in texts), default=0.0)
    np.testing.assert_allclose(found, Programs(made).bundle(texts).numpy(), atol=1e-5 + 3e-7 * largest)


@pytest.mark.parametrize(
    "terms",
    [
        "1000 * (k + 100)\n 1 where k == 0",
        "1000 * weight(text(k), S) * (1 + k)\n 1 where k == 1",
    ],
)
def test_tuning_cuts_terms_where_programs_do(terms: str) -> None:
    sets = 'set S = {"a": 100, "b": -3}\n' if "S" in terms else ""
    program = attn_dsl.parse(f"{sets}head a causal:\n {terms}")
    texts = [Tokens.from_strings(["a", " b", " c", " a"])]
    found = Tunable([program]).bundle(texts).detach().numpy()[0, 0]
    np.testing.assert_allclose(found, reference(program.tree, texts[0]), atol=1e-5)


def test_matrices_that_somebody_holds_are_not_written_again() -> None:
    bundle = Programs([attn_dsl.parse("head same causal:\n 3 where text(k) == text(q)")])
    texts = [Tokens.from_strings(["a", " b", second]) for second in ("a", " b", " c")]
    kept = [bundle.bundle([text]) for text in texts]
    part = bundle.bundle([texts[0]])[0, 0, -1]
    for text, found in zip(texts, kept, strict=True):
        np.testing.assert_array_equal(found[0, 0], bundle.programs[0](text))
    np.testing.assert_array_equal(part, kept[0][0, 0, -1])
    place = bundle.bundle([texts[0]]).data_ptr()
    assert bundle.bundle([texts[1]]).data_ptr() == place
