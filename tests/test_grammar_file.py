"""The grammar file: it lists the vocabulary, and llguidance reads with it what the parser reads."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from cases import CASES
from hypothesis import given

from attn_dsl.dsl import parser
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.check import check
from attn_dsl.dsl.features import FEATURES, Feature, of_string
from attn_dsl.dsl.functions import FUNCTIONS, TermFunction
from attn_dsl.dsl.gbnf import to_gbnf
from attn_dsl.dsl.parser import grammar_text
from attn_dsl.dsl.printer import show
from attn_dsl.dsl.reference import Interpreter, Places, evaluate
from attn_dsl.dsl.syntax_errors import KEYWORDS
from attn_dsl.dsl.tokens import Tokens
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
    assert words - set(KEYWORDS) - set(FEATURES) == {"q", "k", "i", "j"}


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
    if "def " not in case.source:  # the names of functions are not in the grammar
        assert matcher(case.source)
        assert matcher(case.source.replace("\n", "  # why\r\n\n \t# more\n"))


@given(program=programs(holes=True))
def test_llguidance_reads_what_is_printed(matcher, program: t.Head) -> None:  # type: ignore[no-untyped-def]
    if not program.functions:
        assert matcher(show(program))


@pytest.mark.parametrize(
    "source",
    [head("2 where k = 0"), head("2 where text(k)"), "head a:\n", head("2 where text(k) < 1")],
)
def test_llguidance_refuses_mistakes(source: str, matcher) -> None:  # type: ignore[no-untyped-def]
    assert not matcher(source)


@pytest.fixture
def fresh():  # type: ignore[no-untyped-def]
    """Let the parser read its tables again, now and after the test."""
    yield parser._lark.cache_clear()
    parser._lark.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_a_new_function_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    square = TermFunction(
        "square", "max(x, 0) squared", "square(q - k)", 0, "x * x", "{x}^2", lambda x: x * x
    )
    monkeypatch.setitem(FUNCTIONS, "square", square)
    source = "head a causal linear:\n    1 * square(q - k)\n"
    program = parser.parse(source)
    assert show(program) == source
    assert check(program).cost == 3
    assert evaluate(program, Tokens.from_strings("abc"))[2] == [0.8, 0.2, 0]
    assert '"square"' in to_gbnf(grammar_text())


@pytest.mark.usefixtures("fresh")
def test_a_new_feature_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    hyphenated = Feature(
        "hyphenated", "bool", "left", "it has a hyphen", "hyphenated(k)",
        of_string(lambda s: "-" in s), False,
    )  # fmt: skip
    monkeypatch.setitem(FEATURES, "hyphenated", hyphenated)
    program = parser.parse("head a causal linear:\n    1 where hyphenated(k)\n")
    assert check(program).cost == 2
    assert evaluate(program, Tokens.from_strings(["a", "b-c", "d"]))[2] == [0, 1, 0]
    assert '"hyphenated"' in to_gbnf(grammar_text())


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=lambda f: f.name)
@pytest.mark.parametrize("x", [-3, 0, 1, 2, 9, 100_000])
def test_functions_are_what_the_reference_says(function: TermFunction, x: int) -> None:
    """The formula, with each module that it may be computed with, and the bound."""
    arguments = f"{x} + 0" if x >= 0 else f"0 - {-x}"
    value = f"{function.name}({arguments}{', 0.5' if function.rated else ''})"
    program = parser.parse(f"head a causal:\n    1 * {value}\n")
    expected = Interpreter(program, Analysis()).value(program.terms[0].value, Places(0, 0, 0))
    assert function.value(x, 0.5) == expected
    clamped = np.array([float(max(x, function.least))])
    for module, array in ((np, clamped), (torch, torch.from_numpy(clamped))):
        made = eval(function.formula, {"x": array, "rate": 0.5, "xp": module})
        assert float(made[0]) == pytest.approx(expected, rel=1e-12)
    assert abs(expected) <= function.bound(max(abs(x), function.least)) + 1e-12
    assert check(parser.parse(f"head a causal:\n    1 * {function.example}\n"))
    assert "x + 1" in function.latex.format(x="x + 1", rate="0.5")
