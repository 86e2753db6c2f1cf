"""What the heads of a model multiply and write: probabilities, values and output projections.

Eager attention multiplies the probabilities of a layer, which a ``softmax`` gives, by its value
vectors. :class:`Products` sees these products in a forward pass; a short run of the model tells
which modules, the output projections, take them up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from attn_dsl.eval.models import LoadedModel, batch, body, ids_known
from attn_dsl.eval.shards import Array

_SOFTMAX = (torch.nn.functional.softmax, torch.softmax, torch.Tensor.softmax)
_PRODUCTS = (
    *(torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__),
    *(torch.bmm, torch.Tensor.bmm),
)
_TEXTS = ((7, 10, 6, 11), (9, 5, 11, 7))
"""Ids of the texts of the short run."""


@dataclass(frozen=True)
class HeadOutputs:
    """How the heads of a model can be read.

    Attributes:
        from_products: whether :class:`Products` gives the attention of every layer.
        group: how many query heads share a value vector.
        grams: W_O W_Oᵀ of every head's rows of the output projection, float32
            [layers, heads, head size, head size]; None where values are not kept.
        lacking: why there are no values, and what to do; None where there are.
    """

    from_products: bool
    group: int = 1
    grams: Array | None = None
    lacking: str | None = None


class Products(TorchFunctionMode):
    """Takes the probabilities and values of every layer of a forward pass, in this thread.

    Args:
        shape: texts, heads and tokens of the pass.
        take: gets the probabilities (texts, heads, n, n), the values (texts, heads, n, head size)
            and their product.
    """

    def __init__(self, shape: tuple[int, int, int], take: Callable[[Any, Any, Any], None]) -> None:
        super().__init__()
        self.shape, self.take, self.expected = shape, take, False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in _SOFTMAX:
            self.expected |= self._is_map(found)
        elif func in _PRODUCTS and self.expected and self._is_map(args[0]):
            self.expected = False
            texts, heads, n = self.shape
            values = args[1].expand(*found.shape[:-2], *args[1].shape[-2:])
            by_head = (one.reshape(texts, heads, n, -1) for one in (args[0], values, found))
            self.take(*by_head)
        return found

    def _is_map(self, tensor: Any) -> bool:
        texts, heads, n = self.shape
        return tensor.shape[-2:] == (n, n) and tensor.numel() == texts * heads * n * n


def forward(loaded: LoadedModel, inputs: dict[str, Any], **options: Any) -> Any:
    """Run the stack of layers of a model."""
    cache = {"use_cache": False} if loaded.causal else {}
    with torch.inference_mode():
        return body(loaded.model)(**inputs, **cache, **options)


def head_outputs(loaded: LoadedModel, values: bool) -> HeadOutputs:
    """Find out, by a short run, how the heads of a model can be read.

    Args:
        values: whether values are wanted; without them no projection is looked for.
    """
    size = ids_known(loaded.model)
    inputs = batch(loaded.model, [[i % size for i in text] for text in _TEXTS])
    layers: list[tuple[Any, Any, Any]] = []
    projections: dict[int, Any] = {}  # by layer, the module that takes the product

    def note(module: Any, args: tuple, output: Any) -> None:
        weight = getattr(module, "weight", None)
        if not (layers and args and getattr(weight, "ndim", 0) == 2):
            return
        written = layers[-1][2].transpose(1, 2).float()
        if args[0].numel() == written.numel() and torch.equal(
            args[0].float().reshape(written.shape), written
        ):
            projections.setdefault(len(layers) - 1, module)

    handles = [module.register_forward_hook(note) for module in loaded.model.modules()]
    try:
        shape = (len(_TEXTS), loaded.n_heads, len(_TEXTS[0]))
        with Products(shape, lambda *layer: layers.append(layer)):
            forward(loaded, inputs)
    finally:
        for handle in handles:
            handle.remove()
    maps = forward(loaded, inputs, output_attentions=True).attentions
    if len(layers) != len(maps) or not all(
        torch.allclose(layer[0], one, atol=1e-3) for layer, one in zip(layers, maps, strict=True)
    ):
        return HeadOutputs(False, lacking=_no_values(loaded, "its values cannot be told apart"))
    if not values:
        return HeadOutputs(True, lacking=NOT_ASKED)
    every = [layer[1] for layer in layers]
    if len({one.shape for one in every}) > 1:
        return HeadOutputs(True, lacking=_no_values(loaded, "its layers' head sizes differ"))
    grams = []
    for layer in range(len(layers)):
        width = every[0].shape[1] * every[0].shape[3]
        weight = _matrix(projections[layer], width) if layer in projections else None
        if weight is None:
            why = f"no linear output projection was found in layer {layer}"
            return HeadOutputs(True, lacking=_no_values(loaded, why))
        by_head = weight.unflatten(0, (loaded.n_heads, -1))
        grams.append(by_head @ by_head.mT)
    group = next(
        size
        for size in range(loaded.n_heads, 0, -1)
        if loaded.n_heads % size == 0
        and all(torch.equal(one, one[:, ::size].repeat_interleave(size, 1)) for one in every)
    )
    return HeadOutputs(True, group, torch.stack(grams).cpu().numpy())


NOT_ASKED = "it was captured with --no-values; capture again without it, into another directory"


def _no_values(loaded: LoadedModel, why: str) -> str:
    return (
        f"what heads of this {loaded.family} model write is not known to be the sum of A v W_O "
        f"({why}); use what needs attention only"
    )


def _matrix(module: Any, width: int) -> Any:
    """Return the matrix of a linear module as (inputs, outputs), float32; None if it is none."""
    own = module.weight.detach()
    given = torch.randn(8, width, generator=torch.Generator().manual_seed(0)).to(own)
    given[0] = 0
    with torch.inference_mode():
        output = module(given).float()
    slack = 1e-3 if own.dtype == torch.float32 else 3e-2
    for weight in (own.float().T, own.float()):
        if tuple(weight.shape) == (width, output.shape[-1]):
            off = torch.linalg.norm(given.float() @ weight - (output - output[0]))
            if off <= slack * torch.linalg.norm(output - output[0]):
                return weight
    return None
