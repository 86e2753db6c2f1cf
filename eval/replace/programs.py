"""Programs as sources: all programs of a replacement compiled and evaluated together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

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
_POOLS: dict[int, ThreadPoolExecutor] = {}


class Programs:
    """Programs of one visibility as a bundle of heads.

    >>> from attn_dsl.compiler.program import parse
    >>> bundle = Programs([parse("head previous causal:\\n    1000 where k == q-1")])
    >>> bundle.bundle([Tokens.from_strings(["a", " b"])]).tolist()
    [[[[1.0, 0.0], [1.0, 0.0]]]]

    As many texts are worked on at once as torch has threads.

    Attributes:
        programs: in the order of the heads.
        streams: whether rows can be computed token by token (``stream``).

    Raises:
        InputError: a weight is a hole, or causal and bidirectional programs are mixed.
    """

    def __init__(self, programs: Sequence[Program]) -> None:
        self.programs, self.names = tuple(programs), tuple(p.name for p in programs)
        if len({p.causal for p in programs}) != 1:
            raise InputError("programs of one bundle must all be causal or all bidirectional")
        for program in programs:
            if program.facts.holes:
                raise InputError(
                    f"the program {program.name} has {program.facts.holes} weights to be fitted "
                    "(`?`); write numbers, or fit them to a head with `attn-dsl fit`"
                )
        ahead = any(program.facts.lookahead for program in programs)
        self.causal = programs[0].causal and not ahead
        self.streams = self.causal
        # heads that share a program share its matrix
        self._distinct = list(dict.fromkeys(p.tree for p in programs))
        at = {tree: i for i, tree in enumerate(self._distinct)}
        self._where = [at[p.tree] for p in programs]
        self._shared = len(self._distinct) < len(programs)
        self.code = Code(self._distinct)
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
        """Return an array to write to: zeros where the texts leave it.

        The last one is taken again if the lengths are the same and nobody holds it any more: what
        is written is written in the same places, and new memory costs as much as a model's layer.
        """
        if self._last is not None and self._last[0] == sizes:
            out = self._last[1]
            if sys.getrefcount(out) <= _ALONE:
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
        return rows[self._where] if self._shared else rows


def _references() -> int:
    """Count those of an array that only a tuple and a local variable hold: Pythons differ in it."""
    kept = (0, np.zeros(0))
    out = kept[1]
    return sys.getrefcount(out)


_ALONE = _references()


def _pool(threads: int) -> ThreadPoolExecutor:
    """Return threads that are started once and wait for work."""
    if threads not in _POOLS:
        _POOLS[threads] = ThreadPoolExecutor(threads, thread_name_prefix="attn-dsl")
    return _POOLS[threads]
