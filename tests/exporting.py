"""Exports in tests: how each is run, what it is compared with, and programs that use everything."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from attn_dsl import testing
from attn_dsl.compiler.columns import SLACK, Batch, stack
from attn_dsl.compiler.export.flex import to_flex
from attn_dsl.compiler.export.latex import to_latex
from attn_dsl.compiler.export.numba import KernelWriter, to_numba
from attn_dsl.compiler.export.numpy import to_numpy
from attn_dsl.compiler.export.source import execute
from attn_dsl.compiler.export.torch import to_torch
from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.reference import Interpreter, evaluate
from attn_dsl.dsl.tokens import Tokens

TOLERANCE = 1e-5
TINY = (5e-324, 1e-310, 2.3e-308, 9e-301, 1e-300, 1.1e-300, 3e-299, 1e-200)
"""Weights around the least mass that counts."""
SINGLE = 4 * float(np.finfo(np.float32).eps)
TARGETS = {
    "numpy": to_numpy, "torch": to_torch, "flex": to_flex, "numba": to_numba, "latex": to_latex,
}  # fmt: skip
TOKENS = ("The", " cat", " sat", ".", " She", " saw", " the", " cat", "nap", " (", "x", ")")
EVERYTHING = """\
# All kinds of expressions.
set Stop = {".", "!"}
set Graded = {" cat": 1.25, ".": -0.7, "she": 2}

head everything causal softmax:
    6.1 where text(k-1) == text(q)
    1.3 where text(k) in Stop and not punct(q) or starts(text(k), "s")
    -0.8 * log(1 + q - k)
    by q - k [0: 2.1, 1: 1.3, 4: -0.2] where k > nearest(word(k) == "the")
    0.5 * (q - k) where word(k) in Pronoun
    2 * decay(abs(q - k), 0.5) where match(k-1, q) >= 1
    0.3 * min(count(text(k) == text(q)), 2) where k == last(word(k) == "cat")
    0.9 * weight(token(q), Graded) * weight(word(k-1), {"": 0.5, "the": -2})
    0.4 * weight(word(k), Graded) * log(1 + q - k) where text(k) not in Graded
    0.6 * weight(word(k), Pronoun) * (q - k)
"""
LONG = """head long causal:
    2 where text(k-1) == text(q)
    -1 * log(1 + q - k)
    1.5 where word(k) in Pronoun and k > nearest(sentence_final(k))
    by match(k-1, q) [1: 0.5, 2: 1, 8: 2]
    3 where k == opener(q)
    1 where opens(k) and not closed(k)
"""
CORNERS = [
    "2 where word(k) == word(q)", '2 where word(k-1) == ""', '2 where word(k+1) == ""',
    "2 where k == word_last(k-1)", "2 where word_last(k+1) == 0 - 1", "1 * word_last(0)",
    "1 * sqrt(q - k)", "3 * inv(q - k)", "2 * decay(k - 1, 0.5)", "1 * max(q - k, 2)",
    "1 * min(q - k, 2)", "1000 * (k + 8)", "-1000 * (k + 10)", "1000 * k where k < 2",
    "2 where (k+1) % 4 % 3 == (q - k) % 2", "3 * (q % 2) * (k % 3)", "2 where number(k+1) < number(q)",
    "2 where prefix(word(k), 2) == suffix(word(q-1), 2)", "2 where stem(word(k)) == stem(text(previous(q)))",
    '2 * weight(stem(word(k)), {"cat": 1, "sat": -1}) where contains(suffix(word(q), 2), "a")',
    '1 * weight(text(k+1), {"": 2, "sat": -1})', '2 * weight(text(0), {"The": 0.75}) * k',
    '1 * weight(text(0 - 1), {"": 1.5}) * k', "1000 * k * (k + 8)", "1 * 2 * k",
    '100 * weight(word(k), {"sat": 100, "cat": -99.99}) * weight(word(q), {"sat": 2, "x": -2})',
    '1 * weight(word(k), {"cat"}) * weight(word(q), {"she", "the"})',
    # Positions that cancel out, so that what names a key reads none; and the same at two places.
    "2 where k - k == 0 and q > 1", "2 * log(k + q - q)", "2 where text(k - k) == text(k)",
    "2 where count(k - k == 0) > 2 and any(q - q == 0)", "by k - k [0: 2] where k == 1",
    "1 * decay(q - (q - k), 0.001)", "2 where k - (k - q) > 3", "1 where q - (q - k) in 1..2",
    "1000 * 100 where k == 1", "2 where text(word_first(word_first(k))) == text(word_first(q))",
]  # fmt: skip


@st.composite
def any_programs(draw: st.DrawFn) -> t.Head:
    """Draw a program; a linear one may have tiny weights."""
    program = draw(testing.programs())
    if program.normaliser == "linear" and program.weights and draw(st.booleans()):
        return program.with_weights([draw(st.sampled_from(TINY)) for _ in program.weights])
    return program


def reference(program: t.Head, tokens: Tokens) -> np.ndarray:
    return np.array(evaluate(program, tokens)).reshape(len(tokens), len(tokens))


def by_numpy(program: Program, tokens: Tokens) -> np.ndarray:
    return execute(to_numpy(program), program.name)["attention"](tokens)


def torch_module(program: Program, dtype: torch.dtype = torch.float32) -> Any:
    return execute(to_torch(program), program.name)["Attention"](dtype)


def flex_functions(program: Program, texts: Sequence[Tokens]) -> tuple[Any, Any, Any]:
    """Return score_mod, mask_mod and the tensors that they read."""
    exported = execute(to_flex(program), program.name)
    buffers = exported["buffers"](texts)
    return (*exported["functions"](buffers), buffers)


def by_torch(program: Program, tokens: Tokens, dtype: torch.dtype = torch.float64) -> np.ndarray:
    module = torch_module(program, dtype)
    return module(module.columns(tokens)).detach().numpy()


def by_numba(program: Program, tokens: Tokens) -> np.ndarray:
    """Run the source of a kernel without compiling it, in a row of texts that are not asked for."""
    made, n, before = KernelWriter(program), len(tokens), Tokens.from_strings(["not", " asked"])
    batch = Batch([before, tokens, before])
    arrays = [part[:, :-SLACK] for part in stack(list(made.arrays), batch, program.causal)[:3]]
    arrays, out = [*arrays, batch.tables(made.seen, 1)], np.zeros((n, n), "f4")
    execute(made.source(), program.name)["kernel"](n, 0, len(before), n, *arrays, out.reshape(-1))
    return out


def by_flex(program: Program, texts: list[Tokens]) -> list[np.ndarray]:
    """Evaluate score_mod and mask_mod on all pairs at once, as FlexAttention does one by one."""
    score_mod, mask_mod, _ = flex_functions(program, texts)
    n = max(map(len, texts))
    b = torch.arange(len(texts))[:, None, None]
    q, k = torch.arange(n)[:, None], torch.arange(n)[None, :]
    ignored = torch.rand((len(texts), n, n), dtype=torch.float64)
    seen = mask_mod(b, 0, q, k).expand(len(texts), n, n)
    score = score_mod(ignored, b, 0, q, k)
    assert score.dtype == torch.float64
    matrix = torch.softmax(torch.where(seen, score, -torch.inf), -1).numpy()
    return [m[: len(x), : len(x)] for m, x in zip(matrix, texts, strict=True)]


def largest_sum(program: t.Head, tokens: Tokens) -> float:
    """Return the largest sum of the magnitudes of what terms add, which rounding scales with."""
    interpreter, n = Interpreter(program, Analysis(tokens)), len(tokens)
    return max(
        (sum(map(abs, interpreter.terms(q, k)))
         for q, k in itertools.product(range(n), range(n)) if k <= q or not program.causal),
        default=0.0,
    )  # fmt: skip


def assert_agreement(program: Program, tokens: Tokens, expected: np.ndarray | None = None) -> None:
    """Compare every export of a program with the reference."""
    expected = reference(program.tree, tokens) if expected is None else expected
    matrices = [f(program, tokens) for f in (by_numpy, by_torch, by_numba)]
    if program.tree.normaliser == "softmax" and len(tokens):
        matrices += by_flex(program, [tokens])
    for matrix in matrices:
        assert matrix.shape == expected.shape
        np.testing.assert_allclose(matrix, expected, atol=TOLERANCE)


def assert_balanced(latex: str) -> None:
    """Check braces and environments of a display, and that nothing in it needs an escape."""
    body = "\n".join(line for line in latex.splitlines() if not line.startswith("%"))
    assert body.isascii() and not re.findall(r"(?<!\\)[%#$~]", body)
    opened: list[str] = []
    for found in re.finditer(r"\\[{}\\]|\\(?:begin|end)\{\w+\}|\\[\[\]]|[{}]", body):
        match found.group():
            case "{" | "\\[":
                opened.append(found.group())
            case "}":
                assert opened.pop() == "{"
            case "\\]":
                assert opened.pop() == "\\["
            case mark if mark.startswith("\\begin"):
                opened.append(mark[len("\\begin") :])
            case mark if mark.startswith("\\end"):
                assert opened.pop() == mark[len("\\end") :]
    assert not opened
