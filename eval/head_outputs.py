"""What the heads of a model multiply and write: probabilities, values and output projections."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from attn_dsl.eval.models import LoadedModel, body, ids_known, padded
from attn_dsl.eval.shards import Array

SOFTMAX = (torch.nn.functional.softmax, torch.softmax, torch.Tensor.softmax)
"""What layers may call to make probabilities."""
_PRODUCTS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm, torch.Tensor.bmm)
_TEXTS = ((7, 10, 6, 11), (9, 5, 11, 7))
"""Ids of the texts that a model is tried on."""


@dataclass(frozen=True)
class HeadOutputs:
    """How the heads of a model are read."""

    from_products: bool  # whether :class:`Products` finds the attention of every layer
    group: int = 1  # how many query heads share a value vector
    # of each head L with L Lᵀ = W_O W_Oᵀ, where W_O are its rows of the output projection;
    # float32 [layers, heads, head size, at most as many]. None without values.
    projections: Array | None = None
    lacking: str | None = None  # why there are no values, and what to do; None where there are


class Products(TorchFunctionMode):
    """Sees how each layer of a forward pass in this thread multiplies probabilities by values.

    The product is the first after a ``softmax`` whose left side has the shape of probabilities.

    Args:
        shape: texts, heads and tokens of the pass.
        take: gets the probabilities (texts, heads, n, n), the values (texts, heads, n, head size)
            and their product.
    """

    def __init__(self, shape: tuple[int, int, int], take: Callable[[Any, Any, Any], None]) -> None:
        super().__init__()
        self.shape, self.take, self.expected = shape, take, False

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in SOFTMAX:
            self.expected |= self._is_map(found)
        elif func in _PRODUCTS and self.expected and self._is_map(args[0]):
            self.expected = False
            values = args[1].expand(*found.shape[:-2], *args[1].shape[-2:])
            self.take(*(x.reshape(*self.shape, -1) for x in (args[0], values, found)))
        return found

    def _is_map(self, x: Any) -> bool:
        texts, heads, n = self.shape
        return x.shape[-2:] == (n, n) and x.numel() == texts * heads * n * n


def forward(loaded: LoadedModel, inputs: dict[str, Any], **options: Any) -> Any:
    """Run the stack of layers of a model."""
    cache = {"use_cache": False} if loaded.causal else {}
    with torch.inference_mode():
        return body(loaded.model)(**inputs, **cache, **options)


def head_outputs(loaded: LoadedModel, values: bool) -> HeadOutputs:
    """Find out, on two short texts, how the heads of a model are read; values where wanted."""
    size, heads = ids_known(loaded.model), loaded.n_heads
    inputs = padded(loaded.model, [[i % size for i in text] for text in _TEXTS])
    layers: list[tuple[Any, Any, Any]] = []
    modules: dict[int, Any] = {}  # by layer, the first that takes up the product

    def note(module: Any, args: tuple, _: Any) -> None:
        if layers and args and getattr(getattr(module, "weight", None), "ndim", 0) == 2:
            product = layers[-1][2].transpose(1, 2).float()
            same = args[0].numel() == product.numel()
            if same and torch.equal(args[0].float().reshape(product.shape), product):
                modules.setdefault(len(layers) - 1, module)

    with ExitStack() as hooks:
        for module in loaded.model.modules():
            hooks.callback(module.register_forward_hook(note).remove)
        shape = (len(_TEXTS), heads, len(_TEXTS[0]))
        hooks.enter_context(Products(shape, lambda *layer: layers.append(layer)))
        forward(loaded, inputs)
    maps = forward(loaded, inputs, output_attentions=True).attentions
    seen = len(layers) == len(maps) and all(
        torch.allclose(layer[0], one, atol=1e-3) for layer, one in zip(layers, maps, strict=True)
    )
    if not values:
        lacking = "it was captured with --no-values; capture again without it, elsewhere"
        return HeadOutputs(seen, lacking=lacking)
    vectors, projections = [layer[1] for layer in layers], []
    why = "" if seen else "no layer's values can be told apart"
    if len({one.shape for one in vectors}) > 1:
        why = why or "head sizes differ by layer"
    for layer in () if why else range(len(layers)):
        matrix = _matrix(modules.get(layer), heads * vectors[layer].shape[-1])
        if matrix is None:
            why = f"no linear output projection takes up the product in layer {layer}"
            break
        by_head = matrix.double().unflatten(0, (heads, -1))
        projections.append(torch.linalg.qr(by_head.mT, mode="r")[1].mT.float())
    if why:
        lacking = (f"heads of this {loaded.family} model are not known to write the sum of A v W_O: {why}; "
                   "only their attention can be measured")  # fmt: skip
        return HeadOutputs(seen, lacking=lacking)
    group = next(size for size in range(heads, 0, -1) if heads % size == 0
                 and all(torch.equal(one, one[:, ::size].repeat_interleave(size, 1))
                         for one in vectors))  # fmt: skip
    return HeadOutputs(True, group, torch.stack(projections).cpu().numpy())


def _matrix(module: Any, width: int) -> Any:
    """Return the matrix of a linear module as float32 (inputs, outputs); None if it has none."""
    if module is None:
        return None
    own = module.weight.detach()
    given = torch.randn(8, width, generator=torch.Generator().manual_seed(0)).to(own)
    given[0] = 0
    with torch.inference_mode():
        output = module(given).float()
    output = output - output[0]  # less the bias
    slack = 1e-3 if own.dtype == torch.float32 else 3e-2
    for matrix in (own.float().T, own.float()):
        fits = tuple(matrix.shape) == (width, output.shape[1])
        if fits and torch.dist(given.float() @ matrix, output) <= slack * output.norm():
            return matrix
    return None
