"""The grammar that completions follow: a part of the language in which every text checks and ends.

Names of features and functions come from their tables; features that a head of the given visibility may not
use are left out, and searches over all positions compare what no later token changes. A program may define a
predicate ``marked(i)`` and an integer ``level(i)``: what fits where a function is used depends on its type,
so the name says it, and the rules of terms are there once for each choice of functions that are defined.
White space is that of the canonical printer, weights are holes, and terms, nesting, sets and strings are
bounded. It keeps to what Lark, llguidance and the converter to GBNF all read.
"""

import re
from functools import lru_cache

from attn_dsl.dsl.features import FEATURES, Feature
from attn_dsl.dsl.functions import FUNCTIONS
from attn_dsl.dsl.lexicon import lexicon

NAME = "proposed"  # what a proposed program is called until it belongs to a head
MAX_TERMS = 8
"""The most terms; the costliest program of so many stays within ``dsl.limits.MAX_COST``."""
OWN = ("marked", "level")  # the functions that a program may define: a predicate and an integer
MAX_ELEMENTS, MAX_STRING = 24, 24  # the most elements of a set, the most characters of a string
LADDER = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""The steps that ranges are made of, and for bidirectional heads their negatives."""
LOWEST = 10  # ranges may begin at every number below it as well

_TERMS = r"""
term: INDENT "? where " predicate "\n"
    | INDENT "? * " value condition? "\n"
condition: " where " conjunction

predicate: conjunction (" or " conjunction)? | (literal " and ")? far (" and " literal)?
conjunction: literal (" and " literal (" and " literal (" and " literal)?)?)?
    | group " and " literal (" and " literal)?
group: "not "? "(" literal " or " literal (" or " literal)? ")"
literal: "not "? BOOL_FEATURE "(" POSITION ")"
    | "not "? MARKED "(" POSITION ")"
    | "not "? AFFIX "(" symbol ", " STRING ")"
    | "not "? small " in " RANGE
    | "not "? small comparison (small | NUMBER)
    | "not "? symbol EQUALITY (symbol | STRING)
    | symbol IN set
far: "not "? "any(" (conjunction | seek) ")"
    | "not "? BOOL_FEATURE "(" pointer ")"
    | "not "? leaf comparison pointer
    | "not "? pointer comparison (leaf | NUMBER)
    | "not "? symbol EQUALITY SYMBOL_FEATURE "(" pointer ")"
    | SYMBOL_FEATURE "(" pointer ")" IN set
    | searched OPERATOR searched comparison NUMBER

value: VARIABLE | call | extremum | search | searched | "(" sum ")" | "abs(" sum ")"
    | REAL_FUNCTION "(" ("1 + "? small | search) ")"
    | RATED_FUNCTION "(" small ", " RATE ")"

call: INT_FEATURE "(" POSITION ")" | PAIR_FEATURE "(" POSITION ", " POSITION ")"
    | LEVEL "(" POSITION ")"
sum: leaf OPERATOR (leaf | NUMBER)
small: leaf | sum | "abs(" sum ")" | extremum | (VARIABLE | call | "(" sum ")") " % " MODULUS
extremum: EXTREMUM "(" leaf ", " (leaf | NUMBER) ")"
pointer: (search | searched | EXTREMUM "(" search ", " NUMBER ")" | inner) (OPERATOR NUMBER)?
search: QUANTIFIER "(" conjunction ")"
searched: QUANTIFIER "(" seek ")"
seek: seek_k | seek_q
predicate_i: "not "? "any(" seek_i ")" | counted comparison (NUMBER | INT_FEATURE "(i" BACK? ")")
    | here (" and " here | " or " here)?
integer_i: counted (OPERATOR (counted | NUMBER) | " % " MODULUS)? | "i - " counted
    | INT_FEATURE "(i" BACK? ")" OPERATOR INT_FEATURE "(i" BACK? ")"
counted: QUANTIFIER "(" seek_i ")"
"""
_SEEK = r"""
seek_@: "j" (COMPARISON "@")? " where " for_@ (" and " for_@)?
    | "j" BACKWARDS "@" " where " (for_@ " and ")? "not "? MARKED "(j" BACK? ")"
    | "j" BACKWARDS "@" " where " (for_@ " and ")? LEVEL "(j" BACK? ")" comparison NUMBER
    | "j" BACKWARDS "@" " where " (for_@ " and ")? LEVEL "(j" BACK? ")" comparison LEVEL "(@" BACK? ")"
"""
"""Rules that are there once for each choice of functions; ``@`` is the position that is searched for."""
_RULES = r"""
start: program | "def level(i) = " integer_i "\n\n" program_level | "def marked(i) = " predicate_i "\n" behind
behind: "\n" program_marked | "def level(i) = " integer_i_marked "\n\n" program_marked_level
comparison: COMPARISON | EQUALITY
symbol: plain | "stem(" plain ")" | CUT "(" plain ", " LENGTH ")"
plain: SYMBOL_FEATURE "(" POSITION ")"
set: LEXICON | "{" elements "}"
here: "not "? BOOL_FEATURE "(i" BACK? ")" | "not "? AFFIX "(" SYMBOL_FEATURE "(i" BACK? "), " STRING ")"
    | SYMBOL_FEATURE "(i" BACK? ")" (EQUALITY (STRING | SYMBOL_FEATURE "(i" BACK? ")") | IN set)
    | INT_FEATURE "(i" BACK? ")" comparison NUMBER
fact: "not "? LEFT_BOOL "(j" BACK? ")"
    | LEFT_SYMBOL "(j" BACK? ")" (EQUALITY STRING | IN set)
    | LEFT_INT "(j" BACK? ")" comparison NUMBER
inner: INT_FEATURE "(" INT_FEATURE "(" POSITION ")" (OPERATOR NUMBER)? ")"
    | PAIR_FEATURE "(" INT_FEATURE "(" POSITION ")" (OPERATOR NUMBER)? ", " POSITION ")"

INDENT: "    "
OPERATOR: " + " | " - "
IN: " in " | " not in "
BACK: "-" /1[0-9]|[1-9]/
COMPARISON: " < " | " <= " | " > " | " >= "
BACKWARDS: " < " | " <= "
EQUALITY: " == " | " != "
AFFIX: "starts" | "ends" | "contains"
CUT: "prefix" | "suffix"
LENGTH: /[1-9]/
MODULUS: /[2-9]/
EXTREMUM: "min" | "max"
QUANTIFIER: "nearest" | "first" | "last" | "count"
VARIABLE: "q" | "k"
NUMBER: /0|[1-9][0-9]?/
RATE: /0\.[0-9]?[1-9]/
"""
_FOR = r"""
for_@: fact | LEFT_SYMBOL "(j" BACK? ")" EQUALITY LEFT_SYMBOL "(@" BACK? ")"
    | LEFT_INT "(j" BACK? ")" comparison LEFT_INT "(@" BACK? ")"
"""
_SHIFT = "([1-9]|[1-5][0-9]|6[0-4])"
_CHARACTER = r'[^"\\\x00-\x1f\x7f\x85\u2028\u2029]|\\["\\nrt]'


def usable(causal: bool) -> list[Feature]:
    """Return the features that a program for a head may use: all at hand, and none that look ahead.

    >>> [f.name for f in usable(causal=False) if f.reads == "full"][:1]
    ['text_final']
    """
    return [f for f in FEATURES.values() if not f.extra and not (causal and f.reads == "full")]


@lru_cache(maxsize=2)
def proposal_grammar(causal: bool) -> str:
    r"""Return the grammar of the programs that may be proposed for a head, in Lark's notation.

    >>> print(proposal_grammar(causal=True).splitlines()[0])
    program: HEAD term (term (term (term (term (term (term (term)?)?)?)?)?)?)?
    """
    features, functions = usable(causal), FUNCTIONS.values()
    kinds = {kind: [f for f in features if f.type == kind and f.arity == 1]
             for kind in ("bool", "int", "symbol")}  # fmt: skip
    names = {
        **{f"{kind.upper()}_FEATURE": [f.name for f in some] for kind, some in kinds.items()},
        **{f"LEFT_{kind.upper()}": [f.name for f in some if f.reads == "left"]
           for kind, some in kinds.items()},
        "PAIR_FEATURE": [f.name for f in features if f.arity == 2],
        "REAL_FUNCTION": [f.name for f in functions if not f.rated],
        "RATED_FUNCTION": [f.name for f in functions if f.rated],
        "LEXICON": [*lexicon()]}  # fmt: skip
    visibility = "causal" if causal else "bidirectional"
    shifted = f"q(-{_SHIFT})?|k([-+]{_SHIFT})?" if causal else f"[qk]([-+]{_SHIFT})?"
    steps = LADDER if causal else sorted({*LADDER, *(-x for x in LADDER)})
    ends = sorted({*steps, *range(0 if causal else 1 - LOWEST, LOWEST)})
    ranges = (rf"{low}\.\.({'|'.join(str(x) for x in ends if x >= low)})" for low in ends)
    lines = [*(_with(functions, causal) for functions in ((), OWN[:1], OWN[1:], OWN)),
             rf'HEAD: "head {NAME} {visibility} softmax:\n"', *(f'{one.upper()}: "{one}"' for one in OWN),
             _RULES.strip(), *(_FOR.replace("@", at).strip() for at in "kqi"),
             "elements: " + _up_to("STRING", MAX_ELEMENTS, '", " '),
             *(f"{name}: " + " | ".join(f'"{x}"' for x in some) for name, some in names.items()),
             f"POSITION: /{shifted}/", f"RANGE: /{'|'.join(ranges)}/",
             f'STRING: /"({_CHARACTER}){{1,{MAX_STRING}}}"/']  # fmt: skip
    return "\n".join(lines) + "\n"


def _with(functions: tuple[str, ...], causal: bool) -> str:
    """Write the rules of the terms that use some functions, whose names end their own."""
    leaf = "POSITION | call" + ("" if causal else ' | "n" " - 1"?')
    rules = f"program: HEAD {_up_to('term', MAX_TERMS)}{_TERMS}leaf: {leaf}"
    rules += "".join(_SEEK.replace("@", at) for at in "kqi")
    missing = [one.upper() for one in OWN if one not in functions]
    rules = "\n".join(x for x in rules.splitlines() if x and not any(one in x for one in missing))
    names = "|".join(re.findall(r"^(\w+):", rules, re.M))
    return re.sub(rf"\b({names})\b", "_".join((r"\1", *functions)), rules)


def _up_to(item: str, most: int, between: str = "") -> str:
    """Write one to so many of something, without a recursive rule: ``a (a (a)?)?``."""
    return item + f" ({between}{item}" * (most - 1) + ")?" * (most - 1)
