"""Adapters: how the attention of a model's layers is reached.

Most models of transformers ask by name for a registered attention function, whose output is then
computed anew for the replaced heads. BLOOM, Falcon, GPT-Neo and older GPT-J call ``softmax`` in
their layers: there its result is exchanged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.models import body
from attn_dsl.eval.replace.controller import Controller

SOFTMAX_LAYERS = ("BloomAttention", "FalconAttention", "GPTNeoSelfAttention", "GPTJAttention")
"""Attention modules that call ``softmax`` themselves."""


class Adapter:
    """Reaches the attention of a model.

    Attributes:
        layers: per layer, its attention module.
        implementation: the model's own attention implementation.

    Args:
        by_name: whether layers ask for their attention function by name.
    """

    def __init__(self, model: Any, layers: list[Any], by_name: bool) -> None:
        from transformers import PreTrainedModel

        self.layers, self._by_name = layers, by_name
        found = [m.config for m in model.modules() if isinstance(m, PreTrainedModel)]
        found += [layer.config for layer in layers if hasattr(layer, "config")]
        self._configs = list({id(config): config for config in found}.values())
        self.implementation = str(self._configs[-1]._attn_implementation)

    def attach(self, controller: Controller, undo: ExitStack) -> None:
        """Let the controller compute the attention, until ``undo`` is closed."""
        attribute = "_attn_implementation_internal"
        for config in self._configs:
            own = getattr(config, attribute)
            undo.callback(setattr, config, attribute, own)
            name = self._register(str(own), controller, undo) if self._by_name else "eager"
            setattr(config, attribute, name)
        if not self._by_name:
            for number, module in enumerate(self.layers):
                module.forward = _watched(module.forward, controller, number)
                undo.callback(delattr, module, "forward")

    def _register(self, own: str, controller: Controller, undo: ExitStack) -> str:
        """Register attention and mask functions that stand for an implementation's; name them.

        Without a mask function of its own a model would attend to what follows a token.
        """
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

        numbers = {id(module): number for number, module in enumerate(self.layers)}

        def chosen() -> str:
            return "eager" if own == "sdpa" and controller.attentions else own

        def attention(module: Any, *args: Any, **kwargs: Any) -> Any:
            original = _original(module, chosen())
            layer = numbers.get(id(module))
            if layer is None:
                return original(module, *args, **kwargs)
            return controller.attend(layer, original, module, *args, **kwargs)

        def mask(*args: Any, **kwargs: Any) -> Any:
            return ALL_MASK_ATTENTION_FUNCTIONS[chosen()](*args, **kwargs)

        name = f"attn-dsl {id(self)} {own}"
        functions = {AttentionInterface: attention, AttentionMaskInterface: mask}
        for interface, function in functions.items():
            interface.register(name, function)
            undo.callback(interface._global_mapping.pop, name, None)
        return name


def _original(module: Any, name: str) -> Callable:
    """Return the attention function that a module would call without us."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if name != "eager":
        found: Callable = ALL_ATTENTION_FUNCTIONS[name]
        return found
    for kind in type(module).__mro__:
        eager = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if eager is not None:
            return eager
    raise InputError(f"{type(module).__name__} has no eager attention to fall back on")


def _watched(forward: Callable, controller: Controller, layer: int) -> Callable:
    """Return a layer's attention that runs with its probabilities exchanged."""

    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _Softmax(controller, layer):
            return forward(*args, **kwargs)

    return run


class _Softmax(TorchFunctionMode):
    """Exchanges a layer's probabilities: the results of ``softmax`` and dropout."""

    def __init__(self, controller: Controller, layer: int) -> None:
        super().__init__()
        self.controller, self.layer = controller, layer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        functions = torch.nn.functional
        if func in (functions.softmax, functions.dropout) and found.dim() == 4:
            return self.controller.weights(self.layer, found)
        return found


def adapter_for(model: Any) -> Adapter:
    """Find out how to reach the attention of a model.

    Raises:
        InputError: it cannot be reached.
    """
    config = model.config
    name = f"a {getattr(config, 'model_type', type(model).__name__)} model"
    if any(getattr(config, key, False) for key in ("is_encoder_decoder", "add_cross_attention")):
        raise InputError(
            f"{name} attends to a second text (cross-attention); heads can be replaced in "
            "models with one stack of layers: decoders like GPT-2 or Llama, encoders like BERT"
        )
    modules = list(body(model).modules())
    layers = [m for m in modules if _asks_for_function(m)]
    if not layers and (own := [m for m in modules if type(m).__name__ in SOFTMAX_LAYERS]):
        return Adapter(model, own, by_name=False)
    if not layers or len(layers) != int(getattr(config, "num_hidden_layers", 0)):
        raise InputError(
            f"the attention of {name} cannot be reached: {len(layers)} of its layers ask "
            "transformers for their attention function; heads can be replaced in models like "
            "GPT-2, Llama, Mistral, Qwen, GPT-NeoX, BERT and RoBERTa, and in BLOOM, Falcon, GPT-J "
            "and GPT-Neo"
        )
    adapter = Adapter(model, layers, by_name=True)
    if adapter.implementation not in ("eager", "sdpa"):
        raise InputError(
            f"the model uses {adapter.implementation} attention, which works without a mask of "
            'tokens; call model.set_attn_implementation("sdpa") first'
        )
    return adapter


def _asks_for_function(module: Any) -> bool:
    """Say whether a module is an attention layer that asks for its function by name."""
    forward = getattr(type(module), "forward", None)
    names: tuple[str, ...] = ()
    for function in (forward, getattr(forward, "__wrapped__", None)):
        names += getattr(getattr(function, "__code__", None), "co_names", ())
    return "ALL_ATTENTION_FUNCTIONS" in names and hasattr(module, "config")
