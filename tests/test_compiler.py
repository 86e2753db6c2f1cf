"""The compiled evaluator means what the reference means, on every case and on random programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cases
import numpy as np
import pytest
from exporting import LONG, TOLERANCE, any_programs, reference
from hypothesis import given

import attn_dsl
from attn_dsl import testing
from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan, unpack
from attn_dsl.compiler.lower import lower
from attn_dsl.compiler.operations import CODES, REALS
from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.tokens import Tokens


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.id)
def test_every_case_of_the_table(case: cases.Case) -> None:
    program = attn_dsl.parse(case.source)
    matrix = program(list(case.tokens))
    assert matrix.dtype == np.float32
    assert matrix.shape == (len(case.tokens),) * 2
    for (q, k), weight in case.expected.items():
        assert matrix[q, k] == pytest.approx(weight, abs=TOLERANCE), (q, k)
    tokens = Tokens.from_strings(case.tokens)
    np.testing.assert_allclose(matrix, reference(program.tree, tokens), atol=TOLERANCE)


@given(any_programs(), testing.tokens(max_size=20, gaps=True))
def test_random_programs_agree_with_the_reference(program: t.Head, tokens: Tokens) -> None:
    matrix = Program.from_tree(program)(tokens)
    np.testing.assert_allclose(matrix, reference(program, tokens), atol=TOLERANCE)


@given(testing.programs(visibility="causal", lookahead=True), testing.tokens(max_size=12))
def test_lookahead_agrees_with_the_reference(program: t.Head, tokens: Tokens) -> None:
    matrix = Program.from_tree(program, allow_lookahead=True)(tokens)
    np.testing.assert_allclose(matrix, reference(program, tokens), atol=TOLERANCE)


@given(testing.programs(visibility="causal"), testing.tokens(max_size=14))
def test_compiled_causal_programs_never_see_ahead(program: t.Head, tokens: Tokens) -> None:
    testing.assert_causal(Program.from_tree(program), tokens)


def test_long_texts_agree_with_the_reference() -> None:
    words = ["The", " cat", " sat", ".", " It", " s", "aw", " (", "a", ")", "\n", " cat"]
    tokens, program = Tokens.from_strings((words * 60)[:600]), attn_dsl.parse(LONG)
    short = tokens.prefix(150)
    expected = reference(program.tree, short)
    np.testing.assert_allclose(program(short), expected, atol=TOLERANCE)
    # Rows of a causal program do not depend on what follows, so the long matrix begins alike.
    matrix = program(tokens)
    np.testing.assert_allclose(matrix[:150, :150], expected, atol=TOLERANCE)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-4)


@given(testing.programs("causal"), testing.programs("causal"), testing.tokens(max_size=10))
def test_programs_in_one_plan_do_not_disturb_each_other(
    first: t.Head, second: t.Head, tokens: Tokens
) -> None:
    batch = Batch([tokens, Tokens.from_strings(["x", " y", " x"])])
    together = Plan([first, second, first], batch)
    for text in range(2):
        packed = together.packed(text)
        np.testing.assert_array_equal(packed[0], packed[2])
        np.testing.assert_array_equal(packed[:1], Plan([first], batch).packed(text))
        np.testing.assert_array_equal(packed[1:2], Plan([second], batch).packed(text))


def test_equal_subexpressions_are_one_instruction() -> None:
    one = parse("head a causal:\n 1 where text(k-1) == text(q)")
    two = parse("head b causal:\n 3 where text(q) == text(k-1) and punct(k)")
    alone = len(lower([one]).nodes)
    assert len(lower([one, two]).nodes) == alone + 2


def test_planes_are_what_the_weights_multiply() -> None:
    tokens = Tokens.from_strings(["a", " b", " a", ".", " a"])
    batch = Batch([tokens, Tokens.from_strings(["z", " a"])])
    program = parse(
        "head p causal:\n ? where text(k) == text(q)\n ? * log(1 + q - k) where not punct(k)\n"
        " by q - k [0: ?, 2: ?]"
    )
    plan = Plan([program], batch)
    rows = [np.array([1, 4]), np.array([0])]
    planes = plan.planes(rows)[list(plan.code.programs[0])]
    assert planes.shape == (4, 2 + 5 + 1)
    np.testing.assert_array_equal(planes[0], [0, 1, 1, 0, 1, 0, 1, 1])
    log = [np.log(2), 0, np.log(5), np.log(4), np.log(3), 0, 0, 0]
    np.testing.assert_allclose(planes[1], log, rtol=1e-6)
    np.testing.assert_array_equal(planes[2], [1, 1, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(planes[3], [0, 0, 1, 1, 1, 0, 0, 0])


def test_products_are_one_plane_whatever_their_order() -> None:
    batch = Batch([Tokens.from_strings(["a", " b"])])
    one = parse('head a causal:\n 1 * weight(text(q), {"a": 2}) * log(1 + q - k)')
    two = parse('head b causal:\n ? * log(1 + q - k) * weight(text(q), {"a": 2})')
    plan = Plan([one, two], batch)
    assert len(plan.code.planes) == 1
    np.testing.assert_allclose(plan.planes([np.array([1])]), [[0, 0]])
    np.testing.assert_allclose(plan.planes([np.array([0])]), [[0]])


def test_the_weight_in_a_plain_set_is_a_predicate() -> None:
    """So it costs a byte for each pair, and no exponential."""
    batch = Batch([Tokens.from_strings(["a", " she", " b"])])
    weighed = parse(
        "head a causal:\n 1 * weight(word(k), Pronoun)\n"
        " 1 * weight(word(k), Pronoun) * weight(word(q), SayVerb) where k != q"
    )
    tested = parse(
        "head b causal:\n 2 where word(k) in Pronoun\n"
        " 2 where k != q and word(k) in Pronoun and word(q) in SayVerb"
    )
    code = Plan([weighed, tested], batch).code
    assert all(plane.truth for plane in code.planes)
    assert code.programs[0][0] == code.programs[1][0]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_unpacking(n: int, causal: bool) -> None:
    entries = n * (n + 1) // 2 if causal else n * n
    packed = np.arange(2 * entries, dtype=np.float32).reshape(2, entries)
    square = unpack(packed, n, causal)
    assert square.shape == (2, n, n)
    seen = np.tri(n, dtype=bool) if causal else np.ones((n, n), dtype=bool)
    np.testing.assert_array_equal(square[:, seen], packed)
    assert not square[:, ~seen].any()


def test_holes_cannot_be_evaluated() -> None:
    program = attn_dsl.parse("head a causal:\n ? where k == q")
    with pytest.raises(attn_dsl.InputError, match="1 weights to be fitted"):
        program(["a"])


def test_constants_are_folded_and_connectives_with_them() -> None:
    source = "head a causal:\n 1 where 2 + 3 - 1 == 4 and k == 0 or not true\n 1 where not not k == 0"
    graph = lower([parse(source)])
    terms = graph.programs[0]
    assert terms[0].condition == terms[1].condition
    assert graph.nodes[terms[0].condition].operation.name == "equal"


def test_the_case_table_uses_every_operation() -> None:
    used: set[str] = set()
    reals: set[str] = set()
    for case in cases.CASES:
        plan = Plan([parse(case.source)], Batch([Tokens.from_strings(case.tokens)]))
        used |= {node.operation.name for node in plan.code.graph.nodes}
        reals |= {f.function for p in plan.code.planes for f in (p.factor, p.other)}
    assert used == set(CODES)
    assert reals == set(REALS)


LANE = """
import sys
sys.path.insert(0, sys.argv[1])
import cases, attn_dsl
for case in cases.CASES[:: int(sys.argv[2])]:
    matrix = attn_dsl.parse(case.source)(list(case.tokens))
    for at, weight in case.expected.items():
        assert abs(matrix[at] - weight) < 1e-5, (case.name, at)
print("agreed")
"""


@pytest.mark.parametrize(("variable", "step"), [("NUMBA_DISABLE_JIT", 3), ("NUMBA_BOUNDSCHECK", 1)])
def test_cases_hold_without_compilation_and_with_bounds_checked(
    variable: str, step: int, tmp_path: Path
) -> None:
    environment = os.environ | {variable: "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", LANE, str(Path(__file__).parent), str(step)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "agreed\n", done.stderr[-2000:]
