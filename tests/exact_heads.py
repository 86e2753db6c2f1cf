"""Heads that are programs, with and without noise, for tests of the exact search."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from attn_dsl.compiler.program import Program
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.synth.design import Design
from attn_dsl.synth.proposer import HeadTask

WORDS = (
    "the cat saw a dog . Tom and Mia ran to the park , and she said hi to him ! Rain fell on "
    "roofs while birds sang of long summer days ; nobody listened , but they went on singing ."
).split()


@lru_cache(maxsize=2)
def texts(more: tuple[str, ...] = ()) -> tuple[Tokens, ...]:
    rng = np.random.default_rng(5)
    strings = [*(" " + word for word in WORDS), *more]
    return tuple(Tokens.from_strings(rng.choice(strings, size=28).tolist()) for _ in range(60))


def capture_of(source: str, noise: float = 0.0, more: tuple[str, ...] = ()) -> Capture:
    """Make a capture of one head that is a program, each row drawn around it if there is noise.

    Args:
        more: tokens of the texts beside the words.
    """
    program = Program.from_tree(parse(source))
    rng = np.random.default_rng(0)
    found = []
    causal = program.causal
    for text in texts(more):
        matrix = np.asarray(program(text), dtype=np.float64)
        if noise:
            drawn = rng.standard_gamma(np.maximum(matrix / noise, 1e-9))
            drawn = np.tril(drawn) if causal else drawn
            matrix = drawn / drawn.sum(1, keepdims=True)
        found.append(matrix[None, None].astype(np.float32))
    return Capture.from_arrays(texts(more), found, causal=causal)


def task_of(capture: Capture, entries: int = 12_000) -> HeadTask:
    design = Design(capture, capture.split(0)["fit"], entries=entries, seed=0)
    return HeadTask(design, 0, 0, seed=0, max_nodes=200, max_evals=100)
