"""The grammar file: it lists the vocabulary, and llguidance reads with it what the parser reads."""

from __future__ import annotations

import re

import pytest
from cases import CASES
from hypothesis import given

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.parser import grammar_text
from attn_dsl.dsl.printer import show
from attn_dsl.dsl.syntax_errors import KEYWORDS
from attn_dsl.testing import programs

HEAD = "head a causal:\n"


def head(*terms: str) -> str:
    return HEAD + "".join(f"    {term}\n" for term in terms)


def terminal(name: str) -> list[str]:
    found = re.search(rf"^{name}: (.*)$", grammar_text(), re.M)
    assert found is not None
    return re.findall(r'"(\w+)"', found.group(1))


@pytest.mark.parametrize(
    ("name", "kind", "arity"),
    [("BOOL_FEATURE", "bool", 1), ("INT_FEATURE", "int", 1), ("SYMBOL_FEATURE", "symbol", 1),
     ("PAIR_FEATURE", "int", 2)],
)  # fmt: skip
def test_the_grammar_lists_the_features_of_the_registry(name: str, kind: str, arity: int) -> None:
    known = [f.name for f in FEATURES.values() if f.type == kind and f.arity == arity]
    assert sorted(terminal(name)) == sorted(known)


def test_every_keyword_is_in_the_grammar() -> None:
    words = set(re.findall(r'"([a-z]+)"', grammar_text()))
    assert set(KEYWORDS) <= words
    assert words - set(KEYWORDS) - set(FEATURES) == {"q", "k"}


@pytest.fixture(scope="module")
def matcher():  # type: ignore[no-untyped-def]
    """What constrains a language model to the grammar: a function of a text, whether it fits."""
    llguidance = pytest.importorskip("llguidance")
    grammar = llguidance.grammar_from("lark", grammar_text())
    assert llguidance.LLMatcher.validate_grammar(grammar) == ""
    tokenizer = llguidance.LLTokenizer("byte")
    start = llguidance.LLMatcher(tokenizer, grammar, log_level=0)

    def accepts(source: str) -> bool:
        here = start.deep_copy()
        read = here.consume_tokens(tokenizer.tokenize_str(source))
        return bool(read and here.is_accepting())

    return accepts


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_llguidance_reads_the_cases(case, matcher) -> None:  # type: ignore[no-untyped-def]
    assert matcher(case.source)
    assert matcher(case.source.replace("\n", "  # why\r\n\n \t# more\n"))


@given(program=programs(holes=True))
def test_llguidance_reads_what_is_printed(matcher, program: t.Head) -> None:  # type: ignore[no-untyped-def]
    assert matcher(show(program))


@pytest.mark.parametrize(
    "source",
    [head("2 where k = 0"), head("2 where text(k)"), "head a:\n", head("2 where text(k) < 1")],
)
def test_llguidance_refuses_mistakes(source: str, matcher) -> None:  # type: ignore[no-untyped-def]
    assert not matcher(source)
