"""Tasks for tests of the search: one head that is mostly a program."""

from __future__ import annotations

import numpy as np

from attn_dsl.compiler.program import Program
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.synth.design import Design
from attn_dsl.synth.proposer import HeadTask

WORDS = "the cat saw a dog . Tom and Mia ran to the park , and she said hi to him !".split()


def task(design: Design, evals: int = 200) -> HeadTask:
    return HeadTask(design, 0, 0, seed=0, max_nodes=200, max_evals=evals)


def design(*lines: str, noise: float = 0.2) -> Design:
    """Rows of a program on random texts, each mixed with noise: no head is a program exactly."""
    rng = np.random.default_rng(3)
    tokens = [Tokens.from_strings([f" {x}" for x in rng.choice(WORDS, size=24)]) for _ in range(80)]
    program = Program.from_tree(parse("\n ".join(["head a causal:", *lines])))
    matrices = []
    for x in tokens:
        other = np.tril(rng.random((24, 24)))
        mixed = (1 - noise) * program(x) + noise * other / other.sum(1, keepdims=True)
        matrices.append(mixed[None, None])
    capture = Capture.from_arrays(tokens, matrices, causal=True)
    return Design(capture, capture.split(0)["fit"], entries=10_000, seed=0)
