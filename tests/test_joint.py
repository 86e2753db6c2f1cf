"""Joint plans and streams mean what the reference means: case by case, and many programs together."""

from __future__ import annotations

import cases
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import attn_dsl
from attn_dsl import testing
from attn_dsl.compiler.batch import Batch
from attn_dsl.compiler.bytecode import Op, Real
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.compiler.joint import JointPlan
from attn_dsl.compiler.joint_stream import JointStream, rows_of
from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.limits import TERM_LIMIT
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.reference import evaluate
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.replace.programs import Programs
from attn_dsl.eval.replace.tunable import Tunable

TOLERANCE = 1e-5


def reference(program: t.Head, tokens: Tokens) -> np.ndarray:
    return np.array(evaluate(program, tokens)).reshape(len(tokens), len(tokens))


def streamed(plan: JointPlan, tokens: Tokens) -> np.ndarray:
    """Compute the matrices of a plan row by row."""
    n, stream = len(tokens), JointStream(plan)
    out = np.zeros((plan.size, n, n), dtype=np.float32)
    for q, (string, (start, end), special) in enumerate(
        zip(tokens.strings, tokens.spans, tokens.special, strict=True)
    ):
        stream.read(string, tokens.text[start:end], special)
        stream.row(out, q)
    return out


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.id)
def test_every_case_of_the_table(case: cases.Case) -> None:
    program, tokens = attn_dsl.parse(case.source), Tokens.from_strings(case.tokens)
    plan = JointPlan([program.tree])
    matrix = plan.evaluate([tokens])[0, 0]
    for (q, k), weight in case.expected.items():
        assert matrix[q, k] == pytest.approx(weight, abs=TOLERANCE), (q, k)
    np.testing.assert_allclose(matrix, reference(program.tree, tokens), atol=TOLERANCE)
    if program.causal:
        np.testing.assert_allclose(streamed(plan, tokens)[0], matrix, atol=TOLERANCE)


@given(
    st.sampled_from(["causal", "bidirectional"]).flatmap(
        lambda v: st.lists(testing.programs(v), min_size=1, max_size=3)
    ),
    st.lists(testing.tokens(max_size=18), min_size=1, max_size=3),
)
def test_random_programs_together(programs: list[t.Head], texts: list[Tokens]) -> None:
    found = JointPlan(programs).evaluate(texts)
    for i, program in enumerate(programs):
        for j, tokens in enumerate(texts):
            n = len(tokens)
            expected = reference(program, tokens)
            np.testing.assert_allclose(found[i, j, :n, :n], expected, atol=TOLERANCE)
            assert not found[i, j, n:].any()
            assert not found[i, j, :, n:].any()


@given(st.lists(testing.programs("causal"), min_size=1, max_size=3), testing.tokens(max_size=18))
def test_random_programs_streamed(programs: list[t.Head], tokens: Tokens) -> None:
    plan = JointPlan(programs)
    found = streamed(plan, tokens)
    for i, program in enumerate(programs):
        np.testing.assert_allclose(found[i], reference(program, tokens), atol=TOLERANCE)


@pytest.mark.parametrize(
    "term",
    ["1 * decay(q - (q - k), 0.001)", "2 where k - (k - q) > 3", "1 where q - (q - k) in 1..2",
     "1 * log(q - (k - k))", "1 * (k - (q - q))"],
)  # fmt: skip
def test_positions_that_cancel(term: str) -> None:
    program = parse(f"head cancels causal:\n {term}\n 0.5 where text(k) == text(q)")
    tokens = Tokens.from_strings(["a", " b", " a", " c", " a", " b"])
    plan, expected = JointPlan([program]), reference(program, tokens)
    np.testing.assert_allclose(plan.evaluate([tokens])[0, 0], expected, atol=TOLERANCE)
    np.testing.assert_allclose(streamed(plan, tokens)[0], expected, atol=TOLERANCE)
    batch = Plan([program], Batch([tokens]))
    np.testing.assert_allclose(batch.packed(0)[0], expected[np.tril_indices(6)], atol=TOLERANCE)


def test_a_long_text_outgrows_the_first_capacity_and_keeps_its_contexts() -> None:
    words = ["The", " cat", " sat", ".", " It", " s", "aw", " (", "a", ")", "\n", " cat"]
    tokens = Tokens.from_strings((words * 20)[:150])
    program = parse(
        "head long causal:\n 2 where text(k-1) == text(q)\n -1 * log(1 + q - k)\n"
        " 1.5 where word(k) in Pronoun and k > nearest(sentence_final(k))\n"
        " by match(k-1, q) [1: 0.5, 2: 1, 8: 2]\n 3 where k == opener(q)"
    )
    plan, expected = JointPlan([program]), reference(program, tokens)
    np.testing.assert_allclose(plan.evaluate([tokens])[0, 0], expected, atol=TOLERANCE)
    np.testing.assert_allclose(streamed(plan, tokens)[0], expected, atol=TOLERANCE)


@pytest.mark.parametrize("weight", [0.5, 900.0])
def test_scores_of_any_size_keep_their_differences(weight: float) -> None:
    program = parse(f"head far causal:\n {weight} * (k - q)\n 1000 where k == 0\n 999 where k == 3")
    tokens = Tokens.from_strings([" a"] * 40)
    found = JointPlan([program]).evaluate([tokens])[0, 0]
    np.testing.assert_allclose(found, reference(program, tokens), atol=TOLERANCE)


def test_a_copy_goes_its_own_way() -> None:
    plan = JointPlan([parse("head copies causal:\n 5 where word(k) == word(q)\n 1 where k == 0")])
    stream = JointStream(plan)
    stream.read_all(Tokens.from_strings([" un", "do", " it"]))
    twin = stream.copy()
    stream.read(" un", " un", False)
    twin.read("em", "em", False)
    left, right = rows_of([stream], 4)[0, 0, 0], rows_of([twin], 4)[0, 0, 0]
    for row, last in ((left, " un"), (right, "em")):
        tokens = Tokens.from_strings([" un", "do", " it", last])
        program = parse("head copies causal:\n 5 where word(k) == word(q)\n 1 where k == 0")
        np.testing.assert_allclose(row, reference(program, tokens)[-1], atol=TOLERANCE)


def test_what_sees_ahead_is_not_streamed() -> None:
    for source in ("head b bidirectional:\n", "head c causal:\n 1 where text_final(k)"):
        with pytest.raises(InputError, match="causal programs"):
            JointStream(JointPlan([parse(source)]))


def test_the_table_and_the_random_programs_reach_every_operation() -> None:
    """What the machine does not know would give numbers of another operation."""
    seen: set[int] = set()
    kinds: set[int] = set()
    for case in cases.CASES:
        plan = JointPlan([attn_dsl.parse(case.source).tree])
        seen |= set(plan.code.instructions[:, 0].tolist())
        kinds |= {int(r) for p in plan.code.planes for r in (p.real, p.other_real)}
    assert seen == {int(op) for op in Op}
    assert kinds == {int(real) for real in Real}


@given(
    st.sampled_from(["causal", "bidirectional"]).flatmap(
        lambda v: st.lists(testing.programs(v), min_size=1, max_size=3)
    ),
    st.lists(testing.tokens(max_size=10), min_size=1, max_size=3),
)
def test_programs_as_parameters_give_the_same(programs: list[t.Head], texts: list[Tokens]) -> None:
    made = [Program.from_tree(p) for p in programs]
    found = Tunable(made).bundle(texts).detach().numpy()
    # A product of weights and planes is not cut off at TERM_LIMIT, and is exact to float32.
    plan = Plan([p.tree for p in made], Batch(texts))
    tables = [
        np.abs(part).max(initial=0) for i in range(len(texts)) for part in plan.typed_planes(i)
    ]
    weights = [abs(w or 0.0) for p in made for w in p.tree.weights]
    assume(max(weights, default=0) * max(tables) < TERM_LIMIT)
    largest = sum(weights) * max(tables)
    np.testing.assert_allclose(
        found, Programs(made).bundle(texts).numpy(), atol=1e-5 + 3e-7 * largest
    )
    assert [p.tree for p in Tunable(made).programs()] == [
        p.tree.with_weights([float(np.float32(w or 0.0)) for w in p.tree.weights]) for p in made
    ]
