"""Pairs of a query and a key on sampled rows, and the quantities and strings of both.

Quantities come in levels of growing cost. Level 0 has features of the language, level 1 counts, ranks and
places of tokens, level 2 ranks by those.
"""

import itertools
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import quote
from attn_dsl.synth.design import Design
from attn_dsl.synth.selectors.conditions import Bools, Quantity, bracketed

TOKENS = 8  # how many of the most frequent tokens are counted


class Pairs:
    """The pairs of a design, with what their queries and keys are."""

    def __init__(self, design: Design) -> None:
        self.design = design
        self._lock = threading.RLock()
        self._values: dict[tuple[Quantity, str], np.ndarray] = {}

    @cached_property
    def queries(self) -> np.ndarray:
        """The position of the query of each pair, int64 (entries)."""
        return np.repeat(self.design.queries, np.diff(self.design.starts))

    @cached_property
    def keys(self) -> np.ndarray:
        """The position of the key of each pair, int64 (entries)."""
        starts = self.design.starts
        return np.arange(starts[-1]) - np.repeat(starts[:-1], np.diff(starts))

    @cached_property
    def strings(self) -> dict[str, np.ndarray]:
        """The string of the token at the key, the query and next to them, for each pair."""
        design = self.design
        texts = [[token.lstrip(" ") or token for token in one.strings] for one in design.batch.texts]
        padded = np.array(["", *itertools.chain(*([*text, ""] for text in texts))], dtype=object)
        starts = np.cumsum([1, *(len(text) + 1 for text in texts)])[design.text_of_rows]
        starts = np.repeat(starts, np.diff(design.starts))
        shifts = {"": 0, "-1": -1} | ({} if design.causal else {"+1": 1})
        return {f"{name}{text}": padded[starts + at + shift] for text, shift in shifts.items()
                for name, at in (("k", self.keys), ("q", self.queries))}  # fmt: skip

    @cached_property
    def levels(self) -> tuple[tuple[Quantity, ...], ...]:
        """The quantities of each level."""
        causal, batch = self.design.causal, self.design.batch
        counted = Counter(token.lstrip(" ") or token for text in batch.texts
                          for token, special in zip(text.strings, text.special, strict=True)
                          if not special)  # fmt: skip
        tokens = [re.sub("([{}])", r"\1\1", quote(x)) for x, _ in counted.most_common(TOKENS)]
        least = dict.fromkeys(("number({i})", "word_index({i})", "previous({i})", "opener({i})"), -1)
        features = ["{i}", "{i} % 2", "{i} % 3", *least, "depth({i})", "repeats({i})"]
        features += ["number({i}) % 2", "number({i}-1)", "{i} - number({i})",
                     *([] if causal else ["n - {i}"])]  # fmt: skip
        first = tuple(Quantity(text, least=least.get(text, 0)) for text in features)
        around = ("j <= {i}", "j < {i}") if causal else ("j", "j <= {i}", "j < {i}", "j > {i}")
        places = [("last", "j < {i}"), ("first", "j <= {i}" if causal else "j")]
        places += [] if causal else [("first", "j > {i}"), ("last", "j")]
        same, listed = "text(j) == text({i})", [f"text(j) == {token}" for token in tokens]
        tests = list(enumerate([same, "not seen(j)", "text(j) != text(j-1)", *listed]))
        copies = {(test, over): Quantity(f"count({over} where {test})", f"copies_{i}_{j}")
                  for (i, test), (j, over) in itertools.product(tests, enumerate(around))}  # fmt: skip
        found = [Quantity(f"{name}({over} where {test})", f"place_{i}_{j}", least=-1)
                 for (i, test), (j, (name, over)) in itertools.product(tests, enumerate(places))]  # fmt: skip
        behind = [Quantity(f"{{i}} - {places[1][0]}({places[1][1]} where {test})", f"behind_{i}")
                  for i, test in enumerate(listed)]  # fmt: skip
        before = [copies[test, "j <= {i}"] for test in listed]
        differences = [Quantity(f"{one.text} - {other.text}", f"excess_{i}", least=-(10**5))
                       for i, (one, other) in enumerate(itertools.permutations(before, 2))]  # fmt: skip
        ranked = [one for one in first if one.text in ("number({i})", "depth({i})", "word_index({i})")]
        orders = self.ranks(ranked, around[:1]) + self.ranks(ranked[:1], ("j < {i}",))
        second = (*copies.values(), *orders, *found, *behind, *differences)
        counts = [copies[test, over] for test in (same, tests[2][1]) for over in around[:3]]
        third = self.ranks((*counts, *differences[:30]), around[:1], (" and j > 0", ""))
        return self.different(first), self.different(second), self.different(third)

    def different(self, quantities: Sequence[Quantity]) -> tuple[Quantity, ...]:
        """Leave out quantities that are constant, or differ from one before by a constant."""
        planes = self.values(quantities, "k")
        found = {(x - x[0]).tobytes(): one for one, x in zip(quantities[::-1], planes[::-1], strict=True)}
        return tuple(one for key, one in reversed(found.items()) if any(key))

    def ranks(self, quantities: Sequence[Quantity], ranges: Sequence[str],
              ends: Sequence[str] = ("",)) -> tuple[Quantity, ...]:  # fmt: skip
        """Return how many positions have a smaller, larger or equal quantity; ties may go by position."""
        found = list[Quantity]()
        for one, over, end in itertools.product(quantities, ranges, ends):
            for sign, ties in (("<", False), ("<", True), (">", False), (">", True), ("==", False)):
                text = f"{one.at('j')} {sign} {one.at('{i}')}"
                text += f" or {one.at('j')} == {one.at('{i}')} and j < {{i}}" * ties
                text = f"({text}){end}" if end else text
                name = f"rank_{len(found)}_{one.name}_{len(over)}"
                found.append(Quantity(f"count({over} where {text})", name, (one,) if one.name else ()))
        return tuple(found)

    def values(self, quantities: Sequence[Quantity], variable: str) -> np.ndarray:
        """Return quantities at the query or key of each pair, float32 (quantities, entries)."""
        with self._lock:
            new = [q for q in dict.fromkeys(quantities) if (q, variable) not in self._values]
            if new:
                terms = [f"1 * {bracketed(one.at(variable))}" for one in new]
                planes = self.design.compute(self.program(terms, new))
                self._values |= {(q, variable): x for q, x in zip(new, planes, strict=True)}
            return np.array([self._values[one, variable] for one in quantities])

    def program(self, terms: Sequence[str], quantities: Sequence[Quantity]) -> t.Head:
        """Return a program of terms, with the functions that they need."""
        functions = dict[str, str]()
        for one in quantities:
            for needed in (*one.needs, one):
                if needed.name:
                    functions[needed.name] = f"def {needed.name}(i) = {needed.text.format(i='i')}\n"
        visibility = "causal" if self.design.causal else "bidirectional"
        lines = "".join(f"    {term}\n" for term in terms)
        return parse(f"{''.join(functions.values())}head selector {visibility}:\n{lines}")

    @cached_property
    def equalities(self) -> dict[str, Bools]:
        """Where the strings at two positions are equal, and where not, by pair."""
        places = ["k", "q", "k-1", "q-1", "1"]
        places += [] if self.design.causal else ["k+1", "q+1", "n - k", "n - q"]
        pairs = itertools.product(itertools.combinations(places, 2), ("==", "!="))
        texts = [f"text({one}) {sign} text({other})" for (one, other), sign in pairs]
        return dict(zip(texts, self.truths(texts, ()), strict=True))

    def orders(self, level: int) -> Iterator[tuple[str, Quantity, Bools]]:
        """Yield the orders of keys and queries by a quantity, ties by position, and where they hold."""
        here = self.levels[level]
        for one, mine, yours in zip(here, self.values(here, "k"), self.values(here, "q"), strict=True):
            tie = (mine == yours) & (self.keys < self.queries)
            for sign, holds in (("<", (mine < yours) | tie), (">", (mine > yours) | tie)):
                x, y = one.at("k"), one.at("q")
                yield f"({x} {sign} {y} or {x} == {y} and k < q)", one, holds

    def truths(self, texts: Sequence[str], quantities: Sequence[Quantity]) -> Bools:
        """Return where predicates hold, by pair (predicates, entries)."""
        program = self.program([f"1 where {text}" for text in texts], quantities)
        return self.design.compute(program) != 0
