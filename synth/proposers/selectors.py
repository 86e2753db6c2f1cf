"""The proposer of selectors: programs for heads that select keys or not, as those compiled from RASP do.

The selectors of RASP (Weiss et al., 2021) compare a quantity of the key with one of the query: positions,
numbers, counts of tokens, ranks. Quantities are tried in levels: features, counts of what features
compare, and counts of what those compare. Of two that differ for all selected pairs by what no other pair
does, a term is made. Heads that do not select are left to other proposers.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import quote
from attn_dsl.synth import weights as w
from attn_dsl.synth.design import Design
from attn_dsl.synth.proposer import Fitted, HeadTask

ENTRIES = 8_000
"""On about how many entries quantities are compared."""
CLEAR, ALMOST = 0.1, 0.98
"""A key is selected if its weight is this near to the largest of its row, and not if it is this near to 0; and
the share of rows in which all keys must be one or the other."""
TOKENS = 8
"""How many of the most frequent tokens are counted."""
PAIRS = 80
"""How many conditions, of those that hold for the fewest other pairs and of the shortest, are tried in twos."""
SIZES = 4.0, 6.0, 8.0, 10.0, 14.0, 20.0, 30.0, 40.0
SHARES = 1.0, 0.75, 0.5, 0.25
"""The weights of a condition that are tried at first, and for each the share of it for the first token."""
ENOUGH, EXACT = 0.9, 0.999
"""The least IoU of a program that is proposed, and of one that needs no other level."""
MOST, TRIED = 0.98, 3
"""The share of other pairs that a condition may hold for, and how many programs are fitted at a level."""
Bools = np.ndarray


@dataclass(frozen=True)
class Quantity:
    """An integer of a position."""

    text: str  # in the language, with ``{i}`` for the position
    name: str = ""  # the function that it may be written as; "" for a feature
    needs: tuple[Quantity, ...] = ()  # the functions that its text uses
    least: int = 0  # its least value

    def at(self, variable: str) -> str:
        """Write it at a position."""
        return f"{self.name}({variable})" if self.name else self.text.format(i=variable)


@dataclass(frozen=True)
class Condition:
    """A condition of a query and a key, which holds for all selected pairs."""

    text: str
    quantities: tuple[Quantity, ...]
    holds: Bools  # by pair

    @property
    def wrong(self) -> int:
        """How many pairs it holds for."""
        return int(self.holds.sum())


NOTHING = Quantity("0")


class Selectors:
    """Proposes programs of conditions that all selected pairs, and no others, fulfil."""

    name = "selectors"

    def __init__(self, design: Design, seed: int) -> None:
        self.design = Design(design.capture, design.texts, ENTRIES, seed)
        self._lock = threading.Lock()
        self._values: dict[tuple[Quantity, str], np.ndarray] = {}

    def propose(self, task: HeadTask) -> Iterator[Fitted]:
        """Yield the programs that say what a head selects; none if it does not select."""
        actual = self.design.rows_of_heads([task.number])[0]
        for selected, known, first in self.readings(actual):
            before: list[Condition] = []
            for level in range(len(self.levels)):
                if task.spent:
                    return
                before += self.conditions(level, selected & known, known & ~selected)
                found = [one for condition in best(before) for one in self.fitted(task, condition, first)]
                yield from (one for one in found if one.iou >= ENOUGH)
                if any(one.iou >= EXACT for one in found):
                    break

    def readings(self, actual: np.ndarray) -> Iterator[tuple[Bools, Bools, bool]]:
        """Yield what a head may select, which pairs count, and whether the first token takes what is left.

        A query that attends to all keys alike selects none.
        """
        starts, firsts = self.design.starts, self.keys == 0
        rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        for other in (False, True):
            mass = np.where(firsts, 0.0, actual) if other else actual
            top = np.maximum.reduceat(mass, starts[:-1])[rows]
            share = np.where(top > 0.02, mass / np.maximum(top, 1e-9), 0.0)
            clear = (share > 1 - CLEAR) | (share < CLEAR)
            if np.logical_and.reduceat(clear, starts[:-1]).mean() < ALMOST:
                continue
            selected = share > 0.5
            if not other:
                selected &= ~np.logical_and.reduceat(selected, starts[:-1])[rows]
            if selected.any() and not selected[~firsts | (not other)].all():
                yield selected, ~firsts if other else np.ones(len(rows), dtype=bool), other

    @cached_property
    def keys(self) -> np.ndarray:
        """The position of the key of each pair, int64 (entries)."""
        starts = self.design.starts
        return np.arange(starts[-1]) - np.repeat(starts[:-1], np.diff(starts))

    @cached_property
    def levels(self) -> tuple[tuple[Quantity, ...], ...]:
        """The quantities of each level."""
        causal, batch = self.design.causal, self.design.batch
        counted = Counter(
            token.lstrip(" ") or token
            for text in batch.texts
            for token, special in zip(text.strings, text.special, strict=True)
            if not special
        )
        tokens = [re.sub("([{}])", r"\1\1", quote(x)) for x, _ in counted.most_common(TOKENS)]
        features = ["{i}", "number({i})", "depth({i})", "word_index({i})", "{i} % 2", "{i} % 3"]
        features += [] if causal else ["n - {i}"]
        first = tuple(
            Quantity(text, least={"n": 1, "number": -1, "word_index": -1}.get(re.split(r"[( ]", text)[0], 0))
            for text in features
        )
        ranges = ("j <= {i}", "j < {i}") if causal else ("j", "j <= {i}", "j < {i}")
        own = tuple(
            Quantity(f"count({over} where text(j) == {what})", f"copies_{i}_{j}")
            for (i, what), (j, over) in itertools.product(enumerate(["text({i})", *tokens]), enumerate(ranges))
        )  # fmt: skip
        differences = tuple(
            Quantity(f"{one.text} - {other.text}", f"excess_{i}_{j}", least=-10**5)
            for (i, one), (j, other) in itertools.permutations(enumerate(own[len(ranges) + 1 :: len(ranges)]), 2)
        )  # fmt: skip
        second = (*own, *self.ranks(first[1:4], ranges[:1]), *differences)
        third = self.ranks((*second[:6], *differences[:30]), ranges[:1], (" and j > 0", ""))
        return first, second, third

    def ranks(
        self, quantities: Sequence[Quantity], ranges: Sequence[str], ends: Sequence[str] = ("",)
    ) -> tuple[Quantity, ...]:
        """Return the counts of positions at which quantities are smaller or larger, or the same and before."""
        found = []
        for one, over, end in itertools.product(quantities, ranges, ends):
            for sign, ties in itertools.product("<>", (False, True)):
                text = f"{one.at('j')} {sign} {one.at('{i}')}"
                text += f" or {one.at('j')} == {one.at('{i}')} and j < {{i}}" * ties
                text = f"({text}){end}" if end else text
                name = f"rank_{len(found)}_{one.name}"
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

    def conditions(self, level: int, wanted: Bools, others: Bools) -> Iterator[Condition]:
        """Yield conditions of quantities up to a level that hold for all pairs that are wanted."""
        yield from self.relations(level, wanted, others)
        here, below = self.levels[level], tuple(itertools.chain([NOTHING], *self.levels[:level]))
        sides = [((*here, NOTHING), (*here, NOTHING))] if level == 0 else [(here, below), (below, here)]
        for left, right in [*sides, *(((one,), (one,)) for one in here if level)]:
            mine, yours = self.values(left, "k"), self.values(right, "q")
            parts = [(x[:, wanted], x[:, others]) for x in (mine, yours)]
            for i, one in enumerate(left):
                inside, outside = (parts[0][j][i] - parts[1][j] for j in (0, 1))
                low, high = inside.min(1, keepdims=True), inside.max(1, keepdims=True)
                under, over = outside < low, outside > high
                sides = {"<=": ~over, ">=": ~under, "==": ~(over | under)}
                for sign, holds in sides.items():
                    useful = holds.mean(1) < MOST
                    if sign == "==":
                        useful &= under.any(1) & over.any(1)
                    for j in np.flatnonzero(useful):
                        if text := between(one, right[j], sign, int(low[j, 0]), int(high[j, 0])):
                            yield Condition(text, (one, right[j]), holds[j])

    def relations(self, level: int, wanted: Bools, others: Bools) -> Iterator[Condition]:
        """Yield conditions that are not about differences: equal tokens, an order with ties by position."""
        texts: list[tuple[str, tuple[Quantity, ...]]] = []
        if level == 0:
            for one, other in (("k", "q"), ("k-1", "q"), ("k", "q-1")):
                texts += [(f"text({one}) {sign} text({other})", ()) for sign in ("==", "!=")]
            names = [self.design.symbols[int(x)] for x in np.unique(self.design.key_symbols[wanted])]
            if len(names) <= TOKENS:
                listed = sorted({name.lstrip(" ") or name for name in names})
                test = f"in {{{', '.join(map(quote, listed))}}}" if len(listed) > 1 else f"== {quote(listed[0])}"
                texts.append((f"text(k) {test}", ()))
        for one in self.levels[level]:
            for sign in "<>" if level < 2 else "":
                text = f"({one.at('k')} {sign} {one.at('q')} or {one.at('k')} == {one.at('q')} and k < q)"
                texts.append((text, (one,)))
        if not texts:
            return
        needed = [quantity for _, quantities in texts for quantity in quantities]
        program = self.program([f"1 where {text}" for text, _ in texts], needed)
        for (text, quantities), plane in zip(texts, self.design.compute(program), strict=True):
            if plane[wanted].all():
                yield Condition(text, quantities, plane[others] != 0)

    def fitted(self, task: HeadTask, condition: Condition, first: bool) -> list[Fitted]:
        """Return programs of a condition, with the weights that fit best.

        Where the condition holds at the first token too, which takes what is left, it is left out there, or
        it takes what is left only for itself.
        """
        forms = [(condition.text, "k == 0")] if first else [(condition.text, "")]
        if first and self.holds(condition)[self.keys == 0].any():
            forms += [(f"{condition.text} and k >= 1", "k == 0"), (condition.text, "q == 0 and k == 0")]
        found = []
        for texts in forms:
            terms = [f"1 where {text}" for text in texts if text]
            program = written(self.program(terms, condition.quantities), task.name)
            found.append(weighed(task, program))
        return found

    def holds(self, condition: Condition) -> Bools:
        """Return where a condition holds, by pair."""
        program = self.program([f"1 where {condition.text}"], condition.quantities)
        return self.design.compute(program)[0] != 0


def weighed(task: HeadTask, program: t.Head) -> Fitted:
    """Return a program of one or two terms with weights that fit: from a grid, then by smaller steps."""
    task.evals += 1
    planes = task.design.planes(program)
    grid = [(x, x * share) for x in SIZES for share in (SHARES if len(planes) > 1 else (0.0,))]

    def score(weights: tuple[float, ...]) -> float:
        rows = w.predicted_rows(planes, weights[: len(planes)], task.rows.starts)
        return task.rows.scores(rows)[1]

    found: tuple[float, ...] = max(grid, key=score)
    for step in (1.2, 1.1, 1.05, 1.02, 1.01) * 2:
        steps = itertools.product((1.0, step, 1 / step), repeat=len(planes))
        found = max((tuple(x * y for x, y in zip(found, by, strict=False)) for by in steps), key=score)
    weights = w.rounded(np.minimum(found, w.LIMIT), 3)
    return task.measured(program.with_weights([float(x) for x in weights]))


def best(conditions: Sequence[Condition]) -> list[Condition]:
    """Return conditions that hold for no pairs but those wanted, or two that do so together; else the best."""
    found = sorted(conditions, key=lambda one: (one.wrong, len(one.text)))
    if exact := [one for one in found if not one.wrong]:
        return exact[:TRIED]
    several = list({one.holds.tobytes(): one for one in reversed(found)}.values())[::-1]
    several = [*several[:PAIRS], *sorted(several[PAIRS:], key=lambda one: len(one.text))[:PAIRS]]
    both = [
        Condition(f"{one.text} and {other.text}", (*one.quantities, *other.quantities), one.holds)
        for one, other in itertools.combinations(several, 2)
        if not (one.holds & other.holds).any()
    ]
    return sorted(both, key=lambda one: len(one.text))[:TRIED] or found[:1]


def bracketed(text: str) -> str:
    """Write an integer as a factor."""
    return f"({text})" if re.search(r" [-+%] ", re.sub(r"\(.*\)", "", text)) else text


def between(one: Quantity, other: Quantity, sign: str, low: int, high: int) -> str:
    """Write that the difference of two quantities, of the key and the query, is in a range.

    Args:
        sign: ``<=`` if only ``high`` bounds it, ``>=`` if only ``low`` does, ``==`` if both do.
    """
    mine, yours = one.at("k"), other.at("q")
    if mine == yours == "0":
        return ""
    if mine == "0":  # of the query alone
        flipped = {"<=": ">=", ">=": "<=", "==": "=="}[sign]
        return alone(yours, flipped, -high, -low, other.least)
    if yours == "0":
        return alone(mine, sign, low, high, one.least)
    if sign == "==" and low != high:
        return f"{mine} - {bracketed(yours)} in {low}..{high}"
    by = low if sign == ">=" else high
    if (sign, by) in (("<=", -1), (">=", 1)):
        return f"{mine} {sign[0]} {yours}"
    return f"{mine} {sign} {yours}" + (f" {'-' if by < 0 else '+'} {abs(by)}" if by else "")


def alone(text: str, sign: str, low: int, high: int, least: int) -> str:
    """Write that a quantity is in a range; ``least`` is its least value."""
    if sign == "<=" and high == least:
        sign, low = "==", high
    if sign == "==" and (low < high or low < 0):
        return f"{text} in {low}..{high}"
    value = low if sign == ">=" else high
    if value < 0:  # whole numbers have no sign
        return f"{text} < 0" if (sign, value) == ("<=", -1) else ""
    return f"{text} {sign} {value}"


def written(program: t.Head, name: str) -> t.Head:
    """Return a program in which functions that are used once are written out, and others are named."""
    program, names = dataclasses.replace(program, name=name), dict[str, str]()
    for one in reversed(program.functions):
        uses = [n for n in program.walk() if isinstance(n, t.Call) and n.name == one.name]
        if len(uses) > 1 or uses[0].args == (t.Position("j"),):
            names[one.name] = one.name.partition("_")[0] + (str(len(names)) if names else "")
            continue

        def written_out(node: t.Node, one: t.Definition = one) -> t.Node:
            same = isinstance(node, t.Call) and node.name == one.name
            return t.renamed(one.value, "i", node.args[0].variable) if same else node  # type: ignore[union-attr]

        left = tuple(other for other in program.functions if other is not one)
        program = t.rewrite(dataclasses.replace(program, functions=left), written_out)

    def named(node: t.Node) -> t.Node:
        if isinstance(node, t.Call | t.Definition) and node.name in names:
            return dataclasses.replace(node, name=names[node.name])
        return node

    return t.rewrite(program, named)
