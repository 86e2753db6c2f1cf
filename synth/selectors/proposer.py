"""The proposer of selectors: programs for heads that select keys or not, as those compiled from RASP do.

In RASP (Weiss et al., 2021) a selector holds for some pairs of a query and a key, and a head attends equally
to the keys that are selected. Here a *condition* is a predicate that holds for all selected pairs. The search
takes conditions that, alone or with one or two others, hold for no other pair. Where "and" does not do,
it looks for what all pairs that are not selected fulfil, and denies it: this gives "or".

Conditions compare strings, or *quantities*: integers of a position, in levels of growing cost. Level 0
has features of the language, level 1 counts, ranks and positions of tokens, level 2 ranks by those.
Heads that do not select cost next to nothing and are left to other proposers.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.synth import weights as w
from attn_dsl.synth.design import Design
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.selectors.conditions import (
    NOTHING,
    Bools,
    Condition,
    Quantity,
    best,
    between,
    bounds,
    within,
)
from attn_dsl.synth.selectors.pairs import TOKENS, Pairs

ENTRIES = 8_000  # on about how many entries quantities are compared
CLEAR, ALMOST = 0.1, 0.98
"""A key is selected if its weight is this near to the largest of its row, and not if it is this near to
0; and the share of rows in which all keys must be one or the other."""
VOCABULARY, GROUPS = 24, 10
"""Up to how many different tokens a relation of tokens is written out, and in how many parts."""
SIZES = 4.0, 6.0, 8.0, 10.0, 14.0, 20.0, 30.0, 40.0
SHARES = 1.0, 0.75, 0.5, 0.25
"""The weights of a condition that are tried at first, and for each the share of it for the first token."""
ENOUGH, EXACT = 0.9, 0.999
"""The least IoU of a program that is proposed, and of one that ends the search."""
OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


class Selectors:
    """Proposes programs of conditions that all selected pairs, and no others, fulfil."""

    name = "selectors"

    def __init__(self, design: Design, seed: int) -> None:
        self.pairs = Pairs(Design(design.capture, design.texts, ENTRIES, seed))

    def propose(self, task: HeadTask) -> Iterator[Fitted]:
        """Yield the programs that say what a head selects; none if it does not select."""
        actual = self.pairs.design.rows_of_heads([task.number])[0]
        for selected, known, first in self.readings(actual):
            wanted, others = selected & known, known & ~selected
            for denied in (False, True):
                before: list[Condition] = []
                for level in range(2 if denied else 3):
                    if task.spent:
                        return
                    before += self.conditions(level, *((others, wanted) if denied else (wanted, others)))
                    found = [one for x in best(before) for one in self.fitted(task, x, first, denied)]
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
        starts, firsts = self.pairs.design.starts, self.pairs.keys == 0
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
            later = known & (self.pairs.queries > 0)
            if other and not selected[known & ~later].any() and not selected[later].all():
                known = later
            yield selected, known, other

    def conditions(self, level: int, wanted: Bools, others: Bools) -> Iterator[Condition]:
        """Yield conditions of quantities up to a level that hold for all pairs that are wanted."""
        if level == 0:
            yield from self.classes(wanted, others)
            for text, holds in self.pairs.equalities.items():
                if holds[wanted].all():
                    yield Condition(text, (), holds[others])
        for text, one, holds in self.pairs.orders(level) if level < 2 else ():
            if holds[wanted].all():
                yield Condition(text, (one,), holds[others])
        here, below = (self.pairs.levels[level],
                       tuple(itertools.chain([NOTHING], *self.pairs.levels[:level])))  # fmt: skip
        counts = [one for one in here if level == 0 or one.name.startswith(("copies", "rank"))]
        compared: list[tuple[Sequence[Quantity], Sequence[Quantity], str]] = []
        if level == 0:
            compared += [((*here, NOTHING), (*here, NOTHING), "kq")]
            compared += [((one,), here[i + 1 :], "qq") for i, one in enumerate(here[:-1])]
        else:
            compared += [(here, below, "kq"), (below, here, "kq"), *(((one,), (one,), "kq") for one in here)]
        if level < 2:
            compared += [((one,), counts[i + 1 :], "kk") for i, one in enumerate(counts[:-1])]
        for left, right, (a, b) in [(x, y, tuple(at)) for x, y, at in compared]:
            mine, yours = self.pairs.values(left, a), self.pairs.values(right, b)
            parts = [(x[:, wanted], x[:, others]) for x in (mine, yours)]
            for i, one in enumerate(left):
                inside, outside = (parts[0][j][i] - parts[1][j] for j in (0, 1))
                for sign, low, high, holds, useful in bounds(inside, outside):
                    for j in map(int, np.flatnonzero(useful)):
                        ends = int(low[j]), int(high[j])
                        if text := between(one, right[j], a + b, sign, *ends):
                            yield Condition(text, (one, right[j]), holds[j])

    def classes(self, wanted: Bools, others: Bools) -> Iterator[Condition]:
        """Yield conditions on which tokens the key and the query are, or are next to."""
        known = wanted | others
        every = {at: set(strings[known]) for at, strings in self.pairs.strings.items()}
        for at, strings in self.pairs.strings.items():
            chosen = set(strings[wanted])
            if text := within(at, chosen, every[at], TOKENS):
                yield Condition(text, (), np.array([x in chosen for x in strings[others]]))
        if max(map(len, every.values())) > VOCABULARY:
            return
        pairs = set(zip(self.pairs.strings["q"][wanted], self.pairs.strings["k"][wanted], strict=True))
        keys = {x: frozenset(y for q, y in pairs if q == x) for x, _ in pairs}
        groups = [({x for x in keys if keys[x] == chosen}, chosen)
                  for chosen in sorted(set(keys.values()), key=sorted)]  # fmt: skip
        texts = [(within("q", own, every["q"], VOCABULARY), within("k", chosen, every["k"], VOCABULARY))
                 for own, chosen in groups]  # fmt: skip
        if 1 < len(groups) <= GROUPS:
            held = zip(self.pairs.strings["q"][others], self.pairs.strings["k"][others], strict=True)
            text = " or ".join(" and ".join(filter(None, both)) for both in texts)
            yield Condition(f"({text})", (), np.array([pair in pairs for pair in held]))

    def fitted(self, task: HeadTask, condition: Condition, first: bool, denied: bool) -> list[Fitted]:
        """Return programs of a condition, or of its opposite, with the weights that fit best.

        Where the first token takes what is left, the condition is left out there and for its own query; or
        the first token takes what is left only for itself.
        """
        text = f"not ({condition.text})" if denied else condition.text
        forms = {(text, "k == 0"): None} if first else {(text, ""): None}
        if first:
            holds = self.pairs.truths([text], condition.quantities)[0]
            behind = " and q >= 1" if holds[(self.pairs.queries == 0) & (self.pairs.keys > 0)].any() else ""
            also = " and k >= 1" if holds[self.pairs.keys == 0].any() else ""
            forms |= {(text + behind + also, "k == 0"): None, (text, "q == 0 and k == 0"): None}
        found = []
        for texts in forms:
            terms = [f"1 where {text}" for text in texts if text]
            program = written(self.pairs.program(terms, condition.quantities), task.name)
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
        found = max((tuple(x * y for x, y in zip(found, by, strict=False)) for by in steps), key=score)
    weights = w.rounded(np.minimum(found, w.LIMIT), 3)
    return task.measured(program.with_weights([float(x) for x in weights]))


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
            if isinstance(node, t.Call) and node.name == one.name:
                (at,) = node.args
                return t.renamed(one.value, "i", at.variable)  # type: ignore[union-attr]
            return node

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
