"""Programs and baselines as source groups: what computes the attention of replaced heads."""

from __future__ import annotations

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
from attn_dsl.eval.controls import simple_controls
from attn_dsl.eval.replace.source import Head, Part, visible

BASELINES = ("uniform", "first token", "mean by offset", "zero")


class Programs:
    """Programs of one visibility as a source group.

    >>> from attn_dsl.compiler.program import parse
    >>> group = Programs([parse("head previous causal:\\n    1000 where k == q-1")])
    >>> group.bundle([Tokens.from_strings(["a", " b"])]).tolist()
    [[[[1.0, 0.0], [1.0, 0.0]]]]

    As many texts are evaluated at once as torch has threads.

    Args:
        keep: bytes of matrices that are kept for batches of texts that come again.

    Attributes:
        programs: in the order of the heads.
        causal: causal and without lookahead; rows can then be computed token by token.

    Raises:
        InputError: a weight is a hole, or causal and bidirectional programs are mixed.
    """

    def __init__(self, programs: Sequence[Program], keep: int = 0) -> None:
        self.programs, self.names = tuple(programs), tuple(p.name for p in programs)
        self._kept: dict[tuple[Tokens, ...], torch.Tensor] = {}
        self._free = keep
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

    def bundle(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return the matrices of all programs, float32 (programs, texts, n, n)."""
        if (known := self._kept.get(tuple(texts))) is not None:
            return self.expand(known)
        threads = min(torch.get_num_threads(), len(texts))
        n = max(map(len, texts), default=0)
        out = np.zeros((self.code.size, len(texts), n, n), dtype=np.float32)

        def work(i: int) -> None:
            Plan(self.code, batch_of(texts[i])).square(0, out[:, i])

        self.code.prepare(n)
        for _ in (_pool(threads).map if threads > 1 else map)(work, range(len(texts))):
            pass
        if out.nbytes <= self._free:
            self._free -= out.nbytes
            self._kept[tuple(texts)] = torch.from_numpy(out)
        return self.expand(torch.from_numpy(out))

    def stream(self) -> Stream:
        """Return a text that grows, for the rows of all distinct programs; see ``expand``."""
        return Stream(self.code)

    def expand(self, rows: torch.Tensor) -> torch.Tensor:
        """Turn what was computed by distinct program into one entry per head."""
        return rows[self._where] if self.code.size < len(self.programs) else rows


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return threads that wait for work; one pool for each number of threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix="attn-dsl")


class Zero:
    """Zero ablation: attention to nothing, so that the head adds nothing but its output's bias.

    >>> Zero(causal=True).bundle([Tokens.from_strings(["a", " b"])]).tolist()
    [[[[0.0, 0.0], [0.0, 0.0]]]]
    """

    def __init__(self, causal: bool) -> None:
        self.names: tuple[str, ...] = ("zero",)
        self.causal = causal

    def bundle(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return zeros, float32 (1, texts, n, n)."""
        n = max(map(len, texts), default=0)
        return torch.zeros(1, len(texts), n, n)


class MeanByOffset:
    """Heads' own attention, averaged over all pairs at the same distance.

    >>> mean = MeanByOffset([[0.0, 3.0, 1.0]], causal=True)  # offsets -1, 0 and 1
    >>> mean.bundle([Tokens.from_strings(["a", " b"])]).tolist()
    [[[[1.0, 0.0], [0.25, 0.75]]]]

    Args:
        masses: (heads, 2 d + 1), by offset q - k from -d to d, not negative. A pair farther apart
            than d has the mass of the farthest offset on its side.
        causal: whether a query sees only keys up to itself.
    """

    def __init__(self, masses: Sequence[Sequence[float]] | np.ndarray, causal: bool) -> None:
        self.masses = torch.as_tensor(np.asarray(masses), dtype=torch.float32)
        self.names, self.causal = ("mean by offset",) * len(self.masses), causal

    def bundle(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return the matrices, float32 (heads, texts, n, n)."""
        sees = visible([len(text) for text in texts], self.causal)
        at = torch.arange(sees.shape[-1])
        reach = self.masses.shape[1] // 2
        gaps = (at[:, None] - at[None, :]).clamp(-reach, reach) + reach
        mass = torch.where(sees, self.masses[:, None, gaps] + 1e-9, 0.0)
        return mass / mass.sum(-1, keepdim=True).clamp(min=1e-30)


def baseline(name: str, heads: Sequence[Head], causal: bool) -> dict[Head, Part]:
    """Put a baseline that is the same for every head in the place of some heads.

    >>> [part.name for part in baseline("zero", [(0, 1), (0, 2)], causal=True).values()]
    ['zero', 'zero']
    """
    if name == "zero":
        return dict.fromkeys(heads, Part(Zero(causal), 0))
    program = Program.from_tree(simple_controls(causal)[name])
    return dict.fromkeys(heads, Part(Programs([program]), 0))
