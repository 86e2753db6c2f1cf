"""What terms are worth, the kinds of attention, and programs in plain English."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given

from attn_dsl.cli.main import cli
from attn_dsl.compiler.program import load, parse
from attn_dsl.dsl import english
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.definitions import parse_definitions
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.kinds import category, kind, kind_shares, told_shares
from attn_dsl.dsl.parser import parse_term
from attn_dsl.dsl.scope import Scope
from attn_dsl.eval.run import Run
from attn_dsl.eval.scores import write_programs
from attn_dsl.testing import programs

KINDS = [
    ("2 where k == 0", "first-token sink"),
    ("2 where k < 1", "first-token sink"),
    ("1 where k in 0..3", "positional"),
    ("1 * log(1 + k)", "positional"),
    ("1 where text_final(k)", "positional"),
    ("1 where k == n - 1 - q", "positional"),
    ("1 where k % 2 == 0", "positional"),
    ("1 where (q - k) % 2 == 0", "local"),
    ("1 where stem(word(k)) == stem(word(q))", "duplicate token"),
    ("1 where prefix(text(k-1), 3) == prefix(text(q), 3)", "induction"),
    ('1 where contains(word(k), "in")', "lexical set"),
    ("1 where number(k) < number(q)", "lexical set"),
    ("1 where q - k == 1", "previous token"),
    ("1 where capital(q) and k == q-1", "previous token"),
    ("1 where text(q) == text(k-1)", "induction"),
    ("1 where k == previous(q) + 1", "induction"),
    ("1 where k == nearest(text(k) == text(q)) + 1", "induction"),
    ("1 * min(match(k-1, q), 4)", "induction"),
    ("1 where word_before(k) == word(q)", "induction"),
    ("1 where text(k) == text(q) and k != q", "duplicate token"),
    ("1 where k == previous(q)", "duplicate token"),
    ("1 where seen(k)", "duplicate token"),
    ("1 where word_index(k) == word_index(q)", "same word"),
    ("1 where k == word_first(q)", "same word"),
    ("1 where word_index(k) == word_index(q) - 1", "local"),
    ("1 where punct(k)", "delimiter"),
    ('1 where token(k) == "\\n"', "delimiter"),
    ("1 where lower(k) in SentenceEnd", "delimiter"),
    ("1 where k == nearest(punct(k))", "delimiter"),
    ("1 where k > nearest(punct(k))", "local"),
    ("1 * decay(q - k, 0.9)", "local"),
    ("by q - k [0: 1, 4: 2]", "local"),
    ("1 where line(k) == line(q)", "local"),
    ("1 where word(k) in Article", "lexical set"),
    ("1 where length(k) >= 4 and q - k in 0..9", "lexical set"),
    ("1 * Marks(k)", "delimiter"),
    ("1 * Marks(q) * Words(k-1)", "lexical set"),
    ('1 where upos(k) == "NOUN"', "syntactic"),
    ("1 where punct(q)", "mixed"),
]
SCORES = parse_definitions(
    'score Marks:\n 2 where token(i) == "."\n 1 where punct(i)\n 1 where alpha(i)\n'
    'score Words:\n 2 where word(i) in Article\n 1 where punct(i)\n'
)  # fmt: skip
TOLD = [
    ("2 where k == 0", "strongly looks at the first token"),
    ("-0.3 where k == q-1", "weakly avoids the token before the query"),
    ("? where k == 0", "by a weight that is still to be fitted, looks at the first token"),
    ("1 where text(k-1) == text(q)", "looks at what follows tokens with the same text as the query"),
    ("1 where k == previous(q) + 1", "looks at what follows the last earlier copy of the query"),
    ("1 where q - k in 1..4", "looks at tokens 1 to 4 before the query"),
    ("1 where k - q in 1..4", "looks at tokens 1 to 4 after the query"),
    ("1 where k <= q-12", "looks at tokens up to the token 12 before the query"),
    ("1 where k >= line_first(q)", "looks at tokens from the first token of the query's line on"),
    ("2 where word(k) == word(q) and k != q",
     "strongly looks at tokens with the same word as the query except the query itself"),
    ("1 * inv(1 + q - k)", "looks at tokens, the more, the smaller the distance plus 1 (inverse)"),
    ("1 * decay(q - k, 0.9)", "looks at tokens, fading by the factor 0.9 with each step of the distance"),
    ("-1 * log(1 + q - k)", "avoids tokens, the more, the larger the distance plus 1 (logarithm)"),
    ("by q - k [0: 2, 4: -1]", "weights tokens, by the distance (2 from 0, -1 from 4)"),
    (
        "1 where capital(q) and k == nearest(punct(k))",
        "from capitalised tokens, looks at the nearest token that has only punctuation marks and symbols",
    ),
    (
        "1 where word(k) in BeForm and not seen(k)",
        "looks at forms of be if the key does not have an equal token before it",
    ),
    ("1 where k == nearest(k == line_first(k))",
     "looks at the nearest token where it is the first token of its line"),
    ("1 where k == nearest(k == line_first(k-2))",
     "looks at the nearest token where it is the first token of the token 2 before it's line"),
    ("1 where any(punct(k)) or k == q", "looks at tokens if either some token is such that it has only "
     "punctuation marks and symbols or the key is the query"),
    ("1 where stem(word(k-1)) == stem(word(q))",
     "looks at what follows tokens with the same stem of the word as the query"),
    ("1 where prefix(text(k), 2) == prefix(text(0), 2)", "looks at any token where the first 2 characters "
     "of its text is the first 2 characters of the first token's text"),
    ('1 where prefix(lower(k), 4) == "trea"',
     "looks at any token where the first 4 characters of its lower-cased text is “trea”"),
    ('1 where contains(word(k), "in") and not contains(word(q), "in")',
     "from any query where its word does not contain “in”, looks at tokens that contain “in”"),
    ("1 where k == n - 1 or k % 2 == 1", "looks at any token where it is the last token of the text or any "
     "token where the rest of the position of it divided by 2 is 1"),
    ("1 where number(k) < number(q)",
     "looks at tokens if the key's number is below the query's number"),
    (
        "-0.5 * Marks(q) * Words(k)",
        "from tokens high in Marks (“.”, punctuation, tokens of letters), looks much less at tokens high in "
        "Words (articles, punctuation)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("term", "expected"), KINDS)
def test_each_rule_gives_its_kind(term: str, expected: str) -> None:
    assert kind(parse_term(term), Scope({}, SCORES.scores)) == expected


def test_category_is_the_kind_that_carries_half_and_shares_are_told() -> None:
    source = "head a causal:\n 2 where k == 0\n 1 + 1 * length(k) where k == q-1\n 1 where punct(k)\n"
    shares = kind_shares(parse(source).tree, [0.6, 0.2, 0.18, 0.02])
    assert shares == {"first-token sink": 0.6, "previous token": 0.38, "delimiter": 0.02}
    assert (category(shares), told_shares(shares)) == (
        "first-token sink", "first-token sink 0.6, previous token 0.38",
    )  # fmt: skip
    assert category({"local": 0.4, "induction": 0.3}) == "mixed"
    assert category(kind_shares(parse("head a causal:\n").tree, [])) == "uniform"


@pytest.mark.parametrize(("term", "expected"), TOLD)
def test_terms_read_as_english(term: str, expected: str) -> None:
    program = t.Head("a", "causal", terms=(parse_term(term),), scores=tuple(SCORES.scores.values()))
    assert english.describe(program) == [expected]


@given(programs(holes=True, lookahead=True, extras=("spacy",)))
def test_every_program_is_told_with_all_that_it_names(program: t.Head) -> None:
    told = english.explain(program)
    own = {one.name for one in program.sets}
    for node in (n for term in program.terms for n in term.walk()):
        if isinstance(node, t.Score) or (isinstance(node, t.SetName) and node.name in own):
            assert node.name in told
    count = sum(len(t.parts_of(term)) for term in program.terms)
    assert english.explain(program, [1 / max(count, 1)] * count)


def test_every_feature_is_told_in_its_own_words() -> None:
    """Two features never read the same, so that the English does not hide which one it is."""
    told = {}
    for name, feature in FEATURES.items():
        called = t.Call(name, tuple(t.Position(v) for v in "kq"[: feature.arity]))  # type: ignore[arg-type]
        tests = {
            "bool": [called, t.Not(called)],
            "int": [
                t.Compare(">=", called, t.Integer(2)),
                t.Compare("==", t.Position("k"), called),
            ],
            "symbol": [
                t.Compare("==", called, t.Text("a")),
                t.Member(called, t.SetLiteral(("a", "b"))),
            ],
        }[feature.type]
        told[name] = [english.describe(t.Head("a", "causal", terms=(t.Where(1.0, p),)))[0] for p in tests]
    alike = {"text", "token", "lower", "word"}  # what they read is a string that stands for itself
    for one, other in itertools.combinations([name for name in told if name not in alike], 2):
        assert told[one][1] != told[other][1], (one, other)


def test_what_is_worth_most_is_told_first_and_the_rest_as_smaller_effects() -> None:
    program = parse("head a causal:\n 1 where punct(k)\n 2 where k == 0\n 1 where k == q\n").tree
    assert english.explain(program, [0.25, 0.7, 0.05]) == (
        "First-token sink (70%), delimiter (25%), local (5%). Strongly looks at the first token (70%). "
        "Looks at punctuation (25%). Smaller effects: looks at the query."
    )
    linear = parse("head a causal linear:\n 1 where k == 0\n").explain()
    assert linear == "Shares its attention out by masses. Gives 1 of mass to the first token."


def test_each_term_of_a_run_has_its_worth(small_run: Path) -> None:
    run = Run.open(small_run)
    rows = list(csv.DictReader((small_run / "terms.csv").open(encoding="utf-8")))
    assert [int(row["term"]) for row in rows] == [one.term for r in run.results for one in r.terms]
    for r in run.results:
        terms = [p for one in run.program(r.layer, r.head).tree.terms for p in t.parts_of(one)]
        assert [one.source for one in r.terms] == [english_source(term) for term in terms]
        shares = [one.share for one in r.terms]  # 0 where uniform attention does as well
        assert sum(shares) == pytest.approx(1.0) or not any(shares)
        assert sum(r.shares.values()) == pytest.approx(1.0)
        assert r.category == category(r.shares)
        if len(r.terms) == 1:  # without it attention is uniform
            assert max(r.terms[0].iou_loss, r.terms[0].output_r2_loss) > 0


def english_source(term: t.Simple) -> str:
    """The source of a term, as ``terms.csv`` has it."""
    from attn_dsl.dsl.printer import show_term

    return show_term(term)


def test_comments_tell_the_worth_and_change_nothing(small_run: Path, tmp_path: Path) -> None:
    shutil.copytree(small_run, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    write_programs(run, inside=False, comments=True)
    for r in run.results:
        file = run.path / "programs" / f"{r.label}.attn"
        assert file.read_text(encoding="utf-8").count("# worth ") == len(load(file).tree.terms)
        assert CliRunner().invoke(cli, ["fmt", "--check", str(file)]).exit_code == 0
        assert load(file).tree == run.program(r.layer, r.head).tree


def test_explain_tells_a_head_of_a_run_and_a_program(small_run: Path) -> None:
    run = Run.open(small_run)
    first = run.results[0]
    result = CliRunner().invoke(cli, ["explain", str(small_run), first.name, "--json"])
    told = json.loads(result.output)
    assert (told["category"], told["shares"]) == (first.category, first.shares)
    assert [one["share"] for one in told["terms"]] == [one.share for one in first.terms]
    plain = CliRunner().invoke(cli, ["explain", str(small_run), first.name])
    assert " ".join(plain.output.split()) == told["english"]
    assert run[first.name.lower()].result == first
    with pytest.raises(InputError, match=r"no head L9H9; its heads: L0H0"):
        run["L9H9"]
    without = CliRunner().invoke(cli, ["explain", str(small_run)])
    assert isinstance(without.exception, InputError)
