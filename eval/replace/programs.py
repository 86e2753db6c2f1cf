"""Programs as sources: all programs of a replacement evaluated together."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from attn_dsl.compiler.batch import Batch
from attn_dsl.compiler.evaluate import Plan, unpack
from attn_dsl.compiler.program import Program
from attn_dsl.dsl.tokens import Tokens


class Programs:
    """Programs of one visibility as a bundle.

    >>> from attn_dsl.compiler.program import parse
    >>> bundle = Programs([parse("head previous causal:\\n    1000 where k == q-1")])
    >>> bundle.bundle([Tokens.from_strings(["a", " b"])]).tolist()
    [[[[1.0, 0.0], [1.0, 0.0]]]]
    """

    def __init__(self, programs: Sequence[Program]) -> None:
        self.programs = tuple(programs)
        self.names = tuple(p.name for p in programs)
        self.causal = programs[0].causal

    def bundle(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return the matrices of all programs, float32 (programs, texts, n, n)."""
        plan = Plan([p.tree for p in self.programs], Batch(texts))
        n = max(map(len, texts), default=0)
        out = torch.zeros(len(self.programs), len(texts), n, n)
        for i, text in enumerate(texts):
            m = len(text)
            out[:, i, :m, :m] = torch.from_numpy(unpack(plan.packed(i), m, self.causal))
        return out
