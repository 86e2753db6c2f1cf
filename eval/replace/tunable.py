"""Tunable programs: the weights of many softmax programs as parameters of one torch module."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit

from attn_dsl.compiler.code import Code
from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.compiler.jit import LEAN, SUMS
from attn_dsl.compiler.program import Program
from attn_dsl.compiler.softmax import softmax_rows
from attn_dsl.compiler.text_planes import spread_rows
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.definitions import self_contained
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.limits import MAX_ELEMENT_WEIGHT, MAX_WEIGHT
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.replace.programs import in_threads
from attn_dsl.eval.replace.tunable_scores import TunableScores
from attn_dsl.eval.shards import n_entries, row_starts
from attn_dsl.eval.term_scores import Planes, TermScores

CACHE_BYTES = 1 << 30
"""How many bytes of planes are kept for texts that come again."""
LEAST_SCALE = 0.05
"""What the lines of scores are multiplied by is taken as so much, at least."""
_EVERYWHERE = t.Where(None, t.Always())


class Known(NamedTuple):
    """What is computed once for a text."""

    terms: TermScores  # of all programs
    held: np.ndarray  # which predicates of scores hold at its tokens, float32 (tokens, predicates)


class Tunable(torch.nn.Module):
    """Softmax programs of one visibility whose weights are parameters; a bundle of heads.

    The parameters of a program are its weights, those of the steps of tables too, and then those of the lines
    of its scores, which become its own.

    Attributes:
        weights: float32, the parameters of all programs; ``starts`` (programs + 1) says whose they are.
            A hole starts at 0.
        limits: float32, the largest magnitude of each.
        originals: the programs as given.

    Raises:
        InputError: visibilities are mixed, or a program is linear.
    """

    def __init__(self, programs: Sequence[Program]) -> None:
        super().__init__()
        if len({p.causal for p in programs}) != 1:
            raise InputError("programs of one bundle must all be causal or all bidirectional")
        if linear := [p.name for p in programs if p.tree.normaliser == "linear"]:
            raise InputError(f"weights of linear programs are not tuned: {', '.join(linear)}")
        self.originals, self.names = tuple(programs), tuple(p.name for p in programs)
        self.causal = programs[0].causal
        trees = [self_contained(p.tree) for p in programs]
        self.programs = tuple(
            replace(tree, terms=tuple(part for term in tree.terms for part in t.parts_of(term)))
            for tree in trees)  # fmt: skip
        self.scores = TunableScores(self.programs)
        own = [[w or 0.0 for w in program.weights] for program in self.programs]
        lines = [self.scores.weights[self.scores.of(i)] for i in range(len(programs))]
        parts = [np.concatenate(pair) for pair in zip(own, lines, strict=True)]
        values = torch.from_numpy(np.concatenate(parts))
        self.weights = torch.nn.Parameter(values.float())
        self.starts = np.cumsum([0, *map(len, parts)])
        self.limits = torch.full(values.shape, MAX_WEIGHT)
        self._lines = np.concatenate(
            [np.arange(end - len(some), end) for end, some in zip(self.starts[1:], lines, strict=True)]
        )
        self.limits[self._lines] = MAX_ELEMENT_WEIGHT
        self._cache: dict[Tokens, Known] = {}  # at most CACHE_BYTES
        self._free = CACHE_BYTES
        heads: list[t.Head] = []
        rows: list[tuple[int, ...]] = []  # as ``TermScores.terms``, without planes
        for i, program in enumerate(self.programs):
            terms: list[t.Term] = []
            for term in program.terms:
                assert not isinstance(term, t.Sum)
                rest, *places = self.scores.split(term, i)
                terms.append(rest or _EVERYWHERE)
                rows += [(i, *places)] * len(t.weights_of(term))
            heads.append(replace(program, terms=tuple(terms)))
        self._code = code = Code(heads)
        # rows of the truths and then of the values, as ``Plan.typed_planes`` gives them
        plane = np.argsort(np.argsort(~code.truths, kind="stable"))[code.used]
        truths = int(code.truths.sum())
        counts = enumerate(map(len, own))
        self._numbers = np.concatenate([self.starts[i] + np.arange(n) for i, n in counts]).astype(np.int64)
        made = np.array(rows, dtype=np.int64).reshape(-1, 3)
        self._terms = np.insert(made, 1, np.where(plane < truths, -2 - plane, plane - truths), axis=1)

    def bundle(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return the matrices of all programs, float32 (programs, texts, n, n), with gradients."""
        known = self._known(texts)
        shape = len(self.programs), len(texts), *2 * [max(map(len, texts), default=0)]
        return _Attention.apply(self.weights, self, [known[text] for text in texts], shape)

    def scales(self, texts: Sequence[Tokens]) -> np.ndarray:
        """Return the size of what each weight multiplies: its root mean square where it is not 0.

        That of a score's line is multiplied by the number of its lines.
        """
        values = self.weights.detach().cpu().numpy()
        planes, scores = (np.zeros((2, len(self._code.planes))), np.zeros((2, len(self.scores.owners))))
        for one in self._known(texts).values():
            planes[:, ~self._code.truths] += _squares(one.terms.planes.values)
            scores += _squares(self.scores.values(values[self._lines], one.held))
        by_place, plane = np.append(_root(scores), 1.0), _root(planes)[self._code.used]
        query, key = by_place[self._terms[:, 2:4].T]
        found, given = np.zeros(len(values)), np.abs(values[self._numbers])
        found[self._numbers] = plane * query * key
        # what a score is multiplied by, where that is most
        other = np.full(len(by_place), LEAST_SCALE)
        np.maximum.at(other, self._terms[:, 2], given * plane * key)
        np.maximum.at(other, self._terms[:, 3], given * plane * query)
        # so that a score moves as much as a weight, whatever the number of its lines
        lines = np.diff(self.scores.starts)
        found[self._lines] = np.repeat(other[: len(lines)] * lines, lines)
        return found.astype(np.float32)

    def written(self, values: np.ndarray, digits: int | None = None) -> list[Program]:
        """Return the programs with other values of ``weights``.

        Args:
            digits: to how many significant ones the weights of terms are rounded; None: not at all.
        """
        made = []
        for i, (program, one) in enumerate(zip(self.programs, self.originals, strict=True)):
            own = values[self.starts[i] : self.starts[i + 1]].astype(np.float64)
            count, ahead = len(program.weights), bool(one.facts.lookahead)
            if digits is not None:
                own[:count] = [float(f"{x:.{digits}g}") for x in own[:count]]
            tree = self.scores.written(i, program.with_weights(own[:count].tolist()), own[count:])
            tree = replace(tree, terms=t.joined(tree.terms))
            made.append(Program.from_tree(tree, allow_lookahead=ahead))
        return made

    def _known(self, texts: Sequence[Tokens]) -> dict[Tokens, Known]:
        """Return the terms of all programs on each text."""
        found = {text: self._cache[text] for text in texts if text in self._cache}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        if not missing:
            return found
        batch = Batch(missing)
        plan, held = Plan(self._code, batch), self.scores.held(batch)
        for i, text in enumerate(missing):
            n, here = len(text), slice(*batch.starts[i : i + 2])
            planes = Planes(*plan.typed_planes(i))
            starts = np.append(row_starts(n, self.causal), n_entries(n, self.causal))
            terms = TermScores(starts, planes, self._terms, self._numbers,
                               np.abs(planes.values).max(1, initial=0.0))  # fmt: skip
            found[text] = Known(terms, held[here])
            size = sum(part.nbytes for part in (*planes, held[here]))
            if size <= self._free:
                self._cache[text] = found[text]
                self._free -= size
        return found


class _Attention(torch.autograd.Function):
    """The matrices of all programs, text by text on all threads of torch."""

    @staticmethod
    def forward(ctx: Any, weights: torch.Tensor, programs: Tunable, texts: list[Known],
                shape: tuple[int, ...]) -> torch.Tensor:  # fmt: skip
        given, out = weights.detach().cpu().numpy(), np.zeros(shape, dtype=np.float32)
        scores, lines = programs.scores, given[programs._lines]

        def one(i: int) -> tuple[np.ndarray, np.ndarray]:
            terms, held = texts[i]
            values = scores.values(lines, held)
            rows = np.zeros((shape[0], int(terms.starts[-1])), dtype=np.float32)
            terms.add(given, rows, values)
            for row in rows:
                softmax_rows(terms.starts, row)
            n = len(held)
            spread_rows(rows, 0, programs.causal, n, out[:, i, :n])
            return values, rows

        ctx.told = programs, texts, in_threads(one, len(texts))
        return torch.from_numpy(out).to(weights)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        programs, texts, made = ctx.told
        given, own = gradient.cpu().numpy(), programs.weights.detach().cpu().numpy()

        def one(i: int) -> np.ndarray:
            terms, held = texts[i]
            values, rows = made[i]
            residuals = np.empty_like(rows)
            _softmax_gradient(terms.starts, rows, given[:, i], residuals)
            found, by_values = terms.gradient(own, residuals, values)
            found[programs._lines] += programs.scores.gradient(by_values, held)
            return found

        found = np.sum(in_threads(one, len(texts)), axis=0)
        return torch.from_numpy(found).to(programs.weights), None, None, None


def _squares(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each row the sum of its squares, and how many are not 0."""
    return (values.astype(np.float64) ** 2).sum(1), (values != 0).sum(1)


def _root(sums: np.ndarray) -> np.ndarray:
    """Return the root mean square of what ``_squares`` counted, 1 where there is none."""
    size = np.sqrt(sums[0] / np.maximum(sums[1], 1.0))
    return np.where(size > 0, size, 1.0)


@njit(**LEAN, fastmath=SUMS)
def _softmax_gradient(starts, rows, given, out):
    """Write the gradient of scores, from their softmax and its gradient on squares."""
    for p in range(rows.shape[0]):
        for q in range(starts.shape[0] - 1):
            low = starts[q]
            mean = np.float32(0.0)
            for k in range(starts[q + 1] - low):
                mean += rows[p, low + k] * given[p, q, k]
            for k in range(starts[q + 1] - low):
                out[p, low + k] = rows[p, low + k] * (given[p, q, k] - mean)
