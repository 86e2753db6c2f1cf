"""The proposer of selectors: planted selectors are found as short as by hand, and soft heads cost nothing."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import expression
from attn_dsl.eval.capture import Capture
from attn_dsl.synth.design import Design
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.selectors.proposer import Selectors, opposite, within

SELECTORS = {
    "any other token": ("abcd", "text(k) != text(q) and q >= 1 and k >= 1"),
    "other copies": ("abcd", "text(k) == text(q) and k != q"),
    "one or the other": ("abcde", "(text(k) == text(q) or k == q+1) and q >= 1"),
    "classes of tokens": (
        "()[]x",
        'text(q) == "(" and text(k) == ")" or text(q) == "[" and text(k) == "]"',
    ),
    "mirror": ("abcd", "text(k) == text(n - q)"),
    "next copy": ("abcd", "previous(k) == q"),
    "the last of its kind": ("abcd", "count(j > k where text(j) == text(k)) == 0 and q >= 1"),
    "smallest so far": (
        "123456789",
        "count(j < k where number(j) < number(k)) <= 1 and q >= 1 and k >= 1",
    ),
    "third condition": ("abc", 'text(k) == "a" and repeats(k) == 0 and q >= 1'),
    "index of distinct tokens": ("abcd", "count(j < k where not seen(j)) == q and k >= 1"),
    "relative to a mark": ("aab+", 'k == q - first(j where text(j) == "+") and k >= 1'),
}


@cache
def design(source: str, tokens: str, noise: float = 1e-4) -> Design:
    """The rows of a program on random texts behind a first token, with a little noise."""
    rng, program = np.random.default_rng(0), Program.from_tree(parse(source))
    texts = [
        ["<s>", *(f" {x}" for x in rng.choice(list(tokens), size=rng.integers(2, 11)))] for _ in range(80)
    ]
    causal, matrices = " causal" in source, []
    for text in texts:
        found = program(Capture.from_arrays([text], [np.eye(len(text))[None, None]]).tokens(0))
        other = rng.random(found.shape)
        other = np.tril(other) if causal else other
        mixed = (1 - noise) * found + noise * other / other.sum(1, keepdims=True)
        matrices.append(mixed[None, None])
    capture = Capture.from_arrays(texts, matrices, causal=causal)
    return Design(capture, capture.split(0)["fit"], entries=10_000, seed=0)


def proposed(made: Design) -> list[Fitted]:
    """What is proposed for the head of a design."""
    task = HeadTask(made, 0, 0, seed=0, max_nodes=200, max_evals=1_000)
    return list(Selectors(made, 0).propose(task))


@pytest.mark.parametrize(("tokens", "selector"), SELECTORS.values(), ids=SELECTORS.keys())
def test_planted(tokens, selector):
    """A planted selector is found exactly, with hardly more nodes than by hand."""
    hand = f"head x bidirectional:\n    20 where {selector}\n    10 where k == 0\n"
    found = proposed(design(hand, tokens))
    exact = [one for one in found if one.iou >= 0.999]
    assert exact
    assert min(one.nodes for one in exact) <= 1.5 * t.nodes(parse(hand))


def test_causal():
    """A causal head gets a causal program."""
    hand = "head x causal:\n    20 where text(k-1) == text(q) and k >= 2\n    10 where k == 0\n"
    found = proposed(design(hand, "abcd"))
    assert max(one.iou for one in found) >= 0.999
    assert {one.program.visibility for one in found} == {"causal"}


@pytest.mark.parametrize(
    "term", ["-0.8 * log(1 + abs(q - k))", "1 where text(k) == text(q)", "0 where k == 0"]
)
def test_soft(term):
    """For a head that does not select nothing is proposed."""
    assert not proposed(design(f"head x bidirectional:\n    {term}\n", "abcd", noise=0.1))


def test_opposite():
    """The opposite of a predicate holds where that does not."""
    source = 'not (k < q and text(k) == "a" or not text(k) in {"b"})'
    tree = parse(f"head x causal:\n    1 where {source}\n").terms[0].condition
    assert expression(opposite(tree.value)) == '(k >= q or text(k) != "a") and text(k) in {"b"}'


def test_within():
    """A class of tokens is written by what is in it or, where that is shorter, by what is not."""
    every = {"", *"abcdef"}
    assert within("k", {"a", "b"}, every, 8) == 'text(k) in {"a", "b"}'
    assert within("k-1", every - {"c"}, every, 8) == 'text(k-1) != "c"'
    assert within("k", every, every, 8) == within("k", {"a", "b"}, every, 1) == ""
