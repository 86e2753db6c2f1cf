"""Features: each does what its line in the reference says, and none tells of the future."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.check import check
from attn_dsl.dsl.features import FEATURES, Column, Feature, Value, shape
from attn_dsl.dsl.limits import MATCH_LIMIT
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.testing import tokens

OURS = [feature for feature in FEATURES.values() if not feature.extra]
TYPES = {"bool": bool, "int": int, "symbol": str}
_, N, Y = None, False, True

STRINGS = (
    "<s>", "Un", "do", " it", ",", ' "', "Tom", '"', " (", "2", ")", ".", "\n", "  It", " it",
)  # fmt: skip
# A row for each feature: its value at each of these tokens, in a text that is seen as a whole.
VALUES: dict[str, list] = {
    "text": ["<s>", "Un", "do", "it", ",", '"', "Tom", '"', "(", "2", ")", ".", "\n", "It", "it"],
    "token": list(STRINGS),
    "lower": ["<s>", "un", "do", "it", ",", '"', "tom", '"', "(", "2", ")", ".", "\n", "it", "it"],
    "shape": ["", "Xx", "x", "x", ",", '"', "Xx", '"', "(", "d", ")", ".", "\n", "Xx", "x"],
    "length": [3, 2, 2, 2, 1, 1, 3, 1, 1, 1, 1, 1, 1, 2, 2],
    "special": [Y, N, N, N, N, N, N, N, N, N, N, N, N, N, N],
    "punct": [N, N, N, N, Y, Y, N, Y, Y, N, Y, Y, N, N, N],
    "alpha": [N, Y, Y, Y, N, N, Y, N, N, N, N, N, N, Y, Y],
    "digit": [N, N, N, N, N, N, N, N, N, Y, N, N, N, N, N],
    "space": [N, N, N, N, N, N, N, N, N, N, N, N, Y, N, N],
    "newline": [N, N, N, N, N, N, N, N, N, N, N, N, Y, N, N],
    "capital": [N, Y, N, N, N, N, Y, N, N, N, N, N, N, Y, N],
    "upper": [N] * 15,
    "number": [-1] * 9 + [2] + [-1] * 5,
    "word_number": [-1] * 9 + [2] + [-1] * 5,
    "word": ["", "undo", "undo", "it", ",", '"', "tom", '"', "(", "2", ")", ".", "", "it", "it"],
    "word_before": ["", "", "", "undo", "it", ",", '"', "tom", '"', "(", "2", ")", "", ".", "it"],
    "word_start": [N, Y, N, Y, Y, Y, Y, Y, Y, Y, Y, Y, N, Y, Y],
    "word_inside": [N, N, Y, N, N, N, N, N, N, N, N, N, N, N, N],
    "word_final": [N, N, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, N, Y, Y],
    "word_index": [-1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, -1, 10, 11],
    "piece": [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    "word_first": [0, 1, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
    "word_last": [0, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
    "sentence": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
    "sentence_start": [N, Y, N, N, N, N, N, N, N, N, N, N, N, Y, N],
    "sentence_final": [N, N, N, N, N, N, N, N, N, N, N, Y, N, N, Y],
    "sentence_first": [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 13, 13],
    "line": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
    "line_start": [N, Y, N, N, N, N, N, N, N, N, N, N, N, Y, N],
    "line_first": [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 13, 13],
    "indent": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2],
    "paragraph": [0] * 15,
    "opens": [N, N, N, N, N, Y, N, N, Y, N, N, N, N, N, N],
    "closes": [N, N, N, N, N, N, N, Y, N, N, Y, N, N, N, N],
    "closed": [N, N, N, N, N, Y, N, N, Y, N, N, N, N, N, N],
    "depth": [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0],
    "opener": [-1, -1, -1, -1, -1, -1, -1, -1, 8, 8, 8, -1, -1, -1, -1],
    "quoted": [N, N, N, N, N, Y, Y, Y, N, N, N, N, N, N, N],
    "quote_first": [-1, -1, -1, -1, -1, 5, 5, 5, -1, -1, -1, -1, -1, -1, -1],
    "seen": [N, N, N, N, N, N, N, N, N, N, N, N, N, N, Y],
    "repeats": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    "previous": [-1] * 14 + [3],
    "word_repeats": [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2],
    "word_previous": [-1, -1, -1, -1, -1, -1, -1, 5, -1, -1, -1, -1, -1, 3, 13],
    "text_final": [N] * 14 + [Y],
    "from_end": list(range(14, -1, -1)),
    "n": [15] * 15,
}
# What a causal query sees of the features that settle later: rows of (feature, position, query).
OPEN: list[tuple[str, int, int, Value]] = [
    ("word", 1, 1, "un"), ("word", 1, 2, "undo"), ("word", 2, 2, "undo"),
    ("word_final", 1, 1, N), ("word_final", 2, 2, N), ("word_final", 2, 3, Y),
    ("word_last", 1, 1, 1), ("word_last", 1, 2, 2),
    ("sentence_final", 11, 11, N), ("sentence_final", 11, 12, N), ("sentence_final", 11, 13, Y),
    ("sentence_final", 14, 14, N),
    ("closed", 5, 6, N), ("closed", 5, 7, Y), ("closed", 8, 9, N), ("closed", 8, 10, Y),
]  # fmt: skip


def column(name: str, text: Tokens) -> Column:
    made = FEATURES[name].compute(Analysis(text))
    return made


def test_the_value_table_has_all_features() -> None:
    assert sorted(VALUES) == sorted(f.name for f in OURS if f.arity < 2)
    assert all(len(values) == len(STRINGS) for values in VALUES.values())


@pytest.mark.parametrize("name", VALUES)
def test_values(name: str) -> None:
    made = column(name, Tokens.from_strings(STRINGS))
    assert [made.at(p, len(STRINGS) - 1, causal=False) for p in range(len(STRINGS))] == VALUES[name]


@pytest.mark.parametrize(("name", "position", "query", "value"), OPEN)
def test_what_is_not_known_at_once(name: str, position: int, query: int, value: Value) -> None:
    made = column(name, Tokens.from_strings(STRINGS))
    assert made.at(position, query, causal=True) == value
    assert made.at(position, query, causal=False) == VALUES[name][position]


def test_match_counts_equal_tokens_backwards() -> None:
    made: Any = FEATURES["match"].compute(Analysis(Tokens.from_strings([*"abcab"]))).settled
    assert made[4] == [0, 2, 0, 0, 5]
    assert made[1][4] == 2
    assert made[2][4] == 0
    alike = FEATURES["match"].compute(Analysis(Tokens.from_strings(["a"] * (MATCH_LIMIT + 9))))
    rows: Any = alike.settled
    assert max(map(max, rows)) == MATCH_LIMIT


@pytest.mark.parametrize(
    ("strings", "name", "values"),
    [
        (("US", "Us", "1", "A1", "é", "É"), "upper", [Y, N, N, Y, N, Y]),
        (("...", "$", "a.", ".a", "+", "_"), "punct", [Y, Y, N, N, Y, Y]),
        (("a\n", "\n\n", " \t", "", "\r"), "newline", [Y, Y, N, N, N]),
        (("a\n", "\n\n", " \t", "", "\r"), "space", [N, Y, Y, N, Y]),
        (("¹", "٣", "1a", "12"), "digit", [Y, Y, N, Y]),
        (("if x:\n", "    return", " y\n", "\t", "z"), "indent", [0, 4, 4, 1, 1]),
        (("a", "\n\n", "b", "\n", "c"), "paragraph", [0, 0, 1, 1, 1]),
        ((" a", "((", "b", "))", " c"), "depth", [0, 2, 2, 0, 0]),
        (("a", "<s>", "b"), "word_index", [0, -1, 1]),
        (("ab", "cd", "<s>", "e"), "piece", [0, 1, 0, 0]),
        (("Yes", ".", "<s>", " No"), "sentence_final", [N, Y, N, Y]),
    ],
)
def test_more_values(strings: tuple[str, ...], name: str, values: list) -> None:
    assert column(name, Tokens.from_strings(strings)).settled == values


@pytest.mark.parametrize(
    ("string", "kinds"),
    [("McDonald", "XxXx"), ("1984", "d"), ("e-mail", "x-x"), ("", ""), ("日本", "o"), ("A1!!", "Xd!")],
)  # fmt: skip
def test_shapes(string: str, kinds: str) -> None:
    assert shape(string) == kinds


@pytest.mark.parametrize("feature", FEATURES.values(), ids=lambda f: f.name)
def test_every_feature_is_documented_by_an_example_that_works(feature: Feature) -> None:
    if feature.extra and importlib.util.find_spec(feature.extra) is None:
        pytest.skip(f"needs {feature.extra}")
    program = parse(f"head example bidirectional:\n    1 where {feature.example}\n")
    check(program)
    used = {node.name for node in program.walk() if isinstance(node, t.Call)}
    assert feature.name in used
    assert feature.doc
    assert "\n" not in feature.doc


@pytest.mark.parametrize("feature", FEATURES.values(), ids=lambda f: f.name)
def test_the_padding_value_has_the_feature_s_type(feature: Feature) -> None:
    assert type(feature.pad) is TYPES[feature.type]
    assert feature.pad in (False, 0, -1, "")


def views(feature: Feature, text: Tokens) -> Iterator[tuple[int, int, Value, Value]]:
    """For each position and query: the value in the whole text, and in the text cut at the query."""
    whole = feature.compute(Analysis(text))
    for query in range(len(text)):
        cut = feature.compute(Analysis(text.prefix(query + 1)))
        for position in range(query + 1):
            one: Any = whole.at(position, query, causal=True)
            other: Any = cut.at(position, query, causal=True)
            if feature.arity == 1:
                yield position, query, one, other
            else:
                yield position, query, one[: query + 1], other[: query + 1]


@given(tokens(max_size=9, gaps=True))
def test_no_feature_tells_of_what_follows_the_query(text: Tokens) -> None:
    for feature in OURS:
        if feature.reads != "full":
            for position, query, whole, cut in views(feature, text):
                assert whole == cut, (feature.name, position, query)


@given(tokens(max_size=12, gaps=True), st.data())
def test_a_text_that_grows_has_the_columns_of_the_whole_one(text: Tokens, data: st.DataObject) -> None:
    analysis, at = Analysis(), 0
    columns = {f: f.column() for f in OURS if f.arity == 1}
    for query, (string, (start, end)) in enumerate(zip(text.strings, text.spans, strict=True)):
        analysis.add(string, text.text[at:start], text.text[start:end], text.special[query])
        at = end
        if query < len(text) - 1 and data.draw(st.booleans(), "several tokens at once"):
            continue
        whole = Analysis(text.prefix(query + 1))
        for feature, grown in columns.items():
            before = copy.deepcopy(grown)
            low = feature.extend(analysis, grown)
            cut = feature.compute(whole)
            assert grown == cut, feature.name
            assert before.settled[:low] == grown.settled[:low], feature.name
            if before.known is not None and grown.known is not None:
                assert before.known[:low] == grown.known[:low], feature.name


def test_a_new_token_changes_the_end_of_the_columns_alone() -> None:
    analysis = Analysis(Tokens.from_strings([" word"] * 2_000))
    columns = {f: f.compute(analysis) for f in OURS if f.reads != "full" and f.arity == 1}
    analysis.add(" word", "", " word", False)
    for feature, made in columns.items():
        assert feature.extend(analysis, made) >= 1_999, feature.name


@pytest.mark.parametrize("feature", FEATURES.values(), ids=lambda f: f.name)
def test_python_of_a_feature_gives_its_values(feature: Feature) -> None:
    if feature.python:
        made = feature.compute(Analysis(Tokens.from_strings(STRINGS, [False] * len(STRINGS))))
        assert eval(feature.python, {"tokens": list(STRINGS)}) == made.settled


@given(tokens(max_size=12, gaps=True))
def test_values_have_their_type_and_lie_in_their_range(text: Tokens) -> None:
    analysis = Analysis(text)
    for feature in OURS:
        made = feature.compute(analysis)
        if feature.arity == 2:
            rows: Any = made.settled
            assert all(0 <= value <= MATCH_LIMIT for row in rows for value in row)
            continue
        assert len(made.settled) == len(text)
        for q in range(len(text)):
            for p in range(q + 1):
                value = made.at(p, q, causal=True)
                assert type(value) is TYPES[feature.type], feature.name
                assert not isinstance(value, int) or value >= -1, feature.name
                if feature.name.endswith(("_first", "_previous", "opener")):
                    assert isinstance(value, int)
                    assert value <= p, feature.name


def test_text_after_the_last_token_is_not_read() -> None:
    text = Tokens(("fir",), "first. Second", ((0, 3),), (False,))
    assert column("word", text).settled == ["fir"]


def test_what_covers_nothing_after_a_special_token_is_in_no_word() -> None:
    text = Tokens.from_strings(["ab", "<s>", "<0xE2>", "c"])
    assert column("word_index", text).settled == [0, -1, -1, 1]


@pytest.mark.parametrize(
    ("string", "value"),
    [
        ("0", 0), (" 007", 7), ("٣", 3), ("999999", 999_999), ("9" * 5_000, 999_999), (" Twenty", 20),
        ("SEVENTEEN", 17), (" hundred", 100), ("thousand", 1000), ("²", -1), ("-1", -1), ("1.5", -1),
        ("x1", -1), ("million", -1), ("", -1), (" ", -1), ("<s>", -1),
    ],
)  # fmt: skip
def test_numbers_in_digits_and_words(string: str, value: int) -> None:
    assert column("number", Tokens.from_strings([string])).settled == [value]
