"""Open tables: step functions whose steps may be left out one by one, as elements of sets are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attn_dsl.dsl import tree as t
from attn_dsl.synth.vocabulary import size


@dataclass(frozen=True, slots=True)
class OpenTable:
    """A table of which each step has a weight of its own; what is left out becomes the step before.

    Attributes:
        value: what is looked up, ``q - k``.
        elements: where the steps begin, in order; below the first the table is 0.
        condition: what else must hold.
    """

    value: t.Int
    elements: tuple[int, ...]
    condition: t.Predicate | None = None

    @property
    def overhead(self) -> int:
        """How many nodes the table costs, apart from its steps."""
        return size(self.term(()))

    def planes(self) -> Iterator[t.Term]:
        """Yield the table with holes: it has a plane for each step."""
        yield self.term([(bound, None) for bound in self.elements])

    def term(self, weights: Sequence[tuple[int, float | None]]) -> t.Table:
        """Return the table with some steps."""
        return t.Table(self.value, tuple(t.Entry(b, w) for b, w in weights), self.condition)

    def kept(self, some: Sequence[bool]) -> OpenTable:
        """Return the table with some of its steps."""
        bounds = tuple(b for b, chosen in zip(self.elements, some, strict=True) if chosen)
        return OpenTable(self.value, bounds, self.condition)

    def closed(self, weights: Sequence[float]) -> t.Table | None:
        """Return the table with its weights in hundredths; None if all are 0."""
        steps = [(b, round(float(w), 2)) for b, w in zip(self.elements, weights, strict=True)]
        return self.term(steps) if any(w for _, w in steps) else None

    def finer(
        self, weights: Sequence[float], bounds: Sequence[int]
    ) -> tuple[OpenTable, list[float]]:
        """Return the same table with further steps, and its weights.

        >>> OpenTable(t.Position("k"), (0, 4)).finer([2.0, 1.0], [0, 2, 8])[1]
        [2.0, 2.0, 1.0, 1.0]
        """
        every = sorted({*self.elements, *bounds})
        steps = [bisect_right(self.elements, bound) for bound in every]
        values = [0.0, *weights]
        return OpenTable(self.value, tuple(every), self.condition), [values[i] for i in steps]
