"""The controller of a model with replaced heads: computes their attention once per forward pass."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from attn_dsl.compiler.stream import Stream, newest_rows
from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.replace import cache as caches
from attn_dsl.eval.replace.programs import Programs
from attn_dsl.eval.replace.source import Bundle, Head
from attn_dsl.eval.replace.tokens import Inputs, TokenReader, read_inputs, spread, spread_row

Matrices = torch.Tensor
"""(heads, texts, queries, keys): queries of this pass, keys of the cache and of this pass."""


class Layer:
    """The replaced heads of one layer, in order, and where their matrices come from.

    Attributes:
        heads: query heads.
        parts: per group of heads that lie together in a bundle's result: bundle, numbers.
    """

    def __init__(self, members: dict[int, tuple[Bundle, int]]) -> None:
        self.heads = sorted(members)
        self.parts: list[tuple[int, list[int]]] = []
        for head in self.heads:
            bundle, number = members[head]
            if self.parts and self.parts[-1][0] == id(bundle):
                self.parts[-1][1].append(number)
            else:
                self.parts.append((id(bundle), [number]))

    def gather(self, results: dict[int, Matrices]) -> Matrices:
        """Return the layer's matrices from those of all bundles."""
        found = []
        for key, numbers in self.parts:
            first, count = numbers[0], len(numbers)
            together = numbers == list(range(first, first + count))
            chosen = slice(first, first + count) if together else numbers
            found.append(results[key][chosen])
        return found[0] if len(found) == 1 else torch.cat(found)


class Controller:
    """What a model with replaced heads knows while it runs.

    Attributes:
        members: which bundle, and which of its heads, stands in each head's place.
        used: while not None, the matrices that replaced layers used in the last pass, and the
            window of each layer.
        attentions: whether the pass in progress was asked for attention matrices.
    """

    def __init__(self, body: Any, reader: TokenReader, max_positions: int | None) -> None:
        self.body, self.reader, self.max_positions = body, reader, max_positions
        self.members: dict[Head, tuple[Bundle, int]] = {}
        self.used: dict[int, tuple[Matrices, int | None]] | None = None
        self.attentions = False
        self._layers: dict[int, Layer] = {}
        self._results: dict[int, Matrices] | None = None
        self._pending: tuple[Inputs, caches.History | None] | None = None
        self._caches: weakref.WeakSet = weakref.WeakSet()
        self._signature = inspect.signature(body.forward)
        self._hooks: list[Any] = []

    # -- which heads -------------------------------------------------------------------------

    def add(self, members: dict[Head, tuple[Bundle, int]]) -> None:
        """Replace further heads."""
        self.members |= members
        self._arrange()

    def remove(self, heads: Sequence[Head]) -> None:
        """Give heads back to the model."""
        for head in heads:
            del self.members[head]
        kept = {id(bundle) for bundle, _ in self.members.values()}
        for cache in list(self._caches):
            caches.forget(cache, kept)
        self._arrange()

    def _arrange(self) -> None:
        layers: dict[int, dict[int, tuple[Bundle, int]]] = {}
        for (layer, head), member in self.members.items():
            layers.setdefault(layer, {})[head] = member
        self._layers = {layer: Layer(members) for layer, members in layers.items()}

    def open(self) -> None:
        """Listen to the model's forward passes."""
        self._hooks = [
            self.body.register_forward_pre_hook(self._before, with_kwargs=True),
            self.body.register_forward_hook(self._after, with_kwargs=True, always_call=True),
        ]

    def close(self) -> None:
        """Stop listening."""
        for hook in self._hooks:
            hook.remove()
        for cache in list(self._caches):
            caches.untrack(cache)
        self._results = self._pending = None

    # -- a forward pass ----------------------------------------------------------------------

    def _before(self, _: Any, args: tuple, kwargs: dict) -> None:
        bound = self._signature.bind_partial(*args, **kwargs).arguments
        given = {**bound, **bound.get("kwargs", {})}
        cache = caches.cache_among(given.values())
        history = caches.history_of(cache)
        past = len(history) if history is not None else 0
        inputs = read_inputs(given, past, cache)
        total = past + len(inputs.ids[0]) if inputs.ids else past
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
        bundles = {id(bundle): bundle for bundle, _ in self.members.values()}
        if history is not None and history.real != [r[:past] for r in inputs.real]:
            history.real = [list(r[:past]) for r in inputs.real]
            history.streams.clear()
        self._results = {
            key: self._next(key, bundle, inputs, history)
            if history is not None and isinstance(bundle, Programs) and bundle.streams
            else self._whole(bundle, inputs, history)
            for key, bundle in bundles.items()
        }
        self._pending = (inputs, history)

    def _after(self, _: Any, args: tuple, kwargs: dict, output: Any) -> None:
        self._results = None
        pending, self._pending = self._pending, None
        if pending is None or output is None:
            return
        inputs, history = pending
        made = output.values() if isinstance(output, Mapping) else output
        cache = inputs.cache
        if cache is None and isinstance(made, Iterable):
            cache = caches.cache_among(made)
        if cache is None:
            return
        count = len(inputs.ids[0])
        fresh = [row[len(row) - count :] for row in inputs.real]
        if history is None:
            history = caches.History(inputs.ids, fresh)
        else:
            history.extend(inputs.ids, fresh)
        if int(cache.get_seq_length()) == len(history):
            caches.track(cache, history, self._caches)

    def _whole(self, bundle: Bundle, inputs: Inputs, history: caches.History | None) -> Matrices:
        """Compute whole matrices, and cut the rows of this pass out."""
        ids = inputs.ids
        if history is not None:
            ids = [before + now for before, now in zip(history.ids, ids, strict=True)]
        width, count = len(ids[0]), len(inputs.ids[0])
        texts = [
            self.reader.text(tuple(i for i, mark in zip(row, marks, strict=True) if mark))
            for row, marks in zip(ids, inputs.real, strict=True)
        ]
        return spread(bundle.bundle(texts), inputs.real, width)[:, :, width - count :]

    def _next(
        self, key: int, bundle: Programs, inputs: Inputs, history: caches.History
    ) -> Matrices:
        """Compute only the rows of this pass, from what the streams have read."""
        streams = history.streams.setdefault(key, [None] * len(history.ids))
        known: list[Stream] = []
        for i, stream in enumerate(streams):
            if stream is None:
                stream = streams[i] = bundle.stream()
                pairs = zip(history.ids[i], history.real[i], strict=True)
                stream.read_all(self.reader.text(tuple(x for x, mark in pairs if mark)))
            known.append(stream)
        past, count = len(history), len(inputs.ids[0])
        tails = [
            [x for x, mark in zip(ids, real, strict=True) if mark][-8:]
            for ids, real in zip(history.ids, history.real, strict=True)
        ]
        rows = []
        for at in range(count):
            place = past + at
            for i, stream in enumerate(known):
                if inputs.real[i][place]:
                    tails[i].append(inputs.ids[i][at])
                    stream.read(*self.reader.newest(tails[i]))
            seen = [marks[: place + 1] for marks in inputs.real]
            row = torch.from_numpy(newest_rows(known, past + count))
            rows.append(_padded(spread_row(row[..., : place + 1], seen), past + count))
        return bundle.expand(rows[0] if count == 1 else torch.cat(rows, dim=2))

    # -- a layer -----------------------------------------------------------------------------

    def matrices(self, layer: int, keys: int, window: int | None) -> Matrices | None:
        """Return the matrices of a layer's replaced heads; None if it has none.

        Args:
            layer: which layer.
            keys: how many keys the layer holds values of.
            window: how many keys a query of the layer sees at most.
        """
        chosen = self._layers.get(layer)
        if chosen is None:
            return None
        if self._results is None:
            raise InputError(
                "a layer with replaced heads was run outside of a forward pass of the model (by "
                "itself, or by gradient checkpointing); programs need the tokens: call the model, "
                "without checkpointing"
            )
        found = chosen.gather(self._results)
        if window is not None and found.shape[-1] > window:
            found = within(found, window)
        if keys < found.shape[-1]:
            found = found[..., found.shape[-1] - keys :]
        found = _padded(found, keys)
        if self.used is not None:
            self.used[layer] = (found, window)
        return found

    def heads(self, layer: int) -> list[int]:
        """Return the replaced heads of a layer, in the order of ``matrices``."""
        return self._layers[layer].heads

    def attend(
        self, layer: int, original: Callable, module: Any, query: Any, key: Any, value: Any,
        mask: Any, **kwargs: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        """Compute a layer's attention with its replaced heads.

        Args:
            original: the attention function for the heads that are kept.

        Returns:
            output (texts, queries, heads, width) and weights (texts, heads, queries, keys) or None.
        """
        found = self.matrices(layer, value.shape[-2], kwargs.get("sliding_window"))
        if found is None:
            return original(module, query, key, value, mask, **kwargs)
        heads, count = self.heads(layer), query.shape[1]
        found = found.to(value.device)
        groups = count // value.shape[1]
        values = value.transpose(0, 1)
        if groups > 1 or len(heads) < count:
            values = values[torch.tensor([h // groups for h in heads], device=value.device)]
        mixed = torch.matmul(found.to(value.dtype), values).permute(1, 2, 0, 3)
        if len(heads) == count:
            return mixed, found.transpose(0, 1).to(query.dtype)
        output, weights = original(module, query, key, value, mask, **kwargs)
        at = torch.tensor(heads, device=output.device)
        output = output.index_copy(2, at, mixed.to(output.dtype))
        if weights is not None:
            weights = weights.index_copy(1, at, found.transpose(0, 1).to(weights.dtype))
        return output, weights

    def weights(self, layer: int, probabilities: torch.Tensor) -> torch.Tensor:
        """Put the matrices of replaced heads among a layer's (texts, heads, queries, keys)."""
        found = self.matrices(layer, probabilities.shape[-1], None)
        if found is None:
            return probabilities
        at = torch.tensor(self.heads(layer), device=probabilities.device)
        put = found.transpose(0, 1).to(probabilities)
        return probabilities.index_copy(1, at, put)


def within(matrices: Matrices, window: int) -> Matrices:
    """Keep what a query sees through a sliding window, each row summing to what it did before.

    A row with nothing inside its window becomes uniform there, as an empty row does in a program.

    >>> within(torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]]), 1).tolist()
    [[[[1.0, 0.0], [0.0, 1.0]]]]
    """
    queries, keys = matrices.shape[-2:]
    at = torch.arange(keys, device=matrices.device)
    gap = (at[keys - queries :, None] - at[None, :]).abs()
    inside = gap < window
    total = matrices.sum(-1, keepdim=True)
    kept = matrices * inside
    left = kept.sum(-1, keepdim=True)
    level = inside & (at[keys - queries :, None] >= at[None, :])
    uniform = level / level.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(left > 0, kept / left.clamp(min=1e-30) * total, uniform * total)


def _padded(matrices: Matrices, keys: int) -> Matrices:
    """Fill up with keys that get nothing."""
    missing = keys - matrices.shape[-1]
    return torch.nn.functional.pad(matrices, (0, missing)) if missing > 0 else matrices
