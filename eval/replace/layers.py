"""Layers: their outputs on known texts, kept so that a forward pass starts at the first replaced layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from attn_dsl.eval.models import body
from attn_dsl.eval.replace.adapters import adapter_for

KEPT_BYTES = 1 << 30
"""How many bytes of outputs are kept."""


class LayerOutputs:
    """The outputs of a model's layers, as it is, on batches of texts.

    Batches that find no room within ``KEPT_BYTES`` are read from the first layer on.
    """

    def __init__(self, network: Any) -> None:
        self.layers, self._free = layers_of(network), KEPT_BYTES
        self._kept: dict[int, list[Any]] = {}

    @contextmanager
    def recording(self, batch: int) -> Iterator[None]:
        """Keep what the layers give while the model reads a batch."""
        found: list[Any] = []
        with _listening(self.layers, found.append):
            yield
        size = sum(tensor.nbytes for output in found for tensor in _tensors(output))
        if found and len(found) == len(self.layers) and size <= self._free:
            self._free -= size
            self._kept[batch] = found

    @contextmanager
    def starting_at(self, batch: int, first: int) -> Iterator[None]:
        """Let a forward pass on a batch start at a layer, if the outputs before it are known."""
        with ExitStack() as undo:
            if first > 0 and batch in self._kept:
                output = self._kept[batch][first - 1]
                for layer in (layer.__dict__ for layer in self.layers[:first]):
                    undo.callback(layer.update, {x: layer[x] for x in ("forward",) if x in layer})
                    undo.callback(layer.pop, "forward")
                    layer["forward"] = lambda *given, **named: output
            yield

    def check(self, batch: int, expected: torch.Tensor, run: Callable[[], torch.Tensor]) -> None:
        """Keep nothing of a model whose last layer needs more of the others than their output.

        Args:
            batch: one that is kept; others were read after it.
            expected: the model's predictions on it. run: computes them again.
        """
        try:
            with self.starting_at(batch, len(self.layers) - 1):
                same = torch.equal(run(), expected)
        except Exception:
            same = False
        if not same:
            self._kept, self._free = {}, 0


def layers_of(network: Any) -> list[Any]:
    """Return the modules that are a model's layers, from the first to the last.

    Returns:
        None of them where layers are not a plain list of modules, each with its own attention.
    """
    attention = adapter_for(network).layers
    for part in body(network).modules():
        if isinstance(part, torch.nn.ModuleList) and len(part) == len(attention):
            inside = [
                own in set(layer.modules()) for layer, own in zip(part, attention, strict=True)
            ]
            if all(inside) and len(set(part)) == len(attention):
                return list(part)
    return []


@contextmanager
def interruptible(network: Any) -> Iterator[None]:
    """Let an interruption end a backward pass at the next layer: Python is called there."""

    def listen(output: Any) -> None:
        for tensor in _tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: None)

    with _listening(layers_of(network), listen):
        yield


@contextmanager
def quick_products() -> Iterator[None]:
    """Let float32 products of matrices be made by the fastest kernels, which may round to bfloat16."""
    own = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(own)


@contextmanager
def _listening(layers: list[Any], hear: Callable[[Any], None]) -> Iterator[None]:
    """Call a function with the output of each layer that is run."""
    with ExitStack() as undo:
        for layer in layers:
            undo.callback(layer.register_forward_hook(lambda *given: hear(given[-1])).remove)
        yield


def _tensors(output: Any) -> list[torch.Tensor]:
    parts = output if isinstance(output, tuple) else (output,)
    return [part for part in parts if isinstance(part, torch.Tensor)]
