"""The checker: what is refused and why, all at once; size, cost and looking ahead."""

from __future__ import annotations

import importlib.util
import math

import pytest
from hypothesis import given

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import Facts, check
from attn_dsl.dsl.cost import cost
from attn_dsl.dsl.errors import (
    CausalityError,
    CostError,
    ProgramError,
    ProgramErrors,
    ProgramTypeError,
    Span,
)
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.dsl.limits import MAX_NODES
from attn_dsl.dsl.parser import parse
from attn_dsl.testing import programs

FULL = [f.name for f in FEATURES.values() if f.reads == "full" and not f.extra]


def errors_of(source: str, **options: object) -> list[ProgramError]:
    """All errors of a program, as the checker reports them."""
    try:
        check(parse(source), source=source, name="p.attn", **options)  # type: ignore[arg-type]
    except ProgramErrors as errors:
        return list(errors.errors)
    except ProgramError as error:
        return [error]
    return []


def head(*terms: str, kind: str = "causal") -> str:
    return f"head a {kind}:\n" + "".join(f"    {term}\n" for term in terms)


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        (head("2 where word(k) in Pronuon"), ProgramTypeError, "did you mean `Pronoun`"),
        (
            head("2 where word(k) in Qqqqqq"),
            ProgramTypeError,
            "define it above the head: set Qqqqqq",
        ),
        ('set A = {"x"}\nset A = {"y"}\n' + head(), ProgramTypeError, "`A` is defined twice"),
        (head("1000.5 where k == 0"), ProgramTypeError, "weights lie between -1000 and 1000"),
        (head("-1001 * q"), ProgramTypeError, "the weight -1001 is out of range"),
        (head("by k [0: 1, 2: 9999]"), ProgramTypeError, "the weight 9999 is out of range"),
        (head("1" + "0" * 390 + " where k == 0"), ProgramTypeError, "out of range"),
        (head("-1 where k == 0", kind="causal linear"), ProgramTypeError, "-1 is negative"),
        (head("by k [0: 1, 1: -0.5]", kind="causal linear"), ProgramTypeError, "-0.5 is negative"),
        (head("by k [1: 1, 0: 2]"), ProgramTypeError, "write them as 0, 1"),
        (head("by k [1: 1, 1: 2]"), ProgramTypeError, "the steps of a table must rise"),
        (head("by k [100001: 1]"), ProgramTypeError, "the number 100001 is out of range"),
        (head("2 where k == 100001"), ProgramTypeError, "between -100000 and 100000"),
        (head("2 where punct(k-100001)"), ProgramTypeError, "the number -100001 is out of range"),
        (head("2 where k in 0..100001"), ProgramTypeError, "the number 100001 is out of range"),
        (head("2 where k in -100001..0"), ProgramTypeError, "the number -100001 is out of range"),
        (head("2 where k % 0 == 1"), ProgramTypeError, "the modulus 0 is out of range"),
        (head("2 where k % 0 == 1"), ProgramTypeError, "divide by a whole number from 1 to 100000"),
        (head("2 where k % 100001 == 1"), ProgramTypeError, "the modulus 100001 is out of range"),
        (head('2 where prefix(word(k), 0) == "a"'), ProgramTypeError, "a prefix of 0 characters"),
        (
            head('2 where suffix(word(k), 65) == "a"'),
            ProgramTypeError,
            "write a length from 1 to 64",
        ),
        (head("2 where k == n - 1 - q"), CausalityError, "`n` reads the whole text"),
        (head("2 where k in 4..1"), ProgramTypeError, "write 1..4"),
        (head("2 * decay(q - k, 0.0)"), ProgramTypeError, "the rate 0 is not between 0 and 1"),
        (
            head("2 * decay(q - k, 0." + "9" * 30 + ")"),
            ProgramTypeError,
            "the rate 1 is not between",
        ),
        ('set A = {"a": 1.234}\n' + head(), ProgramTypeError, "more than two digits"),
        ('set A = {"a": 1.234}\n' + head(), ProgramTypeError, "write 1.23"),
        ('set A = {"b": 0, "a": 100.01}\n' + head(), ProgramTypeError, 'of "a" is out of range'),
        ('set A = {"a": -101}\n' + head(), ProgramTypeError, "lie between -100 and 100"),
        ('set A = {"a": 1, "a": 2}\n' + head(), ProgramTypeError, '"a" has two weights, 1 and 2'),
        (head('2 where text(k) in {"a": 0.001}'), ProgramTypeError, "the weight 0.001 of"),
        (head('2 * weight(text(k), {"a": 200})'), ProgramTypeError, "the weight 200 of"),
        (head("2 * weight(word(k), Pronuon)"), ProgramTypeError, "did you mean `Pronoun`"),
        (head("2 * log(from_end(k)) * k"), CausalityError, "`from_end` reads the whole text"),
        (head("2 where text_final(k)"), CausalityError, "--allow-lookahead"),
        (head("2 where k == first(from_end(k) == 0)"), CausalityError, "reads the whole text"),
        (head("by from_end(q) [0: 1]"), CausalityError, "`from_end` reads the whole text"),
        (head(*["1 where true"] * (MAX_NODES // 2)), CostError, "at most 5,000 are allowed"),
        (
            head(*["1 where " + " and ".join(["match(k, q) == 1"] * 50)] * 40),
            CostError,
            "needs 12,000 operations per query and key; 10,000 are allowed",
        ),
    ],
    ids=lambda x: x[-40:] if isinstance(x, str) else None,
)
def test_what_is_refused(source: str, kind: type[ProgramError], message: str) -> None:
    found = errors_of(source)
    assert any(type(error) is kind and message in str(error) for error in found), found


@pytest.mark.skipif(importlib.util.find_spec("spacy") is not None, reason="spaCy is installed")
def test_a_missing_package_is_named() -> None:
    (error,) = errors_of(head('2 where upos(k) == "NOUN"', kind="bidirectional"))
    assert "pip install 'attn-dsl[spacy]'" in str(error)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (t.Call("txt", (t.Position("k"),)), "did you mean `text`"),
        (t.Call("punct", (t.Position("k"), t.Position("q"))), "`punct` of 2 positions"),
        (t.Call("match", (t.Position("k"),)), "`match` of 1 positions"),
        (t.Member(t.Call("punct", (t.Position("k"),)), t.SetName("Modal")), "`punct` is no text"),
        (t.Affix("ends", t.Call("line", (t.Position("k"),)), "s"), "`line` is no text feature"),
        (
            t.Compare("==", t.Shortened("stem", t.Call("line", (t.Position("k"),))), t.Text("s")),
            "`line` is no text feature",
        ),
    ],
)
def test_trees_made_by_hand_are_checked_too(node: t.Predicate, message: str) -> None:
    with pytest.raises(ProgramTypeError, match=message):
        check(t.Head("a", "causal", terms=(t.Where(1.0, node),)))


def test_weights_made_by_hand_are_checked_too() -> None:
    number = t.Call("length", (t.Position("k"),))
    literal = t.SetLiteral(("a", "b"), (float("nan"), float("inf")))
    with pytest.raises(ProgramErrors) as caught:
        check(t.Head("a", "causal", terms=(t.Scaled(1.0, t.Weight(number, literal)),)))
    for part in ("`length` is no text", "weight nan of", "weight inf of"):
        assert part in str(caught.value)


def test_all_errors_are_reported_at_once() -> None:
    source = 'set A = {"x"}\nset A = {"y"}\n' + head(
        "2000 where text(k) in Nowhere", "1 where text_final(k) and k in 3..1"
    )
    found = errors_of(source)
    assert [type(error) for error in found] == [
        ProgramTypeError, ProgramTypeError, ProgramTypeError, CausalityError, ProgramTypeError,
    ]  # fmt: skip
    with pytest.raises(ProgramErrors) as caught:
        check(parse(source), source=source, name="p.attn")
    assert str(caught.value).count("p.attn:") == 5
    assert caught.value.span == found[0].span


def test_an_error_shows_its_place() -> None:
    (error,) = errors_of(head("1 where k == 0", "2 where word(k) in Pronuon"))
    assert error.span == Span(3, 24, 3, 31)
    assert str(error).split("\n")[:3] == [
        "p.attn:3:24: type error: unknown set `Pronuon`",
        "  3 |     2 where word(k) in Pronuon",
        "    |                        ^^^^^^^",
    ]


def test_the_bounds_themselves_are_allowed() -> None:
    source = head(
        "1000 where k+100000 == q-100000", "-1000 where k in -100000..100000",
        "by k [-100000: 0, 100000: 1]", "1 * decay(k, 0.001)", "1 where k in 2..2",
        "0 where word(k) in Pronoun", '1 * weight(text(k), {"a": 100, "b": -100, "c": 0.01})',
    )  # fmt: skip
    assert errors_of(source) == []
    assert errors_of(head("0 where k == 0", "-0 * q", kind="causal linear")) == []


def test_the_bound_on_nodes_can_be_set() -> None:
    source = head("1 where punct(k)")
    assert check(parse(source)).nodes == 4
    assert errors_of(source, max_nodes=4) == []
    (error,) = errors_of(source, max_nodes=3)
    assert "4 nodes; at most 3" in str(error)


@pytest.mark.parametrize("name", FULL)
def test_looking_ahead_is_allowed_on_request_and_marked(name: str) -> None:
    term = "2 where " + FEATURES[name].example
    with pytest.raises(CausalityError):
        check(parse(head(term)))
    assert check(parse(head(term)), allow_lookahead=True).lookahead == (name,)
    assert check(parse(head(term, kind="bidirectional"))).lookahead == ()


def test_an_own_set_may_hide_one_of_the_lexicon() -> None:
    assert errors_of('set Pronoun = {"x"}\n' + head("1 where text(k) in Pronoun")) == []


def test_holes_are_counted() -> None:
    assert check(parse(head("? where k == 0", "by k [0: ?, 1: 2, 2: ?]", "? * q"))).holes == 4


@pytest.mark.parametrize(
    ("term", "operations"),
    [
        ("1 where true", 1),
        ("1 where k == 0", 2),
        ("1 where q == 0", 2),
        ("1 where punct(q) and sentence(q) == 0", 5),
        ("1 where punct(k)", 2),
        ("1 where punct(k-1)", 2),
        ("1 where not punct(k) or k == 0", 5),
        ("1 where text(k-1) == text(q)", 4),
        ('1 where text(k) == "a"', 3),
        ('1 where starts(text(k), "a")', 3),
        ('1 where contains(stem(text(k)), "a")', 4),
        ("1 where (q - k) % 2 == 0", 4),
        ("1 where q - k in 2..8", 3),
        ("1 where match(k-1, q) >= 2", 6),
        ("1 * (q - k)", 2),
        ("1 * q", 1),
        ("1 * abs(min(q, k))", 3),
        ("1 * decay(q - k, 0.5) where punct(k)", 4),
        ("1 * weight(text(k), Pronoun)", 4),
        ("1 * weight(text(q), Pronoun) * weight(text(k), Pronoun)", 8),
        ("1 * weight(text(k), Pronoun) * log(q - k)", 7),
        ("by q - k [0: 1, 2: -1]", 5),
        ("by k [0: 1, 2: -1, 4: 0] where punct(k)", 7),
        ("1 where k == nearest(punct(k))", 4),
        ("1 where any(punct(k))", 3),
        ("4 - 1 * log(q) + 2 * k where k == 0", 5),
        ("1 where any(any(punct(q) and k == 1))", 6),
    ],
)  # fmt: skip
def test_cost(term: str, operations: int) -> None:
    assert cost(parse(head(term))) == operations
    assert cost(parse(head(term, term))) == 2 * operations


def test_cost_grows_with_the_sets_that_are_used() -> None:
    def price(size: int, use: str) -> int:
        elements = ", ".join(f'"{i}"' for i in range(size))
        return cost(parse(f"set S = {{{elements}}}\n" + head(use.replace("ALL", f"{{{elements}}}"))))

    for size, more in ((1, 1), (100, 1), (101, 2), (1000, 10), (1001, 11)):
        for use in ("1 where text(k) in S", "1 where text(k) in ALL", "1 * weight(text(k), S)"):
            assert price(size, use) == 3 + more
        assert price(size, "1 where text(k) in S or text(q) not in S") == 7 + 2 * more
        assert price(size, "1 where k == 0") == 2
    words = len(lexicon()["FunctionWord"].elements)
    assert words > 100
    assert cost(parse(head("1 where word(k) in FunctionWord"))) == 3 + math.ceil(words / 100)


def test_nodes() -> None:
    assert check(parse(head())) == Facts(nodes=1, cost=0, holes=0, lookahead=())
    assert t.nodes(parse(head("2 where text(k-1) == text(q)"))) == 1 + 6
    assert t.nodes(parse('set A = {"x", "y"}\n' + head("1 where text(k) in A"))) == 1 + 4 + 5
    assert t.nodes(parse(head('1 where text(k) in {"x", "y"}'))) == 1 + 4 + 3
    assert t.nodes(parse(head("1 where word(k) in Pronoun"))) == 1 + 5
    assert t.nodes(parse(head('1 * weight(text(k), {"x": 0.5, "y": 2})'))) == 1 + 4 + 3
    assert t.nodes(parse(head("1 * weight(text(k), Pronoun) * q"))) == 1 + 5 + 2
    assert t.nodes(parse(head("by k [0: 1, 1: 2]"))) == 1 + 4


@given(programs(holes=True))
def test_random_programs_are_valid(program: t.Head) -> None:
    facts = check(program)
    assert facts.nodes == t.nodes(program)
    assert facts.lookahead == ()


@given(programs(visibility="causal", lookahead=True))
def test_lookahead_names_what_looks_ahead(program: t.Head) -> None:
    facts = check(program, allow_lookahead=True)
    used = {node.name for node in program.walk() if isinstance(node, t.Call)}
    assert set(facts.lookahead) == used & set(FULL)
