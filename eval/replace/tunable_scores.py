"""Tunable scores: the weights in the lines of programs' scores, as parameters beside the programs' own."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.expand import expand, looks_ahead
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.limits import MAX_ELEMENT_WEIGHT
from attn_dsl.dsl.scope import Scope
from attn_dsl.eval.scores import predicate_values


class TunableScores:
    """The scores of many programs; each program has lines of its own.

    Attributes:
        owners: the program of each score.
        definitions: of the scores.
        starts: int64 (scores + 1): the first line of each score.
        weights: float64 (lines).
    """

    def __init__(self, programs: Sequence[t.Head]) -> None:
        self.owners: list[int] = []
        self.definitions: list[t.ScoreDefinition] = []
        self._numbers: dict[tuple[int, str], int] = {}
        for i, program in enumerate(programs):
            fixed = _fixed(program)
            for one in program.scores:
                if one.name not in fixed and _tunable(one, program):
                    self._numbers[i, one.name] = len(self.owners)
                    self.owners.append(i)
                    self.definitions.append(one)
        lines = [line for one in self.definitions for line in one.terms]
        self.starts = np.cumsum([0, *(len(one.terms) for one in self.definitions)])
        self.weights = np.array([line.weight or 0.0 for line in lines])
        self.predicates = tuple(dict.fromkeys(line.condition for line in lines))
        number = {predicate: j for j, predicate in enumerate(self.predicates)}
        self._at = (np.array([number[line.condition] for line in lines], dtype=np.int64),
                    np.repeat(np.arange(len(self.definitions)), np.diff(self.starts)))  # fmt: skip

    def of(self, program: int) -> slice:
        """Return the lines of a program's scores."""
        first, last = np.searchsorted(self.owners, (program, program + 1))
        return slice(int(self.starts[first]), int(self.starts[last]))

    def split(self, term: t.Simple, program: int) -> tuple[t.Simple | None, int, int]:
        """Take the scores that are tuned out of a term, one of the query and one of the key at the most.

        Returns:
            What is left of it, None for 1; the numbers of the score of the query and of the key, -1 for none.
        """
        places = {"q": -1, "k": -1}
        if not isinstance(term, t.Scaled):
            return term, -1, -1
        value = term.value
        rest: list[t.Factor] = []
        for part in (value.left, value.right) if isinstance(value, t.Product) else (value,):
            if isinstance(part, t.Score) and (program, part.name) in self._numbers:
                places[part.variable] = self._numbers[program, part.name]
            else:
                rest.append(part)
        plain: t.Simple | None = term
        if len(rest) == 1:
            plain = replace(term, value=rest[0])
        elif not rest:
            plain = None if term.condition is None else t.Where(term.weight, term.condition)
        return plain, places["q"], places["k"]

    def held(self, batch: Batch) -> np.ndarray:
        """Return which predicates of the lines hold at every token, float32 (tokens, predicates)."""
        return np.ascontiguousarray(predicate_values(self.predicates, batch))

    def values(self, weights: np.ndarray, held: np.ndarray) -> np.ndarray:
        """Return the values of the scores at the tokens of ``held``, float32 (scores, tokens)."""
        matrix = np.zeros((len(self.definitions), len(self.predicates)), dtype=np.float32)
        np.add.at(matrix, self._at[::-1], weights)
        return matrix @ held.T

    def gradient(self, by_values: np.ndarray, held: np.ndarray) -> np.ndarray:
        """Return the gradient of the lines' weights from that of ``values``."""
        return (by_values.astype(np.float32) @ held)[self._at[::-1]]

    def written(self, program: int, tree: t.Head, weights: np.ndarray) -> t.Head:
        """Return a program with other weights in the lines of its scores, in hundredths; 0 is left out."""
        own = np.clip(np.round(weights, 2), -MAX_ELEMENT_WEIGHT, MAX_ELEMENT_WEIGHT)
        first, last = np.searchsorted(self.owners, (program, program + 1))
        parts = np.split(own, self.starts[first + 1 : last] - self.starts[first])
        changed: dict[str, t.ScoreDefinition] = {}
        for one, part in zip(self.definitions[first:last], parts, strict=False):
            pairs = zip(one.terms, part, strict=True)
            terms = tuple(t.Where(float(w), line.condition) for line, w in pairs if w)
            terms = terms or (t.Where(0.0, one.terms[0].condition),)
            changed[one.name] = t.ScoreDefinition(one.name, terms)
        return replace(tree, scores=tuple(changed.get(one.name, one) for one in tree.scores))


def _fixed(program: t.Head) -> set[str]:
    """Return the scores of which a use stays in a plane: shifted, or beside another one at the same place."""
    found: set[str] = set()
    for term in program.terms:
        if isinstance(term, t.Scaled):
            uses = [x for x in term.value.walk() if isinstance(x, t.Score)]
            alike = len({x.variable for x in uses}) < len(uses)
            found.update(x.name for x in uses if x.shift or alike)
    return found


def _tunable(score: t.ScoreDefinition, program: t.Head) -> bool:
    """Say whether the values of a score at a token are the same for all queries that see it."""
    lines = [expand(line, Scope.of(program)) for line in score.terms]
    calls = (node for line in lines for node in line.walk() if isinstance(node, t.Call))
    if any(FEATURES[call.name].reads != "left" for call in calls):
        return False
    return not (program.causal and any(map(looks_ahead, lines)))
