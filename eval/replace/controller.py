"""The controller of a model with replaced heads: computes their attention once per forward pass."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import Any

import torch

from attn_dsl.compiler.stream import Stream, newest_rows
from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.replace.programs import Programs
from attn_dsl.eval.replace.source import Head, Part, SourceGroup
from attn_dsl.eval.replace.tokens import (
    Inputs,
    TokenReader,
    cache_among,
    forget_ids,
    ids_in,
    note_ids,
    read_inputs,
    spread,
    unpadded,
)

Matrices = torch.Tensor
"""(heads, texts, queries, keys): queries of this pass, keys of the cache and of this pass."""


class Controller:
    """What a model with replaced heads knows while it runs.

    Attributes:
        members: what stands in each head's place.
        used: while not None, the matrices that replaced layers used in the last pass, and the
            window of each layer.
        attentions: whether the pass in progress was asked for attention matrices.
        shares: while not None, replaced heads keep their own attention, and a layer's entry says how
            much of a row is the program's: zeros (texts, queries, heads, 1) that take gradients.
    """

    def __init__(self, body: Any, reader: TokenReader, max_positions: int | None) -> None:
        self.body, self.reader, self.max_positions = body, reader, max_positions
        self.members: dict[Head, Part] = {}
        self.used: dict[int, tuple[Matrices, int | None]] | None = None
        self.attentions = False
        self.shares: dict[int, torch.Tensor] | None = None
        self._layers: dict[int, tuple[list[int], list[tuple[SourceGroup, list[int]]]]] = {}
        self._results: dict[SourceGroup, Matrices] | None = None
        self._pending: tuple[torch.Tensor, Any] | None = None
        self._streams: dict[Programs, dict[tuple[int, ...], Stream]] = {}
        self._caches: weakref.WeakSet = weakref.WeakSet()
        self._signature = inspect.signature(body.forward)

    def open(self, undo: ExitStack) -> None:
        """Listen to the model's forward passes, until ``undo`` is closed."""
        before, after = self.body.register_forward_pre_hook, self.body.register_forward_hook
        undo.callback(self._forget)
        undo.callback(before(self._before, with_kwargs=True).remove)
        undo.callback(after(self._after, with_kwargs=True, always_call=True).remove)

    def _forget(self) -> None:
        """Leave caches as they were."""
        for cache in list(self._caches):
            forget_ids(cache)
        self._results = self._pending = None

    def set_members(self, members: Mapping[Head, Part]) -> None:
        """Say which heads are replaced from now on."""
        self.members = dict(members)
        self._streams.clear()
        self._layers = {}
        ordered = sorted(self.members.items(), key=lambda item: item[0])
        for layer, items in groupby(ordered, key=lambda item: item[0][0]):
            places, parts = zip(*items, strict=True)
            by_group = groupby(parts, key=lambda part: part.group)
            runs = [(group, [part.number for part in run]) for group, run in by_group]
            self._layers[layer] = [head for _, head in places], runs

    # -- a forward pass ----------------------------------------------------------------------

    def _before(self, _: Any, args: tuple, kwargs: dict) -> None:
        bound = self._signature.bind_partial(*args, **kwargs).arguments
        given = {**bound, **bound.get("kwargs", {})}
        cache = cache_among(given.values())
        past = ids_in(cache)
        inputs = read_inputs(given, past)
        total = inputs.ids.shape[1]
        if self.max_positions is not None and total > self.max_positions:
            raise InputError(
                f"a text of {total} tokens is longer than the model's context of "
                f"{self.max_positions}; cut the text, or generate fewer tokens"
            )
        if self.used is not None:
            self.used = {}
        self.attentions = inputs.attentions or bool(
            getattr(self.body.config, "output_attentions", False)
        )
        self._results = {
            group: self._next(group, inputs)
            if past is not None and isinstance(group, Programs) and group.causal
            else self._whole(group, inputs)
            for group in dict.fromkeys(part.group for part in self.members.values())
        }
        self._pending = (inputs.ids, cache)

    def _after(self, _: Any, args: tuple, kwargs: dict, output: Any) -> None:
        """Note the tokens that the pass has put into its cache."""
        self._results = None
        pending, self._pending = self._pending, None
        if pending is None or output is None:
            return
        ids, cache = pending
        made = output.values() if isinstance(output, Mapping) else output
        if cache is None and isinstance(made, Iterable):
            cache = cache_among(made)
        if cache is not None and int(cache.get_seq_length()) == ids.shape[1]:
            note_ids(cache, ids.to(self.body.device))
            self._caches.add(cache)

    def _whole(self, group: SourceGroup, inputs: Inputs) -> Matrices:
        """Compute whole matrices, and cut the rows of this pass out."""
        texts = [self.reader.text(row) for row in unpadded(inputs.ids, inputs.real)]
        return spread(group.bundle(texts), inputs.real, inputs.count)

    def _next(self, group: Programs, inputs: Inputs) -> Matrices:
        """Compute only the rows of this pass, from streams that have read what precedes it."""
        past, total = inputs.ids.shape[1] - inputs.count, inputs.ids.shape[1]
        texts = unpadded(inputs.ids[:, :past], inputs.real[:, :past])
        streams = self._streams_of(group, texts)
        rows = []
        for at in range(past, total):
            for i, stream in enumerate(streams):
                if inputs.real[i, at]:
                    texts[i] += (int(inputs.ids[i, at]),)
                    stream.read(*self.reader.newest(texts[i]))
            row = torch.from_numpy(newest_rows(streams, total))[..., : at + 1]
            rows.append(_padded(spread(row, inputs.real[:, : at + 1], 1), total))
        self._streams[group] = dict(zip(texts, streams, strict=True))
        return group.expand(rows[0] if inputs.count == 1 else torch.cat(rows, dim=2))

    def _streams_of(self, group: Programs, texts: Sequence[tuple[int, ...]]) -> list[Stream]:
        """Return a stream for each text that has read it: one of the last pass, or a new one."""
        known, found = self._streams.pop(group, {}), list[Stream]()
        for i, text in enumerate(texts):
            if (first := texts.index(text)) < i:
                found.append(found[first].copy())
            elif text in known:
                found.append(known[text])
            else:
                found.append(group.stream())
                found[-1].read_all(self.reader.text(text))
        return found

    # -- a layer -----------------------------------------------------------------------------

    def heads(self, layer: int) -> list[int]:
        """Return the replaced heads of a layer, in the order of its matrices."""
        return self._layers[layer][0] if layer in self._layers else []

    def _matrices(self, layer: int, keys: int, window: int | None) -> Matrices:
        """Return the matrices of a layer's replaced heads, on so many keys and within a window."""
        if self._results is None:
            raise InputError(
                "a layer with replaced heads was run outside of a forward pass of the model (by "
                "itself, or by gradient checkpointing); programs need the tokens: call the model, "
                "without checkpointing"
            )
        parts = [_rows(self._results[group], numbers) for group, numbers in self._layers[layer][1]]
        found = parts[0] if len(parts) == 1 else torch.cat(parts)
        if window is not None and found.shape[-1] > window:
            found = within(found, window)
        found = _padded(found[..., max(found.shape[-1] - keys, 0) :], keys)
        if self.used is not None:
            self.used[layer] = (found, window)
        return found

    def attend(
        self, layer: int, original: Callable, module: Any, query: Any, key: Any, value: Any,
        mask: Any, **kwargs: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        """Compute a layer's attention; ``original`` is the function for the heads that are kept.

        Returns:
            output (texts, queries, heads, width) and weights (texts, heads, queries, keys) or None.
        """
        heads, count = self.heads(layer), query.shape[1]
        if not heads:
            return original(module, query, key, value, mask, **kwargs)
        found = self._matrices(layer, value.shape[-2], kwargs.get("sliding_window"))
        found = found.to(value.device)
        groups = count // value.shape[1]
        values = value.transpose(0, 1)
        if groups > 1 or len(heads) < count:
            values = values[torch.tensor([h // groups for h in heads], device=value.device)]
        mixed = torch.matmul(found.to(value.dtype), values).permute(1, 2, 0, 3)
        if len(heads) == count and self.shares is None:
            return mixed, found.transpose(0, 1).to(query.dtype)
        output, weights = original(module, query, key, value, mask, **kwargs)
        at = torch.tensor(heads, device=output.device)
        mixed = mixed.to(output.dtype)
        if self.shares is not None:
            own = output.index_select(2, at)
            mixed = own + self._share(layer, own) * (mixed - own)
        output = output.index_copy(2, at, mixed)
        if weights is not None:
            weights = weights.index_copy(1, at, found.transpose(0, 1).to(weights.dtype))
        return output, weights

    def weights(self, layer: int, probabilities: torch.Tensor) -> torch.Tensor:
        """Put the matrices of replaced heads among a layer's (texts, heads, queries, keys)."""
        heads = self.heads(layer)
        if not heads:
            return probabilities
        found = self._matrices(layer, probabilities.shape[-1], None)
        at = torch.tensor(heads, device=probabilities.device)
        found = found.transpose(0, 1).to(probabilities)
        if self.shares is not None:
            own = probabilities.index_select(1, at)
            share = self._share(layer, own.transpose(1, 2))
            found = own + share.transpose(1, 2) * (found - own)
        return probabilities.index_copy(1, at, found)

    def _share(self, layer: int, like: torch.Tensor) -> torch.Tensor:
        """Make a layer's entry of ``shares``, for a tensor (texts, queries, heads, any)."""
        assert self.shares is not None
        self.shares[layer] = like.new_zeros(*like.shape[:3], 1, requires_grad=True)
        return self.shares[layer]


def within(matrices: Matrices, window: int) -> Matrices:
    """Keep what a query sees through a sliding window, each row summing to what it did before.

    A row with nothing inside its window becomes uniform there, as an empty row does in a program.

    >>> within(torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]]), 1).tolist()
    [[[[1.0, 0.0], [0.0, 1.0]]]]
    """
    queries, keys = matrices.shape[-2:]
    at = torch.arange(keys, device=matrices.device)
    gap = at[keys - queries :, None] - at[None, :]
    inside = gap.abs() < window
    total = matrices.sum(-1, keepdim=True)
    kept = matrices * inside
    left = kept.sum(-1, keepdim=True)
    level = inside & (gap >= 0)
    uniform = level / level.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(left > 0, kept / left.clamp(min=1e-30) * total, uniform * total)


def _rows(result: Matrices, numbers: Sequence[int]) -> Matrices:
    """Return some heads of a group's matrices; without a copy where they lie together."""
    first, last = numbers[0], numbers[-1] + 1
    return result[first:last] if list(numbers) == list(range(first, last)) else result[numbers]


def _padded(matrices: Matrices, keys: int) -> Matrices:
    """Fill up with keys that get nothing."""
    missing = keys - matrices.shape[-1]
    return torch.nn.functional.pad(matrices, (0, missing)) if missing > 0 else matrices
