"""The parser: every construct, comments, what hostile input meets, and the grammar file itself."""

from __future__ import annotations

import pytest
from cases import CASES
from hypothesis import given
from hypothesis import strategies as st

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import Span
from attn_dsl.dsl.parser import parse, parse_predicate, parse_term
from attn_dsl.dsl.printer import show
from attn_dsl.testing import programs

Q, K = t.Position("q"), t.Position("k")
K0 = t.Compare("==", K, t.Integer(0))
Q0 = t.Compare("==", Q, t.Integer(0))
PUNCT = t.Call("punct", (K,))
TEXT = t.Call("text", (K,))
HEAD = "head a causal:\n"


def head(*terms: str) -> str:
    return HEAD + "".join(f"    {term}\n" for term in terms)


@pytest.mark.parametrize(
    ("source", "predicate"),
    [
        ("true", t.Always()),
        ("k == 0", K0),
        ("k != q", t.Compare("!=", K, Q)),
        ("k <= q-1", t.Compare("<=", K, t.Position("q", -1))),
        ("punct(k)", PUNCT),
        ("punct(k+1)", t.Call("punct", (t.Position("k", 1),))),
        ("punct((k-1))", t.Call("punct", (t.Position("k", -1),))),
        ("punct(word_first(q))", t.Call("punct", (t.Call("word_first", (Q,)),))),
        ("sentence_start(k)", t.Call("sentence_start", (K,))),
        ("line_start(k)", t.Call("line_start", (K,))),
        ("text(k) == text(q)", t.Compare("==", TEXT, t.Call("text", (Q,)))),
        ('text(k) != "a b"', t.Compare("!=", TEXT, t.Text("a b"))),
        ("text(k) in Stop", t.Member(TEXT, t.SetName("Stop"))),
        ('text(k) in {"b", "a", "b"}', t.Member(TEXT, t.SetLiteral(("a", "b")))),
        ('text(k) not in {"a"}', t.Not(t.Member(TEXT, t.SetLiteral(("a",))))),
        ('not text(k) in {"a"}', t.Not(t.Member(TEXT, t.SetLiteral(("a",))))),
        ('starts(text(k), "un")', t.Affix("starts", TEXT, "un")),
        ('ends(text(k), "")', t.Affix("ends", TEXT, "")),
        ('contains(text(k), "a")', t.Affix("contains", TEXT, "a")),
        ('suffix(stem(text(k)), 2) == "a"', t.Compare(
            "==", t.Shortened("suffix", t.Shortened("stem", TEXT), 2), t.Text("a"))),
        ("prefix(text(k), 4) in Stop", t.Member(t.Shortened("prefix", TEXT, 4), t.SetName("Stop"))),
        ("q - 1 % 2 == n", t.Compare(
            "==", t.Arithmetic("-", Q, t.Modulo(t.Integer(1), 2)), t.Call("n", ()))),
        ("(q - 1) % 4 % 2 == 0", t.Compare(
            "==", t.Modulo(t.Modulo(t.Position("q", -1), 4), 2), t.Integer(0))),
        ("k in -3..2", t.Between(K, -3, 2)),
        ("q - k in 1..4", t.Between(t.Arithmetic("-", Q, K), 1, 4)),
        ("not punct(k)", t.Not(PUNCT)),
        ("not not punct(k)", t.Not(t.Not(PUNCT))),
        ("not punct(k) and k == 0", t.And(t.Not(PUNCT), K0)),
        ("k == 0 or q == 0 and punct(k)", t.Or(K0, t.And(Q0, PUNCT))),
        ("k == 0 and q == 0 or punct(k)", t.Or(t.And(K0, Q0), PUNCT)),
        ("(k == 0 or q == 0) and punct(k)", t.And(t.Or(K0, Q0), PUNCT)),
        ("k == 0 and (q == 0 and punct(k))", t.And(K0, t.And(Q0, PUNCT))),
        ("not (k == 0 or q == 0)", t.Not(t.Or(K0, Q0))),
        ("((punct(k)))", PUNCT),
        ("(k) == (0)", K0),
        ("any(punct(k))", t.Quantifier("any", PUNCT)),
        ("k == nearest(punct(k))", t.Compare("==", K, t.Quantifier("nearest", PUNCT))),
        ("count(k == 0) > 2", t.Compare(">", t.Quantifier("count", K0), t.Integer(2))),
        ("match(k-1, q) >= 1", t.Compare(
            ">=", t.Call("match", (t.Position("k", -1), Q)), t.Integer(1))),
        ("abs(q - k) < 3", t.Compare("<", t.Absolute(t.Arithmetic("-", Q, K)), t.Integer(3))),
        ("min(q, 3) == max(k, 1)", t.Compare(
            "==", t.Extremum("min", Q, t.Integer(3)), t.Extremum("max", K, t.Integer(1)))),
        ("k-1+3 == q", t.Compare("==", t.Position("k", 2), Q)),
        ("k - 1 + q == 0", t.Compare(
            "==", t.Arithmetic("+", t.Position("k", -1), Q), t.Integer(0))),
        ("q - k - 1 == 0", t.Compare(
            "==", t.Arithmetic("-", t.Arithmetic("-", Q, K), t.Integer(1)), t.Integer(0))),
        ("q - (k - 1) == 0", t.Compare(
            "==", t.Arithmetic("-", Q, t.Position("k", -1)), t.Integer(0))),
        ("1 + k == q", t.Compare("==", t.Arithmetic("+", t.Integer(1), K), Q)),
    ],
)  # fmt: skip
def test_predicates(source: str, predicate: t.Predicate) -> None:
    assert parse_predicate(source) == predicate
    assert parse_predicate(f"  {source}\t") == predicate


@pytest.mark.parametrize(
    ("source", "term"),
    [
        ("2 where k == 0", t.Where(2.0, K0)),
        ("-0.5 where k == 0", t.Where(-0.5, K0)),
        ("? where k == 0", t.Where(None, K0)),
        ("2 * k", t.Scaled(2.0, K)),
        ("2*3", t.Scaled(2.0, t.Integer(3))),
        ("? * (q - k) where punct(k)", t.Scaled(None, t.Arithmetic("-", Q, K), PUNCT)),
        ("-1 * log(1 + q)", t.Scaled(-1.0, t.Real("log", t.Arithmetic("+", t.Integer(1), Q)))),
        ("1 * sqrt(k)", t.Scaled(1.0, t.Real("sqrt", K))),
        ("1 * inv(q - k)", t.Scaled(1.0, t.Real("inv", t.Arithmetic("-", Q, K)))),
        ("1 * decay(k, 0.90)", t.Scaled(1.0, t.Decay(K, 0.9))),
        ("1 * (k-1)", t.Scaled(1.0, t.Position("k", -1))),
        ("1 * weight(text(k), Stop)", t.Scaled(1.0, t.Weight(TEXT, t.SetName("Stop")))),
        ('? * weight(text(k), {"b": 1.50, "a": -2}) where punct(k)', t.Scaled(
            None, t.Weight(TEXT, t.SetLiteral(("a", "b"), (-2.0, 1.5))), PUNCT)),
        ('1 * weight(text(k), {"b", "a"})', t.Scaled(
            1.0, t.Weight(TEXT, t.SetLiteral(("a", "b"))))),
        ("2 * q * k", t.Scaled(2.0, t.Product(Q, K))),
        ("2 * (q - k) * log(k)", t.Scaled(
            2.0, t.Product(t.Arithmetic("-", Q, K), t.Real("log", K)))),
        ("0.5 * weight(text(k), A)*decay(q - k, 0.9) where k == 0", t.Scaled(
            0.5, t.Product(t.Weight(TEXT, t.SetName("A")),
                           t.Decay(t.Arithmetic("-", Q, K), 0.9)), K0)),
        ('1 where text(k) in {"a": 1, "b": 0}', t.Where(
            1.0, t.Member(TEXT, t.SetLiteral(("a", "b"), (1.0, 0.0))))),
        ("4 -1.50*k + ? * q where punct(k)", t.Sum(
            (t.Part(4.0), t.Part(-1.5, K), t.Part(None, Q)), PUNCT)),
        ("? - ? * q * k where k == 0", t.Sum((t.Part(None), t.Part(None, t.Product(Q, K))), K0)),
        ("1 * (q - k) - -2 * k - 3 * q", t.Sum((
            t.Part(1.0, t.Arithmetic("-", Q, K)), t.Part(2.0, K), t.Part(-3.0, Q)))),
        ("by k [0: 1]", t.Table(K, (t.Entry(0, 1.0),))),
        ("by q - k [-1: ?, 0: 2.5,\n  4: -1] where punct(k)", t.Table(
            t.Arithmetic("-", Q, K),
            (t.Entry(-1, None), t.Entry(0, 2.5), t.Entry(4, -1.0)), PUNCT)),
    ],
)  # fmt: skip
def test_terms(source: str, term: t.Term) -> None:
    assert parse_term(source) == term


def test_programs() -> None:
    source = 'set A = {"x"}\nset B = {"y", "z"}\n\nhead two bidirectional linear:\n  1 where k == 0\n'
    assert parse(source) == t.Head(
        "two", "bidirectional", "linear", (t.Where(1.0, K0),),
        (t.SetDefinition("A", t.SetLiteral(("x",))), t.SetDefinition("B", t.SetLiteral(("y", "z")))),
    )  # fmt: skip
    assert parse("head a causal:") == t.Head("a", "causal", "softmax")
    assert parse(source).causal is False


def test_elements_of_weighted_sets() -> None:
    """They are sorted by element; one that stands twice with one weight is one."""
    program = parse('set A = {\n "b": 0.70, "a": -1,\n "b": 0.7 }\nhead a causal:\n')
    literal = program.sets[0].value
    assert (literal.elements, literal.weights) == (("a", "b"), (-1.0, 0.7))
    assert literal.hundredths() == {"a": -100, "b": 70}
    assert t.SetLiteral(("b", "a")).hundredths() == {"a": 100, "b": 100}
    assert t.SetLiteral(("a",), (1.0,)) != t.SetLiteral(("a",))
    with pytest.raises(ValueError, match="argument"):
        t.SetLiteral(("a", "b"), (1.0,))


def test_weights_of_elements_are_constants() -> None:
    head = parse('set A = {"a": 2}\nhead a causal:\n ? * weight(text(k), A)\n 3 where k == 0')
    assert head.weights == (None, 3.0)
    assert head.with_weights([4.0, 5.0]).sets == head.sets


def test_layout_is_free() -> None:
    source = '\n\n# c\nset A={"a"  , \n # why\n "b"\n}\n\nhead   a\tcausal  softmax :\n\n\n2 where k==0'
    program = parse(source)
    assert program.sets[0].value.elements == ("a", "b")
    assert program.terms == (t.Where(2.0, K0),)
    assert parse(source.replace("\n", "\r\n")) == program


@pytest.mark.parametrize(
    ("glued", "apart"),
    [("q - kin 1 .. 2", "q - k in 1 .. 2"), ("notq == k", "not q == k"), ("nottrue", "not true"),
     ("trueand k == 0", "true and k == 0"), ("kin28..30", "k in 28..30")],
)  # fmt: skip
def test_words_of_the_language_need_no_blank_between_them(glued: str, apart: str) -> None:
    assert parse_predicate(glued) == parse_predicate(apart)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_cases_print_and_parse_back(case) -> None:  # type: ignore[no-untyped-def]
    program = parse(case.source)
    assert parse(show(program)) == program


@given(programs(holes=True, lookahead=True, extras=("spacy",)))
def test_parsing_what_is_printed_gives_the_tree_back(program: t.Head) -> None:
    assert parse(show(program)) == program


@given(st.text(max_size=8))
def test_every_string_can_be_written(text: str) -> None:
    program = t.Head("a", "causal", "softmax", (t.Where(1.0, t.Compare("==", TEXT, t.Text(text))),))
    source = show(program)
    source.encode()
    assert parse(source) == program


def test_comments_stay_with_their_statement() -> None:
    program = parse(
        "# about the set\n"
        'set A = {"#x",  # the first\n'
        '         "y"}  # the second\n'
        "# about the head\n# and more\n"
        "head a causal:  # beside the head\n"
        "    # above the first\n"
        "    1 where k == 0  # beside the first\n"
        '    2 where text(k) == "# no comment"\n'
        "    # the end\n"
    )
    assert program.sets[0].value.elements == ("#x", "y")
    assert program.sets[0].remarks == t.Remarks(("about the set",), "the first the second")
    assert program.remarks == t.Remarks(("about the head", "and more"), "beside the head")
    assert program.terms[0].remarks == t.Remarks(("above the first",), "beside the first")
    assert program.terms[1].remarks == t.NO_REMARKS
    assert program.after == ("the end",)


def test_nodes_know_where_they_stand() -> None:
    program = parse('set A = {"x"}\nhead a causal:\n    2 where text(k-1) == text(q)\n')
    term = program.terms[0]
    assert term.span == Span(3, 5, 3, 33)
    calls = [node for node in term.walk() if isinstance(node, t.Call)]
    assert [call.span for call in calls] == [Span(3, 13, 3, 22), Span(3, 26, 3, 33)]
    assert program.sets[0].span == Span(1, 1, 1, 14)
