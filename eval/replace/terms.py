"""Scores of many programs' terms, with gradients for their weights and those of sets' elements.

A term scores ``weight * plane[q, k]``, a graded one (see ``elements``) that times
``a[token(q)] * b[token(k)]``. On a processor compiled loops add term by term what a row sees, and
pass over rows whose query is not in the set; elsewhere all plain terms are one product of matrices,
and the graded terms of a program and a plane another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch

from attn_dsl.dsl.limits import TERM_LIMIT
from attn_dsl.eval.replace.source import visible
from attn_dsl.eval.replace.term_loops import term_gradients, term_scores


@dataclass(frozen=True, eq=False)
class Terms:
    """Terms in the form that is computed with.

    Attributes:
        rows: int64 (terms, 5): program, plane, weight, and the places of query and key, -1 for
            none, as in all plain terms; those of one program and plane are neighbours.
        programs: how many programs there are.
        weights: how many weights of terms stand before those of the elements.
    """

    rows: np.ndarray
    programs: int
    weights: int

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], programs: int, weights: int) -> Terms:
        """Make it of the rows of all terms in any order."""
        made = np.array(sorted(map(tuple, rows)), dtype=np.int64).reshape(-1, 5)
        return cls(made, programs, weights)

    def scores(
        self, values: torch.Tensor, planes: torch.Tensor, reads: torch.Tensor,
        lengths: Sequence[int], causal: bool,
    ) -> torch.Tensor:  # fmt: skip
        """Sum the terms of each program.

        Args:
            values: the weights of all terms, then those of all elements.
            planes: float32 (planes, entries of all texts), the visible ones row by row.
            reads: int32 (places, texts, n), 1 + the element that a place reads, 0 for none.
            lengths: the tokens of each text.

        Returns:
            float32 (programs, entries of all texts), on the device of ``values``.
        """
        if values.device.type == "cpu":
            return _Compiled.apply(values, planes, reads, tuple(lengths), causal, self)
        return self._products(values, planes, reads, tuple(lengths), causal)

    def _products(
        self, values: torch.Tensor, planes: torch.Tensor, reads: torch.Tensor,
        lengths: tuple[int, ...], causal: bool,
    ) -> torch.Tensor:  # fmt: skip
        """Compute the scores with products of matrices, on any device."""
        device = values.device
        at = visible(lengths, causal).reshape(-1).nonzero().squeeze(1).to(device)
        elements = torch.cat([values.new_zeros(1), values[self.weights :]])
        # the last place is that of terms which do not look there
        found = torch.cat([elements[reads.long()], values.new_ones(1, *reads.shape[1:])])
        most = (largest(planes), largest(found.detach()), values.detach().abs())
        own, reach, weighs = (x.cpu().numpy() for x in most)
        large = weighs[self.rows[:, 2]] * own[self.rows[:, 1]] > TERM_LIMIT / (
            np.maximum(reach[self.rows[:, 3]] * reach[self.rows[:, 4]], 1e-30)
        )
        graded = self.rows[:, 3:].max(axis=1, initial=-1) >= 0
        program, plane, weight = torch.from_numpy(self.rows[~graded & ~large, :3].T).to(device)
        matrix = values.new_zeros(self.programs, len(planes))
        made = list(matrix.index_put((program, plane), values[weight], True) @ planes)
        for number, shared, weight, query, key in self.rows[large].tolist():
            pairs = (found[query][:, :, None] * found[key][:, None, :]).reshape(-1)[at]
            part = values[weight] * planes[shared] * pairs
            made[number] = made[number] + part.clamp(-TERM_LIMIT, TERM_LIMIT)
        rows = self.rows[graded & ~large]
        sizes = [len(list(group)) for _, group in groupby(rows[:, :2].tolist())]
        _, _, weight, query, key = torch.from_numpy(rows.T).to(device)
        left, right = (
            (found[query] * values[weight][:, None, None]).split(sizes),
            found[key].split(sizes),
        )
        first = 0
        for a, b in zip(left, right, strict=True):
            product = (a.permute(1, 2, 0) @ b.transpose(0, 1)).reshape(-1)[at]
            own, shared = rows[first, :2].tolist()
            made[own] = made[own] + planes[shared] * product
            first += len(a)
        return torch.stack(made)


def largest(rows: torch.Tensor) -> torch.Tensor:
    """Return the largest magnitude in each row; 0 for empty ones.

    >>> largest(torch.tensor([[1.0, -2.0]]))
    tensor([2.])
    """
    flat = rows.abs().reshape(len(rows), math.prod(rows.shape[1:]))
    return flat.amax(1) if flat.shape[1] else flat.sum(1)


class _Compiled(torch.autograd.Function):
    """The scores and their gradient by compiled loops, text by text on all threads of torch."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, planes: torch.Tensor, reads: torch.Tensor,
        lengths: tuple[int, ...], causal: bool, terms: Terms,
    ) -> torch.Tensor:  # fmt: skip
        ctx.save_for_backward(values, planes, reads)
        ctx.told = lengths, causal, terms
        out = np.zeros((terms.programs, planes.shape[1]), dtype=np.float32)
        _each_text(
            lambda *own: term_scores(*own, out), terms, values, planes, reads, lengths, causal
        )
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, planes, reads = ctx.saved_tensors
        lengths, causal, terms = ctx.told
        given = gradient.contiguous().numpy()

        def one(*own: Any) -> np.ndarray:
            out = np.zeros(len(values) + 1)
            term_gradients(*own, given, np.empty(reads.shape[2]), out)
            return out

        found = np.sum(_each_text(one, terms, values, planes, reads, lengths, causal), axis=0)
        # the entry behind the weights is that of tokens in no set
        own = np.delete(found, terms.weights)
        return torch.from_numpy(own).to(values), None, None, None, None, None


def _each_text(
    one: Callable[..., Any], terms: Terms, values: torch.Tensor, planes: torch.Tensor,
    reads: torch.Tensor, lengths: tuple[int, ...], causal: bool,
) -> list[Any]:  # fmt: skip
    """Call a function with what the compiled loops take of each text; return what it gave in order."""
    every = values.detach().numpy()
    weights, elements = every[: terms.weights], np.append(np.float32(0), every[terms.weights :])
    sizes = [n * (n + 1) // 2 if causal else n * n for n in lengths]
    lows = np.concatenate([[0], np.cumsum(sizes)]).tolist()

    def call(text: int) -> Any:
        n = lengths[text]
        return one(
            terms.rows, weights, elements, reads.numpy()[:, text], planes.numpy(), lows[text], n,
            causal, np.empty(n, dtype=np.float32),
        )  # fmt: skip

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return list(threads.map(call, range(len(lengths))))
