"""Causality: whatever follows a query, its row stays the same; the property that decides leaks."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from cases import CASES, Case
from hypothesis import Phase, given, settings

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.reference import evaluate
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.testing import assert_causal, check_properties, programs, tokens


@given(programs(visibility="causal"), tokens(max_size=6, gaps=True))
def test_random_causal_programs_do_not_see_what_follows(program: t.Head, text: Tokens) -> None:
    assert_causal(program, text, tolerance=1e-9)


@pytest.mark.parametrize(
    "case", [case for case in CASES if " causal" in case.source], ids=lambda case: case.id
)
def test_the_causal_cases_do_not_see_what_follows(case: Case) -> None:
    assert_causal(parse(case.source), case.tokens, tolerance=1e-9)


def all_features(visibility: t.Visibility) -> t.Head:
    """A program that uses every feature that reads to the left, at the key and at the query."""
    lines = [f"head all {visibility}:"]
    for i, feature in enumerate(f for f in FEATURES.values() if f.reads != "full"):
        weight = (7 * i) % 11 / 4 + 0.25
        lines.append(f"    {weight} where {feature.example}")
        at_query = feature.example.replace("(k", "(q").replace("k ==", "k - 1 ==")
        lines.append(f"    {weight / 2} where {at_query} and text(k) != text(q)")
    return parse("\n".join(lines))


@given(tokens(max_size=7))
def test_all_features_together_do_not_see_what_follows(text: Tokens) -> None:
    assert_causal(all_features("causal"), text, tolerance=1e-9)


def test_a_bidirectional_program_does_see_it() -> None:
    """The assertion above could fail."""
    program = all_features("bidirectional")
    with pytest.raises(AssertionError, match="not causal"):
        assert_causal(program, ["a", " b", "."])


@pytest.mark.parametrize("name", ["text_final", "from_end"])
def test_a_feature_that_looks_ahead_is_caught(name: str) -> None:
    program = parse(f"head a causal:\n    2 where {FEATURES[name].example}")
    found = check_properties(program, max_examples=50, causal=True)
    assert [example.property for example in found] == ["causal"]
    assert len(found[0].tokens) <= 3


def test_a_leak_by_way_of_the_word_would_be_caught() -> None:
    """``word`` is the whole word where the text is known; a causal row sees it as far as it goes."""
    leaky = parse('head a bidirectional:\n    2 where word(q) == "undo" and k == 0')

    def masked(text: Tokens) -> list[list[float]]:
        rows = [[w if k <= q else 0.0 for k, w in enumerate(row)]
                for q, row in enumerate(evaluate(leaky, text))]  # fmt: skip
        return [[w / sum(row) for w in row] for row in rows]

    with pytest.raises(AssertionError, match=r"(?s)not causal.*query: 1 \"un\""):
        assert_causal(masked, ["a ", "un", "do"])
    honest = parse('head a causal:\n    2 where word(q) == "undo" and k == 0')
    assert_causal(honest, ["a ", "un", "do"])


REACHED = {
    "a word in pieces": lambda text: any(a.isalpha() and b.isalpha() for a, b in itertools.pairwise(text)),
    "a closed bracket": lambda text: any(x >= 0 for x in Analysis(text).match),
    "a split character": lambda text: any(x in text.text and "<0x" in "".join(text) for x in "—é"),
    "half a character": lambda text: any(
        s.startswith("<0x") and start == end for s, (start, end) in zip(text, text.spans, strict=True)
    ),
    "two sentences": lambda text: max(Analysis(text).sentence, default=0) > 0,
    "two paragraphs": lambda text: max(Analysis(text).segments.paragraph, default=0) > 0,
    "repetition": lambda text: len(text) > 5 and text[: len(text) // 2] == text[len(text) // 2 :],
    "a special token": lambda text: any(text.special),
    "no token": lambda text: not text,
}


def test_the_random_texts_reach_what_could_leak() -> None:
    """A property test finds nothing in what its strategy never makes."""
    reached: Counter[str] = Counter()

    @settings(max_examples=300, derandomize=True, phases=[Phase.generate])
    @given(tokens(max_size=9))
    def collect(text: Tokens) -> None:
        reached.update(name for name, holds in REACHED.items() if holds(text))

    collect()
    assert set(reached) == set(REACHED)
    assert min(reached.values()) >= 3, reached
