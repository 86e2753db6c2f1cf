"""The design: the rows of attention that a search fits on, and the planes of its terms there."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import repeat

import numpy as np

from attn_dsl.compiler.columns import TOKEN, Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl import tree as t
from attn_dsl.eval.capture import Capture
from attn_dsl.synth import search_terms
from attn_dsl.synth.distance_bins import bins
from attn_dsl.synth.objective import OBJECTIVES, HeadRows, Objective, Outputs
from attn_dsl.synth.rewrite import drop_unused

CACHED_PLANES = 512  # how many planes of terms outside the vocabulary are kept


class Design:
    """Sampled rows of some texts of a capture, shared by the searches of all heads.

    Attributes:
        objective: what programs are scored by on the rows.
        batch: the texts.
        empty: a program without terms.
        whole: whether all rows of the texts are taken.
        rows: per text, the queries that are taken.
        queries, text_of_rows: int64 (rows), the position of each row's query, and which text it is of.
        firsts: int64 (rows), the first token of its text.
        starts: int64 (rows + 1): where each row's entries start; ``entries`` is the end.
        key_symbols: int32 (entries): the token string of each entry's key.
        query_symbols: int32 (rows): the token string of each row's query.
    """

    def __init__(self, capture: Capture, texts: Sequence[int], entries: int, seed: int | Sequence[int],
                 objective: Objective = OBJECTIVES["attention"]) -> None:  # fmt: skip
        visibility: t.Visibility = "causal" if capture.causal else "bidirectional"
        self.capture, self.texts, self.causal = capture, tuple(texts), capture.causal
        self.objective, self.empty = objective, t.Head("design", visibility)
        self.batch = Batch([capture.tokens(i) for i in texts])
        sizes = self.batch.sizes
        total = int(self.batch.entries(self.causal).sum())
        share = min(1.0, entries / max(total, 1))
        self.whole = share == 1.0
        rng = np.random.default_rng(seed)
        self.rows = [np.sort(rng.permutation(n)[: max(1, round(share * n))]) for n in sizes]
        widths = [r + 1 if self.causal else np.full(len(r), n) for r, n in zip(self.rows, sizes, strict=True)]
        self.starts = np.concatenate([[0], np.cumsum(np.concatenate(widths))]).astype(np.int64)
        self.entries = int(self.starts[-1])
        self.queries = np.concatenate(self.rows)
        self.text_of_rows = np.repeat(np.arange(len(self.rows)), [*map(len, self.rows)])
        self.firsts = self.batch.starts[self.text_of_rows]
        ids = self.batch.column(TOKEN).settled
        keys, queries = [], []
        for start, n, rows in zip(self.batch.starts, sizes, self.rows, strict=False):
            here = ids[start : start + n]
            queries.append(here[rows])
            keys += [here[: q + 1] if self.causal else here for q in rows]
        self.key_symbols = np.concatenate(keys).astype(np.int32)
        self.query_symbols = np.concatenate(queries).astype(np.int32)
        self.symbols = {number: string for string, number in self.batch.symbols.items()}
        self._kept = lru_cache(CACHED_PLANES)(self.compute)

    @cached_property
    def entry_bins(self) -> np.ndarray:
        """The bin of distance of each entry (``distance_bins``), uint8 (entries)."""
        firsts = np.array([first for first, _ in bins(self.causal)])
        zero = np.repeat(self.starts[:-1] + self.queries, np.diff(self.starts))
        distance = zero - np.arange(self.entries)
        return (np.searchsorted(firsts, distance, side="right") - 1).astype(np.uint8)

    def target(self, layer: int, head: int) -> HeadRows:
        """Return a head's attention on the rows, each normalised to sum to 1, and its outputs.

        Raises:
            InputError: outputs count, and the capture has none.
        """
        number = layer * self.capture.heads_per_layer + head
        actual, outputs, objective = self.rows_of_heads([number])[0], None, self.objective
        if self.objective.output:
            values = np.concatenate([self.capture.contributions(i, number) for i in self.texts])
            outputs = Outputs.of(values, self.firsts, self.starts, actual)
            if outputs is None:  # there is nothing to explain
                objective = OBJECTIVES["attention"]
        return HeadRows(self.starts, actual, outputs, objective)

    def rows_of_heads(self, heads: Sequence[int]) -> np.ndarray:
        """Return the attention of some heads on the rows, float32 (heads, entries)."""
        found = np.empty((len(heads), self.entries), dtype=np.float32)
        end = 0
        for text, rows, n in zip(self.texts, self.rows, self.batch.sizes, strict=True):
            packed = self.capture.attention(text, heads)
            for q in rows:
                low, width = (q * (q + 1) // 2, q + 1) if self.causal else (q * n, n)
                found[:, end : end + width] = packed[:, low : low + width]
                end += width
        return found

    @cached_property
    def vocabulary(self) -> np.ndarray:
        """The planes of the search's vocabulary, float32 (terms, entries)."""
        terms = search_terms.terms(self.causal)
        return self.compute(dataclasses.replace(self.empty, terms=terms))

    def planes(self, program: t.Head) -> np.ndarray:
        """Return the planes of a program's weights, float32 (weights, entries).

        Planes are kept by term, so that programs which share terms share the work.
        """
        simple = (part for term in program.terms for part in t.parts_of(term))
        alone = (dataclasses.replace(program, name="", terms=(t.reweighted(one, repeat(0.0)),))
                 for one in simple)  # fmt: skip
        parts = [self._kept(drop_unused(one)) for one in alone]
        if not parts:
            return np.empty((0, self.entries), dtype=np.float32)
        return np.concatenate(parts)

    def compute(self, program: t.Head) -> np.ndarray:
        """Compute the planes of a program's weights, and keep nothing."""
        plan = Plan([program], self.batch)
        return plan.planes(self.rows)[list(plan.code.programs[0])]
