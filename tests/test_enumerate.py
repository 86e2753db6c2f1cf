"""Enumeration: each expression once, honest promises, an order that samples steer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import check
from attn_dsl.dsl.parser import parse, parse_term
from attn_dsl.dsl.printer import show, show_term
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.synth import weights as w
from attn_dsl.synth.design import Design
from attn_dsl.synth.enumerate.bank import Bank
from attn_dsl.synth.enumerate.pcfg import Bag, prior, rules
from attn_dsl.synth.enumerate.proposer import Enumerate, guided, tried_terms
from attn_dsl.synth.promises import truth_gain
from attn_dsl.synth.proposer import HeadTask, pool
from attn_dsl.synth.search import Search
from attn_dsl.synth.session import Session, Settings

WORDS = "the cat saw a dog . Tom and Mia ran to the park , and she said hi to him !".split()
TRUE = {
    (0, 0): "head a causal:\n 4 where text(k-1) == text(q)\n 2 where k == 0",
    (0, 1): "head b causal:\n 3 where punct(k)\n -1 * log(1 + q - k)",
    (1, 0): "head c causal:\n 2.5 where k == q-1 and punct(q)\n 1.5 where word(k) in Pronoun",
    (
        1,
        1,
    ): 'head d causal:\n 3 where token(k) in {" dog", " hi", " Mia", " saw", " a"} and text(q-2) == "the"',
}


def make(visibility: str) -> Design:
    """Rows of heads that are programs."""
    rng = np.random.default_rng(3)
    tokens = [Tokens.from_strings([f" {x}" for x in rng.choice(WORDS, size=24)]) for _ in range(80)]
    programs = {
        pair: Program.from_tree(parse(source.replace("causal", visibility)))
        for pair, source in TRUE.items()
    }
    attention = [
        np.stack([np.stack([programs[layer, head](x) for head in (0, 1)]) for layer in (0, 1)])
        for x in tokens
    ]
    capture = Capture.from_arrays(tokens, attention, causal=visibility == "causal")
    return Design(capture, capture.split(0)["fit"], entries=10_000, seed=0)


@pytest.fixture(scope="module", params=["causal", "bidirectional"])
def either(request: pytest.FixtureRequest) -> Bank:
    return Bank(make(request.param), most=400)


@pytest.fixture(scope="module")
def bank() -> Bank:
    return Bank(make("causal"), most=1_200)


def task(bank: Bank, layer: int, head: int, evals: int = 200) -> HeadTask:
    return HeadTask(bank.design, layer, head, seed=0, max_nodes=200, max_evals=evals)


def test_every_term_is_one_of_the_language(either: Bank) -> None:
    empty = t.Head("x", "causal" if either.causal else "bidirectional")
    for term in either.terms:
        program = dataclasses.replace(empty, terms=(term,))
        check(program)
        assert parse(show(program)) == program
    narrowed = [t.Where(None, t.And(t.Always(), p)) for p in either.conditions]
    for condition in narrowed:
        check(dataclasses.replace(empty, terms=(condition,)))


def test_no_two_terms_say_the_same(either: Bank) -> None:
    """Planes differ by more than a constant of each row and their sign, and vary within rows."""
    planes = either.planes(either.terms)
    planes = planes - np.repeat(planes[:, either.starts[:-1]], np.diff(either.starts), axis=1)
    planes = np.rint(planes * 64).astype(np.int32)
    known = set()
    for plane in planes:
        first = plane[np.flatnonzero(plane)[0]]
        known.add((plane if first > 0 else -plane).tobytes())
    assert len(known) == len(either.terms)
    assert either.tried > len(known)


def test_of_equals_the_cheaper_stays(bank: Bank) -> None:
    shown = {show_term(term) for term in bank.terms}
    assert {"? where punct(k)", "? where k == q-1", "? where word_final(k)"} <= shown
    # Here no text has a line end, and every token is a word that the next one ends.
    for dearer in ("? where newline(k)", "? where k == q", "? where q - k >= 1"):
        assert dearer not in shown
    at = [show_term(term) for term in bank.terms].index("? where k == q-1")
    assert bank.sizes[at] == 4


def test_the_bank_is_the_same_each_time(bank: Bank) -> None:
    again = Bank(bank.design, most=1_200)
    assert again.terms == bank.terms
    assert again.conditions == bank.conditions


def test_a_promise_is_kept() -> None:
    """What is promised for a predicate is at most what the best weight brings."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        n, width = int(rng.integers(5, 60)), 12
        predicted = rng.dirichlet(np.full(width, 0.5), n)
        actual = rng.dirichlet(np.full(width, 0.3), n)
        plane = (rng.random((n, width)) < 0.3).astype(np.float64)
        plane[:, 0] = 1
        a, m = (plane * actual).sum(1), (plane * predicted).sum(1)
        best = max(
            float((a * x - np.log(1 - m + m * np.exp(x))).sum()) for x in np.linspace(-6, 6, 601)
        )
        promised = truth_gain(float(a.sum()), float(m.sum()), float(n))
        assert -1e-9 <= promised <= best + 1e-3


@pytest.mark.parametrize("head", [(0, 0), (0, 1), (1, 0)])
def test_it_finds_programs_of_enumerated_terms(bank: Bank, head: tuple[int, int]) -> None:
    job = task(bank, *head)
    found = pool(job, [Enumerate(lambda: bank)])
    best = max(found, key=lambda f: f.iou)
    assert best.iou > 0.98
    assert found[0].iou <= best.iou
    assert len(found) <= 64
    assert all(None not in f.program.weights for f in found)


def test_the_same_task_gives_the_same_programs(bank: Bank) -> None:
    first, second = (
        [show(f.program) for f in pool(task(bank, 1, 1), [Enumerate(lambda: bank, steps=20)])]
        for _ in range(2)
    )
    assert first == second


def test_it_stops_when_the_task_is_spent(bank: Bank) -> None:
    job = task(bank, 1, 1, evals=7)
    pool(job, [Enumerate(lambda: bank)])
    assert job.evals == 7


def test_samples_that_are_wrong_bring_what_is_right_in_them(bank: Bank) -> None:
    """A set that no enumeration knows, in programs that are wrong otherwise, is taken from them."""
    words = 'token(k) in {" a", " dog", " hi", " Mia", " saw"}'
    samples = (
        f"head s causal:\n ? where {words} and k < 9\n ? where k == 3",
        'head s causal:\n ? where k == 1\n ? where space(k)\n ? where text(q-2) == "the" and k == q-3',
        f"head s causal:\n ? where k == 4\n ? where {words}",
    )
    small = {}
    for planted in (False, True):
        job = task(bank, 1, 1)
        sampled = max(
            job.fit(parse(source)).iou for source in samples if planted or source == samples[1]
        )
        found = pool(job, [Enumerate(lambda: bank)])
        small[planted] = max(f.iou for f in found if f.nodes <= 35)
    assert small[True] > 0.98
    assert small[True] > max(sampled, small[False]) + 0.03, (small, sampled)


def test_samples_change_the_order(bank: Bank) -> None:
    """A rule that samples use comes before what the prior had preferred."""
    sample = parse("head s causal:\n ? where word_before(k-1) == word_before(q)\n ? where k == 2")
    orders = []
    for planted in (False, True):
        job = task(bank, 1, 1)
        if planted:
            for shift in (1, 2, 3):
                job.fit(
                    dataclasses.replace(
                        sample, terms=(*sample.terms, parse_term(f"? where k == q-{shift}"))
                    )
                )
        grammar = guided(job)
        costs = grammar.costs(Bag(bank.terms))
        orders.append([show_term(bank.terms[i]) for i in np.argsort(costs, kind="stable")])
    before, after = (
        min(i for i, s in enumerate(order) if "word_before(k-1) ==" in s) for order in orders
    )
    assert after < before / 2
    found = [
        [show(f.program) for f in pool(x, [Enumerate(lambda: bank, steps=12)])]
        for x in (task(bank, 1, 1), job)
    ]
    assert found[0] != found[1]


def test_good_programs_count_more_than_bad_ones(bank: Bank) -> None:
    job = task(bank, 0, 0)
    good = parse("head s causal:\n ? where text(k-1) == text(q)\n ? where k == 0")
    bad = parse("head s causal:\n ? where capital(k-2)\n ? where sentence(k) == sentence(q)")
    assert job.fit(good).iou > job.fit(bad).iou + 0.3
    assert [f.nodes for f in job.tried] == [t.nodes(good), t.nodes(bad)]
    grammar, before = guided(job), prior(causal=True)
    seen = {rule: grammar.counts[rule] - before.counts[rule] for rule in before.counts}
    assert seen["symbol", "text"] == 2
    assert 0 < seen["int", "sentence"] < 0.3
    assert grammar.price(("symbol", "text")) < before.price(("symbol", "text"))


def test_probabilities_of_a_slot_add_up(bank: Bank) -> None:
    grammar = guided(task(bank, 0, 0))
    for slot in {slot for slot, _ in grammar.counts}:
        total = sum(np.exp(-grammar.price(rule)) for rule in grammar.counts if rule[0] == slot)
        assert 0.5 < total <= 1.6  # unknown rules of open slots share the rest


def test_named_sets_count_as_what_they_hold() -> None:
    named = parse('set A = {"x", "y"}\nhead s causal:\n ? where text(k) in A')
    literal = parse('head s causal:\n ? where text(k) in {"x", "y"}')
    sets = {d.name: d.value for d in named.sets}
    assert list(rules(named.terms[0], sets)) == list(rules(literal.terms[0]))


def test_terms_of_samples_are_taken_apart(bank: Bank) -> None:
    job = task(bank, 0, 1)
    source = (
        'set A = {"x", "y"}\nhead s causal:\n ? where text(k) in A\n'
        " by q - k [0: ?, 1: ?, 4: ?] where punct(k)"
    )
    fitted = job.fit(parse(source))
    assert [show_term(term) for term in tried_terms([fitted])] == [
        '? where text(k) in {"x", "y"}',
        "? where q - k == 0 and punct(k)",
        "? where q - k in 1..3 and punct(k)",
        "? where q - k >= 4 and punct(k)",
    ]
    planes = bank.planes(tried_terms([fitted]))
    np.testing.assert_array_equal(planes, bank.sample(bank.design.planes(fitted.program)))


def test_it_is_a_proposer_of_the_search(bank: Bank) -> None:
    session = Session(bank.design.capture, Settings(proposers=("enumerate",), max_evals=30))
    session.prepare()
    result, candidates = Search(session).head(0, 0, lambda: {"uniform": np.zeros(4)})
    assert {c.proposer for c in candidates} == {"enumerate"}
    assert result.test["iou"].mean > 0.9


def test_the_rows_of_a_bank_are_rows_of_the_design(bank: Bank) -> None:
    job = task(bank, 0, 0)
    rows = bank.target(job.rows)
    np.testing.assert_allclose(np.add.reduceat(rows.actual, rows.starts[:-1]), 1, atol=1e-5)
    program = parse(TRUE[0, 0])
    predicted = np.empty(bank.entries, np.float32)
    w.predict(bank.planes(program.terms), np.array(program.weights), rows.starts, predicted)
    assert w.iou_of(rows.actual, predicted, len(rows)) > 0.999
