"""Tunable programs: the weights of many programs as parameters of one torch module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from attn_dsl.compiler.code import Code
from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.compiler.program import Program
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.limits import LEAST_MASS, MAX_ELEMENT_WEIGHT, MAX_WEIGHT, TERM_LIMIT
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.replace.element_weights import ElementWeights
from attn_dsl.eval.replace.source import visible
from attn_dsl.eval.set_scores import FIRST, Planes, Rows, SetScores
from attn_dsl.eval.shards import n_entries, row_starts

CACHE_BYTES = 1 << 30
"""How many bytes of planes are kept for texts that come again."""


class Tunable(torch.nn.Module):
    """Programs of one visibility whose weights are parameters; a bundle of heads.

    >>> from attn_dsl.compiler.program import parse
    >>> tunable = Tunable([parse("head first causal:\\n    0 where k == 0")])
    >>> attention = tunable.bundle([Tokens.from_strings(["a", " b"])])
    >>> attention[0, 0].tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    >>> attention[0, 0, 1, 0].backward()
    >>> tunable.weights.grad.tolist()
    [0.25]

    A weight multiplies a plane of n x n numbers that the text alone decides, so the planes of all
    programs are computed once for a text, equal ones once. The weights of sets' elements are
    parameters as well where ``ElementWeights`` says so; structure stays as it is, and so does what a set
    holds. Scores are float32, computed on the processor; masses of linear programs are summed in
    float64.

    Attributes:
        weights: float32, the weights of all programs in source order, then those of the elements
            of their sets; ``starts`` (programs + 1) says whose the former are. A hole starts at 0.
        limits: float32, the largest magnitude of each.
        elements: the sets that can be tuned.
        originals: the programs as given.

    Args:
        programs: all causal or all bidirectional.
    """

    def __init__(self, programs: Sequence[Program]) -> None:
        super().__init__()
        if len({p.causal for p in programs}) != 1:
            raise InputError("programs of one bundle must all be causal or all bidirectional")
        self.originals, self.names = tuple(programs), tuple(p.name for p in programs)
        self.causal = programs[0].causal
        trees = [p.tree for p in programs]
        self.elements = ElementWeights.of(trees)
        values = [w or 0.0 for tree in trees for w in tree.weights]
        self.starts = np.cumsum([0, *(len(tree.weights) for tree in trees)])
        every = np.concatenate([values, self.elements.values])
        self.weights = torch.nn.Parameter(torch.tensor(every, dtype=torch.float32))
        limits = [MAX_WEIGHT] * len(values) + [MAX_ELEMENT_WEIGHT] * len(self.elements.values)
        self.limits = torch.tensor(limits)
        self._linear = torch.tensor([tree.normaliser == "linear" for tree in trees])
        self._cache: dict[Tokens, tuple[np.ndarray, ...]] = {}  # at most CACHE_BYTES
        self._bytes = 0
        self._code = Code(self.elements.plain)
        # for each weight its program, and its row among the truths and then the values
        rows = np.argsort(np.argsort(~self._code.truths, kind="stable"))
        self._where = tuple(torch.from_numpy(x) for x in (self._code.owner, rows[self._code.used]))
        self._terms = np.full((len(values), 5), -1, dtype=np.int64)
        truths = int(self._code.truths.sum())
        row = self._where[1].numpy()
        self._terms[:, 0], self._terms[:, 4] = self._where[0], 0
        self._terms[:, 1] = np.where(row < truths, -2 - row, row - truths)
        for weight, *places in self.elements.terms:
            self._terms[weight, 2:4] = places

    def bundle(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return the matrices of all programs, float32 (programs, texts, n, n), with gradients."""
        device, size = self.weights.device, len(self.originals)
        found = self._planes(texts)
        scores = _Scores.apply(self.weights, [self._scores(x) for x in found], size)
        if self._linear.any():
            planes = np.concatenate([np.concatenate([x[0], x[1]]) for x in found], axis=1)
            logs = self._log_masses(torch.from_numpy(planes).to(device).clamp(min=0.0))
            scores = torch.where(self._linear.to(device)[:, None], logs.to(scores.dtype), scores)
        sees = visible([len(text) for text in texts], self.causal)
        at = sees.reshape(-1).nonzero().squeeze(1).to(device)
        inside = sees.any(-1).to(device)[None, :, :, None]
        square = scores.new_full((size, sees.numel()), -torch.inf).index_copy(1, at, scores)
        square = square.view(size, *sees.shape)
        # a row outside of its text sees nothing: its scores must be finite to have a gradient
        return torch.softmax(torch.where(inside, square, 0.0), dim=-1) * inside

    def _scores(self, found: tuple[np.ndarray, ...]) -> SetScores:
        """Return the terms on one text."""
        truths, values, reads = found
        n = reads.shape[1]
        starts = np.append(row_starts(n, self.causal), n_entries(n, self.causal))
        values = values.astype(np.float32, copy=False)
        some = np.append(reads.any(1), True)[self._terms[:, 2:4]].all(1)  # else the text has none
        return SetScores(
            Rows(starts, np.zeros(n, dtype=np.int64)),
            Planes(truths, values), self._terms[some], np.flatnonzero(some) + FIRST,
            reads, reads, np.abs(values).max(1, initial=0.0),
        )  # fmt: skip

    def _log_masses(self, planes: torch.Tensor) -> torch.Tensor:
        """Return the logarithms of the masses of linear programs, float64 (programs, entries).

        Args:
            planes: float64 (planes, entries), none below 0.
        """
        program, plane = (part.to(planes.device) for part in self._where)
        own = self.weights[: len(program)].clamp(min=0.0).to(planes.dtype)
        large = own.detach() * planes.amax(1)[plane] > TERM_LIMIT if planes.shape[1] else own < 0
        matrix = planes.new_zeros(len(self.originals), len(planes))
        masses = matrix.index_put((program, plane), torch.where(large, 0.0, own), True) @ planes
        for i in large.nonzero().squeeze(1).tolist():
            part = (own[i] * planes[plane[i]]).clamp(max=TERM_LIMIT)
            masses = masses.index_add(0, program[i : i + 1], part[None])
        none = math.log(LEAST_MASS) - 80.0
        return torch.where(masses < LEAST_MASS, none, masses.clamp(min=LEAST_MASS).log())

    def written(self, values: np.ndarray, digits: int | None = None) -> list[Program]:
        """Return the programs with other weights.

        Args:
            values: of all weights, in the order of ``weights``.
            digits: to how many significant ones the weights of terms are rounded; None: not at all.
                The weights of elements have two after the point.
        """
        made = []
        for i, program in enumerate(self.originals):
            own = [float(x) for x in values[self.starts[i] : self.starts[i + 1]]]
            if digits is not None:
                own = [float(f"{x:.{digits}g}") for x in own]
            if program.tree.normaliser == "linear":
                own = [max(x, 0.0) for x in own]
            tree = program.tree.with_weights(own)
            tree = self.elements.written(tree, i, values[self.starts[-1] :])
            ahead = bool(program.facts.lookahead)
            made.append(Program.from_tree(tree, allow_lookahead=ahead))
        return made

    def _planes(self, texts: Sequence[Tokens]) -> list[tuple[np.ndarray, ...]]:
        """Return what the programs read of each text.

        Returns:
            uint8 truths and values, (planes, entries), float64 where a program is linear and else
            float32; and the parameters that places read, int32 (places, tokens).
        """
        missing = [text for text in dict.fromkeys(texts) if text not in self._cache]
        found = {text: self._cache[text] for text in texts if text in self._cache}
        if missing:
            batch = Batch(missing)
            plan = Plan(self._code, batch)
            dtype = np.float64 if self._linear.any() else np.float32
            reads = self.elements.reads(batch, len(self._terms))
            for i, text in enumerate(missing):
                own = np.ascontiguousarray(reads[:, batch.starts[i] : batch.starts[i + 1]])
                found[text] = (*plan.typed_planes(i, dtype), own)
                size = sum(part.nbytes for part in found[text])
                if self._bytes + size <= CACHE_BYTES:
                    self._cache[text] = found[text]
                    self._bytes += size
        return [found[text] for text in texts]


class _Scores(torch.autograd.Function):
    """The scores of all programs on the entries of all texts, text by text on all threads of torch."""

    @staticmethod
    def forward(
        ctx: Any, weights: torch.Tensor, texts: list[SetScores], programs: int
    ) -> torch.Tensor:
        values = weights.detach().cpu().numpy()
        ctx.told = weights, values, texts

        def one(text: SetScores) -> np.ndarray:
            out = np.zeros((programs, int(text.rows.starts[-1])), dtype=np.float32)
            text.add(values, out)
            return out

        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            found = np.concatenate(list(threads.map(one, texts)), axis=1)
        return torch.from_numpy(found).to(weights)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weights, values, texts = ctx.told
        ends = np.cumsum([int(text.rows.starts[-1]) for text in texts])
        given = np.split(gradient.cpu().numpy(), ends[:-1], axis=1)
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            found = threads.map(
                lambda text, own: text.gradient(values, np.ascontiguousarray(own)), texts, given
            )
            return torch.from_numpy(np.sum(list(found), axis=0)).to(weights), None, None
