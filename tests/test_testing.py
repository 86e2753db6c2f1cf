"""``attn_dsl.testing``: assertions fail where they should, on the smallest text."""

from __future__ import annotations

import dataclasses
import doctest
import itertools
import math
from importlib import import_module
from pkgutil import walk_packages

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from attn_dsl import compiler, dsl
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.testing import (
    PROPERTIES,
    Counterexample,
    assert_causal,
    assert_equivalent,
    assert_invariant,
    assert_row_stochastic,
    check_properties,
    each,
    matrix_of,
    programs,
    smallest,
    texts,
    tokens,
    weights,
)

FIRST = parse("head first causal:\n    2 where k == 0")
COPIES = parse("head copies causal:\n    3 where text(k) == text(q)")
WORDS = ["a", " b", " a"]


class Wrapped:
    """A program as the compiler makes them: callable, with its tree."""

    def __init__(self, tree: t.Head) -> None:
        self.tree = tree

    def __call__(self, text: Tokens) -> np.ndarray:
        return matrix_of(self.tree, text).astype(np.float32)


def uniform(text: Tokens) -> np.ndarray:
    return np.full((len(text), len(text)), 1 / max(len(text), 1))


def triangle(text: Tokens) -> np.ndarray:
    rows = np.tril(np.ones((len(text), len(text))))
    return rows / rows.sum(1, keepdims=True)


@pytest.mark.parametrize(
    "module",
    ["testing", "strategies", "failure_report", "shrink",
     *(found.name for package in (dsl, compiler)
       for found in walk_packages(package.__path__, package.__name__[9:] + "."))],
)  # fmt: skip
def test_the_examples_in_the_documentation(module: str) -> None:
    assert doctest.testmod(import_module(f"attn_dsl.{module}")).failed == 0


# The strategies.


@given(programs(visibility="causal", normaliser="linear", max_terms=2))
def test_programs_keep_to_what_was_asked(program: t.Head) -> None:
    assert (program.visibility, program.normaliser) == ("causal", "linear")
    assert len(program.terms) <= 2
    assert None not in program.weights
    assert min((w for w in program.weights if w is not None), default=0) >= 0


def test_holes_and_lookahead_are_drawn_on_request() -> None:
    drawn: list[t.Head] = []

    @settings(max_examples=150, derandomize=True, phases=[Phase.generate])
    @given(programs("causal", holes=True, lookahead=True, extras=("spacy",)))
    def collect(program: t.Head) -> None:
        drawn.append(program)

    collect()
    weights = [w for program in drawn for w in program.weights]
    assert None in weights
    assert {1000.0, -1000.0} & set(weights)
    names = {n.name for p in drawn for n in p.walk() if isinstance(n, t.Call)}
    assert names & {"text_final", "from_end", "upos", "dep", "lemma", "syntax_head"}


@given(weights(), weights(positive=True))
def test_weights_have_few_decimals_and_lie_in_bounds(any_sign: float, positive: float) -> None:
    assert -1000 <= any_sign <= 1000
    assert 0 <= positive <= 1000
    assert round(any_sign, 3) == any_sign


@given(tokens(min_size=2, max_size=5), tokens(max_size=0), texts(max_size=3))
def test_sizes_are_kept(some: Tokens, none: Tokens, text: str) -> None:
    assert 2 <= len(some) <= 5
    assert len(none) == 0
    assert isinstance(text, str)


def test_smallest_is_simple_and_repeatable() -> None:
    def repeated(text: Tokens) -> bool:
        return len(text) > len(set(text))

    found = smallest(tokens(), repeated)
    assert len(found) == 2
    assert found == smallest(tokens(), repeated)
    with pytest.raises(NoSuchExample):
        smallest(st.integers(0, 5), lambda x: x > 5, 20)


# Assertions.


@pytest.mark.parametrize("program", [FIRST, Wrapped(FIRST), triangle])
def test_a_sound_program_passes(program) -> None:  # type: ignore[no-untyped-def]
    assert_row_stochastic(program, WORDS)
    assert_causal(program, WORDS)
    assert_equivalent(program, program, WORDS)
    assert_invariant(program, each(str.upper), WORDS)
    assert_row_stochastic(program, [])
    assert_causal(program, [])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.7, 0.7], "the row of query 1 sums to 1.4"),
        ([0.5, 0.4999], "sums to 0.9999"),
        ([1.5, -0.5], "has weights outside 0..1"),
        ([math.nan, 1.0], "has weights that are no numbers"),
        ([math.inf, 0.0], "has weights that are no numbers"),
    ],
)
def test_a_row_that_is_no_distribution(row: list[float], message: str) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_row_stochastic(lambda text: [[1.0, 0.0], row], ["a", " b"])
    lines = str(caught.value).split("\n")
    assert message in lines[0]
    assert lines[1:3] == ['  text:  "a b"', '  query: 1 " b"']
    assert lines[4].split() == ["0", '"a"', f"{row[0]:.6g}"]


@pytest.mark.parametrize(
    "result", [[[1.0]], [1.0, 0.0], [[1.0, 0.0]], np.zeros((2, 2, 2)), np.zeros((3, 3)), 1.0]
)
def test_what_is_no_matrix(result: object) -> None:
    with pytest.raises(AssertionError, match=r"no matrix: the result on 2 tokens has the shape"):
        assert_row_stochastic(lambda text: result, ["a", " b"])


def test_a_weight_on_what_follows() -> None:
    with pytest.raises(AssertionError, match=r"query 0 gives 0\.333333 to key 1, which follows"):
        assert_causal(uniform, WORDS)


def peeks(text: Tokens) -> np.ndarray:
    """A row that is 1 on the first key if the next token is a full stop, else on the query."""
    rows = np.zeros((len(text), len(text)))
    for q in range(len(text)):
        rows[q, 0 if text[q + 1 : q + 2] == (".",) else q] = 1
    return rows


def test_a_row_that_knows_what_follows() -> None:
    with pytest.raises(AssertionError) as caught:
        assert_causal(peeks, ["a", " b", "."])
    assert str(caught.value).split("\n") == [
        "not causal: the row of query 1 changes with what follows it",
        '  text:  "a b."',
        '  query: 1 " b"',
        '  key:   0 "a"',
        "  key     token    row        changed",
        '  0       "a"      1          0',
        '  1       " b"     0          1',
        "  changed: the same up to the query, then the end",
    ]


def test_a_row_that_knows_the_end_of_the_text() -> None:
    def last(text: Tokens) -> np.ndarray:
        rows = np.eye(len(text))
        if len(text) == 3:
            rows[-1] = rows[0]
        return rows

    with pytest.raises(AssertionError, match=r'the row of query 2 changes(.|\n)*then "\)ing\."'):
        assert_causal(last, WORDS)


def test_programs_that_differ() -> None:
    other = parse("head other causal:\n    2 where k == previous(q) + 1")
    with pytest.raises(AssertionError) as caught:
        assert_equivalent(FIRST, other)
    assert "not equivalent: at query 1, key 0 has 0.880797 and then 0.119203" in str(caught.value)
    assert 'text:  "aa"' in str(caught.value)
    assert "row        second" in str(caught.value)
    assert_equivalent(FIRST, other, ["a", " b"])
    assert_equivalent(FIRST, parse("head f causal:\n    2 where k < 1"))
    assert_equivalent(FIRST, Wrapped(FIRST))
    assert_equivalent(FIRST, parse("head f causal:\n    2.01 where k == 0"), WORDS, tolerance=0.01)
    with pytest.raises(AssertionError):
        assert_equivalent(FIRST, parse("head f causal:\n    2.01 where k == 0"), WORDS)


def test_a_program_that_a_transform_changes() -> None:
    rename = each(lambda s: s.replace("b", "a"))
    assert_invariant(COPIES, each(lambda s: s.replace("b", "c")), WORDS)
    with pytest.raises(AssertionError) as caught:
        assert_invariant(COPIES, rename, WORDS)
    assert "not invariant" in str(caught.value)
    assert str(caught.value).endswith('changed: "a a a"')
    with pytest.raises(ValueError, match="made 2 tokens of 3"):
        assert_invariant(COPIES, lambda text: text[:2], WORDS)


def test_special_tokens_are_not_transformed() -> None:
    assert list(each(str.upper)(Tokens.from_strings(["<s>", "a"]))) == ["<s>", "A"]


def test_of_a_long_row_the_keys_that_matter_are_shown() -> None:
    row = [0.0] * 100
    row[77] = 2.0
    with pytest.raises(AssertionError) as caught:
        assert_row_stochastic(lambda text: [row] * 100, ["a"] * 100)
    assert '77      "a"      2' in str(caught.value)
    assert "(88 more keys)" in str(caught.value)
    assert str(caught.value).count("\n") < 20


# Counterexamples.


def test_a_sound_program_has_no_counterexample() -> None:
    for program in (FIRST, Wrapped(COPIES), triangle):
        assert check_properties(program, max_examples=25) == []


def test_holes_count_as_ones() -> None:
    assert check_properties(parse("head a causal:\n    ? where k == 0"), max_examples=10) == []


def broken(what: str):  # type: ignore[no-untyped-def]
    """A program that is wrong where the text has a full stop."""
    counter = itertools.count()

    def program(text: Tokens) -> np.ndarray:
        rows = triangle(text)
        if "." in text:
            q = text.index(".")
            if what == "total":
                raise ZeroDivisionError("a full stop")
            if what == "finite":
                rows[q, 0] = np.nan
            if what == "row-stochastic":
                rows[q] *= 2
            if what == "deterministic":
                rows[q] = np.eye(len(text))[0 if q == 0 or next(counter) % 2 else q]
            if what == "causal":
                rows[q] = np.eye(len(text))[0 if len(text) == q + 1 else q]
        return rows

    return program


@pytest.mark.parametrize("what", ["total", "finite", "row-stochastic", "causal"])
def test_the_smallest_counterexample_of_each_property(what: str) -> None:
    found = {e.property: e for e in check_properties(broken(what), max_examples=40, causal=True)}
    assert what in found
    example = found[what]
    assert isinstance(example, Counterexample)
    assert list(example.tokens) == (["a", "."] if what == "causal" else ["."])
    assert str(example) == example.message
    assert "text:" in example.message
    if what == "total":
        assert list(found) == ["total"]
        assert example.matrix is None
        assert example.query is None
        assert "ZeroDivisionError: a full stop" in example.message
    else:
        assert example.query == len(example.tokens) - 1
        assert example.matrix is not None
        assert len(example.matrix) == len(example.tokens)


def test_a_program_of_two_minds_is_found() -> None:
    found = check_properties(broken("deterministic"), max_examples=100)
    assert "deterministic" in [example.property for example in found]


def test_the_properties_come_in_their_order() -> None:
    def wrong(text: Tokens) -> np.ndarray:
        return np.full((len(text), len(text)), np.nan)

    names = [example.property for example in check_properties(wrong, 20, causal=True)]
    assert names == [name for name in PROPERTIES if name in names]
    assert names[:2] == ["finite", "row-stochastic"]


def test_the_same_seed_finds_the_same() -> None:
    one, two = (check_properties(broken("row-stochastic"), 40, seed=1) for _ in range(2))
    assert one == two
    assert one


def test_only_what_must_be_causal_is_tested_for_it() -> None:
    both = parse("head a bidirectional:\n    2 where k == q + 1")
    ahead = parse("head a causal:\n    2 where text_final(k)")
    for program in (both, ahead, Wrapped(both), Wrapped(ahead), uniform):
        assert check_properties(program, max_examples=15) == []
    assert [e.property for e in check_properties(uniform, 20, causal=True)] == ["causal"]

    @dataclasses.dataclass
    class Lying:
        tree: t.Head

        def __call__(self, text: Tokens) -> np.ndarray:
            return uniform(text)

    assert [e.property for e in check_properties(Lying(FIRST), 20)] == ["causal"]
