"""Programs as sources: all programs of a replacement compiled and evaluated together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch

from attn_dsl.compiler.code import Code
from attn_dsl.compiler.columns import batch_of
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.compiler.program import Program
from attn_dsl.compiler.stream import Stream
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.tokens import Tokens

KEPT_BYTES = 1 << 28
"""The largest array of matrices that is kept to be written again."""


class Programs:
    """Programs of one visibility as a source group.

    >>> from attn_dsl.compiler.program import parse
    >>> group = Programs([parse("head previous causal:\\n    1000 where k == q-1")])
    >>> group.bundle([Tokens.from_strings(["a", " b"])]).tolist()
    [[[[1.0, 0.0], [1.0, 0.0]]]]

    As many texts are evaluated at once as torch has threads.

    Attributes:
        programs: in the order of the heads.
        causal: causal and without lookahead; rows can then be computed token by token.

    Raises:
        InputError: a weight is a hole, or causal and bidirectional programs are mixed.
    """

    def __init__(self, programs: Sequence[Program]) -> None:
        self.programs, self.names = tuple(programs), tuple(p.name for p in programs)
        if len({p.causal for p in programs}) != 1:
            raise InputError("programs of one group must all be causal or all bidirectional")
        for program in programs:
            if program.facts.holes:
                raise InputError(
                    f"the program {program.name} has {program.facts.holes} weights to be fitted "
                    "(`?`); write numbers, or fit them to a head with `attn-dsl fit`"
                )
        self.causal = programs[0].causal and not any(p.facts.lookahead for p in programs)
        # heads that share a program share its matrix
        distinct = {tree: i for i, tree in enumerate(dict.fromkeys(p.tree for p in programs))}
        self._where = [distinct[p.tree] for p in programs]
        self.code = Code(list(distinct))
        self._last: tuple[tuple[int, ...], np.ndarray] | None = None

    def bundle(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return the matrices of all programs, float32 (programs, texts, n, n)."""
        threads = min(torch.get_num_threads(), len(texts))
        out = self._room(tuple(map(len, texts)))

        def work(i: int) -> None:
            Plan(self.code, batch_of(texts[i])).square(0, out[:, i])

        self.code.prepare(out.shape[-1])
        for _ in (_pool(threads).map if threads > 1 else map)(work, range(len(texts))):
            pass
        return self.expand(torch.from_numpy(out))

    def _room(self, sizes: tuple[int, ...]) -> np.ndarray:
        """Return an array that is zero outside of the texts: the last one if nobody holds it."""
        if self._last is not None and self._last[0] == sizes:
            out = self._last[1]
            if sys.getrefcount(out) <= _unshared():
                return out
        n = max(sizes, default=0)
        out = np.zeros((self.code.size, len(sizes), n, n), dtype=np.float32)
        self._last = (sizes, out) if out.nbytes <= KEPT_BYTES else None
        return out

    def stream(self) -> Stream:
        """Return a text that grows, for the rows of all distinct programs; see ``expand``."""
        return Stream(self.code)

    def expand(self, rows: torch.Tensor) -> torch.Tensor:
        """Turn what was computed by distinct program into one entry per head."""
        return rows[self._where] if self.code.size < len(self.programs) else rows


@cache
def _unshared() -> int:
    """Count the references of an array that a tuple and a local variable hold; once a process."""
    kept = (0, np.zeros(0))
    out = kept[1]
    return sys.getrefcount(out)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return threads that wait for work; one pool for each number of threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix="attn-dsl")
