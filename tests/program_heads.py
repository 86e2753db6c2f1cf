"""Heads that are programs, for tests of their recovery."""

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


@lru_cache(maxsize=1)
def texts() -> tuple[Tokens, ...]:
    rng = np.random.default_rng(5)
    strings = [" " + word for word in WORDS]
    return tuple(Tokens.from_strings(rng.choice(strings, size=28).tolist()) for _ in range(60))


def capture_of(source: str) -> Capture:
    """Make a capture of one head that is a program."""
    program = Program.from_tree(parse(source))
    found = [np.asarray(program(text), dtype=np.float32)[None, None] for text in texts()]
    return Capture.from_arrays(texts(), found, causal=program.causal)


def task_of(capture: Capture, entries: int = 12_000, deadline: float | None = None) -> HeadTask:
    design = Design(capture, capture.split(0)["fit"], entries=entries, seed=0)
    return HeadTask(design, 0, 0, seed=0, max_nodes=200, max_evals=100, deadline=deadline)
