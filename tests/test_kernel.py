"""Kernels: compiled ones mean what the reference means, hold no text of programs, and are few.

That the source means it, run as Python, is checked with all other exports (``test_export.py``).
"""

from __future__ import annotations

import os
import random
import re

import numpy as np
import pytest
from exporting import EVERYTHING, TOKENS, TOLERANCE, by_numba, reference

import attn_dsl
from attn_dsl.compiler.export.numba import to_numba
from attn_dsl.compiler.export.numpy import to_numpy
from attn_dsl.compiler.kernel import Kernel, compiled
from attn_dsl.dsl.limits import LEAST_MASS
from attn_dsl.dsl.tokens import Tokens

LINEAR = """head linear causal linear:
    1 where closed(k)
    0.5 * log(q - k) where word_last(k) != k
    2 * (k - first(newline(k)))
    3 where text(word_first(k)) == text(q)
    by match(k-1, q) [1: 0.5, 2: 1, 8: 2]
    2 * weight(text(k), {"the": 1.5, ".": -2}) * decay(q - k, 0.8)"""
SOURCES = {
    "causal": EVERYTHING, "bidirectional": EVERYTHING.replace("causal", "bidirectional"),
    "linear": LINEAR, "linear both ways": LINEAR.replace("causal", "bidirectional"),
    "nothing": "head nothing causal:\n",
}  # fmt: skip


def text(n: int, seed: int = 0) -> Tokens:
    words = (*TOKENS, "\n", " un", "do", " caf", "<0xC3>", "<0xA9>", "<s>", '"', "!")
    return Tokens.from_strings(random.Random(seed).choices(words, k=n))


@pytest.mark.parametrize("name", SOURCES)
def test_compiled_kernels_agree_with_the_reference(name: str) -> None:
    program = attn_dsl.parse(SOURCES[name])
    kernel = Kernel(program)
    for n in (0, 1, 2, 3, 8, 17, 40):
        tokens = text(n, n)
        matrix = kernel(tokens)
        assert matrix.shape == (n, n)
        assert matrix.dtype == np.float32
        np.testing.assert_allclose(matrix, reference(program.tree, tokens), atol=TOLERANCE)


@pytest.mark.parametrize("normaliser", ["softmax", "linear"])
def test_masses_that_are_nearly_nothing(normaliser: str) -> None:
    """Just above the least mass they keep their proportions; below it they are nothing."""
    least = int(-np.log2(LEAST_MASS))
    for shift in (least - 6, least - 1, least + 60):
        source = f"head a causal {normaliser}:\n 1 * decay(q - k + {shift}, 0.5)"
        program, tokens = attn_dsl.parse(source), text(4)
        expected = reference(program.tree, tokens)
        np.testing.assert_allclose(by_numba(program, tokens), expected, atol=TOLERANCE)
        np.testing.assert_allclose(Kernel(program)(tokens), expected, atol=TOLERANCE)


def test_what_reads_the_query_alone_is_computed_once_a_row() -> None:
    source = to_numba(
        attn_dsl.parse(
            "head a causal:\n 2 where text(k-1) == text(q)\n 1 where count(punct(k)) > 3\n"
            " 5 where not punct(q) and k == 0"
        )
    )
    rows, pairs = re.findall(r"def add_1(.*?)\n {4}for k in range\(keys\):(.*?)scores\[k\] \+=",
                             source, re.S)[0]  # fmt: skip
    pairs = re.sub(r"#.*", "", pairs)
    assert "for k in range(q):" in rows and "not " in rows
    assert "for" not in pairs and "not " not in pairs and pairs.count("if") == 4


def test_no_text_of_a_program_leaves_its_comments() -> None:
    nasty = 'head nasty causal:\n 2 where text(k) in {"\'\'\'\\r\\nimport os", "x\\u2028y"}\n'
    source = to_numba(attn_dsl.parse(nasty))
    assert "import os" in source
    assert all("import os" not in line or line.lstrip().startswith("#") for line in source.splitlines())


def test_sources_grow_with_the_program_and_no_faster() -> None:
    steps = ", ".join(f"{i}: {i % 7}" for i in range(4900))
    table = attn_dsl.parse(f"head a causal:\n by q - k [{steps}]")
    deep = f"{'abs(' * 30}q - k{')' * 30}"
    nested = attn_dsl.parse(f"head a causal:\n 1 where {deep} in 1..3 and {deep} != 7")
    for convert in (to_numba, to_numpy):
        assert len(convert(table)) < 4 * len(steps)
        assert len(convert(nested)) < 10_000
    many = attn_dsl.parse("head a causal:\n" + " 1 where word(k-1) == word(q)\n" * 800)
    assert max(map(len, to_numba(many).split("\ndef ")[1:-1])) < 2_000
    tokens = text(12)
    for program in (table, many):
        np.testing.assert_allclose(by_numba(program, tokens), reference(program.tree, tokens), atol=TOLERANCE)


def test_holes_cannot_be_compiled() -> None:
    with pytest.raises(attn_dsl.InputError, match="1 weights to be fitted"):
        Kernel(attn_dsl.parse("head a causal:\n ? where k == q"))


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="nothing is compiled")
def test_memory_holds_the_most_recent_kernels_alone() -> None:
    source = "def kernel(n, first, start, width, settled, known, opened, tables, out):\n    out[0] = 7\n"
    before = compiled.cache_info()
    assert compiled(source) is compiled(source)
    after = compiled.cache_info()
    assert (after.misses, after.hits) == (before.misses + 1, before.hits + 1)
    assert after.maxsize == 64
    same = [Kernel(attn_dsl.parse(SOURCES["nothing"])).function for _ in range(2)]
    assert same[0] is same[1]
