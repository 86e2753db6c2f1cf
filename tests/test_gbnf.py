"""The GBNF: what it generates parses, what is canonical it accepts, and bad grammars are refused."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import CostError, ProgramError
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.gbnf import to_gbnf
from attn_dsl.dsl.limits import MAX_NESTING
from attn_dsl.dsl.parser import grammar_text, parse
from attn_dsl.dsl.printer import show
from attn_dsl.testing import programs

SENTENCES = 1500


def unread(path: str) -> t.Definitions:
    """Stand for a used file that is not read."""
    return t.Definitions({}, {}, path)


ALPHABET = [*map(chr, range(9, 127)), "é", "—", "\u2028", "\x85", "😀"]


class Grammar:
    """A GBNF read on its own: draws sentences.

    Expressions are tuples: ``("is", pattern)``, ``("rule", name)``, ``("all", *parts)``,
    ``("one", *parts)`` and ``("times", part, low, high)``.
    """

    def __init__(self, gbnf: str) -> None:
        self.rules: dict[str, Any] = {}
        for found in re.finditer(r"^([a-z-]+) ::=((?:[^\n]|(?<=[|=])\n)*)\n", gbnf, re.M):
            self.words = re.findall(
                r'"(?:[^"\\]|\\.)*"|\[(?:[^]\\]|\\.)*\]|[a-z-]+|\{[\d,]+\}|[()|?*+]', found[2]
            )
            self.rules[found[1]] = self.one()
            assert not self.words

    def one(self) -> Any:
        options = [self.all()]
        while self.words and self.words[0] == "|":
            self.words.pop(0)
            options.append(self.all())
        return ("one", *options)

    def all(self) -> Any:
        parts: list[Any] = []
        while self.words and self.words[0] not in "|)":
            word = self.words.pop(0)
            if word == "(":
                parts.append(self.one())
                assert self.words.pop(0) == ")"
            elif word in "?*+" or word[0] == "{":
                bounds = {"?": "0,1", "*": "0,9999", "+": "1,9999"}.get(word, word.strip("{}"))
                low, high = bounds.split(",") if "," in bounds else (bounds, bounds)
                parts.append(("times", parts.pop(), int(low), int(high)))
            elif word[0] == '"':
                plain = word[1:-1].replace(r"\n", "\n").replace(r"\"", '"').replace("\\\\", "\\")
                parts.append(("is", re.escape(plain)))
            else:
                parts.append(("is", word) if word[0] == "[" else ("rule", word))
        return ("all", *parts)

    @cached_property
    def least(self) -> dict[str, int]:
        """The least depth in which each rule can end."""
        least = dict.fromkeys(self.rules, 99)
        for _ in self.rules:
            least |= {name: 1 + self.depth(rule, least) for name, rule in self.rules.items()}
        return least

    def depth(self, node: Any, least: dict[str, int]) -> int:
        match node:
            case "rule", name:
                return least[name]
            case "all", *parts:
                return max((self.depth(part, least) for part in parts), default=0)
            case "one", *parts:
                return min(self.depth(part, least) for part in parts)
            case "times", part, low, _:
                return self.depth(part, least) if low else 0
        return 0

    def sample(self, draw: random.Random, node: Any = ("rule", "root"), depth: int = 14) -> str:
        """Draw a sentence, as shallow as possible below a depth."""
        match node:
            case "is", pattern:
                return draw.choice(_characters(pattern)) if pattern[0] == "[" else _plain(pattern)
            case "rule", name:
                return self.sample(draw, self.rules[name], depth - 1)
            case "all", *parts:
                return "".join(self.sample(draw, part, depth) for part in parts)
            case "one", *parts:
                costs = [self.depth(part, self.least) for part in parts]
                fitting = [p for p, c in zip(parts, costs, strict=True) if c <= max(depth, min(costs))]
                return self.sample(draw, draw.choice(fitting), depth)
            case "times", part, low, high:
                more = draw.choice((0, 0, 0, 0, 1, 1, 3))
                if part[0] != "is" and self.depth(part, self.least) > depth:
                    more = 0
                count = min(high, low + more)
                return "".join(self.sample(draw, part, depth) for _ in range(count))
        raise TypeError(node)


@lru_cache
def _characters(pattern: str) -> Sequence[str]:
    return [char for char in ALPHABET if re.fullmatch(pattern, char)]


@lru_cache
def _plain(pattern: str) -> str:
    return re.sub(r"\\(.)", r"\1", pattern, flags=re.S)


@pytest.fixture(scope="module")
def gbnf() -> str:
    return to_gbnf(grammar_text())


@pytest.fixture(scope="module")
def grammar(gbnf: str) -> Grammar:
    return Grammar(gbnf)


@pytest.fixture(scope="module")
def accepts(gbnf: str) -> Callable[[str], bool]:
    """Give a function that recognises a sentence of the GBNF, by llguidance on single bytes."""
    llguidance = pytest.importorskip("llguidance")
    lark = llguidance.grammar_from("lark", llguidance.gbnf_to_lark.gbnf_to_lark(gbnf))
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), lark)

    def accepted(sentence: str) -> bool:
        matcher.reset()
        read = matcher.try_consume_tokens(list(sentence.encode()))
        return read == len(sentence.encode()) and matcher.is_accepting()

    return accepted


def test_what_it_generates_parses(grammar: Grammar) -> None:
    draw, kinds, deepest, too_large = random.Random(0), set[type](), 0, 0
    for i in range(SENTENCES):
        sentence = grammar.sample(draw, depth=10 + i % 5)
        try:
            program = parse(sentence, resolve=unread)
        except CostError:  # the parser's limits on size, which no GBNF can state
            too_large += 1
            continue
        kinds |= {type(node) for node in program.walk()}
        deepest = max(deepest, *map(_depth, program.terms), 0)
    assert kinds >= {t.Where, t.Scaled, t.Table, t.Or, t.And, t.Not, t.Between, t.Member, t.Affix}
    assert kinds >= {
        t.SetDefinition,
        t.Quantifier,
        t.Search,
        t.Extremum,
        t.Absolute,
        t.Decay,
        t.Real,
    }
    assert kinds >= {t.Modulo, t.Shortened, t.Weight, t.Product, t.Score, t.ScoreDefinition, t.Use}
    assert deepest >= 8
    assert too_large <= SENTENCES // 50


def test_what_it_generates_is_accepted_once_printed(grammar: Grammar, accepts: Callable[[str], bool]) -> None:
    draw, tried = random.Random(1), 0
    for i in range(200):
        sentence = grammar.sample(draw, depth=8 + i % 4)
        assert accepts(sentence), sentence
        program = parse(sentence, resolve=unread)
        if _printable(program):
            tried += 1
            assert accepts(show(program)), show(program)
    assert tried > 100


@given(programs(holes=True, lookahead=True))
@settings(
    max_examples=250, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_it_accepts_what_is_canonical(accepts: Callable[[str], bool], program: t.Head) -> None:
    plain = replace(program, functions=())
    calls = (node for node in plain.walk() if isinstance(node, t.Call))
    assume(all(call.name in FEATURES for call in calls))  # functions are not in it
    assert accepts(show(plain)), show(plain)


def test_it_accepts_the_library(accepts: Callable[[str], bool]) -> None:
    from importlib.resources import files

    library = files("attn_dsl.grammars").joinpath("library")
    sources = [f.read_text(encoding="utf-8") for f in library.iterdir() if f.name.endswith(".attn")]
    for source in sources:
        assert accepts(show(_without_remarks(parse(source)))), source


LONG = tuple(f"word {i}" for i in range(60))


@pytest.mark.parametrize(
    "program",
    [
        t.Head("a", "causal", "softmax", (), ()),
        t.Head("a_1", "bidirectional", "linear", (), (t.SetDefinition("Long", t.SetLiteral(LONG)),)),
        t.Head("a", "causal", "softmax", (t.Where(1e-7, t.Always()),), ()),
        t.Head("a", "causal", "softmax", (t.Where(-1000.0, t.Not(t.Not(t.Always()))),), ()),
    ],
    ids=["no-terms", "set-over-lines", "small-weight", "not-not"],
)
def test_it_accepts_canonical_corners(accepts: Callable[[str], bool], program: t.Head) -> None:
    assert parse(show(program)) == program
    assert accepts(show(program))


@pytest.mark.parametrize(
    "source",
    [
        "head a causal:\n    2 where k == 0",
        "head a causal:\n    2 wherek == 0\n",
        "heada causal:\n    2 where k == 0\n",
        "head a causal:\n    2 where notpunct(k)\n",
        "head a causal:\n    2 where k   == 0\n",
        "head a causal:\n    2 where k == 0\n\n\n    3 where true\n",
        "head a causal:\n    2 where k == 0  # why\n",
        "head a causal:\n    2 where word(k) in {}\n",
    ],
    ids="no-line-end no-gap no-gap-2 no-gap-3 blanks lines comment empty-set".split(),
)
def test_it_is_bounded_and_wants_gaps(accepts: Callable[[str], bool], source: str) -> None:
    assert not accepts(source)


def test_white_space_is_optional_elsewhere(accepts: Callable[[str], bool]) -> None:
    source = 'set A={"a"}\nhead a causal:\n2 where k==0 and (k<q or word(k)in A)\n'
    assert parse(source)
    assert accepts(source.replace(")in", ") in"))


def test_every_feature_and_literal_is_there(gbnf: str) -> None:
    from attn_dsl.dsl.features import FEATURES

    assert all(f'"{name}"' in gbnf for name in FEATURES)


def test_it_nests(accepts: Callable[[str], bool]) -> None:
    inner = "(" * MAX_NESTING + "k" + ")" * MAX_NESTING
    assert accepts(f"head a causal:\n    2 where {inner} == 0\n")


@pytest.mark.parametrize(
    "lark",
    ['start: "a"i', "start: /a/i", 'start: "a"~2', "start: /\\d/",
     "start: A\nA: /a(?=b)/", "start: A\nA: /a+?/"],
)  # fmt: skip
def test_notation_that_is_not_converted(lark: str) -> None:
    with pytest.raises(ValueError, match="not converted to GBNF"):
        to_gbnf(lark)


@pytest.mark.parametrize(
    ("lark", "gbnf"),
    [
        ('start: "b" | start "c" | start "d"', 'root ::= "b" ("c" | "d")*\n'),
        ('?start: x+ -> xs\n!x: "a" // why\n', 'root ::= x x*\nx ::= "a"\n'),
        (r"start: A" "\n" r"A: /[A-Z.\-]\.\/(?:a|b){2,3}\x41/",
         'root ::= a\na ::= [A-Z.\\x2d] "." "/" ("a" | "b"){2,3} "\\x41"\n'),
        ('start: "a" "b"? "\\"\\\\"\n%ignore /[ ]+/',
         'root ::= "a" (gap "b")? ws "\\"\\\\"\n'),
        ('start: _NL? ("a" _NL)+\n_NL: /(\\r?\\n)+/\n%ignore /[ ]+/',
         'root ::= (nl indent)? "a" nl (indent "a" nl)*\nnl ::= "\\n"{1,2}\n'),
        ('start: name NAME\nname: "x"\nNAME: /y/', 'root ::= name name-token\nname ::= "x"\n'
         'name-token ::= "y"\n'),
    ],
    ids=["left-recursion", "marks", "regex", "spacing", "lines", "names"],
)  # fmt: skip
def test_conversions(lark: str, gbnf: str) -> None:
    spacing = "ws ::= [ ]{0,2}\ngap ::= [ ]{1,2}\nindent ::= [ ]{0,8}\n"
    assert to_gbnf(lark) == gbnf + spacing * ("%ignore" in lark)


def _without_remarks(program: t.Head) -> t.Head:
    return replace(
        program, remarks=t.NO_REMARKS, after=(),
        terms=tuple(replace(term, remarks=t.NO_REMARKS) for term in program.terms),
        sets=tuple(replace(item, remarks=t.NO_REMARKS) for item in program.sets),
    )  # fmt: skip


def _depth(node: t.Node) -> int:
    return 1 + max(map(_depth, node.children()), default=0)


def _printable(program: t.Head) -> bool:
    """Say whether what the printer writes can be read again: not so for a rate that rounds to 0."""
    try:
        return parse(show(program)) == program
    except ProgramError:
        return False
