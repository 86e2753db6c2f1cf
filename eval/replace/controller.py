"""The controller of a model with replaced heads: computes their attention once per forward pass."""

import inspect
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import Any

import torch

from attn_dsl.compiler.stream import Stream, newest_rows
from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.heads import Pair
from attn_dsl.eval.replace.programs import HeadSource, Programs, SourceGroup
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


class _Pass(threading.local):
    """The forward pass that a thread is in, which began with the module ``entrance``."""

    entrance: Any = None
    inputs: Inputs | None = None
    cache: Any = None
    mode: Any = None
    attentions = False
    results: dict[SourceGroup, Matrices | tuple[torch.Tensor, ...]] | None = None


class Controller:
    """What a model with replaced heads knows while it runs, in any number of threads.

    Attributes:
        members: what stands in each head's place.
        seen: while not None, by layer what stood in the place of its heads in the last pass, and
            the same without what a query cannot see.
        own: the model's own attention on the probe, (heads, queries, keys) per layer.
        check: refuses a model that was changed since; mode: makes what is entered for every pass.
        shares: while not None, a layer's entry says how much of a row of its heads is the program's
            and not the head's own: 1 for the heads in ``taken`` and 0 for the others, (texts, queries,
            heads, 1), which takes gradients.
    """

    def __init__(self, body: Any, reader: TokenReader, limit: int | None, heads: int) -> None:
        self.body, self.reader, self.max_positions = body, reader, limit
        self.members: dict[Pair, HeadSource] = {}
        self.shares: dict[int, torch.Tensor] | None = None
        self.taken: frozenset[Pair] = frozenset()
        self.seen: dict[int, tuple[Matrices, Matrices]] | None = None
        self.own: list[torch.Tensor] = []
        self.check: Callable[[], None] = lambda: None
        self.mode: Callable[[], Any] | None = None
        self._count, self.now = heads, _Pass()
        self._layers: dict[int, tuple[list[int], list[tuple[SourceGroup, list[int]]]]] = {}
        self._streams: dict[Programs, dict[tuple[int, ...], Stream]] = {}
        self._caches: weakref.WeakSet = weakref.WeakSet()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise InputError("a model cannot be copied or pickled while heads are replaced; do it before or "
                         "after replace_heads, or replace heads in the copy")  # fmt: skip

    def open(self, undo: ExitStack) -> None:
        """Listen to the model's forward passes, until ``undo`` is closed."""
        from transformers import PreTrainedModel

        def forget() -> None:
            for cache in self._caches:
                forget_ids(cache)

        undo.callback(forget)
        # a model may call the decoder inside its stack of layers, as OPT does
        for module in self.body.modules():
            if isinstance(module, PreTrainedModel) and module.main_input_name == "input_ids":
                before, after = module.register_forward_pre_hook, module.register_forward_hook
                undo.callback(before(self._before, with_kwargs=True).remove)
                undo.callback(after(self._after, with_kwargs=True, always_call=True).remove)

    def set_members(self, members: Mapping[Pair, HeadSource]) -> None:
        """Say which heads are replaced from now on."""
        self.members = dict(members)
        self._streams.clear()
        groups = {part.group for part in self.members.values() if isinstance(part.group, Programs)}
        self.reader.read({name for group in groups for name in group.code.graph.features})
        self._layers = {}
        ordered = sorted(self.members.items(), key=lambda item: item[0])
        for layer, items in groupby(ordered, key=lambda item: item[0][0]):
            places, parts = zip(*items, strict=True)
            by_group = groupby(parts, key=lambda part: part.group)
            runs = [(group, [part.number for part in run]) for group, run in by_group]
            self._layers[layer] = [head for _, head in places], runs

    # -- a forward pass ----------------------------------------------------------------------

    def _before(self, module: Any, args: tuple, kwargs: dict) -> None:
        now = self.now
        if now.entrance is not None:
            return
        now.entrance = module
        self.check()
        bound = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        given = {**bound, **bound.get("kwargs", {})}
        now.cache = cache_among(given.values())
        past = ids_in(now.cache)
        now.inputs = inputs = read_inputs(given, past)
        total = inputs.ids.shape[1]
        if self.max_positions is not None and total > self.max_positions:
            raise InputError(f"a text of {total} tokens is longer than the model's context of "
                             f"{self.max_positions}; cut the text, or generate fewer tokens")  # fmt: skip
        now.attentions = inputs.attentions or bool(getattr(self.body.config, "output_attentions", False))
        now.results = {}
        for group in dict.fromkeys(part.group for part in self.members.values()):
            streamed = past is not None and isinstance(group, Programs) and group.causal
            found = self._next(group, inputs) if streamed else self._whole(group, inputs)  # type: ignore[arg-type]
            # the gradient of a slice is as large as what it was cut from, that of these is not
            now.results[group] = found.unbind() if found.requires_grad else found
        if self.mode is not None:
            now.mode = self.mode()
            now.mode.__enter__()

    def _after(self, module: Any, args: tuple, kwargs: dict, output: Any) -> None:
        """Note the tokens that the pass has put into its cache."""
        now = self.now
        if now.entrance is not module:
            return
        if now.mode is not None:
            now.mode.__exit__(None, None, None)
        inputs, cache = now.inputs, now.cache
        vars(now).clear()
        if inputs is None or output is None:
            return
        made = output.values() if isinstance(output, Mapping) else output
        if cache is None and isinstance(made, Iterable):
            cache = cache_among(made)
        if cache is not None and int(cache.get_seq_length()) == inputs.ids.shape[1]:
            note_ids(cache, inputs.ids.to(self.body.device))
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
        return rows[0] if inputs.count == 1 else torch.cat(rows, dim=2)

    def _streams_of(self, group: Programs, texts: Sequence[tuple[int, ...]]) -> list[Stream]:
        """Return a stream for each text that has read it: one of the last pass, or a new one."""
        known, found = self._streams.pop(group, {}), list[Stream]()
        for i, text in enumerate(texts):
            if (first := texts.index(text)) < i:
                found.append(found[first].copy())
            elif text in known:
                found.append(known[text])
            else:
                found.append(Stream(group.code))
                found[-1].read_all(self.reader.text(text))
        return found

    # -- a layer -----------------------------------------------------------------------------

    def heads(self, layer: int) -> list[int]:
        """Return the replaced heads of a layer, in the order of its matrices."""
        return self._layers[layer][0] if layer in self._layers else []

    def _matrices(self, layer: int, keys: int, seen: torch.Tensor | None) -> Matrices:
        """Return the matrices of a layer's replaced heads, on so many keys.

        Args:
            seen: bool (texts or 1, queries, keys), what the layer's queries see; None for all.
        """
        now, inputs = self.now, self.now.inputs
        if now.results is None or inputs is None:
            raise InputError("a layer with replaced heads was run outside of a forward pass of the model "
                             "(by itself, or by gradient checkpointing); programs need the tokens: call the "
                             "model, without checkpointing")  # fmt: skip
        parts = [_rows(now.results[group], numbers) for group, numbers in self._layers[layer][1]]
        found = parts[0] if len(parts) == 1 else torch.cat(parts)
        given, total = found, found.shape[-1]
        gone = max(total - keys, 0)  # keys that a cache with a window has dropped
        if seen is None and gone:
            seen = torch.ones(1, 1, keys, dtype=torch.bool)
        if seen is not None:
            seen = seen[..., -found.shape[2] :, :keys].to(found.device)
            seen = torch.nn.functional.pad(seen, (gone, 0))[..., :total]
            real = inputs.real.to(found.device)
            plain = real[:, -inputs.count :, None] & real[:, None, :]
            if all(group.causal for group, _ in self._layers[layer][1]):
                plain = plain.tril(total - inputs.count)
            if bool((plain & ~seen).any()):
                found = within(found, plain & seen)
        if self.seen is not None:
            self.seen[layer] = given, found
        return _padded(found[..., gone:], keys)

    def attend(self, layer: int, original: Callable, module: Any, query: Any, key: Any, value: Any, mask: Any,
               **kwargs: Any) -> tuple[Any, Any]:  # fmt: skip
        """Compute a layer's attention; ``original`` is the function for the heads that are kept.

        Returns:
            output (texts, queries, heads, width) and weights (texts, heads, queries, keys) or None.
        """
        heads, count = self.heads(layer), query.shape[1]
        if not heads:
            return original(module, query, key, value, mask, **kwargs)
        seen = None if mask is None else _visible(mask).any(1)
        found = self._matrices(layer, value.shape[-2], seen)
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

    def by_head(self, scores: torch.Tensor) -> torch.Tensor | None:
        """Return scores of attention in this pass as (texts, heads, queries, keys), else None."""
        inputs = self.now.inputs
        assert inputs is not None
        shape = len(inputs.ids), self._count, inputs.count
        if scores.dim() == 3 and scores.shape[:2] == (shape[0] * shape[1], shape[2]):
            return scores.view(*shape, -1)
        return scores if scores.dim() == 4 and scores.shape[:3] == shape else None

    def weights(self, layer: int, probabilities: torch.Tensor, scores: Any) -> torch.Tensor:
        """Put the matrices of replaced heads among a layer's (texts, heads, queries, keys)."""
        heads = self.heads(layer)
        if not heads:
            return probabilities
        found = self._matrices(layer, probabilities.shape[-1], _visible(scores).any(1))
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
        taken = [float((layer, head) in self.taken) for head in self.heads(layer)]
        share = like.new_tensor(taken)[:, None].expand(*like.shape[:2], -1, 1)
        self.shares[layer] = share.clone().requires_grad_(True)
        return self.shares[layer]


def _visible(mask: torch.Tensor) -> torch.Tensor:
    """Say where a mask of attention, or what it was added to, hides nothing."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def within(matrices: Matrices, seen: torch.Tensor) -> Matrices:
    """Keep what a query sees, each row summing to what it did before.

    A row with nothing that its query sees becomes uniform, as an empty row does in a program.
    """
    total = matrices.sum(-1, keepdim=True)
    kept = matrices * seen
    left = kept.sum(-1, keepdim=True)
    uniform = seen / seen.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(left > 0, kept / left.clamp(min=1e-30) * total, uniform * total)


def _rows(result: Matrices | tuple[torch.Tensor, ...], numbers: Sequence[int]) -> Matrices:
    """Return some heads of a group's matrices; without a copy where they lie together."""
    if isinstance(result, tuple):
        return torch.stack([result[i] for i in numbers])
    first, last = numbers[0], numbers[-1] + 1
    return result[first:last] if list(numbers) == list(range(first, last)) else result[numbers]


def _padded(matrices: Matrices, keys: int) -> Matrices:
    """Fill up with keys that get nothing."""
    missing = keys - matrices.shape[-1]
    return torch.nn.functional.pad(matrices, (0, missing)) if missing > 0 else matrices
