"""The one table of program cases: every construct and every corner, with what it must give.

Every suite that evaluates programs runs it: the reference, the compiled evaluator, the exports.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Row = Sequence[float]


@dataclass(frozen=True)
class Case:
    """A program, a text, and weights that its matrix must have.

    Attributes:
        name: what the case is about.
        source: the program.
        tokens: the text, as token strings.
        expected: weights by (query, key); all others are left open.
    """

    name: str
    source: str
    tokens: tuple[str, ...]
    expected: Mapping[tuple[int, int], float]

    @property
    def id(self) -> str:
        """The name as pytest shows it."""
        return self.name.replace(" ", "-")


ABC = ("a", " b", " c")
ABAB = (" a", " b", " a", " b")
UNDO = (" un", "do", " un", "done")
SENTENCES = ("Hi", ".", " You", " go")
HARD = 1000


def rows(*weights: Row) -> dict[tuple[int, int], float]:
    """Spell out the matrix; a row that stops early ends with zeros."""
    n = len(weights)
    return {(q, k): (r[k] if k < len(r) else 0.0) for q, r in enumerate(weights) for k in range(n)}


def masses(*weights: Row) -> dict[tuple[int, int], float]:
    """Spell out a matrix by masses, each row to be divided by its sum."""
    return rows(*([mass / sum(row) for mass in row] for row in weights))


def picks(*keys: Iterable[int]) -> dict[tuple[int, int], float]:
    """Spell out a matrix whose rows are uniform over some keys."""
    chosen = [set(row) for row in keys]
    n = len(chosen)
    return {(q, k): (k in row) / len(row) for q, row in enumerate(chosen) for k in range(n)}


def hard(name: str, predicate: str, tokens: Sequence[str], *keys: Iterable[int],
         visibility: str = "causal", sets: str = "") -> Case:  # fmt: skip
    """Make a case of a predicate that alone decides where a query looks; rows as in ``picks``."""
    source = f"{sets}head case {visibility}:\n    {HARD} where {predicate}\n"
    return Case(name, source, tuple(tokens), picks(*keys))


def both(name: str, predicate: str, tokens: Sequence[str], *keys: Iterable[int], sets: str = "") -> Case:
    """Make a bidirectional case of a predicate, as ``hard`` does."""
    return hard(name, predicate, tokens, *keys, visibility="bidirectional", sets=sets)


def soft(name: str, terms: str, tokens: Sequence[str], expected: Mapping, visibility: str = "causal",
         normaliser: str = "softmax", sets: str = "") -> Case:  # fmt: skip
    """Make a case of terms, one on a line."""
    lines = "".join(f"    {line.strip()}\n" for line in terms.strip().split("\n") if line.strip())
    head = f"head case {visibility} {normaliser}:\n"
    return Case(name, f"{sets}{head}{lines}", tuple(tokens), expected)


def linear(name: str, terms: str, tokens: Sequence[str], *weights: Row,
           visibility: str = "causal") -> Case:  # fmt: skip
    """Make a linear case; rows as in ``masses``."""
    return soft(name, terms, tokens, masses(*weights), visibility, "linear")


E = math.e
TINY, SMALL = f"0.{'0' * 309}1", f"0.{'0' * 39}1"
"""1e-310 and 1e-40, which are subnormal in float64 and in float32."""
ALL3 = ({0}, {0, 1}, {0, 1, 2})
EVERY3 = ({0, 1, 2},) * 3
FIRST3 = ({0},) * 3

RANK = "def rank(i) = count(j where number(j) < number(i))\n"
ONCE = "def once(i) = count(j where text(j) == text(i)) == 1\n"
HEIGHT = 'def height(i) = count(j <= i where text(j) == "(") - count(j <= i where text(j) == ")")\n'

CASES: tuple[Case, ...] = (
    # No terms, no tokens.
    soft("no terms", "", ABC, picks(*ALL3)),
    soft("no terms bidirectional", "", ABC, picks(*EVERY3), "bidirectional"),
    soft("no terms linear", "", ABC, picks(*ALL3), normaliser="linear"),
    soft("no tokens", "2 where k == 0", (), {}),
    soft("no tokens and a quantifier", "2 where k == nearest(true)", (), {}, "bidirectional"),
    soft("one token", "2 where k == 0\n-3 * log(q - k)", ("a",), {(0, 0): 1.0}),
    soft("one token without mass", "2 where k == 1", ("a",), {(0, 0): 1.0}, normaliser="linear"),
    # Weights and normalisers.
    soft("a logit", "1 where k == 0", ABC, masses([1], [E, 1], [E, 1, 1])),
    soft("logits add up", "1 where k == 0\n1 where k < 1", ABC,
         masses([1], [E**2, 1], [E**2, 1, 1])),
    soft("ties share", "5 where k == 0\n5 where k == q", ABC,
         masses([1], [1, 1], [E**5, 1, E**5])),
    soft("a weight of zero", "0 where k == 0\n-0 where k == q", ABC, picks(*ALL3)),
    soft("the largest weights cancel", "1000 where k == 0\n-1000 where k == 0", ABC, picks(*ALL3)),
    soft("the largest weights add up",
         "1000 where k == 0\n1000 where k == 0\n1000 where k == q", ABC, picks(*FIRST3)),
    soft("the smallest weight", "-1000 where k == q", ABC, picks({0}, {0}, {0, 1})),
    soft("subnormal weights", f"{TINY} where k == 0\n-{TINY} where k == q\n{SMALL} where k == 1", ABC,
         picks(*ALL3)),
    linear("subnormal masses are none", f"{TINY} where k == 0\n{TINY} where k == q\n1 where k == 1",
           ABC, [1], [0, 1], [0, 1]),
    soft("what reads the query alone cancels", "7 where q == 2\n3 * q", ABC, picks(*ALL3)),
    linear("masses", "1 where k == 0\n3 where k == q", ABC, [1], [1, 3], [1, 0, 3]),
    linear("no mass is uniform", '2 where text(k) == "z"', ABC, [1], [1, 1], [1, 1, 1]),
    linear("no mass in some rows", "2 where punct(k)", ("a", ".", " b"), [1], [0, 1], [0, 1]),
    linear("no mass bidirectional", "2 where k == q + 1", ABC, [0, 1], [0, 0, 1], [1, 1, 1],
           visibility="bidirectional"),
    linear("a negative mass is none", "1 * (k - 1)", ABC, [1], [1, 1], [0, 0, 1]),
    linear("masses are cut term by term", "1 * (k - q)\n1 where true", ABC, [1], [1, 1], [1, 1, 1]),
    linear("a mass from the query alone", "1 where q == 1\n1 * q", ABC, [1], [1, 1], [1, 1, 1]),
    # Terms that scale a value.
    soft("a constant value", "2 * 3", ABC, picks(*ALL3)),
    soft("a value", "1 * k", ABC, masses([1], [1, E], [1, E, E * E])),
    soft("a value where a predicate holds", "1 * k where k == q", ABC,
         masses([1], [1, E], [1, 1, E * E])),
    soft("a saturated value", "1000 * (k + 100)", ABC, picks(*ALL3)),
    soft("a negative saturated value", "-1000 * (k + 100)", ABC, picks(*ALL3)),
    soft("saturation is per term", "1000 * (k + 100)\n1 where k == 0", ABC,
         masses([1], [E, 1], [E, 1, 1])),
    linear("a saturated mass", "1000 * (k + 9)", ABC, [9], [9, 10], [9, 10, 10]),
    linear("log", "1 * log(q - k)", ("a",) * 4, [1], [1, 1], [1, 0, 0],
           [math.log(3), math.log(2), 0, 0]),
    soft("log of nothing and less", "-1 * log(k - q)", ABC,
         masses([1, 1, 0.5], [1, 1, 1], [1, 1, 1]), "bidirectional"),
    linear("sqrt", "1 * sqrt(q - k)", ABC, [1, 1, 1], [1, 0, 0], [2**0.5, 1, 0],
           visibility="bidirectional"),
    linear("inv", "1 * inv(q - k)", ("a",) * 4, [1], [1, 1], [1 / 2, 1, 1], [1 / 3, 1 / 2, 1, 1]),
    linear("inv of less than nothing", "1 * inv(q - k)", ABC, [1, 1, 1], [1, 1, 1], [0.5, 1, 1],
           visibility="bidirectional"),
    linear("decay", "1 * decay(q - k, 0.5)", ABC, [1, 1, 1], [0.5, 1, 1], [0.25, 0.5, 1],
           visibility="bidirectional"),
    linear("decay to nothing", "1 * decay(q - k + 100000, 0.5)", ABC, [1], [1, 1], [1, 1, 1]),
    # Masses below 1e-300 count as 0: 0.5 to the power of 996 is just above, to that of 997 below.
    linear("masses too small to count", "1 * decay(q - k + 1020, 0.5)", ABC, [1], [1, 1], [1, 1, 1]),
    linear("a mass around the least", "1 * decay(q - k + 995, 0.5)", ("a",) * 4,
           [2], [1, 2], [0, 1, 2], [0, 0, 1, 2]),
    linear("a weight makes a mass large enough", "1000 * decay(q - k + 1000, 0.5)", ABC,
           [4], [2, 4], [1, 2, 4]),
    linear("a weight makes a mass too small", "0.001 * decay(q - k + 990, 0.5)", ABC,
           [1], [1, 1], [1, 1, 1]),
    linear("a product too small to count", "1 * decay(q - k + 500, 0.5) * decay(500, 0.5)", ABC,
           [1], [1, 1], [1, 1, 1]),
    linear("masses too small one by one", "0.6 * decay(996, 0.5)\n0.6 * decay(996, 0.5) where k == q",
           ABC, [1], [1, 1], [1, 1, 1]),
    linear("a small mass beside a large one", "1 * decay(1020, 0.5)\n1 where k == 0", ABC,
           [1], [1, 0], [1, 0, 0]),
    # Weights of symbols, and products.
    soft("the weight of a symbol", '1 * weight(text(k), {"a": 1, "b": -0.25, "zz": 7})', ABC,
         masses([E], [E, E**-0.25], [E, E**-0.25, 1])),
    soft("a weighted set by its name", "2 * weight(text(k), S)", ABC,
         masses([E**2.2], [E**2.2, E**-1.44], [E**2.2, E**-1.44, 1]),
         sets='set S = {"a": 1.1, "b": -0.72}\n'),
    soft("the weight in a plain set", '1 * weight(text(k), {"b", "zz"})', ABC,
         masses([1], [1, E], [1, E, 1])),
    soft("the weight in a set of the lexicon", "1 * weight(word(k), Pronoun)", ("x", " She", " x"),
         masses([1], [1, E], [1, E, 1])),
    soft("a weight where a predicate holds", '1 * weight(text(k), {"a": 2}) where k < q', ("a",) * 3,
         masses([1], [E**2, 1], [E**2, E**2, 1])),
    soft("the weight of the text outside", '1 * weight(text(k-1), {"": 2, "a": -1})', ABC,
         masses([1], [E**2, 1 / E], [E**2, 1 / E, 1])),
    soft("the weight of what was found",
         '1 * weight(text(previous(k)), {"a": 1, "b": 2, "": 0.5})', ABAB,
         {(3, k): E**m / (2 * E**0.5 + E + E**2) for k, m in enumerate([0.5, 0.5, 1, 2])}),
    soft("the weight of a word so far", '1 * weight(word(k), {"un": 3, "undo": 1})', UNDO[:3],
         masses([1], [1, 1], [E, E, E**3])),
    soft("the weight of a whole word", '1 * weight(word(k), {"undo": 1, "un": 3})', UNDO[:3],
         masses(*([E, E, E**3],) * 3), "bidirectional"),
    soft("members of a weighted set", "1 where text(k) in S\n2 where text(k) not in S", ABC,
         masses([E], [E, E**2], [E, E**2, E]), sets='set S = {"a": 0, "c": -3}\n'),
    soft("a query's affinity for a key",
         '0.5 * weight(text(q), {"b": 2, "c": -3}) * weight(text(k), {"a": 1.5, "b": 1})', ABC,
         masses([1], [E**1.5, E], [E**-2.25, E**-1.5, 1])),
    soft("a weight that fades", '4 * weight(text(k), {"a": 0.5, "b": -1}) * decay(q - k, 0.5)', ABC,
         masses([1], [E, E**-4], [E**0.5, E**-2, 1])),
    soft("a weight times a distance",
         '1 * (q - k) * weight(text(k), {"a": 1, "b": -1}) where k > 0 or q == 2', ABC,
         masses([1], [1, 1], [E**2, 1 / E, 1])),
    # Scores.
    soft("a score", "1 * Ab(k)", ABC, masses([E**1.5], [E**1.5, E**-0.5], [E**1.5, E**-0.5, 1]),
         sets='score Ab:\n 1.5 where text(i) == "a"\n -0.5 where text(i) in B\nset B = {"b", "x"}\n'),
    soft("weights of a symbol add up", "2 * S(k)", ABC,
         masses([E**3], [E**3, E**-1], [E**3, E**-1, E]),
         sets='score S:\n 1 where text(i) in {"a", "b"}\n 0.5 where text(i) == "a"\n'
              ' -1.5 where text(i) == "b"\n 0.5 where text(i) not in {"a", "b"}\n'),
    soft("a score of what stands before", "1 * S(k)", ABC, masses([E**2], [E**2, E], [E**2, E, 1]),
         sets='score S:\n 2 where text(i-1) == ""\n 1 where text(i-1) == "a" and i > 0\n'),
    soft("a score at a shift", "1 * S(k-1)", ABC, masses([1], [1, E], [1, E, E**2]),
         sets='score S:\n 1 where text(i) == "a"\n 2 where text(i) == "b" or punct(i)\n'),
    soft("a score outside of the text", "1 * S(k-1) where k < 2", ABC,
         masses([E**3.5], [E**3.5, E**2], [E**3.5, E**2, 1]),
         sets='score S:\n 1.5 where i == 0-1\n 2 where not punct(i)\n'),
    soft("a score of the query", "1 * S(q) * S(k-1) where q - k in 0..1", ABC,
         masses([1], [1, E**2], [1, E, E**2]),
         sets='score S:\n 1 where text(i) == "a"\n 2 where text(i) == "b"\n 1 where i == 2\n'),
    soft("a score after the query", "1 * S(k+1)", ABC, masses([1], [E, 1], [E, E, 1]),
         sets='score S:\n 1 where text(i) != ""\n'),
    soft("a score of whole words", "1 * S(k)", UNDO[:3], masses(*([E, E, E**2],) * 3), "bidirectional",
         sets='score S:\n 1 where word(i) == "undo"\n 2 where word(i) == "un"\n'),
    soft("a score of words so far", "1 * S(k)", UNDO[:3], masses([E**2], [E, E], [E, E, E**2]),
         sets='score S:\n 1 where word(i) == "undo"\n 2 where word(i) == "un"\n'),
    soft("a score that looks ahead", "1 * S(k)", ABC, masses(*([E, 1, 1],) * 3), "bidirectional",
         sets='score S:\n 1 where text(i+1) == "b"\n'),
    soft("a constant score", "2 * S(k) where k == 0", ABC, masses([E**3], [E**3, 1], [E**3, 1, 1]),
         sets="score S:\n 1 where true\n 0.5 where not punct(i) or true\n"),
    soft("a saturated score", "1000 * S(k) * S(k)\n1 where k == 0", ABC,
         masses([1], [E, 1], [E, 1, 1]), sets="score S:\n 100 where not punct(i)\n"),
    soft("scores whose names are those of sets", "1 * Pronoun(k)", ("x", " She", " x"),
         masses([1], [1, E], [1, E, 1]), sets='score Pronoun:\n 1 where word(i) == "she"\n'),
    soft("a score times a value", "1 * S(k) * log(1 + q - k)\n1 * weight(text(k), {\"b\": -1}) * S(k)",
         ABC, masses([1], [2, 1], [3, 1, 1]), sets='score S:\n 1 where text(i) == "a"\n'),
    soft("a score of masses", "1 * S(k)", ABC, masses([2], [2, 0], [2, 0, 0.5]), normaliser="linear",
         sets='score S:\n 2 where text(i) == "a"\n -1 where text(i) == "b"\n 0.5 where i == 2\n'),
    soft("plain sets multiplied", '2 * weight(text(q), {"b", "c"}) * weight(text(k), {"a"})', ABC,
         masses([1], [E**2, 1], [E**2, 1, 1])),
    soft("a plain set times a value", '1 * log(1 + k) * weight(text(k), {"b"})', ABC,
         masses([1], [1, 2], [1, 2, 1])),
    soft("a product of numbers", "0.5 * k * (q - 1)", ABC,
         masses([1], [1, 1], [1, E**0.5, E])),
    soft("a saturated product", "1000 * (k + 100) * (k + 100)\n1 where k == 0", ABC,
         masses([1], [E, 1], [E, 1, 1])),
    linear("a mass by weight", '1 * weight(text(k), {"a": 2, "b": -5, "c": 0.5})', ABC,
           [1], [1, 0], [2, 0, 0.5]),
    linear("a product of masses", "2 * sqrt(k) * inv(k)", ("a",) * 5,
           [1], [0, 1], [0, 1, 2**-0.5], [0, 1, 2**-0.5, 3**-0.5], [0, 1, 2**-0.5, 3**-0.5, 0.5]),
    # Sums.
    soft("a sum", "1 * k - 0.5 * q + 2 where k > 0", ABC,
         masses([1], [1, E**2.5], [1, E**2, E**3])),
    soft("a sum everywhere", '0.5 * k - 2 * weight(text(k), {"a": 1, "b": -1})', ABC,
         masses([E**-2], [E**-2, E**2.5], [E**-2, E**2.5, E])),
    soft("parts are cut one by one", "1000 * (k + 100) - 1000 * (k + 200) + 1 where k == 0", ABC,
         masses([E], [E, 1], [E, 1, 1])),
    soft("a sum beside other terms", "1 where k == 0\n1 - 3 where k == q\nby k [1: 2]\n1 * k + 1 * k", ABC,
         masses([E**-1], [E, E**2], [E, E**4, E**4])),
    linear("a sum of masses", "1 + 1 * (k - 1) + 2 * k where k <= q", ABC,
           [1], [1, 3], [1, 3, 6]),
    # Tables.
    soft("a table", "by q - k [0: 0, 1: 2, 3: 1]", ("a",) * 5,
         {(4, k): m / (2 * E + 2 * E * E + 1) for k, m in enumerate([E, E, E * E, E * E, 1])}),
    soft("a table below its first step", "by q - k [2: 1000]", ABC, picks({0}, {0, 1}, {0})),
    soft("a table of negative weights", "by q - k [1: -1000]", ABC, picks({0}, {1}, {2})),
    soft("a table of negative steps", "by k - q [-1: 1000, 0: 0]", ABC,
         picks({0, 1, 2}, {0}, {1}), "bidirectional"),
    soft("a table where a predicate holds", "by q - k [0: 1000] where k == 0", ABC, picks(*FIRST3)),
    linear("a table of masses", "by q - k [0: 1, 1: 3]", ABC, [1], [3, 1], [3, 3, 1]),
    linear("a table that ends at once", "by k [1: 0]", ABC, [1], [1, 1], [1, 1, 1]),
    # Integers.
    hard("the previous token", "k == q-1", ABC, {0}, {0}, {1}),
    hard("the next token is not seen", "k == q+1", ABC, *ALL3),
    both("the next token", "k == q+1", ABC, {1}, {2}, {0, 1, 2}),
    hard("sums from left to right", "q - k - 1 == 0", ABC, {0}, {0}, {1}),
    hard("a shifted position in a difference", "q - (k-1) == 2", ABC, {0}, {0}, {1}),
    hard("a number plus a position", "1 + k == q", ABC, {0}, {0}, {1}),
    hard("the largest numbers", "k+100000 - q == 99999", ABC, {0}, {0}, {1}),
    linear("abs", "1 * abs(q - k)", ABC, [0, 1, 2], [1, 0, 1], [2, 1, 0],
           visibility="bidirectional"),
    linear("min", "1 * min(q - k, 1)", ABC, [1], [1, 0], [1, 1, 0]),
    linear("max", "1 * max(q - k, 1)", ABC, [1], [1, 1], [2, 1, 1]),
    linear("remainders are never negative", "1 * ((k - q) % 3)", ABC, [0, 1, 2], [2, 0, 1], [1, 2, 0],
           visibility="bidirectional"),
    hard("a remainder binds before a sum", "q + k % 2 == 2", ABC, {0}, {1}, {0, 2}),
    hard("a remainder of a remainder", "(k+4) % 5 % 3 == 1", ABC, {0}, {0}, {0, 2}),
    hard("even positions", "k % 2 == 0 and k % 1 == 0", ABC, {0}, {0}, {0, 2}),
    hard("a remainder of what is not there", "previous(k) % 100000 == 99999", ABAB[:3],
         {0}, {0, 1}, {0, 1}),
    both("the mirrored position", "k == n - 1 - q", ABC, {2}, {1}, {0}),
    both("the length of the text", "k == n % 2", ABC, {1}, {1}, {1}),
    soft("the length in a score and a quantifier", "1 * S(k)\n2 where k == first(k + 1 == n - q)", ABC,
         masses([1, 1, E**3], [1, 1, E], [E**2, 1, E]), "bidirectional",
         sets="score S:\n 1 where i == n - 1\n"),
    # Comparisons and connectives.
    hard("less", "k < 1", ABC, *FIRST3),
    hard("at most", "k <= 1", ABC, {0}, {0, 1}, {0, 1}),
    hard("more", "k > 1", ABC, {0}, {0, 1}, {2}),
    hard("at least", "k >= 1", ABC, {0}, {1}, {1, 2}),
    hard("unequal", "k != 1", ABC, {0}, {0}, {0, 2}),
    hard("between", "q - k in 1..2", ("a",) * 4, {0}, {0}, {0, 1}, {1, 2}),
    both("between negative bounds", "q - k in -1..0", ABC, {0, 1}, {1, 2}, {2}),
    hard("and binds before or", "k == 0 or k == 1 and q == 9", ABC, *FIRST3),
    hard("parentheses", "(k == 0 or k == 1) and q == 2", ABC, {0}, {0, 1}, {0, 1}),
    hard("not binds first", "not k == 0 and k == q", ABC, {0}, {1}, {2}),
    hard("not of or", "not (k == 0 or k == q)", ABC, {0}, {0, 1}, {1}),
    hard("not not", "not not k == 0", ABC, *FIRST3),
    hard("true", "true", ABC, *ALL3),
    hard("not true", "not true", ABC, *ALL3),
    # Symbols, sets, affixes.
    hard("equal texts", "text(k) == text(q) and k < q", ABAB, {0}, {0, 1}, {0}, {1}),
    hard("unequal texts", "text(k) != text(q)", ("a", " a", " b"), {0}, {0, 1}, {0, 1}),
    hard("texts leave out the space before", "text(k) == text(q) and k < q", ("a", " a"), {0}, {0}),
    hard("tokens keep the space before", "token(k) == token(q) and k < q", ("a", " a"), {0}, {0, 1}),
    hard("a token of one string", 'token(k) == " b"', ABC, {0}, {1}, {1}),
    hard("a named set", "text(k) in S", ABC, {0}, {1}, {1, 2}, sets='set S = {"b", "c"}\n'),
    hard("a set written in place", 'text(k) in {"b", "zz"}', ABC, {0}, {1}, {1}),
    hard("not in a set", 'text(k) not in {"b"}', ABC, {0}, {0}, {0, 2}),
    hard("a set of the lexicon", "word(k) in Pronoun", ("x", " She", " x"), {0}, {1}, {1}),
    hard("a set that hides one of the lexicon", "word(k) in Pronoun", ("x", " She", " y"),
         {0}, {0, 1}, {2}, sets='set Pronoun = {"y"}\n'),
    hard("a set with the empty text", 'text(k-1) in {""}', ABC, *FIRST3),
    hard("escapes in strings", r'text(k) in {"\n", "\"", "\\", "\u00e9"}',
         ("\n", '"', "\\", "é", "x"),
         {0}, {0, 1}, {0, 1, 2}, {0, 1, 2, 3}, {0, 1, 2, 3}),
    hard("an ending", 'ends(word(k), "ing")', ("a", " Going", " in"), {0}, {1}, {1}),
    hard("a beginning", 'starts(text(k), "un")', ("a", " undo", " Un"), {0}, {1}, {1}),
    hard("a part", 'contains(text(k), "nd") and not contains(text(k), "z")', ("a", " undo", "nd"),
         {0}, {1}, {1, 2}),
    hard("equal beginnings", "prefix(text(k), 2) == prefix(text(q), 2) and k != q",
         ("undo", " un", "do", "u"), {0}, {0}, {0, 1, 2}, {0, 1, 2, 3}),
    hard("equal ends of strings", 'suffix(text(k), 64) == "undo" or suffix(text(k), 1) in {"n", "do"}',
         ("undo", " un", "do"), {0}, {0, 1}, {0, 1}),
    hard("equal stems", "stem(word(k)) == stem(lower(q)) and k < q", (" running", " Runs", " x", " run"),
         {0}, {0}, {0, 1, 2}, {0, 1}),
    hard("stems of words so far", 'stem(word(k)) == "run"', (" run", "ning", " walk"), {0}, {0, 1}, {0, 1}),
    hard("a part of a stem", 'starts(prefix(stem(text(k)), 3), "happi")', (" happiness",), {0}),
    soft("the weight of a stem", '1 * weight(stem(text(k)), {"run": 2, "walk": -1})',
         (" Running", " walks", "x"), masses([E**2], [E**2, 1 / E], [E**2, 1 / E, 1])),
    soft("a stem in a score", "1 * S(k)", (" Running", " walks", "x"), masses([E], [E, 1], [E, 1, 1]),
         sets='score S:\n 1 where stem(text(i)) == "run"\n'),
    hard("shortened texts outside", 'prefix(text(k-1), 1) == "" and suffix(stem(text(k-1)), 2) == ""', ABC,
         *FIRST3),
    hard("the order of numbers", "number(k) < number(q)", (" 7", "x", " eight", "²"),
         {0}, {0, 1}, {0, 1}, {0, 1, 2, 3}),
    hard("numbers of words so far", "word_number(k) == 71", (" 7", "1", " x"), {0}, {0, 1}, {0, 1}),
    both("numbers of words", "word_number(k) == 71", (" 7", "1", " x"), *({0, 1},) * 3),
    hard("the empty beginning", 'starts(text(k-9), "")', ABC, *ALL3),
    hard("no ending outside the text", 'ends(text(k-9), "a")', ABC, *ALL3),
    hard("shapes", "shape(k) == shape(q)", ("He", " ran", " To", " 42"),
         {0}, {1}, {0, 2}, {3}),
    # Positions outside what can be seen.
    hard("before the text a text is empty", 'text(k-1) == ""', ABC, *FIRST3),
    hard("far before the text", 'text(k-100000) == ""', ABC, *ALL3),
    hard("far after the text", 'text(k+100000) == ""', ABC, *ALL3),
    hard("after the query a text is empty", 'text(k+1) == ""', ABC, {0}, {1}, {2}),
    both("after the text a text is empty", 'text(k+1) == ""', ABC, {2}, {2}, {2}),
    hard("after the query nothing holds", "punct(k+1)", ("a", ".", " b", "."),
         {0}, {0}, {0}, {0, 2}),
    both("after the text nothing holds", "not punct(k+1)", ("a", "."), {1}, {1}),
    hard("outside the text an ordinal is -1", "sentence(k-1) in -1..-1", ABC, *FIRST3),
    hard("outside the text a count is 0", "length(k-1) == 0", ABC, *FIRST3),
    hard("outside the text nothing matches", "match(k-1, q) == 0 and k == 0", ABC, *FIRST3),
    hard("a feature at a feature outside", 'text(previous(k)) == ""', ABAB,
         {0}, {0, 1}, {0, 1}, {0, 1}),
    # Quantifiers.
    hard("nearest", "k == nearest(text(k) == text(q))", ABAB, {0}, {0, 1}, {0}, {1}),
    hard("nearest of nothing is -1", 'k == nearest(text(k) == "z") + 1', ABC, *FIRST3),
    hard("first of nothing is -1", 'k == first(text(k) == "z") + 1', ABC, *FIRST3),
    hard("last of nothing is -1", 'k == last(text(k) == "z") + 1', ABC, *FIRST3),
    hard("count of nothing", 'k == count(text(k) == "z")', ABC, *FIRST3),
    hard("any of nothing", 'k == 0 and not any(text(k) == "z")', ABC, *FIRST3),
    hard("any", 'k == 0 and any(text(k) == "b")', ABC, {0}, {0, 1}, {0}),
    hard("the query's own key is not searched", "k == nearest(true)", ABC, {0}, {0}, {1}),
    both("nearest of two is the one before", 'k == nearest(text(k) == "x")', ("x", "y", "x"),
         {2}, {0}, {0}),
    both("nearest after the query", "k == nearest(k > q)", ABC, {1}, {2}, {0, 1, 2}),
    both("first", 'k == first(text(k) == "x")', ("x", "y", "x", "x"), {2}, {0}, {0}, {0}),
    both("last", 'k == last(text(k) == "x")', ("x", "y", "x", "x"), {3}, {3}, {3}, {2}),
    hard("count", "k == count(true)", ABC, {0}, {1}, {2}),
    both("count of others", "k == count(k < q)", ABC, {0}, {1}, {2}),
    hard("a quantifier in a quantifier", "k == nearest(text(k) == text(first(punct(k))))",
         (".", "a", ".", "b"), {0}, {0}, {0}, {2}),
    hard("a feature at what was found", "k == word_first(nearest(punct(k)) - 1)",
         (" un", "do", "!", " x"), {0}, {0, 1}, {0, 1, 2}, {0}),
    # Words and pieces, as far as the query sees them.
    hard("pieces of a word", "k == word_first(q)", UNDO, {0}, {0}, {2}, {2}),
    hard("a word so far", "word(k) == word(q)", UNDO, {0}, {0, 1}, {2}, {2, 3}),
    both("a whole word", "word(k) == word(q)", UNDO, {0, 1}, {0, 1}, {2, 3}, {2, 3}),
    hard("the last piece is not known at once", "word_final(k)", (" un", "do", " it"),
         {0}, {0, 1}, {1}),
    both("the last piece", "word_final(k)", (" un", "do", " it"), {1, 2}, {1, 2}, {1, 2}),
    hard("the last visible piece", "k == word_last(k)", (" un", "do", " it"), {0}, {1}, {1, 2}),
    hard("a character in bytes", 'word(k) == "café"', (" caf", "<0xC3>", "<0xA9>"),
         {0}, {0, 1}, {0, 1, 2}),
    # Sentences, lines, brackets.
    hard("the same sentence", "sentence(k) == sentence(q)", SENTENCES, {0}, {0, 1}, {2}, {2, 3}),
    hard("the end of a sentence is not known at once", "sentence_final(k)", SENTENCES[:3],
         {0}, {0, 1}, {1}),
    both("the end of a sentence", "sentence_final(k)", SENTENCES[:3], *({1, 2},) * 3),
    hard("the start of a sentence", "sentence_start(k)", SENTENCES, {0}, {0}, {0, 2}, {0, 2}),
    hard("lines", "line(k) == line(q)", ("a", "\n", "b"), {0}, {0, 1}, {2}),
    hard("a bracket is closed later", "closed(k)", ("(", "a", ")", "b"), {0}, {0, 1}, {0}, {0}),
    both("a bracket that will be closed", "closed(k)", ("(", "a", ")", "b"), *({0},) * 4),
    hard("the bracket it closes", "k == opener(q)", ("(", "a", ")", "b"),
         {0}, {0}, {0}, {0, 1, 2, 3}),
    hard("special tokens", "special(k)", ("<s>", "a", "</s>"), {0}, {0}, {0, 2}),
    # Repetition.
    hard("induction", "match(k-1, q) >= 1", (" a", " b", " a"), {0}, {0, 1}, {1}),
    hard("a longer match", "match(k-1, q) == 2", ("a", "b", "c", "a", "b"),
         {0}, {0, 1}, {0, 1, 2}, {0, 1, 2, 3}, {2}),
    hard("after the previous copy", "k == previous(q) + 1", (" a", " b", " a"), {0}, {0}, {1}),
    hard("tokens with and without a space differ", "seen(k)", ("a", " a"), {0}, {0, 1}),
    hard("seen before", "seen(k)", ABAB, {0}, {0, 1}, {2}, {2, 3}),
    # Functions, and searches over positions.
    both("numbers in order", "rank(k) == q", ("3", " 1", " 2"), {1}, {2}, {0}, sets=RANK),
    both("the same without a function", "count(j where number(j) < number(k)) == q", ("3", " 1", " 2"),
         {1}, {2}, {0}),
    hard("ranks among what the query sees", "rank(k) == 0", ("3", " 1", " 2"), {0}, {1}, {1}, sets=RANK),
    hard("heights of brackets", "height(k) == height(q)", (")", "(", "(", ")"),
         {0}, {1}, {2}, {1, 3}, sets=HEIGHT),
    hard("below zero", "height(k) < 0", (")", "(", "a"), {0}, {0}, {0}, sets=HEIGHT),
    both("what occurs once", "once(k)", ABAB[:3], *({1},) * 3, sets=ONCE),
    hard("what occurs once so far", "once(k)", ABAB[:3], {0}, {0, 1}, {1}, sets=ONCE),
    hard("a function of a function", "odd_one(k) and not once(q)", ABAB[:3], {0}, {0, 1}, {1},
         sets=ONCE + "def odd_one(i) = once(i) and i % 2 == 1\n"),
    hard("a function that is a text", 'start(k-1) == start(q)', (" an", " x", " am"), {0}, {0, 1}, {1},
         sets="def start(i) = prefix(text(i), 1)\n"),
    hard("a function at what was found", "text(copy(q) + 1) == text(k)", ABAB, {0}, {0}, {1}, {0, 2},
         sets="def copy(i) = last(j < i where text(j) == text(i))\n"),
    hard("a position before the text", "back(k) == 0", ABC, {0}, {0, 1}, {0, 1},
         sets="def back(i) = count(j <= i where text(j-1) == \"b\")\ndef unused(i) = 3\n"),
    both("positions after", "k == first(j > q where punct(j))", (".", "a", ".", "."),
         {2}, {2}, {3}, {0, 1, 2, 3}),
    hard("positions after, as far as visible", "k == last(j >= k where punct(j))", (".", "a", "."),
         {0}, {0}, {2}),
    hard("nearest of positions", "k == nearest(j where text(j) == \"a\")", ("a", "b", "a"), {0}, {0}, {2}),
    hard("whether there is one", "any(j < k where text(j) == text(k))", ABAB, {0}, {0, 1}, {2}, {2, 3}),
    soft("a function in a score", "1 * S(k)", ABAB[:3], masses([E], [E, E], [E, E, 1]),
         sets="def new(i) = count(j < i where text(j) == text(i)) == 0\nscore S:\n 1 where new(i)\n"),
    # The end of the text, which only a bidirectional head sees.
    both("the end of the text", "text_final(k)", ABC, {2}, {2}, {2}),
    both("from the end", "from_end(k) == 1", ABC, {1}, {1}, {1}),
)  # fmt: skip
