"""Measures whether the cost of a program is honest: its time by pair and by unit of cost.

    python benchmarks/cost.py

A program repeats one construct of the language in twenty variants. Its time on a text, less the
time of an empty program, is divided by the number of pairs of query and key and by the cost that
the checker counts. A second part measures how the time to lower a program grows with its nodes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from measuring import Figure, least, print_table, slope

from attn_dsl.compiler.program import Program, parse
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.tokens import Tokens

WORDS = (
    "the cat saw a dog Tom and Mia ran to park she said hi One day big little happy on so".split()
)
MARKS = [".", ",", '"', "(", ")", "\n", "ing", "1", "<s>"]
TOKENS = 256
ROUNDS = 9
SIZES = (500, 1000, 2000, 4000)
KINDS = [f"{v} {n}" for v in ("causal", "bidirectional") for n in ("softmax", "linear")]
POSITIONS = {"k": "k-#", "q": "q-#", "a computed position": "previous(k) + #"}
BY_TYPE = {"bool": "", "int": " == #", "symbol": ' == "@"'}
COPY = "text(k-#) == text(q)"


def elements(count: int, weight: str = "") -> str:
    """Write a set."""
    return "{" + ", ".join(f'"@{i or ""}"{weight}' for i in range(count)) + "}"


def steps(count: int) -> str:
    """Write the steps of a table."""
    return "[" + ", ".join(f"{i}: {i % 7 / 10:.1f}" for i in range(count)) + "]"


# In a construct, `#` stands for the number of its variant and `@` for a word.
PREDICATES = {
    **{f"integers, {op}": f"k-# {op} length(q)" for op in "== != < <= > >=".split()},
    "a range": "q - k in #..40",
    **{f"two texts, {op}": f"text(k-#) {op} text(q)" for op in ("==", "!=")},
    "a text and a string": 'text(k-#) == "@"',
    **{f"a set of {n}": f"text(k-#) in {elements(n)}" for n in (3, 150)},
    "a set of the lexicon": "word(k-#) in Pronoun",
    **{affix: f'{affix}(word(k-#), "s")' for affix in ("starts", "ends")},
    "not": f"not {COPY}",
    **{op: f"{COPY} {op} length(k) > length(q-#)" for op in ("and", "or")},
    "any": f"any({COPY}) and k != #",
    **{name: f"k - # < {name}({COPY})" for name in ("count", "nearest", "first", "last")},
    "a quantifier in a quantifier": f"k < count(length(k-#) < count({COPY}))",
    "the result of a quantifier": "text(k) == text(nearest(length(k) == length(q-#)) + 1)",
    "abs": "abs(q - k - #) < 9",
    **{name: f"{name}(k + #, length(q)) < 9" for name in ("min", "max")},
    "match": "match(k-#, q) > 2",
    "match at a computed position": "match(previous(k) + #, q) > 2",
}
TERMS = {
    "a sum as a value": "0.1 * (q - k + #)",
    **{name: f"0.1 * {name}(# + q - k)" for name in ("log", "sqrt", "inv")},
    "decay": "0.1 * decay(# + q - k, 0.9)",
    "a value with a condition": f"0.1 * log(1 + q - k) where {COPY}",
    "weight": f"0.1 * weight(text(k-#), {elements(5, ': 0.5')})",
    "a product": f"0.1 * log(1 + q - k) * weight(text(k-#), {elements(5, ': 0.5')})",
    **{f"a table of {n} steps": f"by q - k + # {steps(n)}" for n in (5, 50, 500)},
    "a table of a feature": f"by length(k-#) {steps(5)}",
    "a table of match": f"by match(k-#, q) {steps(5)}",
}


def constructs() -> Iterator[tuple[str, str, str]]:
    """Yield the constructs: name, kind of the program, and a term."""
    predicates = dict(PREDICATES)
    for name, feature in FEATURES.items():
        if feature.arity == 1 and not feature.extra:
            for place, position in POSITIONS.items():
                call = f"{name}({position}){BY_TYPE[feature.type]}"
                predicates[f"`{name}` at {place}"] = call + " and k != #" * (place == "q")
    yield from ((f"two texts, {kind}", kind, f"0.1 where {COPY}") for kind in KINDS)
    yield from (
        (name, KINDS[0], f"0.1 where {predicate}") for name, predicate in predicates.items()
    )
    yield from ((name, KINDS[0], term) for name, term in TERMS.items())


def repeated(kind: str, term: str, variants: int) -> Program:
    """Make a program that repeats a term in different variants."""
    lines = [term.replace("#", str(i)).replace("@", WORDS[i]) for i in range(1, variants + 1)]
    return parse("\n    ".join([f"head a {kind}:", *lines]), allow_lookahead=True)


def honesty() -> Iterator[Figure]:
    """The time of each construct by pair and unit of cost, the worst first; the figure is of it."""
    rng, rows = random.Random(0), []
    text = Tokens.from_strings(rng.choices([*(f" {word}" for word in WORDS), *MARKS], k=TOKENS))
    for name, kind, term in constructs():
        program, empty = repeated(kind, term, 8 if "500" in name else 20), repeated(kind, "", 0)
        whole, nothing = least(ROUNDS, lambda p=program: p(text), lambda p=empty: p(text))
        pairs = TOKENS * (TOKENS + 1) // 2 if program.causal else TOKENS**2
        cost = program.facts.cost
        rows.append(((whole - nothing) / pairs / max(cost, 1) * 1e9, name, cost))
    rows.sort(reverse=True)
    yield Figure(f"ns by pair and unit of cost, {rows[0][1]}", f"{rows[0][0]:.1f}", "at most 20")
    for nanoseconds, name, cost in rows[1:]:
        yield Figure(f"... {name}, cost {cost}", f"{nanoseconds:.2f}")


def lowering() -> Iterator[Figure]:
    """Measure how the time to check and lower a program, and to run it on a token, grows."""
    pair = "0.1 where k == {i}\n    0.1 where length(q) == {i}"
    programs: dict[str, Callable[[int], str]] = {
        "steps of a table": lambda n: f"by q - k {steps(n - 10)}",
        "terms": lambda n: "\n    ".join(pair.format(i=i) for i in range(n // 9)),
        "elements of a set": lambda n: f"0.1 where text(k) in {elements(n - 10)}",
    }
    for name, write in programs.items():
        trees = [repeated(KINDS[0], write(n), 1).tree for n in SIZES]
        times = least(ROUNDS, *(lambda tree=tree: Program.from_tree(tree)(["a"]) for tree in trees))
        label = f"lowering {SIZES[0]} to {SIZES[-1]} nodes, {name} ({times[-1] * 1e3:.1f} ms)"
        yield Figure(label, f"slope {slope(SIZES, times):.2f}", "at most 1.15")


if __name__ == "__main__":
    print_table([lowering, honesty])
