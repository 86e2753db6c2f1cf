"""Open programs: a plane for each token of a set says the same, and what pays least goes first."""

from __future__ import annotations

import numpy as np
import pytest
from search_tasks import task
from test_weighed import KEYS, QUERIES, design

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.synth.design import Design
from attn_dsl.synth.open_planes import stacked
from attn_dsl.synth.open_sets import opened
from attn_dsl.synth.thrift import shrunk, units_of

TERMS = (
    '1.2 where token(k) in {" cat", " dog"}',
    '1.2 where k == q-1 and token(q) in {" cat", " dog"} and alpha(k)',
    f"0.7 * weight(token(k), {KEYS})",
    f"-0.7 * weight(token(k-1), {KEYS}) where q - k in 1..8",
    f"0.5 * weight(token(q), {QUERIES}) * weight(token(k), {KEYS}) where k < q",
    f"0.5 * log(1 + q - k) * weight(token(q), {QUERIES})",
    f"2 * weight(token(q), {QUERIES}) where k == q",
    f"0.7 * weight(token(k+2), {KEYS})",
    f"0.5 * weight(token(q-1), {QUERIES}) * weight(token(k+1), {KEYS})",
    f"2 * weight(token(q-1), {QUERIES}) where k == q-1",
)


@pytest.mark.parametrize("term", TERMS)
def test_an_open_program_says_the_same(term: str) -> None:
    job = task(design("2 where k == 0"))
    program = parse(f"head a causal:\n -0.2 * (q - k)\n by q - k [0: 1.5, 3: 0.2]\n {term}")
    whole = job.measured(program)
    found, weights = opened(program)
    assert len(found.terms) == 1 and [len(x.elements) for x in found.sets[:1]] == [2]
    assert len(found.sets) == 2 and len(weights) == 3 + len(found.sets[1].elements)
    wide = job.measured(found.wide.with_weights(list(weights)))
    np.testing.assert_allclose(wide.predicted, whole.predicted, atol=1e-6)
    planes = job.design.compute(found.wide)
    np.testing.assert_allclose(
        stacked(job.design, found).scores(weights), weights.astype(np.float32) @ planes, atol=1e-5
    )
    closed = found.closed(weights)
    assert t.nodes(closed) == whole.nodes - ("and alpha" in term)  # of `and`, one goes
    np.testing.assert_allclose(job.measured(closed).predicted, whole.predicted, atol=2e-3)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("position", ["k-2", "k", "k+1", "q-1", "q+2"])
def test_a_token_beside_the_query_or_the_key_is_looked_up_where_it_is_seen(
    position: str, causal: bool
) -> None:
    rng = np.random.default_rng(5)
    texts = [Tokens.from_strings(rng.choice(list("abc"), size=n)) for n in (1, 2, 7, 12, 9, 9)]
    matrices = [np.tril(np.ones((n, n))) if causal else np.ones((n, n)) for n in map(len, texts)]
    arrays = [(m / m.sum(1, keepdims=True))[None, None] for m in matrices]
    capture = Capture.from_arrays(texts, arrays, causal=causal)
    rows = Design(capture, range(len(texts)), entries=10_000, seed=0)
    sees = "causal" if causal else "bidirectional"
    program = parse(f'head x {sees}:\n 1 * weight(token({position}), {{"a": 1, "c": 2}})')
    found, _ = opened(program)
    planes = stacked(rows, found)
    for i, plane in enumerate(rows.compute(found.wide)):
        assert plane.any() != (causal and position == "q+2") and not plane.all()
        np.testing.assert_array_equal(planes.scores(np.eye(2)[i]), plane)


def test_named_sets_are_opened_and_plain_ones_left_when_asked() -> None:
    program = parse(
        'set A = {"a", "b"}\nset B = {"c": 2, "d": 1}\n'
        "head a causal:\n 2 where token(k) in A\n 1.5 * weight(token(k), B)\n 1 where punct(k)"
    )
    both, weights = opened(program)
    assert [x.elements for x in both.sets] == [("a", "b"), ("c", "d")]
    assert weights.tolist() == [1, 2, 2, 3, 1.5]
    one, weights = opened(program, plain=False)
    assert [x.elements for x in one.sets] == [("c", "d")] and len(one.terms) == 2
    assert weights.tolist() == [2, 1, 3, 1.5]


def test_elements_of_no_weight_are_left_out() -> None:
    found, _ = opened(parse('head a causal:\n 1 * weight(token(k), {"a": 2, "b": 1})'))
    closed = found.closed(np.array([0.004, -1.5]))
    assert closed == parse('head a causal:\n 1 * weight(token(k), {"b": -1.5})')
    assert not found.closed(np.zeros(2)).terms


def test_a_part_of_an_open_program() -> None:
    program = parse(
        "head a causal:\n by q - k [0: 1, 3: 2]\n 1 where alpha(k)\n"
        ' 1 * weight(token(k), {"a": 2, "b": 1})\n 1 * weight(token(q), {"c": 2})'
    )
    found, weights = opened(program)
    kept = found.kept(np.array([False, True, False, False, True, False]))
    assert weights.tolist() == [1, 1, 2, 2, 1, 2]
    assert not kept.terms and [x.elements for x in kept.sets] == [(0,), ("b",)]
    units = units_of(found)
    assert sum(u.nodes for u in units if u.whole) + 1 == t.nodes(program)
    assert sorted(i for u in units if u.whole for i in u.block) == list(range(6))


def test_the_other_sets_of_products_are_opened() -> None:
    job = task(design("2 where k == 0"))
    program = parse(f"head a causal:\n 1 where k == 0\n {TERMS[4]}\n {TERMS[2]}")
    found, weights = opened(program)
    turned, others = found.turned(weights)
    assert [x.value.args[0].variable for x in found.sets] == ["k", "k"]
    assert [x.value.args[0].variable for x in turned.sets] == ["q", "k"]
    again, _ = turned.turned(others)
    assert again == found
    expected = job.measured(program).predicted
    closed = job.measured(turned.closed(others))
    assert closed.nodes == t.nodes(program)
    np.testing.assert_allclose(closed.predicted, expected, atol=5e-3)


def test_what_pays_least_goes_first() -> None:
    job = task(design("2 where k == 0", f"1 * weight(token(k), {KEYS})"))
    useless = ' 1 * weight(token(k), {" cat": 1, " dog": 1, " ran": 1, " said": 1, " the": 0.1})'
    whole = parse(f"head a causal:\n 2 where k == 0\n 1 where k == q-7\n{useless}")
    program, start = opened(whole)
    (all_, some, few) = shrunk(job, program, start, [8, 14, 99], "somebody")
    for one in (all_, some, few):
        again = job.measured(one.program)
        np.testing.assert_allclose(one.predicted, again.predicted, atol=1e-5)
        assert one.iou == pytest.approx(again.iou, abs=1e-6) and one.proposer == "somebody"
    assert all_.nodes >= t.nodes(whole) - 1  # the weight of " the" may become 0
    assert (
        some.nodes <= 14 and some.iou > all_.iou - 0.01
    )  # neither the offset nor " the" is missed
    assert few.nodes <= 8 and few.iou < some.iou - 0.01
