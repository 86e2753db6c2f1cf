"""Kernels: compiled ones mean what the reference means, hold no text of programs, and are few.

That the source means it, run as Python, is checked with all other exports (``test_export.py``).
"""

from __future__ import annotations

import os
import re
import time

import numpy as np
import pytest
from exporting import TOLERANCE, by_numba, reference

import attn_dsl
from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.export.numba import to_numba
from attn_dsl.compiler.export.numpy import to_numpy
from attn_dsl.compiler.kernel import Kernel, compiled
from attn_dsl.compiler.lower import lower
from attn_dsl.compiler.operations import OPERATIONS
from attn_dsl.dsl.limits import LEAST_MASS
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.tokens import Tokens

WORDS = (
    *("The", " cat", " un", "do", ".", " It", " s", "aw", " (", "a", ")", "\n", ' "', '"', "!"),
    *(" caf", "<0xC3>", "<0xA9>", "<s>", " don't", "”", "“", "[", "]", " 42", "\n\n", " e.g", " A"),
)
# Between them they use every operation, in and out of quantifiers and conditions.
COMPILED = {
    "masses": """head masses causal:
        2 where text(k-1) == text(q)
        -1 * log(1 + q - k)
        1.5 where word(k) in Pronoun and k > nearest(sentence_final(k))
        by match(k-1, q) [1: 0.5, 2: 1, 8: 2]
        3 where k == opener(q)
        1.2 * inv(length(k)) where text(k+1) != text(q)
        0.3 * decay(q - k, 0.9) where not punct(q)
        1.5 * weight(text(k), {"the": 1.2, ".": -0.5}) where word(q) != word(k)
        0.5 * weight(token(q), Pronoun) * weight(word(q), {"she": 2, "it": -1.25})""",
    "exponentials": """set Graded = {"the": 1.3, "she": -2, "it": 0.75, ".": 3.01}
    head exponentials causal:
        0.5 * match(k-1, q)
        by length(k) [1: 1, 2: 2, 3: 3, 4: 2, 5: 1, 6: 0.5, 7: 0.25] where q - k in 1..9
        2 * sqrt(abs(q - k - 3)) where k <= previous(q) or word_final(k)
        -1 * min(k, 5) where not any(capital(k) and k > q - 4)
        1 where k == last(word(k) == word(q)) + 1
        0.8 * weight(word(q), Graded) * weight(word(k), Graded)
        -0.7 * log(1 + q - k) * weight(text(k), Graded) where k > 0
        0.4 * weight(word(k), Pronoun) * inv(q - k)
        1 * weight(text(previous(q)), Graded) * weight(word(k-1), {"": 0.5, "it": -3})""",
    "masses both ways": """head masses_both_ways bidirectional:
        2 where text(k+1) == text(q-1)
        1 where k == nearest(text(k) == text(q))
        0.7 where ends(word(k), "o") and from_end(q) > 2
        1.1 where k == first(punct(k)) or k == last(opens(k))
        -0.2 * inv(abs(q - k)) where count(text(k) == text(q)) >= max(1, piece(q))""",
    "linear": """head linear causal linear:
        1 where closed(k)
        0.5 * log(q - k) where word_last(k) != k
        2 * (k - first(newline(k)))
        0.1 * count(text(k) == text(q)) where k < word_first(q)
        3 where text(word_first(k)) == text(q)
        2 * weight(text(k), {"the": 1.5, ".": -2}) * decay(q - k, 0.8)""",
    "linear both ways": """head linear_both_ways bidirectional linear:
        1 where sentence(k) == sentence(q) and q != k
        by q - k [-3: 1, 0: 0, 2: 0.5]
        0.5 * decay(abs(q - k), 0.5)""",
    "nothing": "head nothing causal:\n",
}


def text(n: int, seed: int = 0) -> Tokens:
    chosen = np.random.default_rng(seed).integers(0, len(WORDS), n)
    return Tokens.from_strings([WORDS[i] for i in chosen])


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_kernels_agree_with_the_reference(name: str) -> None:
    program = attn_dsl.parse(COMPILED[name])
    kernel = Kernel(program)
    for n in (0, 1, 2, 3, 8, 17, 40):
        matrix = kernel(text(n, n))
        assert matrix.shape == (n, n)
        assert matrix.dtype == np.float32
        np.testing.assert_allclose(matrix, reference(program.tree, text(n, n)), atol=TOLERANCE)
    batch = Batch([text(5), text(60), text(9)])
    for number, tokens in enumerate(batch.texts):
        n, matrix = len(tokens), kernel(tokens)
        seen = np.tri(n, dtype=bool) if program.causal else np.ones((n, n), dtype=bool)
        np.testing.assert_array_equal(kernel.packed(batch, number), matrix[seen])


def test_the_compiled_kernels_use_every_operation() -> None:
    """A broken operation fails the compiled kernels only if they use it."""
    graphs = [lower([parse(source)]) for source in COMPILED.values()]
    used = {node.operation.name for graph in graphs for node in graph.nodes}
    assert used == set(OPERATIONS)


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
    rows, pairs = re.findall(r"keys = q \+ 1\n(.*?)\n {8}for k in range\(keys\):(.*?)scores\[k\] =",
                             source, re.S)[0]  # fmt: skip
    pairs = re.sub(r"#.*", "", pairs)
    assert "for k in range(q):" in rows and "not " in rows
    assert "for" not in pairs and "not " not in pairs and pairs.count("if") == 4


def test_no_text_of_a_program_leaves_its_comments() -> None:
    nasty = 'head nasty causal:\n 2 where text(k) in {"\'\'\'\\r\\nimport os", "x\\u2028y"}\n'
    source = to_numba(attn_dsl.parse(nasty))
    assert "import os" in source
    assert all(
        "import os" not in line or line.lstrip().startswith("#") for line in source.splitlines()
    )


def test_sources_grow_with_the_program_and_no_faster() -> None:
    steps = ", ".join(f"{i}: {i % 7}" for i in range(4900))
    table = attn_dsl.parse(f"head a causal:\n by q - k [{steps}]")
    deep = f"{'abs(' * 30}q - k{')' * 30}"
    nested = attn_dsl.parse(f"head a causal:\n 1 where {deep} in 1..3 and {deep} != 7")
    for convert in (to_numba, to_numpy):
        begun = time.perf_counter()
        assert len(convert(table)) < 4 * len(steps)
        assert len(convert(nested)) < 10_000
        assert time.perf_counter() - begun < 2
    tokens = text(12)
    np.testing.assert_allclose(
        by_numba(table, tokens), reference(table.tree, tokens), atol=TOLERANCE
    )


def test_holes_cannot_be_compiled() -> None:
    with pytest.raises(attn_dsl.InputError, match="1 weights to be fitted"):
        Kernel(attn_dsl.parse("head a causal:\n ? where k == q"))


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="nothing is compiled")
def test_memory_holds_the_most_recent_kernels_alone() -> None:
    source = "def kernel(n, first, start, width, settled, known, opened, out):\n    out[0] = 7\n"
    before = compiled.cache_info()
    assert compiled(source) is compiled(source)
    after = compiled.cache_info()
    assert (after.misses, after.hits) == (before.misses + 1, before.hits + 1)
    assert after.maxsize == 64
    same = [Kernel(attn_dsl.parse(COMPILED["nothing"])).function for _ in range(2)]
    assert same[0] is same[1]
