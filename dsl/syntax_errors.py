"""Syntax errors: turns an error of Lark into a message with the place and a suggestion."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from attn_dsl.dsl.errors import ProgramSyntaxError, Span, did_you_mean, source_lines
from attn_dsl.dsl.features import FEATURES, Type
from attn_dsl.dsl.functions import FUNCTIONS
from attn_dsl.dsl.limits import MAX_ROW

if TYPE_CHECKING:
    from lark.exceptions import UnexpectedInput


def _either(parts: list[str]) -> str:
    """Join alternatives: ``a, b or c``."""
    return " or ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


_WORDS = {"_NL": "the end of the line", "WEIGHT": "a weight such as 1.5", "HOLE": "a hole `?`",
          "BOUND": "a whole number", "INTEGER": "a whole number", "RATE": "a rate such as 0.9",
          "STRING": 'a string such as "the"', "SET_NAME": "a name such as Pronoun",
          "NAME": "a name such as induction", "BOOL_FEATURE": "a true-or-false feature such as punct(k)",
          "INT_FEATURE": "a numeric feature such as sentence(k)",
          "SYMBOL_FEATURE": "a text feature such as text(k)", "PAIR_FEATURE": "match(k-1, q)",
          "VARIABLE": "`q` or `k`", "SEARCHED": "`j`", "I": "`i`",
          "VISIBILITY": "`causal` or `bidirectional`", "NORMALISER": "`softmax` or `linear`",
          "COMPARISON": "`<`, `<=`, `>` or `>=`", "EQUALITY": "`==` or `!=`",
          "AFFIX": "`starts`, `ends` or `contains`", "TEXT_FEATURE": "`n`", "EXTREMUM": "`min` or `max`",
          "REAL_FUNCTION": _either([f"`{f.name}`" for f in FUNCTIONS.values() if not f.rated]),
          "WEIGHT_FUNCTION": "`weight`", "POSITION_QUANTIFIER": "`nearest`, `first`, `last` or `count`",
          "$END": "the end of the program"}  # fmt: skip
_GROUPS = [
    ("a predicate", {"BOOL_FEATURE", "NOT", "TRUE", "ANY", "AFFIX"}),
    ("a number such as q - k", {"INTEGER", "VARIABLE", "SEARCHED", "INT_FEATURE", "ABS", "EXTREMUM",
                                "POSITION_QUANTIFIER", "PAIR_FEATURE", "TEXT_FEATURE"}),
    ("a text feature such as text(k)", {"SYMBOL_FEATURE", "CUT_FUNCTION", "STEM_FUNCTION"}),
]  # fmt: skip
_SYMBOLS = {"LPAR": "(", "RPAR": ")", "COMMA": ",", "COLON": ":", "EQUAL": "=", "STAR": "*", "PLUS": "+",
            "MINUS": "-", "LSQB": "[", "RSQB": "]", "LBRACE": "{", "RBRACE": "}", "__ANON_0": "..",
            "QMARK": "?", "PERCENT": "%"}  # fmt: skip
KEYWORDS = [
    *"use set score def head causal bidirectional softmax linear where by and or not in true any".split(),
    *"property mass on nearest first last count abs min max weight starts ends contains".split(), "prefix",
    "suffix", "stem", *FUNCTIONS]  # fmt: skip
_STRING = re.compile(r'"([^"\\\x00-\x1f]|\\["\\nrt]|\\u[0-9a-f]{4})*"')
SPLIT = "split the predicate over several terms or functions"
RESERVED = {*KEYWORDS, *FEATURES, "q", "k", "i", "j", "n"}  # the names that no definition may have


def reserved(name: str) -> str:
    """Say what a name that no definition may have is."""
    return f"`{name}` is {'a built-in feature' if name in FEATURES else 'a word of the language'}"


_STARTS = ("use", "set", "score", "def", "head", "causal", "bidirectional", "softmax", "linear", "by",
           "property", "mass", "on")  # fmt: skip
"""Keywords that begin no value or predicate."""
_TYPES = {"bool": "true or false", "int": "a number", "symbol": "a text"}
_USES = {"bool": "a predicate stands alone: `{0}`, `not {0}`", "int": "compare it, as in `{0} == 1`",
         "symbol": 'compare it with a text, as in `{0} == "a"`'}  # fmt: skip
"""By type: how a function is used in a predicate."""


def explain(error: UnexpectedInput, source: str, name: str, types: Mapping[str, Type]) -> ProgramSyntaxError:
    """Turn an error of Lark into a ``ProgramSyntaxError``; ``types`` are those of functions above it."""
    allowed = getattr(error, "accepts", None) or getattr(error, "allowed", None)
    expected = set(allowed or getattr(error, "expected", None) or ())
    line, column = max(int(error.line), 1), max(int(error.column), 1)
    lines = source_lines(source)
    if line > len(lines) or getattr(getattr(error, "token", None), "type", "") == "$END":
        line, column = len(lines), len(lines[-1]) + 1
    at, cut = column, max(0, column - 1 - MAX_ROW)
    row = lines[line - 1][cut : column + MAX_ROW]
    word, column = _word_at(row, column - cut)
    found = _function(word, lines, row, line, column, expected, types)
    message, hint = found or _diagnose(word, row, column, expected)
    column += cut
    span = Span(line, column, line, column + max(len(word), 1))
    fits = _describe(expected) if column == at else ""  # a word may begin like a shorter one
    return ProgramSyntaxError(message, span, source, expected=fits, hint=hint, name=name)


def _word_at(row: str, column: int) -> tuple[str, int]:
    """Return the identifier or operator around a column and its start, or the character there."""
    for found in re.finditer(r"[A-Za-z_][A-Za-z0-9_]*|==|!=|&&|\|\|", row):
        if found.start() <= column - 1 < found.end():
            return found.group(), found.start() + 1
    return row[column - 1 : column], column


def _diagnose(word: str, row: str, column: int, expected: set[str]) -> tuple[str, str]:
    """Return what is wrong at a word, and how to correct it."""
    if claimed := _property(word, row[: column - 1], expected):
        return claimed
    if not word or word in "# \t\r":
        lone = {"WHERE", "PLUS"} <= expected and "_NL" not in expected
        remedy = "a weight alone counts for all keys alike; say for which: `where k == 0`"
        return "the line ends too early", remedy if lone else ""
    if found := _misnamed(word, row, column, expected) or _unweighted(row, column, expected):
        return found
    if word == "=" and {"EQUALITY", "COMPARISON"} & expected:
        return "`=` compares nothing", "write `==` to compare"
    if word in ("&", "|", "!", "~", "&&", "||"):
        return f"`{word}` is not an operator here", "write `and`, `or`, `not`"
    if word in ("==", "!="):
        return f"`{word}` does not fit here", "a predicate stands alone: `punct(k)`, `not punct(k)`"
    if expected == {"INTEGER"} and row[: column - 1].rstrip().endswith("%"):
        return f"`{word}` does not fit here", "`%` divides by a whole number, as in `k % 2`"
    if word == "-" and "INTEGER" in expected:
        return "a whole number has no sign here", "write `< 0`, or a range: `in -1..-1`"
    if re.match(_STRING, row[column - 1 :]):
        counts = "a number is compared with a number, as in `number(k) == 3`"
        return "a string does not fit here", counts if "INT_FEATURE" in expected else ""
    if word == '"':
        return "this string does not end, or holds an escape that is not known", (
            'strings end on their line; escapes are \\" \\\\ \\n \\r \\t and \\u0041')  # fmt: skip
    if word == "'":
        return "strings are written with double quotes", 'write "…"'
    if len(word) == 1 and not word.isprintable():
        return f"the character U+{ord(word):04X} does not fit here", ""
    if len(word) > 60:
        return f"`{word[:40]}…` is not known here", ""
    after = row[column - 1 + len(word) :].lstrip()
    if weighing := _weighing(word, row[: column - 1], after, expected):
        return weighing
    if (feature := FEATURES.get(word)) is not None:
        if feature.arity and not after.startswith("("):
            return f"the feature `{word}` needs a position", f"write `{word}(k)` or `{word}(q)`"
        return f"`{word}` gives {_TYPES[feature.type]}, which does not fit here", ""
    if re.fullmatch(r"[A-Za-z_]\w*", word) and word not in (*KEYWORDS, "q", "k"):
        near = did_you_mean(word, [*FEATURES, *KEYWORDS])
        if after.startswith("("):
            hint = near or "`attn-dsl features` lists all of them"
            return f"unknown feature or function `{word}`", hint
        return f"`{word}` is not known here", near
    return f"`{word}` does not fit here", ""


def _function(word: str, lines: list[str], row: str, line: int, column: int, expected: set[str],
              types: Mapping[str, Type]) -> tuple[str, str] | None:  # fmt: skip
    """Return what is wrong and a remedy for errors in definitions and in uses of functions and features."""
    before, after = row[: column - 1].rstrip(), row[column - 1 + len(word) :].lstrip()
    own = re.match(r"\s*def\b", row)
    begins = re.compile(rf"\s*def\s+{re.escape(word)}\b")
    where = [number for number, one in enumerate(lines, 1) if begins.match(one)] if word else []
    if where and after.startswith("(") and min(where) >= line and expected != {"NAME"}:
        if min(where) == line:
            return f"`{word}` uses itself", "a function may use those that are defined above it"
        remedy = "move its definition up; functions cannot use each other in turn"
        return f"`{word}` is defined below, in line {min(where)}", remedy
    if word in types and after.startswith("("):
        fits = f"`{word}` gives {_TYPES[types[word]]}, which does not fit here"
        return fits, _USES[types[word]].format(f"{word}(k)")
    if own and "=" not in before and expected & {"LPAR", "RPAR", "I"}:
        remedy = "a function is defined for one position: `def once(i) = …`"
        return f"`{word}` does not fit here" if word else "the line ends too early", remedy
    if own and word in ("weight", "where", "*", "?", "decay", *FUNCTIONS):
        remedy = "a function is a predicate, a whole number or a text; terms have weights"
        return f"`{word}` does not fit here", remedy
    called = re.search(r"(\w+)(\((?:[^()]|\([^()]*\))*\))?$", before)
    name = called[1] if called else ""
    kind = types.get(name) or (FEATURES[name].type if name in FEATURES else None)
    if kind and called and called[2] and word != "," and not re.match(r"\s*(weight|stem)\b", before):
        wanted = {"symbol": {"EQUALITY"}, "int": {"COMPARISON"}, "bool": {"AND", "OR"}}[kind]
        if wanted <= expected and (name in types or (kind == "int" and word in ("", "and", "or"))):
            return f"`{name}` gives {_TYPES[kind]}", _USES[kind].format(name + called[2])
    compared = re.search(r"(\w+)\([^()]*\)\s*[=!<>]=?$", before)
    other = types.get(compared[1]) if compared else None
    if compared and other and (other == "int") is (word == '"'):
        what = "numbers" if other == "int" else "texts"
        return f"`{compared[1]}` gives {_TYPES[other]}", f"it is compared with {what} alone"
    if name in types and called and not called[2]:
        return f"the function `{name}` needs a position", f"write `{name}(k)` or `{name}(q)`"
    calling = re.search(r"(\w+)\([^()]*$", before)
    if calling and calling[1] in types and word == ",":
        return f"`{calling[1]}` is a function of one position", f"write `{calling[1]}(k)`"
    if re.search(r"\b(nearest|first|last|count|any)\(\s*[qkij]\b[^()]*$", before):
        remedy = "a search is `count(j where …)`, or with `j < i`, `<=`, `>` or `>=` before `where`"
        return f"`{word}` does not fit here", remedy
    near = did_you_mean(word, types) if re.fullmatch(r"[a-z]\w*", word) and after.startswith("(") else ""
    return (f"unknown feature or function `{word}`", near) if near and word not in RESERVED else None


def _property(word: str, before: str, expected: set[str]) -> tuple[str, str] | None:
    """Return what is wrong and a remedy for properties that stand or are written wrongly."""
    wrong = f"`{word}` does not fit here" if word else "the line ends too early"
    if word == "property" and not before.strip():
        return wrong, "a property stands below the terms of a head"
    if expected == {"PROPERTY", "$END"}:
        return wrong, "write terms and definitions above the properties"
    if before.lstrip().startswith("property") and expected <= {
        "MASS",
        "NAME",
        "COMPARISON",
        "WEIGHT",
        "ON",
    }:
        forms = "`property causal`, `property invariant_to case` or `property mass >= 0.5 on k == 0`"
        return wrong, f"write {forms}"
    return None


def _misnamed(word: str, row: str, column: int, expected: set[str]) -> tuple[str, str] | None:
    """Return what is wrong and a remedy for the name of a head, and for definitions after a head."""
    before = row[: column - 1]
    if expected == {"NAME"} and word[:1].isupper():
        what = "function" if re.match(r"\s*def\b", before) else "head"
        wrong = f"the name of a {what} begins with a small letter, and `{word}` does not"
        return wrong, f"write `{word.lower()}`; only sets and scores begin with a capital letter"
    if expected == {"SET_NAME"} and word[:1].islower() and re.match("(set|score) ", before):
        wrong = f"the name of a set or score begins with a capital letter, and `{word}` does not"
        return wrong, f"write `{word[0].upper()}{word[1:]}`; only heads begin with a small letter"
    if expected == {"VISIBILITY"} and word in ("softmax", "linear", ":"):
        return "this head has no name", f"write `head my_head{before.removeprefix('head')}{word}`"
    if expected == {"VISIBILITY"} and not word[0].isalpha():
        remedy = "names have letters, digits and `_`: `head my_head causal:`"
        return f"`{word}` does not fit here", remedy
    if "HOLE" in expected and not before.strip():
        if word == "head":
            return "a file holds one head", "write this one in a file of its own"
        if word in ("set", "score", "def"):
            what = "function" if word == "def" else word
            remedy = "move it above the line that begins with `head`"
            return f"a {what} is defined before the head", remedy
    return None


def _unweighted(row: str, column: int, expected: set[str]) -> tuple[str, str] | None:
    """Return what is wrong and a remedy for a term without a weight or with a predicate as a factor."""
    line = row[: row.find("#")] if "#" in row else row
    if "WEIGHT" in expected and not row[: column - 1].strip():
        sign = "-" if line.lstrip().startswith("-") else ""
        weight = f"{sign}1" if sign or "HOLE" not in expected else "?"
        term = _as_term(weight, line.strip().removeprefix("-"))
        fitted = ", where `?` is a weight to be fitted" if weight == "?" else ""
        known = re.match(r"\s*-?\s*\(*(\w+)", line)
        begins = known[1] if known else ""
        if term and begins in (*FEATURES, *KEYWORDS, "q", "k", "i") and begins not in _STARTS:
            return "a term begins with its weight", f"write `{term}`{fitted}"
        return None
    found = re.match(r"\s*(-?[\d.]+|\?)\s*\*(.+)", line)
    if found and column > found.start(2) and "where" not in row[: column - 1]:
        term = _as_term(found[1], found[2])
        if _is_predicate(found[2].partition("where")[0]):
            return "a predicate is no factor", f"write `{term or f'{found[1]} where …'}`"
    return None


def _as_term(weight: str, rest: str) -> str:
    """Write a weight with the values and predicates of a product; empty if that is not simple."""
    if '"' in rest or re.search(r"[+-]\s*(\?|[\d.]+\s*\*)", rest):
        return ""
    body, _, condition = rest.partition("where")
    factors = [part.strip() for part in body.split("*")]
    predicates = [part for part in [*filter(_is_predicate, factors), condition.strip()] if part]
    values = [part for part in factors if part and part not in predicates]
    where = " where " + " and ".join(predicates) if predicates else ""
    return " * ".join([weight, *values]) + where


def _is_predicate(part: str) -> bool:
    """Return whether a part of a term is true or false, by its operators or its first feature."""
    operator = re.search(r"[=<>]|\b(in|not|any|true|starts|ends|contains|and|or)\b", part)
    return bool(operator) or _type(part.strip(" (")) == "bool"


def _weighing(word: str, before: str, after: str, expected: set[str]) -> tuple[str, str] | None:
    """Return what is wrong and a remedy for errors in weighted sets, ``weight`` or products."""
    symbol = _type(word) == "symbol"
    call = word + (after[: after.find(")") + 1] if after.startswith("(") else "(k)")
    if "WEIGHT_FUNCTION" in expected and symbol:
        hint = f"a set can give it a weight: `weight({call}, Starts)`"
        return f"`{word}` gives a text, which does not fit here", hint
    scored = "a score is taken at `q` or `k`, which may be shifted: `Noun(k-1)`"
    if symbol and ")" in after:
        name = (re.findall(r"\w+", before) or [""])[-1]
        scored = f"write `weight({word}{after[: after.find(')') + 1]}, {name})` if `{name}` is a set"
    shifted = expected == {"INTEGER"} and re.search(r"[A-Z]\w*\(\s*\w\s*[+-]\s*$", before)
    named = re.fullmatch(r"[A-Z]\w*", word) and after.startswith("(")
    weighed = word == "weight" and "WEIGHT_FUNCTION" not in expected
    hints: list[tuple[object, str]] = [
        (word in ",:}" and "{" in before and expected & {"COLON", "RBRACE"},
         "give all elements of a set a weight, or none"),
        (word == "?" and "WEIGHT" in expected and "HOLE" not in expected,
         "weights of elements and of scores are numbers; only those of terms are fitted"),
        (expected == {"WHERE"} or (word == "by" and "WEIGHT" in expected),
         "a line of a score is a weight where a predicate holds: `1.5 where punct(i)`"),
        (expected == {"WEIGHT", "HOLE"} and re.search(r"[+-]\s*$", before),
         "a part of a sum begins with a weight; a sum as value is in parentheses: `(q - k)`"),
        (word == "use", "files are used in the first lines, before all sets and scores"),
        (expected == {"VARIABLE"} or shifted, scored),
        (word == "%" and "STAR" in expected,
         "a remainder as value is in parentheses: `2 * (k % 2)`"),
        (word == "*" and "WHERE" in expected, "a term is a weight times one value or two"),
        (word == "*" and "OR" in expected,
         "a predicate has no products, and the condition of a sum follows its last part"),
        (named, f"test a set by `token(k) in {word}`; a score is a value: `1 * {word}(k)`"),
        ("SYMBOL_FEATURE" in expected and before.endswith("weight("),
         "it is a text feature that has a weight: `weight(token(k), Starts)`"),
        (weighed and re.search(r"\bwhere\b", before),
         "only terms have weights of symbols; here, test `token(k) in Starts`"),
        (weighed, "write it as a value of a term: `1 * weight(token(k), Starts)`"),
    ]  # fmt: skip
    hint = next((hint for holds, hint in hints if holds), "")
    return (f"`{word}` does not fit here", hint) if hint else None


def _type(call: str) -> str:
    feature = FEATURES.get(call.partition("(")[0])
    return feature.type if feature is not None else ""


def _describe(expected: set[str]) -> str:
    """Write what could stand at a place: groups of terminals first, then single ones."""
    left, parts = set(expected), []
    for words, names in _GROUPS:
        if len(left & names) > 2:
            parts.append(words)
            left -= names | {"LPAR"}
    for terminal in sorted(left):
        text = _WORDS.get(terminal) or f"`{_SYMBOLS.get(terminal, terminal.lower())}`"
        if text not in parts:
            parts.append(text)
    return _either(parts)
