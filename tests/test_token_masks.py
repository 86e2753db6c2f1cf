"""Token masks: with the grammar file in llguidance, and the GBNF in llama.cpp, only programs come."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.gbnf import to_gbnf
from attn_dsl.dsl.parser import grammar_text, parse

llguidance = pytest.importorskip("llguidance")
WALKS = 50
LONGEST = 160
CLOSING = (
    "\n",
    '"',
    ")",
    "]",
    "}",
    ":",
    "..",
    " true",
    " q",
    " k",
    " ==",
    "1",
    " causal",
    "a",
    ",",
)
"""Tokens that bring a random program nearer to its end, where they are allowed."""


def allowed(matcher: Any, size: int) -> np.ndarray:
    """Give the tokens that the matcher's mask allows."""
    from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

    mask = allocate_token_bitmask(1, size)
    fill_next_token_bitmask(matcher, mask)
    assert not matcher.is_error(), matcher.get_error()
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")[:size])


def walk(matcher: Any, end: int, size: int, choose: Callable[[np.ndarray], int]) -> list[int] | None:
    """Walk through the masks to the end; None if it takes too long."""
    tokens: list[int] = []
    while len(tokens) < LONGEST:
        token = choose(allowed(matcher, size))
        if token == end:
            assert matcher.is_accepting()
            return tokens
        assert matcher.consume_token(token), matcher.get_error()
        tokens.append(token)
    return None


def any_file(path: str) -> t.Definitions:
    """Stand for the file that a drawn program says it uses."""
    return t.Definitions({}, {}, path)


@pytest.fixture(scope="module")
def grammar() -> str:
    return llguidance.LLMatcher.grammar_from_lark(grammar_text())


@pytest.fixture(scope="module")
def gpt2(shared: Path) -> Any:
    hf = pytest.importorskip("llguidance.hf")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "gpt2-tokenizer")
    return hf.from_tokenizer(tokenizer)


def test_the_grammar_file_compiles_unchanged(grammar: str) -> None:
    assert llguidance.LLMatcher.validate_grammar(grammar) == ""
    tokenizer = llguidance.LLTokenizer("byte")
    assert llguidance.LLMatcher.validate_grammar_with_warnings(grammar, tokenizer) == (False, [])


@pytest.mark.parametrize(
    ("source", "fits"),
    [
        ("head a causal:\n    2 where text(k-1) == text(q)\n", True),
        ('set A = {\n    "x",\n    "y"\n}\n\nhead a causal:\n    2 where text(k) in A\n', True),
        ("# why\nhead a causal linear:  # because\n    ? * decay(q - k, 0.5) where true\n", True),
        ("head a causal:\n    by q - k [0: 1.5, 3: -1] where not punct(k)\n", True),
        ("head a causal:\n    2 where sentence_start(k) and sentence(k) == 1\n", True),
        ("head a causal:\n    2 where text(k) < text(q)\n", False),
        ("head a sideways:\n", False),
        ("head a causal:\n    2 where unknown(k)\n", False),
    ],
)
def test_it_takes_the_programs_that_parse(grammar: str, source: str, fits: bool) -> None:
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar)
    taken = matcher.try_consume_tokens(list(source.encode()))
    assert (taken == len(source) and matcher.is_accepting()) == fits
    if fits:
        parse(source)


@pytest.mark.shared
@pytest.mark.parametrize("notation", ["lark", "gbnf"])
def test_random_walks_through_masks_parse(gpt2: Any, grammar: str, notation: str) -> None:
    if notation == "gbnf":
        lark = llguidance.gbnf_to_lark.gbnf_to_lark(to_gbnf(grammar_text()))
        grammar = llguidance.LLMatcher.grammar_from_lark(lark)
    matcher = llguidance.LLMatcher(gpt2, grammar)
    draw = random.Random(0)
    closing = np.array([token for text in CLOSING for token in gpt2.tokenize_str(text)])

    def choose(tokens: np.ndarray) -> int:
        if gpt2.eos_token in tokens and draw.random() < 0.7:
            return gpt2.eos_token
        near = closing[np.isin(closing, tokens)]
        if len(near) and draw.random() < 0.8:
            return int(near[0] if draw.random() < 0.4 else draw.choice(near))
        return int(draw.choice(tokens))

    walks = []
    for _ in range(WALKS):
        matcher.reset()
        walks.append(walk(matcher, gpt2.eos_token, gpt2.vocab_size, choose))
    ended = [tokens for tokens in walks if tokens is not None]
    for tokens in ended:
        parse(gpt2.decode_str(tokens), resolve=any_file)
    print(f"{len(ended)} of {WALKS} walks ended")
    assert len(ended) > WALKS // 4


@pytest.fixture(scope="module")
def llama(shared: Path) -> Iterator[Any]:
    llama_cpp = pytest.importorskip("llama_cpp")
    model = llama_cpp.Llama(
        str(shared / "models" / "stories260k.gguf"), n_ctx=512, n_threads=1, seed=0,
        verbose=False,
    )  # fmt: skip
    yield model
    model.close()


def _bias(llama: Any) -> dict[int, float]:
    """Make what ends a program likelier: the model knows stories only."""
    likelier = {"k": 5.0, "=": 8.0, ":": 8.0, ")": 8.0, '"': 8.0, "\n": 11.0}
    tokens = {llama.tokenize(c.encode(), add_bos=False)[-1]: by for c, by in likelier.items()}
    return {**tokens, llama.token_eos(): 16.0}


@pytest.mark.shared
def test_a_model_samples_programs_under_masks(llama: Any, grammar: str) -> None:
    import llama_cpp
    from llguidance.llamacpp import lltokenizer_from_vocab

    vocabulary = llama._model.vocab
    tokenizer = lltokenizer_from_vocab(vocabulary)
    matcher = llguidance.LLMatcher(tokenizer, grammar)
    noise = np.random.default_rng(0)
    end = tokenizer.eos_token
    bias = np.zeros(llama.n_vocab())
    bias[list(_bias(llama))] = list(_bias(llama).values())
    programs = 0
    for sample in range(12):
        llama.reset()
        llama.eval(llama.tokenize(b"Once upon a time"))
        matcher.reset()
        begun = tokenizer.tokenize_str("head a causal:\n    2 where ") if sample % 2 else []
        assert matcher.consume_tokens(begun)
        done: list[int] = []

        def choose(tokens: np.ndarray, done: list[int] = done) -> int:
            if done:
                llama.eval(done[-1:])
            # ``llama.scores`` is filled with ``logits_all`` only; the next step writes over these.
            logits = llama_cpp.llama_get_logits_ith(llama.ctx, -1)
            scores = np.ctypeslib.as_array(logits, (llama.n_vocab(),)).astype(np.float64)
            assert scores.any()
            scores[done[-1:]] -= 12.0  # empty lines may go on without end
            scores = (scores + bias)[tokens] + noise.gumbel(size=len(tokens))
            done.append(int(tokens[scores.argmax()]))
            return done[-1]

        tokens = walk(matcher, end, llama.n_vocab(), choose)
        if tokens is not None:
            parse(tokenizer.decode_str(begun + tokens), resolve=any_file)
            programs += 1
    print(f"{programs} of 12 samples ended")
    assert programs


@pytest.mark.shared
def test_llama_cpp_samples_programs_from_the_gbnf(llama: Any) -> None:
    import llama_cpp

    grammar = llama_cpp.LlamaGrammar.from_string(to_gbnf(grammar_text()), verbose=False)
    ended = 0
    for seed in range(8):
        llama.reset()
        answer = llama.create_completion(
            "Once upon a time", max_tokens=120, grammar=grammar, seed=seed, logit_bias=_bias(llama),
            temperature=1.0,
        )["choices"][0]  # fmt: skip
        if answer["finish_reason"] == "stop":
            parse(answer["text"], resolve=any_file)
            ended += 1
    print(f"{ended} of 8 samples ended")
    assert ended
