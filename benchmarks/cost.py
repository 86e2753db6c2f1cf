"""Measures whether the cost of a program is honest: its time by pair and by unit of cost.

    python benchmarks/cost.py

The programs have one term each: every feature at several positions, and the terms by which exports are
tested. The time of a program on a text, less that of an empty program, is divided by the number of pairs
of query and key and by the cost that the checker counts. A second part measures how the time to lower a
program grows with its nodes.
"""

import random
import sys
from collections.abc import Callable, Iterator

from measuring import ROOT, Figure, least, print_table, slope

from attn_dsl.compiler.program import Program, parse
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.tokens import Tokens

sys.path.insert(0, str(ROOT / "tests"))
from exporting import CORNERS, EVERYTHING

WORDS = [" the", " cat", " saw", " Tom", " she", ".", ",", '"', "(", ")", "\n", "ing", "1", "<s>"]
TOKENS = 256
ROUNDS = 9
SIZES = (500, 1000, 2000, 4000)
POSITIONS = {"k": "k-1", "q": "q-1", "a computed position": "previous(k) + 1"}
BY_TYPE = {"bool": "", "int": " == 1", "symbol": ' == "cat"'}


def elements(count: int) -> str:
    """Write a set."""
    return "{" + ", ".join(f'"{i}"' for i in range(count)) + "}"


def steps(count: int) -> str:
    """Write the steps of a table."""
    return "[" + ", ".join(f"{i}: {i % 7 / 10:.1f}" for i in range(count)) + "]"


def constructs() -> Iterator[tuple[str, str]]:
    """Yield the constructs: name and term."""
    for name, feature in FEATURES.items():
        if feature.arity == 1 and not feature.extra:
            for place, position in POSITIONS.items():
                condition = f"{name}({position}){BY_TYPE[feature.type]}"
                yield (f"`{name}` at {place}",
                       f"1 where {condition}" + " and k != 1" * (place == "q"))  # fmt: skip
    lines = [line for line in EVERYTHING.split("\n") if line.startswith("    ")]
    yield from ((f"`{term.strip()}`", term) for term in [*lines, *CORNERS])
    yield "a set of 150", f"1 where text(k) in {elements(150)}"
    yield "a table of 500 steps", f"by q - k {steps(500)}"
    yield "a quantifier in a quantifier", "1 where k < count(length(k) < count(text(k) == text(q)))"


def program(term: str, kind: str) -> Program:
    """Make a program of one term, or an empty one; it may name the sets of ``EVERYTHING``."""
    sets = "".join(f"{line}\n" for line in EVERYTHING.split("\n") if line.startswith("set "))
    return parse(f"{sets}head a {kind}:\n {term}", allow_lookahead=True)


def honesty() -> Iterator[Figure]:
    """The time of each construct by pair and unit of cost, the worst first; the figure is of it."""
    text, rows = Tokens.from_strings(random.Random(0).choices(WORDS, k=TOKENS)), []
    for kind in ("causal", "bidirectional"):
        empty, pairs = (program("", kind),
                        TOKENS**2 if kind != "causal" else TOKENS * (TOKENS + 1) / 2)  # fmt: skip
        for name, term in constructs():
            made = program(term, kind)
            whole, nothing = least(ROUNDS, lambda p=made: p(text), lambda p=empty: p(text))
            cost = made.facts.cost
            rows.append(((whole - nothing) / pairs / cost * 1e9, f"{name}, {kind}", cost))
    rows.sort(reverse=True)
    yield Figure(f"ns by pair and unit of cost, {rows[0][1]}", f"{rows[0][0]:.1f}", "at most 20")
    for nanoseconds, name, cost in rows[1:]:
        yield Figure(f"... {name}, cost {cost}", f"{nanoseconds:.2f}")


def lowering() -> Iterator[Figure]:
    """Measure how the time to check and lower a program, and to run it on a token, grows."""
    pair = "0.1 where k == {i}\n 0.1 where length(q) == {i}"
    programs: dict[str, Callable[[int], str]] = {
        "steps of a table": lambda n: f"by q - k {steps(n - 10)}",
        "terms": lambda n: "\n ".join(pair.format(i=i) for i in range(n // 9)),
        "elements of a set": lambda n: f"0.1 where text(k) in {elements(n - 10)}"}  # fmt: skip
    for name, write in programs.items():
        trees = [program(write(n), "causal").tree for n in SIZES]
        times = least(ROUNDS, *(lambda tree=tree: Program.from_tree(tree)(["a"]) for tree in trees))
        label = f"lowering {SIZES[0]} to {SIZES[-1]} nodes, {name} ({times[-1] * 1e3:.1f} ms)"
        yield Figure(label, f"slope {slope(SIZES, times):.2f}", "at most 1.15")


if __name__ == "__main__":
    print_table([lowering, honesty])
