"""The parser: every construct, comments, what hostile input meets, and the grammar file itself."""

from __future__ import annotations

import contextlib
import re
import time

import pytest
from cases import CASES
from hypothesis import given
from hypothesis import strategies as st

from attn_dsl.dsl import parser
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import CostError, ProgramError, ProgramSyntaxError, Span
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.parser import grammar_text, parse, parse_predicate, parse_term, unquote
from attn_dsl.dsl.printer import show
from attn_dsl.dsl.syntax_errors import KEYWORDS
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
        ("by k [0: 1]", t.Table(K, (t.Entry(0, 1.0),))),
        ("by q - k [-1: ?, 0: 2.5,\n  4: -1] where punct(k)", t.Table(
            t.Arithmetic("-", Q, K),
            (t.Entry(-1, None), t.Entry(0, 2.5), t.Entry(4, -1.0)), PUNCT)),
    ],
)  # fmt: skip
def test_terms(source: str, term: t.Term) -> None:
    assert parse_term(source) == term


def test_programs() -> None:
    source = (
        'set A = {"x"}\nset B = {"y", "z"}\n\nhead two bidirectional linear:\n  1 where k == 0\n'
    )
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
    source = (
        '\n\n# c\nset A={"a"  , \n # why\n "b"\n}\n\nhead   a\tcausal  softmax :\n\n\n2 where k==0'
    )
    program = parse(source)
    assert program.sets[0].value.elements == ("a", "b")
    assert program.terms == (t.Where(2.0, K0),)
    assert parse(source.replace("\n", "\r\n")) == program


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


@pytest.mark.parametrize(
    ("literal", "text"),
    [(r'""', ""), (r'"\n\r\t\"\\"', '\n\r\t"\\'), (r'"\u00e9\u0000"', "é\0"), (r'"\\n"', "\\n"),
     (r'"\\u0041"', "\\u0041"), ('"é#"', "é#")],
)  # fmt: skip
def test_escapes(literal: str, text: str) -> None:
    assert unquote(literal) == text
    assert parse_predicate(f"text(k) == {literal}") == t.Compare("==", TEXT, t.Text(text))


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
    assert program.sets[0].span == Span(1, 5, 1, 6)


# Mistakes, with the place that is marked between ‹ and ›, and a part of the message.
MISTAKES = [
    (head("2 where k ‹=› 0"), "write `==`"),
    (head("2 where k == 0 ‹&&› q == 1"), "write `and`"),
    (head("2 where k == ‹'›a'"), "double quotes"),
    (head('2 where text(k) == ‹"›a'), "does not end"),
    (head(r'2 where text(k) == ‹"›\x"'), "escape that is not known"),
    (head('2 where ‹txt›(k) == "a"'), "did you mean `text`"),
    (head("2 where ‹blue›(k)"), "`attn-dsl features` lists all of them"),
    (head("2 where punct‹›"), "ends too early"),
    (head("2 where punct(‹j›)"), "`k` is the key that is searched"),
    (head("2 where text(k)‹›"), "expected: `==` or `!=`, `in` or `not`"),
    (head("2 where k == 0 or‹›"), "expected: a predicate"),
    (head("2 where (k == 0‹›"), "`)`"),
    (head("2 where k == 0‹)›"), "`)` does not fit"),
    (head("2 where text(k) ‹<› text(q)"), "`<` does not fit"),
    (head("2 where text(k) == ‹3›"), 'a string such as "the"'),
    (head("2 where text(k) in ‹stop›"), "a set name such as Pronoun"),
    (head("2 where text(k) in {‹}›"), "a string such as"),
    (head("2 where k == ‹-›1"), "in -1..-1"),
    (head("2 where k == 1‹.›5"), "`.` does not fit"),
    (head("2 where punct(k) ‹==› true"), "a predicate stands alone"),
    (head('2 where starts(‹k›, "a")'), "`k` does not fit"),
    (head("2 where ‹True›"), "did you mean `true`"),
    (head("2 where text‹[›k]"), "expected: `(`"),
    (head("2 where ‹\u00a0›k == 0"), "U+00A0"),
    (head("2 ‹when› k == 0"), "did you mean `where`"),
    (head("‹where› k == 0"), "a weight such as 1.5"),
    (head("2 * q ‹-› k"), "`where` or the end of the line"),
    (head("2 * ‹text›(k)"), "`text` gives a text"),
    (head("2 * decay(q - k, ‹1›.5)"), "a rate such as 0.9"),
    (head("by q - k [‹]›"), "a whole number"),
    (head("2 * weight(‹k›, A)"), "`weight(token(k), Starts)`"),
    (head("2 * weight(‹punct›(k), A)"), "a text feature that has a weight"),
    (head("2 * weight(token(k)‹)›"), "expected: `,`"),
    (head("2 * weight(token(k), ‹verbs›)"), "a set name such as Pronoun"),
    (head('2 * weight(token(k), ‹"›a")'), "`{` or a set name"),
    (head("2 * ‹Starts›(word(q-1))"), "write `weight(word(q-1), Starts)`"),
    (head("2 * ‹Starts›(k)"), "write `weight(token(k), Starts)`"),
    (head("2 where ‹Starts›(text(q))"), "write `text(q) in Starts`"),
    (head("2 * ‹token›(q)"), "`weight(token(q), Starts)`"),
    (head("2 where ‹weight›(token(k), A) > 1"), "test `token(k) in Starts`"),
    (head("‹weight›(token(k), A)"), "write it as a value of a term"),
    (head("2 * log(‹weight›(token(k), A))"), "write it as a value of a term"),
    (head("2 * ‹weights›(token(k), A)"), "did you mean `weight`"),
    (head("2 * k * q ‹*› q"), "one value or two"),
    (head("2 * weight(token(k), A) ‹+› 1"), "`*`, `where` or the end of the line"),
    (head('2 * weight(token(k), {"a": 1, "b"‹}›)'), "a weight, or none"),
    (
        head('2 * weight(token(k), {"a"‹:› 1, "b"})').replace('"a"‹:› 1, "b"', '"b", "a"‹:› 1'),
        "a weight, or none",
    ),
    ('set A = {"a": 1, "b"‹,› "c": 2}\n' + HEAD, "a weight, or none"),
    ('set A = {"a": ‹?›}\n' + HEAD, "weights of elements are numbers"),
    (head("by q - k [0: 1, 2‹]›"), "expected: `:`"),
    (head("1‹e3› where k == 0"), "`e3`"),
    (head('‹set› B = {"a"}'), "`set` does not fit"),
    (HEAD + "‹head› b causal:\n", "the end of the program"),
    ("head a ‹casual›:\n", "did you mean `causal`"),
    ("head ‹A› causal:\n", "a name such as induction"),
    ("head a causal‹›\n", "`:`"),
    ("head a causal: ‹2› where k == 0\n", "the end of the line"),
    ('set ‹a› = {"x"}\n' + HEAD, "a set name"),
    ('set A = ‹"›x"\n' + HEAD, "a string does not fit"),
    ('set A = {"x"}‹›\n', "`head` or `set`"),
    ("‹›", "`head` or `set`"),
]


@pytest.mark.parametrize(("marked", "message"), MISTAKES, ids=lambda x: repr(x)[-24:])
def test_mistakes_are_explained(marked: str, message: str) -> None:
    before, found, _ = re.split("[‹›]", marked)
    with pytest.raises(ProgramSyntaxError) as caught:
        parse(marked.replace("‹", "").replace("›", ""), "p.attn")
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    assert caught.value.span == Span(line, column, line, column + max(len(found), 1))
    assert str(caught.value).startswith(f"p.attn:{line}:{column}: syntax error: ")
    assert message in str(caught.value)


def test_a_message_shows_the_line_and_a_caret() -> None:
    with pytest.raises(ProgramSyntaxError) as caught:
        parse(head('2 where txt(k) == "a"'), "p.attn")
    assert str(caught.value).split("\n") == [
        "p.attn:2:13: syntax error: unknown feature or function `txt`",
        '  2 |     2 where txt(k) == "a"',
        "    |             ^^^",
        "  expected: a predicate, a number such as q - k or a text feature such as text(k)",
        "  help: did you mean `text`?",
    ]


def test_lines_are_counted_as_the_parser_counts_them() -> None:
    with pytest.raises(ProgramSyntaxError) as caught:
        parse(HEAD + "# a\x0cb\u2028c\r d\r\n  1 where kk\n")
    assert caught.value.span == Span(3, 11, 3, 13)
    assert "1 where kk\n" in str(caught.value)


HOSTILE = {
    "parentheses": head("1 where " + "(" * 5000 + "k == 0" + ")" * 5000),
    "parentheses over lines": HEAD + "by (\n" * 5000,
    "calls": head("1 where " + "punct(" * 500 + "k" + ")" * 500),
    "and": head("1 where " + " and ".join(["k == 0"] * 3000)),
    "or without spaces": head("1 where k==0" + "ork==0" * 3000),
    "not": head("1 where " + "not " * 3000 + "punct(k)"),
    "not without spaces": head("1 where " + "not" * 3000 + "punct(k)"),
    "plus": head("1 where k == q" + "+k" * 3000),
    "minus": head("1 * (q" + "-k" * 3000 + ")"),
    "a long whole number": head("1 where k == " + "9" * 5000),
    "a long bound": head("1 where k in 0.." + "9" * 5000),
    "a long weight": head("1" + "0" * 5000 + " where k == 0"),
    "a megabyte and more": HEAD + "#" * parser.MAX_SOURCE,
    "a megabyte of blanks": " " * (parser.MAX_SOURCE - 1),
    "a megabyte of quotes": '"' * (parser.MAX_SOURCE - 1),
    "a megabyte of letters": "x" * (parser.MAX_SOURCE - 1),
    "a null byte": head("1 where \0k == 0"),
    "a null byte in a string": head('1 where text(k) == "\0"'),
    "an escape sequence": head("1 where \x1b[31mk"),
    "unicode": head("1 where ｋ == ０"),
    "a byte order mark": "\ufeff" + HEAD,
    "a lone surrogate": head("1 where \ud800"),
    "lines that end in a carriage return": "head a causal:\r1 where k == 0\r",
    "an unfinished set": 'set A = {"a",\n' * 2000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_gets_an_error_in_time(name: str) -> None:
    started = time.monotonic()
    with pytest.raises((CostError, ProgramSyntaxError)) as caught:
        parse(HOSTILE[name])
    message = str(caught.value)
    assert len(message) < 2000
    assert all(char.isprintable() or char == "\n" for char in message)
    assert time.monotonic() - started < 20


PARTS = (*'abkq(){}[]"\\.,:=<>+-*?#_0159 \n\r\t\0é', " where ", " ", *KEYWORDS, HEAD)


@given(st.lists(st.sampled_from(PARTS), max_size=40).map("".join))
def test_any_text_parses_or_gets_an_error(text: str) -> None:
    for source in (text, HEAD + text):
        with contextlib.suppress(ProgramError):
            assert parse(show(parse(source))) == parse(source)


def test_many_comments_and_terms_are_read_in_time() -> None:
    started = time.monotonic()
    program = parse(HEAD + "# c\n" * 20_000 + "  1 where k == 0  # d\n" * 300)
    assert len(program.terms[0].remarks.above) == 20_000
    assert time.monotonic() - started < 20


def test_the_bounds_admit_what_they_promise() -> None:
    parens = "(" * parser.MAX_NESTING + "k == 0" + ")" * parser.MAX_NESTING
    assert parse(head(f"1 where {parens}")).terms == (t.Where(1.0, K0),)
    chain = " and ".join(["not punct(k)"] * ((parser.MAX_OPERATORS + 1) // 2))
    program = parse(head(f"1 where {chain}"))
    assert parse(show(program)) == program
    with pytest.raises(CostError, match="operators"):
        parse(head(f"1 where {chain} and not punct(k)"))


# The grammar file.


def terminal(name: str) -> list[str]:
    found = re.search(rf"^{name}: (.*)$", grammar_text(), re.M)
    assert found is not None
    return re.findall(r'"(\w+)"', found.group(1))


@pytest.mark.parametrize(
    ("name", "kind", "arity"),
    [("BOOL_FEATURE", "bool", 1), ("INT_FEATURE", "int", 1), ("SYMBOL_FEATURE", "symbol", 1),
     ("PAIR_FEATURE", "int", 2)],
)  # fmt: skip
def test_the_grammar_lists_the_features_of_the_registry(name: str, kind: str, arity: int) -> None:
    known = [f.name for f in FEATURES.values() if f.type == kind and f.arity == arity]
    assert sorted(terminal(name)) == sorted(known)


def test_every_keyword_is_in_the_grammar() -> None:
    words = set(re.findall(r'"([a-z]+)"', grammar_text()))
    assert set(KEYWORDS) <= words
    assert words - set(KEYWORDS) - set(FEATURES) == {"q", "k"}


@pytest.fixture(scope="module")
def matcher():  # type: ignore[no-untyped-def]
    """What constrains a language model to the grammar: a function of a text, whether it fits."""
    llguidance = pytest.importorskip("llguidance")
    grammar = llguidance.grammar_from("lark", grammar_text())
    assert llguidance.LLMatcher.validate_grammar(grammar) == ""
    tokenizer = llguidance.LLTokenizer("byte")
    start = llguidance.LLMatcher(tokenizer, grammar, log_level=0)

    def accepts(source: str) -> bool:
        here = start.deep_copy()
        read = here.consume_tokens(tokenizer.tokenize_str(source))
        return bool(read and here.is_accepting())

    return accepts


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_llguidance_reads_the_cases(case, matcher) -> None:  # type: ignore[no-untyped-def]
    assert matcher(case.source)
    assert matcher(case.source.replace("\n", "  # why\r\n\n \t# more\n"))


@given(program=programs(holes=True))
def test_llguidance_reads_what_is_printed(matcher, program: t.Head) -> None:  # type: ignore[no-untyped-def]
    assert matcher(show(program))


@pytest.mark.parametrize(
    "source",
    [head("2 where k = 0"), head("2 where text(k)"), "head a:\n", head("2 where text(k) < 1")],
)
def test_llguidance_refuses_mistakes(source: str, matcher) -> None:  # type: ignore[no-untyped-def]
    assert not matcher(source)
