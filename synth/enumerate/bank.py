"""A bank of terms: the language's predicates, values and terms, bottom up in order of cost.

Two expressions that say the same of all probe rows are one: the cheaper, then the earlier, stays, and
nothing is built on the other. For softmax two terms are the same if their planes differ by what is
constant within every row, or by their sign. A bank is made once for a session and shared by all heads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from hashlib import blake2b

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.synth.design import Design
from attn_dsl.synth.enumerate.expressions import leaves, made, productions
from attn_dsl.synth.probe import CHUNK, Probe, batches
from attn_dsl.synth.vocabulary import size

KEPT = 2_400
"""How many terms a bank has at the most …"""
TRIED = 24_000
"""… and how many expressions are evaluated for it."""
CONDITIONS = 200
"""How many conditions on the query it has, their negations aside."""
LEAST_ROWS = 3
"""In how many rows a term must differ between keys, and a condition hold and not hold."""
STRINGS = 40
"""How many of the most frequent tokens are written in predicates."""
STEPS = 64
"""Values are told apart to 1 / STEPS."""
GROUPS = {"key": "truth", "query": "truth", "pair": "truth", "pointer": "place",
          "nearest": "place", "value": "value"}  # fmt: skip
"""The kinds that are told apart by what they say of the probe rows, and from which others."""
TERMS = ("key", "pair", "value")
"""The kinds that are terms."""


class Bank(Probe):
    """The terms, and the conditions on queries, that an enumeration found on a design's rows.

    Attributes:
        terms: each with a hole for its weight, first those that are predicates.
        holds: int32, the entries where each predicate holds, one after the other; where those of
            each start in ``starts_held``, int64 (predicates + 1).
        values: float32 (terms that are no predicates, entries).
        conditions: on the query, those that were found and then their negations.
        held: float32 (conditions, rows), where they hold.
        active: float32 (predicates, 1 + conditions), see ``by_condition``: in how many rows a
            predicate holds of some key.
        sizes, extra: the nodes of each term, and those that no condition and each one add.
        tried: how many expressions were evaluated.
    """

    def __init__(self, design: Design, most: int = KEPT) -> None:
        super().__init__(design)
        self.tried = 0
        self._seen: dict[str, set[bytes]] = {group: set() for group in (*GROUPS.values(), "term")}
        terms: list[tuple[t.Term, np.ndarray]] = []
        conditions: list[tuple[t.Predicate, np.ndarray]] = []
        for kind, node, plane in self._enumerate():
            if kind in TERMS and self._differs(plane):
                term = t.Where(None, node) if kind != "value" else t.Scaled(None, node)  # type: ignore[arg-type]
                terms.append((term, plane))
                if len(terms) == most:
                    break
            elif kind == "query" and len(conditions) < CONDITIONS:
                held = plane[self.starts[:-1]]
                if LEAST_ROWS <= held.sum() <= len(held) - LEAST_ROWS:
                    conditions.append((node, held))  # type: ignore[arg-type]
        predicates = [pair for pair in terms if isinstance(pair[0], t.Where)]
        values = [pair for pair in terms if isinstance(pair[0], t.Scaled)]
        self.terms: tuple[t.Term, ...] = tuple(term for term, _ in (*predicates, *values))
        truths = np.array([x for _, x in predicates], np.uint8).reshape(-1, self.entries)
        self.holds = (np.flatnonzero(truths) % self.entries).astype(np.int32)
        self.starts_held = np.concatenate([[0], np.cumsum(truths.sum(1, dtype=np.int64))])
        self.values = np.array([x for _, x in values], np.float32).reshape(-1, self.entries)
        found = [p for p, _ in conditions]
        self.conditions: tuple[t.Predicate, ...] = (*found, *(t.Not(p) for p in found))
        rows = np.array([x for _, x in conditions], np.float32).reshape(-1, len(self.starts) - 1)
        self.held = np.concatenate([rows, 1 - rows])
        some = np.maximum.reduceat(truths, self.starts[:-1], axis=1).astype(np.float32)
        self.active = self.by_condition(some)
        self.sizes = np.array([size(term) for term in self.terms])
        self.extra = np.array([0, *(1 + size(p) for p in self.conditions)])

    def by_condition(self, rows: np.ndarray) -> np.ndarray:
        """Sum numbers of rows over all rows, and over those where each condition holds.

        Args:
            rows: float32 (anything, rows).

        Returns:
            float32 (anything, 1 + conditions).
        """
        every = rows.sum(1, keepdims=True)
        half = rows @ self.held[: len(self.held) // 2].T
        return np.concatenate([every, half, every - half], axis=1)

    def _enumerate(self) -> Iterator[tuple[str, t.Node, np.ndarray]]:
        """Yield kinds, nodes and planes in order of cost; what is built on them comes later."""
        start: dict[int, list[tuple[str, t.Node]]] = {}
        for kind, price, node in leaves(self.causal, self._strings()):
            start.setdefault(price, []).append((kind, node))
        rules = productions(self.causal)
        parts: dict[str, dict[int, list[t.Node]]] = {}
        cost, empty = 0, 0
        while self.tried < TRIED and empty < 8:
            cost, before = cost + 1, self.tried
            for kind, node, plane in self._distinct(
                itertools.chain(start.get(cost, ()), made(rules, parts, cost))
            ):
                parts.setdefault(kind, {}).setdefault(cost, []).append(node)
                if plane is not None:
                    yield kind, node, plane
            empty = empty + 1 if self.tried == before else 0

    def _strings(self) -> list[str]:
        """Return the most frequent tokens, of which predicates are made."""
        counts = np.bincount(self.design.query_symbols)
        names = self.design.symbols
        order = sorted(np.flatnonzero(counts), key=lambda s: (-counts[s], names[int(s)]))
        return [names[int(s)] for s in order[:STRINGS]]

    def _distinct(
        self, new: Iterable[tuple[str, t.Node]]
    ) -> Iterator[tuple[str, t.Node, np.ndarray | None]]:
        """Yield what says something else of the probe rows than all before, with its plane."""
        for some in batches(new, CHUNK):
            judged = [(kind, node) for kind, node in some if kind in GROUPS]
            planes = iter(self.planes([
                t.Where(None, node) if GROUPS[kind] == "truth" else t.Scaled(None, node)  # type: ignore[arg-type]
                for kind, node in judged
            ]))  # fmt: skip
            self.tried += len(judged)
            for kind, node in some:
                if kind not in GROUPS:
                    yield kind, node, None
                    continue
                plane = next(planes)
                if GROUPS[kind] == "truth":
                    plane = plane.astype(np.uint8)
                if self._new(GROUPS[kind], plane):
                    yield kind, node, plane
            if self.tried >= TRIED:
                return

    def _new(self, group: str, plane: np.ndarray) -> bool:
        """Say whether no expression of a group has said the same; the constant ones have."""
        if plane.max() == plane.min():
            return False
        return self._first(group, plane)

    def _differs(self, plane: np.ndarray) -> bool:
        """Say whether a term differs within rows, and from all before by more than its sign."""
        signed = np.rint(plane * np.float32(STEPS)).astype(np.int32)
        first = self.starts[:-1]
        change = signed - np.repeat(signed[first], np.diff(self.starts))
        moves = np.flatnonzero(change)
        if not len(moves):
            return False
        if (np.maximum.reduceat(change != 0, first)).sum() < LEAST_ROWS:
            return False
        return self._first("term", change if change[moves[0]] > 0 else -change)

    def _first(self, group: str, plane: np.ndarray) -> bool:
        """Say whether a plane, to some digits, is new in a group, and take note of it."""
        if plane.dtype == np.float32:
            plane = np.rint(plane * STEPS).astype(np.int32)
        elif plane.dtype == np.uint8:
            plane = np.packbits(plane)
        mark = blake2b(plane.tobytes(), digest_size=16).digest()
        if mark in self._seen[group]:
            return False
        self._seen[group].add(mark)
        return True
