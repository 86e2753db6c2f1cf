"""The proposal grammar: every completion under its masks parses, checks, and comes to an end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llm_models import is_proposal

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import check
from attn_dsl.dsl.gbnf import to_gbnf
from attn_dsl.dsl.limits import MAX_NODES
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import show
from attn_dsl.eval.locate import embedded
from attn_dsl.synth import search_terms as vocabulary
from attn_dsl.synth.llm import grammar as g
from attn_dsl.synth.llm.parse_output import whole_terms

llguidance = pytest.importorskip("llguidance")
WALKS = 60
LONGEST = 4_000
"""Tokens after which a walk has not come to an end; single bytes make the longest ones."""


def walks(tokenizer: Any, grammar: str, count: int, seed: int = 0) -> Iterator[str]:
    """Write texts by choosing among the allowed tokens, each as likely as any other."""
    from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

    matcher = llguidance.LLMatcher(tokenizer, grammar)
    size, rng = tokenizer.vocab_size, np.random.default_rng(seed)
    mask = allocate_token_bitmask(1, size)
    for _ in range(count):
        assert matcher.reset()
        tokens: list[int] = []
        while len(tokens) < LONGEST:
            fill_next_token_bitmask(matcher, mask)
            assert not matcher.is_error(), matcher.get_error()
            bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[:size]
            token = int(rng.choice(np.flatnonzero(bits)))
            if token == tokenizer.eos_token:
                break
            assert matcher.consume_token(token), matcher.get_error()
            tokens.append(token)
        yield tokenizer.decode_str(tokens)


@pytest.fixture(
    scope="module",
    params=[
        "bytes",
        "demo",
        *(pytest.param(x, marks=pytest.mark.shared) for x in ("pieces", "gpt2")),
    ],
)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    if request.param == "bytes":
        return llguidance.LLTokenizer("byte")
    from llguidance.hf import from_tokenizer
    from transformers import AutoTokenizer

    if request.param == "demo":
        return from_tokenizer(AutoTokenizer.from_pretrained(embedded("demo")))
    folder = request.getfixturevalue("shared") / "models"
    name = "gpt2-tokenizer" if request.param == "gpt2" else "stories260k"
    return from_tokenizer(AutoTokenizer.from_pretrained(folder / name))


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
def test_random_walks_end_and_check(tokenizer: Any, causal: bool) -> None:
    found = list(walks(tokenizer, g.proposal_grammar(causal), WALKS))
    for source in found:
        program = parse(source)
        assert program.causal == causal
        facts = check(program, source=source)
        assert facts.lookahead == ()
        assert parse(show(program)) == program
        assert len(program.terms) <= g.MAX_TERMS
        assert set(program.weights) == {None}
    assert len(set(found)) > 0.9 * WALKS
    defined = {tuple(one.name for one in parse(source).functions) for source in found}
    assert defined == {(), ("marked",), ("level",), ("marked", "level")}


BRACKETS = 'def level(i) = count(j <= i where text(j) == "(") - count(j <= i where text(j) == ")")\n'
MARKED = "def marked(i) = punct(i) or newline(i-1)\n"


@pytest.mark.parametrize("definitions", ["", f"{MARKED}\n", f"{BRACKETS}\n", f"{MARKED}{BRACKETS}\n"])
@pytest.mark.parametrize("causal", [True, False])
def test_the_vocabulary_of_the_search_can_be_proposed(causal: bool, definitions: str) -> None:
    visibility: t.Visibility = "causal" if causal else "bidirectional"
    terms = vocabulary.terms(causal)
    sources = [definitions + show(t.Head(g.NAME, visibility, terms=(term,))) for term in terms]
    assert [source for source in sources if not is_proposal(source, causal)] == []


@pytest.mark.parametrize(
    ("term", "fits"),
    [
        ('? where text(k) in {"cat", "dog"} and text(q) == "the"', True),
        ("? * log(1 + q - k) where not punct(q)", True),
        ("? where text(k) == text(nearest(capital(k) and word(k) not in FunctionWord and k < q))", True),
        ("? where (punct(k) or newline(k)) and q - k in 1..16", True),
        ("? where k == max(nearest(line_start(k) and indent(k) < indent(q) and k < q), 0)", True),
        ("? where any(text(k) == text(q) and k < q)", True),
        ("? * count(punct(k) and k < q)", True),
        ('? where contains(word(k), "in") and stem(word(k)) == prefix(lower(q), 3)', True),
        ("? where number(k) % 2 == 0 and (q - k) % 3 == 1", True),
        ("? where count(j where number(j) < number(k)) == q-1", True),
        ("? where k == last(j < q where text(j) == text(q-1) and not punct(j-2)) + 1", True),
        ('? where count(j <= k where text(j) == "(") - count(j <= k where text(j) == ")") == 0', True),
        ("? where any(j < k where text(j) == text(k))", True),
        ("? * count(j where shape(j) in Pronoun)", True),
        ("? where any(j where word(j) == word(k))", False),
        ("? where count(j where text(j+1) == text(k)) == 1", False),
        ("? where count(j where text(j) == text(k) and text(j) == text(q)) == 1", False),
        ("? where count(j where f(j)) == 1", False),
        ("? where marked(k)", False),
        ("? where k == last(j < k where level(j) == 1)", False),
        ("? where k == n - 1", False),
        ("by q - k [0: ?, 1: ?, 4: ?]", False),
        ("? where q - k in 4..1", False),
        ("? where text_final(k)", False),
        ("? where from_end(k) == 1", False),
        ("? where upos(k) == \"NOUN\"", False),
        ("? where word(k) in Unknown", False),
        ("? where text(k) in {\"a\": 1}", False),
        ("? where text(k) in {}", False),
        ("2 where k == 0", False),
        ("? where k==0", False),
        ("? where  k == 0", False),
        ('? where text(k) == "\x85"', False),
    ],
)  # fmt: skip
def test_what_can_be_proposed_for_a_causal_head(term: str, fits: bool) -> None:
    source = f"head proposed causal softmax:\n    {term}\n"
    assert is_proposal(source, causal=True) == fits
    if fits:
        assert show(parse(source)) == source


@pytest.mark.parametrize(
    ("definitions", "term", "fits"),
    [
        (MARKED, "? where marked(k-1) and not marked(q)", True),
        (BRACKETS, "? * log(1 + level(k)) where level(k) - level(q) == 1 and level(k) % 2 == 0", True),
        (MARKED + BRACKETS, "? where k == last(j < q where level(j-1) < level(q)) and marked(k)", True),
        (MARKED, "? * count(j <= k where text(j) == text(k) and not marked(j))", True),
        ("def marked(i) = not any(j < i where lower(j) == lower(i))\n", "? where marked(k)", True),
        ('def marked(i) = contains(word(i), "ing")\n', "? where marked(k)", True),
        ("def level(i) = count(j where number(j) < number(i))\n", "? where level(k) == q", True),
        ("def level(i) = i - last(j <= i where newline(j))\n", "? * level(q) where q >= 4", True),
        (MARKED + "def level(i) = count(j <= i where marked(j)) % 2\n", "? where level(k) == 0", True),
        (MARKED, "? where level(k) == 1", False),
        (MARKED, "? where marked(k) == 1", False),
        (BRACKETS, "? where level(k)", False),
        (BRACKETS, "? where marked(k)", False),
        (BRACKETS + MARKED, "? where marked(k)", False),
        (MARKED + MARKED, "? where marked(k)", False),
        ("def other(i) = punct(i)\n", "? where other(k)", False),
        ("def marked(i) = text_final(i)\n", "? where marked(k)", False),
        ("def marked(i) = punct(i+1)\n", "? where marked(k)", False),
        ("def marked(i) = marked(i-1)\n", "? where marked(k)", False),
        ("def level(i) = count(j where word(j) == word(i))\n", "? where level(k) == 1", False),
        (MARKED, "? where any(j where marked(j))", False),
    ],
)  # fmt: skip
def test_definitions_can_be_proposed(definitions: str, term: str, fits: bool) -> None:
    source = f"{definitions}\nhead proposed causal softmax:\n    {term}\n"
    assert is_proposal(source, causal=True) == fits
    if fits:
        program = parse(source)
        check(program, source=source)
        assert show(program) == source


def test_the_costliest_programs_check() -> None:
    sum_ = "match(k, q) - match(k, q)"
    small = f"abs({sum_})"
    plain = f"not {small} == {small}"
    group = f"not ({plain} or {plain} or {plain})"
    conjunction = f"{group} and {plain} and {plain}"
    pointer = f"min(nearest({conjunction}), 9) + 9"
    far = f"not text(k) == text({pointer})"
    terms = [
        f"? where {conjunction} or {conjunction}",
        f"? where {plain} and {far} and {plain}",
        f"? * log(nearest({conjunction})) where {conjunction}",
    ]
    for term in terms:
        source = "head proposed causal softmax:\n" + f"    {term}\n" * g.MAX_TERMS
        assert is_proposal(source, causal=True)
        assert check(parse(source)).cost > 1_000
    number = "length(j) == length(i)"
    marked = f"count(j < i where {number} and {number}) == length(i)"
    counted = f"count(j < i where {number} and not marked(j-1))"
    plain = "not abs(level(k) - level(q)) == abs(level(k) - level(q))"
    either = f"not ({plain} or {plain} or {plain}) and {plain} and {plain}"
    source = f"def marked(i) = {marked}\ndef level(i) = {counted} - {counted}\n\n"
    source += "head proposed causal softmax:\n" + f"    ? where {either} or {either}\n" * g.MAX_TERMS
    assert is_proposal(source, causal=True)
    assert check(parse(source)).cost > 1_000
    elements = ", ".join(f'"{i:0{g.MAX_STRING}d}"' for i in range(g.MAX_ELEMENTS))
    member = f"text(k) in {{{elements}}}"
    either = " and ".join([f"{member}"] * 4)
    source = "head proposed causal softmax:\n" + f"    ? where {either} or {either}\n" * g.MAX_TERMS
    assert is_proposal(source, causal=True)
    assert check(parse(source)).nodes < MAX_NODES


@pytest.mark.parametrize("causal", [True, False])
def test_it_is_converted_to_gbnf(causal: bool) -> None:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    gbnf = to_gbnf(g.proposal_grammar(causal))
    back = gbnf_to_lark(gbnf)
    for source in walks(llguidance.LLTokenizer("byte"), back, 20):
        assert is_proposal(source, causal)
        check(parse(source))


def test_llama_cpp_reads_the_gbnf(gguf_model: Path) -> None:
    import llama_cpp

    grammar = llama_cpp.LlamaGrammar.from_string(to_gbnf(g.proposal_grammar(True)), verbose=False)
    llama = llama_cpp.Llama(str(gguf_model), n_ctx=512, n_threads=1, seed=0, verbose=False)
    answer = llama.create_completion("Once", max_tokens=60, grammar=grammar, seed=0)["choices"][0]
    llama.close()
    source = answer["text"]
    if answer["finish_reason"] == "length":
        source = whole_terms(source)
    assert source == "" or is_proposal(source)
    assert answer["text"].startswith(("def ", "head proposed causal softmax:\n    "))
