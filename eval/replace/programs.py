"""Source groups, of programs and of baselines: what computes the attention of replaced heads."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch

from attn_dsl.compiler.code import Code
from attn_dsl.compiler.columns import batch_of
from attn_dsl.compiler.evaluate import Plan, unpack
from attn_dsl.compiler.program import Program
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.controls import rows_by_offset, simple_controls
from attn_dsl.eval.heads import Pair

BASELINES = ("uniform", "first token", "mean by offset", "zero")


class SourceGroup(Protocol):
    """The attention of several heads, computed together; ``HeadSource`` is one of them."""

    names: tuple[str, ...]  # of the heads, in order, for reports and errors
    # whether row q is the same whatever follows q, and zero after q. A model whose heads are
    # causal takes no other source.
    causal: bool

    def bundle(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return the matrices of all heads on a batch of texts.

        Returns:
            float32 (heads, texts, n, n) with n the longest text, on any device: queries by keys.
            Zero outside of a text and where a query cannot see. Gradients reach the parameters
            of a group through the model.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class HeadSource:
    """One head of a source group, by its number there."""

    group: SourceGroup
    number: int

    @property
    def name(self) -> str:
        """The head's name in the group."""
        return self.group.names[self.number]


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
            program.refuse_holes("write numbers, or fit them to a head with `attn-dsl fit`")
        self.causal = programs[0].causal and not any(p.facts.lookahead for p in programs)
        self.code = Code([p.tree for p in programs])

    def bundle(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return the matrices of all programs, float32 (programs, texts, n, n)."""
        n = max(map(len, texts), default=0)
        out = np.zeros((self.code.size, len(texts), n, n), dtype=np.float32)

        def work(i: int) -> None:
            Plan(self.code, batch_of(texts[i])).square(0, out[:, i])

        self.code.prepare(n)
        in_threads(work, len(texts))
        return torch.from_numpy(out)


def in_threads(work: Callable[[int], Any], count: int) -> list[Any]:
    """Call a function with each number below ``count``, on as many threads as torch has."""
    threads = min(torch.get_num_threads(), count)
    return list((_pool(threads).map if threads > 1 else map)(work, range(count)))


_pool = cache(ThreadPoolExecutor)  # one pool for each number of threads


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
        masses: (heads, 2 d + 1), by offset q - k from -d to d, not negative; see ``rows_by_offset``.
        causal: whether a query sees only keys up to itself.
    """

    def __init__(self, masses: Sequence[Sequence[float]] | np.ndarray, causal: bool) -> None:
        self.masses = np.asarray(masses)
        self.names, self.causal = ("mean by offset",) * len(self.masses), causal

    def bundle(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return the matrices, float32 (heads, texts, n, n)."""
        n = max(map(len, texts), default=0)
        out = np.zeros((len(self.masses), len(texts), n, n), dtype=np.float32)
        for i, m in enumerate(map(len, texts)):
            out[:, i, :m, :m] = unpack(rows_by_offset(self.masses, m, self.causal), m, self.causal)
        return torch.from_numpy(out)


def baseline(name: str, heads: Sequence[Pair], causal: bool) -> dict[Pair, HeadSource]:
    """Put a baseline that is the same for every head in the place of some heads."""
    if name == "zero":
        return dict.fromkeys(heads, HeadSource(Zero(causal), 0))
    program = Program.from_tree(simple_controls(causal)[name])
    return dict.fromkeys(heads, HeadSource(Programs([program]), 0))
