"""Tunable programs: the weights of many programs as parameters of one torch module."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch

from attn_dsl.compiler.batch import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.compiler.program import Program
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.replace.source import visible

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
    programs are computed once for a text, equal ones once, and all scores are one product of
    matrices. Structure and sets stay as they are. Scores are float32, and a term beyond TERM_LIMIT
    logits is not cut off there as in other evaluations.

    Attributes:
        weights: float32, the weights of all programs in source order; ``starts`` (programs + 1)
            says whose they are. A hole starts at 0.
        originals: the programs as given.

    Args:
        programs: all causal or all bidirectional.
        cache_bytes: how many bytes of planes are kept for texts that come again; 0: none.
    """

    def __init__(self, programs: Sequence[Program], *, cache_bytes: int = CACHE_BYTES) -> None:
        super().__init__()
        if len({p.causal for p in programs}) != 1:
            raise InputError("programs of one bundle must all be causal or all bidirectional")
        self.originals, self.names = tuple(programs), tuple(p.name for p in programs)
        self.causal = programs[0].causal
        values = [w or 0.0 for p in programs for w in p.tree.weights]
        self.starts = np.cumsum([0, *(len(p.tree.weights) for p in programs)])
        self.weights = torch.nn.Parameter(torch.tensor(values, dtype=torch.float32))
        self._linear = torch.tensor([p.tree.normaliser == "linear" for p in programs])
        self._cache: OrderedDict[Tokens, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._bytes, self._limit = 0, cache_bytes
        self._where = _places(Plan([p.tree for p in programs], Batch([])))

    def bundle(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return the matrices of all programs, float32 (programs, texts, n, n), with gradients."""
        device, size = self.weights.device, len(self.originals)
        truths, values = self._planes(texts)
        planes = torch.cat([truths.to(device).float(), values.to(device)])
        matrix = self.weights.new_zeros(size, len(planes))
        owner, plane = self._where
        matrix = matrix.index_put((owner.to(device), plane.to(device)), self.weights, True)
        scores = matrix @ planes
        if self._linear.any():
            masses = self._positive(owner, plane, len(planes)) @ planes.clamp(min=0.0)
            logs = masses.clamp(min=1e-38).log()
            scores = torch.where(self._linear.to(device)[:, None], logs, scores)
        sees = visible(texts, self.causal)
        at = sees.reshape(-1).nonzero().squeeze(1).to(device)
        inside = sees.any(-1).to(device)[None, :, :, None]
        square = scores.new_full((size, sees.numel()), -torch.inf).index_copy(1, at, scores)
        square = square.view(size, *sees.shape)
        # a row outside of its text sees nothing: its scores must be finite to have a gradient
        return torch.softmax(torch.where(inside, square, 0.0), dim=-1) * inside

    def programs(self) -> list[Program]:
        """Return the programs with their present weights.

        >>> from attn_dsl.compiler.program import parse
        >>> Tunable([parse("head first causal:\\n    ? where k == 0")]).programs()[0].tree.weights
        (0.0,)
        """
        values = self.weights.detach().double().cpu().tolist()
        made = []
        for i, program in enumerate(self.originals):
            chosen = values[self.starts[i] : self.starts[i + 1]]
            if program.tree.normaliser == "linear":
                chosen = [max(w, 0.0) for w in chosen]
            made.append(Program.from_tree(program.tree.with_weights(chosen)))
        return made

    def _positive(self, owner: torch.Tensor, plane: torch.Tensor, planes: int) -> torch.Tensor:
        """Return the weights as masses, float32 (programs, planes)."""
        device = self.weights.device
        matrix = self.weights.new_zeros(len(self.originals), planes)
        masses = self.weights.clamp(min=0.0)
        return matrix.index_put((owner.to(device), plane.to(device)), masses, True)

    def _planes(self, texts: Sequence[Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return uint8 truths and float32 values of all programs, (planes, entries of all texts)."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._cache]
        found = {text: self._cache[text] for text in texts if text in self._cache}
        if missing:
            plan = Plan([p.tree for p in self.originals], Batch(missing))
            for i, text in enumerate(missing):
                found[text] = plan.typed_planes(i)
                self._keep(text, found[text])
        for text in texts:
            if text in self._cache:
                self._cache.move_to_end(text)
        parts = zip(*(found[text] for text in texts), strict=True)
        truths, values = (torch.from_numpy(np.concatenate(part, axis=1)) for part in parts)
        return truths, values

    def _keep(self, text: Tokens, planes: tuple[np.ndarray, np.ndarray]) -> None:
        """Remember the planes of a text; forget those of the texts that were not asked for longest."""
        size = sum(part.nbytes for part in planes)
        if size > self._limit:
            return
        self._cache[text] = planes
        self._bytes += size
        while self._bytes > self._limit:
            _, old = self._cache.popitem(last=False)
            self._bytes -= sum(part.nbytes for part in old)


def _places(plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each weight its program, and its row among the truths and then the values."""
    slots = plan.code.slots
    truths = int((slots[:, 0] == 0).sum())
    rows = slots[:, 1] + np.where(slots[:, 0] == 0, 0, truths)
    owner = np.repeat(np.arange(plan.size), np.diff(plan.offsets))
    return torch.from_numpy(owner), torch.from_numpy(rows[plan.used].astype(np.int64))
