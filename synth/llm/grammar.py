"""The grammar that completions follow: the part of the language in which every text checks and ends.

It is made of ``grammars/attn.lark``. Terminals are taken from there (features that a head of the
given visibility may not use are left out); rules are replaced by narrower ones, with the white
space of the canonical printer written out and everything bounded: terms, nesting, sets, strings.
A rule or terminal that this module does not know of is an error, so that the two stay together.
It keeps to what Lark, llguidance and the converter to GBNF all read.
"""

from __future__ import annotations

import dataclasses
import re
from functools import lru_cache
from typing import Any

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.gbnf import GrammarError
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.dsl.parser import grammar_text
from attn_dsl.dsl.printer import show

NAME = "proposed"
"""What a proposed program is called until it belongs to a head."""
MAX_TERMS = 8
"""The most terms; the costliest program of so many stays within ``dsl.limits.MAX_COST``."""
MAX_ELEMENTS, MAX_STRING = 24, 24
"""The most elements of a set, the most characters of a string."""
PLAN_LINES, PLAN_WIDTH = 3, 160
"""The most comment lines before the program, where a plan is allowed, and their longest."""
LADDER = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""The steps that tables and ranges are made of, and for bidirectional heads their negatives."""
LOWEST = 10
"""Ranges may begin at every number below it as well."""

KEPT = frozenset({
    "COMPARISON", "EQUALITY", "AFFIX", "EXTREMUM", "REAL_FUNCTION", "POSITION_QUANTIFIER",
    "BOOL_FEATURE", "INT_FEATURE", "SYMBOL_FEATURE", "PAIR_FEATURE", "HOLE",
})  # fmt: skip
"""Terminals that are taken from the grammar file, spaced and without what does not fit the head."""
REPLACED = frozenset({
    "start", "head", "line", "term", "condition", "entry", "weight", "predicate", "conjunction", "literal",
    "symbol", "set", "set_literal", "value", "factor", "int", "atom", "VISIBILITY", "NORMALISER",
    "VARIABLE", "STRING", "WEIGHT", "BOUND", "RATE", "INTEGER", "SET_NAME", "NAME", "_NL",
})  # fmt: skip
"""Rules and terminals in whose place narrower ones stand below."""
LEFT_OUT = frozenset({"set_definition", "element", "WEIGHT_FUNCTION"})
"""Named and weighted sets: two weights of one element, or an unknown name, would not check."""

RULES = r"""
term: INDENT weight " where " predicate "\n"
    | INDENT weight " * " value condition? "\n"
    | INDENT "by " small " [" table "]" condition? "\n"
condition: " where " conjunction

predicate: conjunction (" or " conjunction)? | (literal " and ")? far (" and " literal)?
conjunction: literal (" and " literal (" and " literal (" and " literal)?)?)?
    | group " and " literal (" and " literal)?
group: "not "? "(" literal " or " literal (" or " literal)? ")"
literal: "not "? BOOL_FEATURE "(" POSITION ")"
    | "not "? AFFIX "(" symbol ", " STRING ")"
    | "not "? small " in " RANGE
    | "not "? small comparison (small | NUMBER)
    | "not "? symbol EQUALITY (symbol | STRING)
    | symbol IN set
far: "not "? "any(" conjunction ")"
    | "not "? BOOL_FEATURE "(" pointer ")"
    | "not "? leaf comparison pointer
    | "not "? pointer comparison (leaf | NUMBER)
    | "not "? symbol EQUALITY SYMBOL_FEATURE "(" pointer ")"
    | SYMBOL_FEATURE "(" pointer ")" IN set
comparison: COMPARISON | EQUALITY

symbol: SYMBOL_FEATURE "(" POSITION ")"
set: LEXICON | "{" elements "}"

value: VARIABLE | call | extremum | search | "(" sum ")" | "abs(" sum ")"
    | REAL_FUNCTION "(" ("1 + "? small | search) ")"
    | "decay(" small ", " RATE ")"

leaf: POSITION | call
call: INT_FEATURE "(" POSITION ")" | PAIR_FEATURE "(" POSITION ", " POSITION ")"
sum: leaf OPERATOR (leaf | NUMBER)
small: leaf | sum | "abs(" sum ")" | extremum
extremum: EXTREMUM "(" leaf ", " (leaf | NUMBER) ")"
pointer: (search | EXTREMUM "(" search ", " NUMBER ")" | inner) (OPERATOR NUMBER)?
search: POSITION_QUANTIFIER "(" conjunction ")"
inner: INT_FEATURE "(" INT_FEATURE "(" POSITION ")" (OPERATOR NUMBER)? ")"
    | PAIR_FEATURE "(" INT_FEATURE "(" POSITION ")" (OPERATOR NUMBER)? ", " POSITION ")"

INDENT: "    "
OPERATOR: " + " | " - "
IN: " in " | " not in "
VARIABLE: "q" | "k"
NUMBER: /0|[1-9][0-9]?/
RATE: /0\.[0-9]?[1-9]/
"""
_RULE = re.compile(r"^[?!]?(\w+)[ \t]*:(.*(?:\n[ \t]+\|.*)*)", re.M)
_BLANKS_AROUND = frozenset({"COMPARISON", "EQUALITY"})
_SHIFT = "(1[0-9]|[1-9])"
_DECIMAL = r"0|-?([1-9][0-9]?|(0|[1-9][0-9]?)\.[0-9]?[1-9])"
_CHARACTER = r'[^"\\\x00-\x1f\x7f\x85\u2028\u2029]|\\["\\nrt]'


@lru_cache(maxsize=16)
def proposal_grammar(
    causal: bool, *, terms: int = MAX_TERMS, numbers: bool = True, plan: bool = False
) -> str:
    r"""Return the grammar of the programs that may be proposed for a head, in Lark's notation.

    >>> print(proposal_grammar(causal=True).splitlines()[0])
    start: "head proposed causal softmax:\n" term (term (term (term (term (term (term (term)?)?)?)?)?)?)?

    Args:
        causal: the visibility of the head.
        terms: the most terms of a program.
        numbers: allow numbers as weights, not holes alone.
        plan: allow a few comment lines before the program.

    Raises:
        GrammarError: ``grammars/attn.lark`` has what this module does not know of.
        ValueError: more terms than ``MAX_TERMS``, or none.
    """
    if not 1 <= terms <= MAX_TERMS:
        raise ValueError(f"a proposal has 1 to {MAX_TERMS} terms, not {terms}")
    source = _terminals()
    visibility = "causal" if causal else "bidirectional"
    before = "(PLAN (PLAN PLAN?)?)? " if plan else ""
    lines = [
        rf'start: {before}"head {NAME} {visibility} softmax:\n" ' + _up_to("term", terms),
        RULES.strip(),
        f"weight: {'WEIGHT | ' if numbers else ''}HOLE",
        "elements: " + _up_to("STRING", MAX_ELEMENTS, '", " '),
        *_table(_steps(causal)),
        *(f"{name}: {_options(name, source[name], causal)}" for name in sorted(KEPT)),
        f"POSITION: /q(-{_SHIFT})?|k([-+]{_SHIFT})?/"
        if causal
        else f"POSITION: /[qk]([-+]{_SHIFT})?/",
        "LEXICON: " + " | ".join(f'"{name}"' for name in lexicon()),
        f"RANGE: /{'|'.join(_ranges(causal))}/",
        f'STRING: /"({_CHARACTER}){{1,{MAX_STRING}}}"/',
    ]
    if numbers:
        lines.append(f"WEIGHT: /{_DECIMAL}/")
    if plan:
        lines.append(rf"PLAN: /# [^\x00-\x1f\x7f\x85\u2028\u2029]{{1,{PLAN_WIDTH}}}\n/")
    return "\n".join(lines) + "\n"


def as_proposal(program: t.Head, *, numbers: bool = False) -> str:
    """Write a program as a proposal: under its name, sets where they are used, holes for weights.

    >>> from attn_dsl.dsl.parser import parse
    >>> print(as_proposal(parse('set A = {"a"}\\nhead x causal:\\n 2 where text(k) in A')), end="")
    head proposed causal softmax:
        ? where text(k) in {"a"}

    Whether the grammar has it, is another question: see ``is_proposal``.

    Args:
        numbers: keep the weights.
    """
    sets = {definition.name: definition.value for definition in program.sets}

    def visit(node: t.Node) -> t.Node:
        if isinstance(node, t.SetName):
            return sets.get(node.name, node)
        if not numbers and isinstance(node, t.Where | t.Scaled | t.Entry):
            node = dataclasses.replace(node, weight=None)
        if isinstance(node, t.Statement):
            node = dataclasses.replace(node, remarks=t.NO_REMARKS)
        return node

    terms = tuple(t.rewrite(term, visit) for term in program.terms)
    return show(t.Head(NAME, program.visibility, program.normaliser, terms))


def is_proposal(source: str, causal: bool) -> bool:
    """Say whether the proposal grammar has a program, as ``as_proposal`` writes it.

    >>> is_proposal("head proposed causal softmax:\\n    ? where k == 0\\n", causal=True)
    True
    """
    matcher = _byte_matcher(causal).deep_copy()
    data = list(source.encode("utf-8", "surrogatepass"))
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


@lru_cache(maxsize=2)
def _byte_matcher(causal: bool) -> Any:
    from llguidance import LLMatcher, LLTokenizer

    return LLMatcher(LLTokenizer("byte"), proposal_grammar(causal))


@lru_cache(maxsize=1)
def _terminals() -> dict[str, str]:
    """Read the grammar file: by name, what each rule and terminal is."""
    found = {name: body.strip() for name, body in _RULE.findall(grammar_text())}
    known = KEPT | REPLACED | LEFT_OUT
    if wrong := sorted(found.keys() ^ known):
        raise GrammarError(
            f"grammars/attn.lark and synth/llm/grammar.py do not fit together: {', '.join(wrong)}; say "
            "there what proposals make of it"
        )
    return found


def _options(name: str, body: str, causal: bool) -> str:
    """Write the options of a terminal of the grammar file that a head may use."""
    options = re.findall(r'"([^"]*)"', body)
    if name.endswith("_FEATURE"):
        features = [FEATURES[option] for option in options]
        options = [f.name for f in features if not f.extra and not (causal and f.reads == "full")]
    blank = " " if name in _BLANKS_AROUND else ""
    return " | ".join(f'"{blank}{option}{blank}"' for option in options)


def _up_to(item: str, most: int, between: str = "") -> str:
    """Write one to so many of something, without a recursive rule.

    >>> _up_to("a", 3)
    'a (a (a)?)?'
    """
    return item + f" ({between}{item}" * (most - 1) + ")?" * (most - 1)


def _steps(causal: bool) -> tuple[int, ...]:
    return LADDER if causal else (*(-x for x in reversed(LADDER[1:])), *LADDER)


def _table(steps: tuple[int, ...]) -> list[str]:
    """Write the rules of a table whose bounds rise: after each step only larger ones."""
    lines = ["table: " + " | ".join(f"from_{i}" for i in range(len(steps)))]
    for i, step in enumerate(steps):
        more = i + 1 < len(steps)
        lines.append(f'from_{i}: "{step}: " weight' + (f' (", " after_{i})?' if more else ""))
        if more:
            following = f" | after_{i + 1}" if i + 2 < len(steps) else ""
            lines.append(f"after_{i}: from_{i + 1}{following}")
    return lines


def _ranges(causal: bool) -> list[str]:
    """Write regular expressions of all ranges that are not empty, one for each lowest number."""
    steps = sorted({*_steps(causal), *range(LOWEST), *(range(-LOWEST, 0) if not causal else ())})
    return [rf"{low}\.\.({'|'.join(str(high) for high in steps if high >= low)})" for low in steps]
