"""Sources: what gives the attention of a replaced head, from the tokens of a text alone.

A source is a program, a control or a torch module with parameters. Sources that are computed
together, such as all programs of a replacement, are parts of one bundle, so that what they share
is computed once per forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch

from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.tokens import Tokens

if TYPE_CHECKING:
    from attn_dsl.eval.capture import Capture

Head = tuple[int, int]
"""Layer and query head, both from 0."""


@runtime_checkable
class Source(Protocol):
    """The attention of one head on any texts.

    Attributes:
        name: for reports and errors.
        causal: whether row q is the same whatever follows q, and zero behind q. A model whose
            heads are causal takes no other source.
    """

    @property
    def name(self) -> str:
        """For reports and errors."""
        ...

    @property
    def causal(self) -> bool:
        """Whether a query sees nothing behind itself, nor depends on it."""
        ...

    def attention(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return the matrices of a batch of texts.

        Returns:
            float32 (texts, n, n) with n the longest text, on any device: queries by keys. Zero
            outside of a text and where a query cannot see. It may be part of a graph; gradients
            then reach the source's parameters through the model.
        """
        ...


@runtime_checkable
class Bundle(Protocol):
    """The attention of several heads, computed together; ``Part`` makes a source of each.

    Attributes:
        names: of the heads, in order.
        causal: as for ``Source``.
    """

    names: tuple[str, ...]
    causal: bool

    def bundle(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return the matrices of all heads, float32 (heads, texts, n, n), as ``Source`` does."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One head of a bundle.

    >>> zero = Zero(causal=True)
    >>> Part(Together([zero, zero]), 1).attention([Tokens.from_strings(["a"])]).tolist()
    [[[0.0]]]

    Attributes:
        of: the bundle; a replacement evaluates it once for all of its parts.
        number: which of the bundle's heads.
    """

    of: Bundle
    number: int

    @property
    def name(self) -> str:
        """The head's name in the bundle."""
        return self.of.names[self.number]

    @property
    def causal(self) -> bool:
        """Whether the bundle is causal."""
        return self.of.causal

    def attention(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return the matrices of this head alone."""
        return self.of.bundle(texts)[self.number]


class Together:
    """Sources of their own as one bundle, evaluated one after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = tuple(sources)
        self.names = tuple(source.name for source in self.sources)
        self.causal = all(source.causal for source in self.sources)

    def bundle(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return the matrices of all sources, float32 (sources, texts, n, n)."""
        return torch.stack([source.attention(texts) for source in self.sources])


def visible(lengths: Sequence[int], causal: bool) -> torch.Tensor:
    """Say what each query of a batch of texts sees, given the tokens of each.

    >>> visible([2], causal=True).tolist()
    [[[True, False], [True, True]]]

    Returns:
        bool (texts, n, n) with n the longest text.
    """
    n = max(lengths, default=0)
    inside = torch.arange(n) < torch.tensor(lengths)[:, None]
    pairs = inside[:, :, None] & inside[:, None, :]
    return pairs & torch.ones(n, n, dtype=torch.bool).tril() if causal else pairs


class Zero:
    """Zero ablation: attention to nothing, so that the head adds nothing but its output's bias.

    >>> Zero(causal=True).attention([Tokens.from_strings(["a", " b"])]).tolist()
    [[[0.0, 0.0], [0.0, 0.0]]]
    """

    def __init__(self, causal: bool) -> None:
        self.name, self.causal = "zero", causal

    def attention(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return zeros, float32 (texts, n, n)."""
        n = max(map(len, texts), default=0)
        return torch.zeros(len(texts), n, n)


class MeanByOffset:
    """A head's own attention, averaged over all pairs at the same distance.

    >>> mean = MeanByOffset([0.0, 3.0, 1.0], causal=True)  # offsets -1, 0 and 1
    >>> mean.attention([Tokens.from_strings(["a", " b"])]).tolist()
    [[[1.0, 0.0], [0.25, 0.75]]]

    Args:
        weights: mass by offset q - k, from -d to d: 2 d + 1 numbers, not negative. A pair farther
            apart than d has the mass of the farthest offset on its side.
        causal: whether a query sees only keys up to itself.
    """

    def __init__(self, weights: Sequence[float] | np.ndarray, causal: bool) -> None:
        self.name, self.causal = "mean by offset", causal
        self.weights = torch.as_tensor(np.asarray(weights), dtype=torch.float32)
        if self.weights.dim() != 1 or len(self.weights) % 2 == 0 or (self.weights < 0).any():
            raise InputError(
                f"a mean by offset needs an odd number of masses that are not negative, from "
                f"offset -d to d; these have the shape {tuple(self.weights.shape)}"
            )

    def attention(self, texts: Sequence[Tokens]) -> torch.Tensor:
        """Return the matrices, float32 (texts, n, n)."""
        sees = visible([len(text) for text in texts], self.causal)
        at = torch.arange(sees.shape[-1])
        reach = len(self.weights) // 2
        offsets = (at[:, None] - at[None, :]).clamp(-reach, reach) + reach
        mass = torch.where(sees, self.weights[offsets] + 1e-9, 0.0)
        return mass / mass.sum(-1, keepdim=True).clamp(min=1e-30)


def mean_by_offset(
    capture: Capture, texts: Sequence[int], heads: Sequence[Head]
) -> dict[Head, Source]:
    """Average the attention of heads over all pairs at the same distance.

    Args:
        capture: the heads' attention.
        texts: the texts to average over; those of the fit split.
        heads: which heads.
    """
    from attn_dsl.eval.controls import offsets

    longest = max((len(capture.tokens(i)) for i in texts), default=1)
    numbers = [layer * capture.heads_per_layer + head for layer, head in heads]
    sums, counts = np.zeros((len(heads), 2 * longest + 1)), np.zeros(2 * longest + 1)
    for text in texts:
        at = offsets(len(capture.tokens(text)), capture.causal) + longest
        counts += np.bincount(at, minlength=len(counts))
        for row, values in enumerate(capture.attention(text, numbers)):
            sums[row] += np.bincount(at, values, minlength=len(counts))
    means = sums / np.maximum(counts, 1.0)
    return {head: MeanByOffset(means[i], capture.causal) for i, head in enumerate(heads)}


CONTROLS = ("uniform", "first token", "previous token", "zero")
"""The controls that are the same for every head; ``mean_by_offset`` is fitted to each."""


def control(name: str, heads: Sequence[Head], causal: bool) -> dict[Head, Source]:
    """Return one of ``CONTROLS`` for some heads, to be put in their place.

    >>> [source.name for source in control("uniform", [(0, 1), (0, 2)], causal=True).values()]
    ['uniform', 'uniform']

    Raises:
        InputError: there is no control of that name.
    """
    from attn_dsl.compiler.program import Program
    from attn_dsl.eval.controls import simple_controls
    from attn_dsl.eval.replace.programs import Programs

    if name == "zero":
        return dict.fromkeys(heads, Zero(causal))
    if name not in CONTROLS:
        raise InputError(f"no control is called {name}; there are {', '.join(CONTROLS)}")
    one = Part(Programs([Program.from_tree(simple_controls(causal)[name])]), 0)
    return dict.fromkeys(heads, one)


def bundles(heads: Mapping[Head, Source]) -> list[tuple[Bundle, dict[Head, int]]]:
    """Group sources by what computes them.

    >>> zero = Zero(causal=True)
    >>> [where for _, where in bundles({(0, 0): zero, (1, 3): zero})]
    [{(0, 0): 0, (1, 3): 0}]

    Returns:
        per bundle, which of its heads goes where.
    """
    groups: dict[int, tuple[Bundle, dict[Head, int]]] = {}
    for place, source in heads.items():
        if isinstance(source, Part):
            groups.setdefault(id(source.of), (source.of, {}))[1][place] = source.number
        else:
            groups.setdefault(id(source), (Together([source]), {}))[1][place] = 0
    return list(groups.values())
