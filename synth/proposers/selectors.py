"""The proposer of selectors: programs for heads that select keys or not, as those compiled from RASP do.

In RASP (Weiss et al., 2021) a selector holds for some pairs of a query and a key, and a head attends equally
to the keys that are selected. Here a *condition* is a predicate that holds for all selected pairs. The search
takes conditions that, alone or with one or two others, hold for no other pair. Where "and" does not do,
it looks for what all pairs that are not selected fulfil, and denies it: this gives "or".

Conditions compare strings, or *quantities*: integers of a position, in levels of growing cost. Level 0
has features of the language, level 1 counts, ranks and positions of tokens, level 2 ranks by those.
Heads that do not select cost next to nothing and are left to other proposers.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence, Set
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
"""A key is selected if its weight is this near to the largest of its row, and not if it is this near to
0; and the share of rows in which all keys must be one or the other."""
TOKENS, VOCABULARY, GROUPS = 8, 24, 10
"""How many of the most frequent tokens are counted; up to how many different tokens a relation of tokens
is written out, and in how many parts."""
PAIRS, THIRDS = 80, 12
"""How many conditions, of those that hold for the fewest other pairs and of the shortest, are tried in
twos; and how many of the shortest as a third."""
SIZES = 4.0, 6.0, 8.0, 10.0, 14.0, 20.0, 30.0, 40.0
SHARES = 1.0, 0.75, 0.5, 0.25
"""The weights of a condition that are tried at first, and for each the share of it for the first token."""
ENOUGH, EXACT = 0.9, 0.999
"""The least IoU of a program that is proposed, and of one that ends the search."""
MOST, TRIED = 0.98, 3
"""The share of other pairs that a condition may hold for, and how many programs are fitted at a level."""
FLIPPED = {"<=": ">=", ">=": "<=", "==": "==", "!=": "!="}
OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
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
    """A predicate of a query and a key that holds for all pairs that are wanted."""

    text: str
    quantities: tuple[Quantity, ...]
    holds: Bools  # for each of the other pairs

    @property
    def size(self) -> int:
        """How long it is with its functions written out, in characters."""
        return len(self.text) + sum(len(one.text) for one in self.quantities if one.name)


NOTHING = Quantity("0")


class Selectors:
    """Proposes programs of conditions that all selected pairs, and no others, fulfil."""

    name = "selectors"

    def __init__(self, design: Design, seed: int) -> None:
        self.design = Design(design.capture, design.texts, ENTRIES, seed)
        self._lock = threading.RLock()
        self._values: dict[tuple[Quantity, str], np.ndarray] = {}

    def propose(self, task: HeadTask) -> Iterator[Fitted]:
        """Yield the programs that say what a head selects; none if it does not select."""
        actual = self.design.rows_of_heads([task.number])[0]
        for selected, known, first in self.readings(actual):
            wanted, others = selected & known, known & ~selected
            for denied in (False, True):
                before: list[Condition] = []
                for level in range(2 if denied else 3):
                    if task.spent:
                        return
                    before += self.conditions(
                        level, *((others, wanted) if denied else (wanted, others))
                    )
                    found = [
                        one for x in best(before) for one in self.fitted(task, x, first, denied)
                    ]
                    exact = [one for one in found if one.iou >= EXACT]
                    yield from exact or (one for one in found if one.iou >= ENOUGH)
                    if exact:
                        break
                if exact:
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
            known = ~firsts if other else np.ones(len(rows), dtype=bool)
            if not selected[known].any() or selected[known].all():
                continue
            later = known & (self.queries > 0)
            if other and not selected[known & ~later].any() and not selected[later].all():
                known = later
            yield selected, known, other

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
        texts = [
            [token.lstrip(" ") or token for token in one.strings] for one in design.batch.texts
        ]
        padded = np.array(["", *itertools.chain(*([*text, ""] for text in texts))], dtype=object)
        starts = np.cumsum([1, *(len(text) + 1 for text in texts)])[design.text_of_rows]
        starts = np.repeat(starts, np.diff(design.starts))
        shifts = {"": 0, "-1": -1} | ({} if design.causal else {"+1": 1})
        return {
            f"{name}{text}": padded[starts + at + shift]
            for text, shift in shifts.items() for name, at in (("k", self.keys), ("q", self.queries))
        }  # fmt: skip

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
        least = dict.fromkeys(
            ("number({i})", "word_index({i})", "previous({i})", "opener({i})"), -1
        )
        features = ["{i}", "{i} % 2", "{i} % 3", *least, "depth({i})", "repeats({i})"]
        features += [
            "number({i}) % 2",
            "number({i}-1)",
            "{i} - number({i})",
            *([] if causal else ["n - {i}"]),
        ]
        first = tuple(Quantity(text, least=least.get(text, 0)) for text in features)
        around = ("j <= {i}", "j < {i}") if causal else ("j", "j <= {i}", "j < {i}", "j > {i}")
        places = ("last", "j < {i}"), ("first", "j <= {i}" if causal else "j")
        places += () if causal else (("first", "j > {i}"), ("last", "j"))
        same, listed = "text(j) == text({i})", [f"text(j) == {token}" for token in tokens]
        tests = list(enumerate([same, "not seen(j)", "text(j) != text(j-1)", *listed]))
        copies = {
            (test, over): Quantity(f"count({over} where {test})", f"copies_{i}_{j}")
            for (i, test), (j, over) in itertools.product(tests, enumerate(around))
        }
        found = [
            Quantity(f"{name}({over} where {test})", f"place_{i}_{j}", least=-1)
            for (i, test), (j, (name, over)) in itertools.product(tests, enumerate(places))
        ]
        behind = [
            Quantity(f"{{i}} - {places[1][0]}({places[1][1]} where {test})", f"behind_{i}")
            for i, test in enumerate(listed)
        ]
        differences = [
            Quantity(f"{one.text} - {other.text}", f"excess_{i}", least=-(10**5))
            for i, (one, other) in enumerate(
                itertools.permutations([copies[test, "j <= {i}"] for test in listed], 2)
            )
        ]
        ranked = [
            one for one in first if one.text in ("number({i})", "depth({i})", "word_index({i})")
        ]
        orders = self.ranks(ranked, around[:1]) + self.ranks(ranked[:1], ("j < {i}",))
        second = (*copies.values(), *orders, *found, *behind, *differences)
        counts = [copies[test, over] for test in (same, tests[2][1]) for over in around[:3]]
        third = self.ranks((*counts, *differences[:30]), around[:1], (" and j > 0", ""))
        return self.different(first), self.different(second), self.different(third)

    def different(self, quantities: Sequence[Quantity]) -> tuple[Quantity, ...]:
        """Leave out quantities that are constant, or differ from one before by a constant."""
        planes = self.values(quantities, "k")
        found = {
            (x - x[0]).tobytes(): one for one, x in zip(quantities[::-1], planes[::-1], strict=True)
        }
        return tuple(one for key, one in reversed(found.items()) if any(key))

    def ranks(
        self, quantities: Sequence[Quantity], ranges: Sequence[str], ends: Sequence[str] = ("",)
    ) -> tuple[Quantity, ...]:
        """Return how many positions have a smaller, larger or equal quantity; ties may go by position."""
        found = []
        for one, over, end in itertools.product(quantities, ranges, ends):
            for sign, ties in (("<", False), ("<", True), (">", False), (">", True), ("==", False)):
                text = f"{one.at('j')} {sign} {one.at('{i}')}"
                text += f" or {one.at('j')} == {one.at('{i}')} and j < {{i}}" * ties
                text = f"({text}){end}" if end else text
                name = f"rank_{len(found)}_{one.name}_{len(over)}"
                found.append(
                    Quantity(f"count({over} where {text})", name, (one,) if one.name else ())
                )
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
        if level == 0:
            yield from self.classes(wanted, others)
            for text, holds in self.equalities.items():
                if holds[wanted].all():
                    yield Condition(text, (), holds[others])
        for text, one, holds in self.orders(level) if level < 2 else ():
            if holds[wanted].all():
                yield Condition(text, (one,), holds[others])
        here, below = self.levels[level], tuple(itertools.chain([NOTHING], *self.levels[:level]))
        counts = [one for one in here if level == 0 or one.name.startswith(("copies", "rank"))]
        compared: list[tuple[Sequence[Quantity], Sequence[Quantity], str]] = []
        if level == 0:
            compared += [((*here, NOTHING), (*here, NOTHING), "kq")]
            compared += [((one,), here[i + 1 :], "qq") for i, one in enumerate(here[:-1])]
        else:
            compared += [
                (here, below, "kq"),
                (below, here, "kq"),
                *(((one,), (one,), "kq") for one in here),
            ]
        if level < 2:
            compared += [((one,), counts[i + 1 :], "kk") for i, one in enumerate(counts[:-1])]
        for left, right, (a, b) in compared:
            mine, yours = self.values(left, a), self.values(right, b)
            parts = [(x[:, wanted], x[:, others]) for x in (mine, yours)]
            for i, one in enumerate(left):
                inside, outside = (parts[0][j][i] - parts[1][j] for j in (0, 1))
                for sign, low, high, holds, useful in bounds(inside, outside):
                    for j in np.flatnonzero(useful):
                        ends = int(low[j]), int(high[j])
                        if text := between(one, right[j], a + b, sign, *ends):
                            yield Condition(text, (one, right[j]), holds[j])

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
        for one, mine, yours in zip(
            here, self.values(here, "k"), self.values(here, "q"), strict=True
        ):
            tie = (mine == yours) & (self.keys < self.queries)
            for sign, holds in (("<", (mine < yours) | tie), (">", (mine > yours) | tie)):
                x, y = one.at("k"), one.at("q")
                yield f"({x} {sign} {y} or {x} == {y} and k < q)", one, holds

    def truths(self, texts: Sequence[str], quantities: Sequence[Quantity]) -> Bools:
        """Return where predicates hold, by pair (predicates, entries)."""
        return (
            self.design.compute(self.program([f"1 where {text}" for text in texts], quantities))
            != 0
        )

    def classes(self, wanted: Bools, others: Bools) -> Iterator[Condition]:
        """Yield conditions on which tokens the key and the query are, or are next to."""
        known = wanted | others
        every = {at: set(strings[known]) for at, strings in self.strings.items()}
        for at, strings in self.strings.items():
            chosen = set(strings[wanted])
            if text := within(at, chosen, every[at], TOKENS):
                yield Condition(text, (), np.array([x in chosen for x in strings[others]]))
        if max(map(len, every.values())) > VOCABULARY:
            return
        pairs = set(zip(self.strings["q"][wanted], self.strings["k"][wanted], strict=True))
        keys = {x: frozenset(y for q, y in pairs if q == x) for x, _ in pairs}
        groups = [
            ({x for x in keys if keys[x] == chosen}, chosen)
            for chosen in sorted(set(keys.values()), key=sorted)
        ]
        texts = [
            (within("q", own, every["q"], VOCABULARY), within("k", chosen, every["k"], VOCABULARY))
            for own, chosen in groups
        ]
        if 1 < len(groups) <= GROUPS:
            held = zip(self.strings["q"][others], self.strings["k"][others], strict=True)
            text = " or ".join(" and ".join(filter(None, both)) for both in texts)
            yield Condition(f"({text})", (), np.array([pair in pairs for pair in held]))

    def fitted(
        self, task: HeadTask, condition: Condition, first: bool, denied: bool
    ) -> list[Fitted]:
        """Return programs of a condition, or of its opposite, with the weights that fit best.

        Where the first token takes what is left, the condition is left out there and for its own query; or
        the first token takes what is left only for itself.
        """
        text = f"not ({condition.text})" if denied else condition.text
        forms = {(text, "k == 0"): None} if first else {(text, ""): None}
        if first:
            holds = self.truths([text], condition.quantities)[0]
            behind = " and q >= 1" if holds[(self.queries == 0) & (self.keys > 0)].any() else ""
            also = " and k >= 1" if holds[self.keys == 0].any() else ""
            forms |= {(text + behind + also, "k == 0"): None, (text, "q == 0 and k == 0"): None}
        found = []
        for texts in forms:
            terms = [f"1 where {text}" for text in texts if text]
            program = written(self.program(terms, condition.quantities), task.name)
            found.append(weighed(task, program))
        return found


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
        found = max(
            (tuple(x * y for x, y in zip(found, by, strict=False)) for by in steps), key=score
        )
    weights = w.rounded(np.minimum(found, w.LIMIT), 3)
    return task.measured(program.with_weights([float(x) for x in weights]))


def best(conditions: Sequence[Condition]) -> list[Condition]:
    """Return the shortest of one to three conditions that hold for no other pair; else the nearest."""
    found = sorted(conditions, key=lambda one: (one.holds.sum(), one.size))
    exact = [one for one in found if not one.holds.any()]
    several = list(
        {one.holds.tobytes(): one for one in reversed(found) if one.holds.any()}.values()
    )[::-1]
    several = [*several[:PAIRS], *sorted(several[PAIRS:], key=lambda one: one.size)[:PAIRS]]
    holds = np.array([one.holds for one in several], dtype=np.float32)

    def together(*more: Condition) -> list[Condition]:
        inside = holds[:, np.logical_and.reduce([one.holds for one in more])] if more else holds
        none = np.argwhere(np.triu(inside @ inside.T == 0, 1)) if several else []
        return [joined((several[i], several[j], *more)) for i, j in none]

    both = together()
    if not exact and not both:
        both = [
            one
            for third in sorted(several, key=lambda one: one.size)[:THIRDS]
            for one in together(third)
        ]
    return sorted(exact + both, key=lambda one: one.size)[:TRIED] or found[:1]


def joined(conditions: Sequence[Condition]) -> Condition:
    """Return a condition that holds for no other pair: that some hold."""
    text = " and ".join(one.text for one in conditions)
    return Condition(
        text, tuple(q for one in conditions for q in one.quantities), np.zeros(1, dtype=bool)
    )


def bounds(
    inside: np.ndarray, outside: np.ndarray
) -> Iterator[tuple[str, *tuple[np.ndarray, ...]]]:
    """Yield ranges that some differences are in for all pairs that are wanted.

    Args:
        inside, outside: (differences, pairs): for the pairs that are wanted, and for others.

    Yields:
        the sign (see ``between``), the lowest and the highest value (differences), for which other pairs a
        difference is in the range (differences, pairs), and whether it is for few enough (differences).
    """
    low, high = inside.min(1), inside.max(1)
    under, over = outside < low[:, None], outside > high[:, None]
    yield "<=", low, high, ~over, over.mean(1) > 1 - MOST
    yield ">=", low, high, ~under, under.mean(1) > 1 - MOST
    either = under | over
    yield "==", low, high, ~either, (either.mean(1) > 1 - MOST) & under.any(1) & over.any(1)
    for value in (-1, 0, 1):
        equal = outside == value
        yield (
            "!=",
            *(np.full(len(low), value),) * 2,
            ~equal,
            equal.any(1) & (inside != value).all(1),
        )


def within(at: str, chosen: Set[str], every: Set[str], most: int) -> str:
    """Write that the token at a position is one of some; "" if it always is, or for more than ``most``."""
    left = every - chosen
    fewer = left if len(left) < len(chosen) else chosen
    if not left or len(fewer) > most:
        return ""
    listed = ", ".join(map(quote, sorted(fewer)))
    if len(fewer) == 1:
        return f"text({at}) {'!=' if fewer is left else '=='} {listed}"
    return f"text({at}) {'not ' * (fewer is left)}in {{{listed}}}"


def bracketed(text: str) -> str:
    """Write an integer as a factor."""
    return f"({text})" if re.search(r" [-+%] ", re.sub(r"\(.*\)", "", text)) else text


def between(one: Quantity, other: Quantity, at: str, sign: str, low: int, high: int) -> str:
    """Write that the difference of two quantities is in a range.

    Args:
        at: the variables of the two: "kq", "kk" or "qq".
        sign: ``<=`` and ``>=`` if only ``high`` or ``low`` bounds it, ``==`` if both do, ``!=`` if the
            difference is not ``low``, which is ``high``.
    """
    mine, yours = one.at(at[0]), other.at(at[1])
    if mine == yours == "0":
        return ""
    if mine == "0":
        return alone(yours, FLIPPED[sign], -high, -low, other.least)
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

    def simpler(node: t.Node) -> t.Node:
        return opposite(node.value) if isinstance(node, t.Not) else node

    program, names = t.rewrite(dataclasses.replace(program, name=name), simpler), dict[str, str]()
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


def opposite(predicate: t.Predicate) -> t.Predicate:
    """Return the predicate that holds where another does not."""
    match predicate:
        case t.Compare(op, left, right):
            return t.Compare(OPPOSITE[op], left, right)  # type: ignore[arg-type]
        case t.And(one, other):
            return t.Or(opposite(one), opposite(other))
        case t.Or(one, other):
            return t.And(opposite(one), opposite(other))
        case t.Not(inner):
            return inner
    return t.Not(predicate)
