"""Adapters: how the attention of a model's layers is reached, by architecture.

Most models of transformers call a registered attention function, whose output is then computed
anew for the replaced heads. BLOOM and GPT-Neo (and GPT-J before transformers 5.24) send their
probabilities through a dropout module, and Falcon calls ``softmax`` in its layers: there the
probabilities are exchanged.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.overrides import TorchFunctionMode

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.models import body
from attn_dsl.eval.replace.controller import Controller

PREFIX = "attn-dsl|"
"""Beginning of the names under which attention functions are registered."""
_PLACES: weakref.WeakKeyDictionary[Any, tuple[Controller, int]] = weakref.WeakKeyDictionary()
"""By attention module: whose layer it is."""
_CONFIGS: dict[int, Controller] = {}
"""By identity of a configuration: the controller of its model."""


class Adapter(Protocol):
    """How to reach the attention of a model.

    Attributes:
        layers: per layer, its attention module.
        implementation: the model's own attention implementation.
    """

    layers: list[Any]
    implementation: str

    def attach(self, controller: Controller) -> None:
        """Let the controller compute the attention from now on."""
        ...

    def detach(self) -> None:
        """Undo ``attach``."""
        ...


class InterfaceAdapter:
    """Models that ask ``transformers`` for their attention function by name.

    The attention function and the mask function are registered under one new name: without its
    mask function a model would silently attend to what follows a token.
    """

    def __init__(self, model: Any, layers: list[Any]) -> None:
        self.layers = layers
        self._configs = _configs(model, layers)
        self.implementation = str(layers[0].config._attn_implementation)

    def attach(self, controller: Controller) -> None:
        """Register the functions, and have the model use them."""
        self._before = [config._attn_implementation_internal for config in self._configs]
        for name in set(self._before):
            _register(str(name))
        for number, module in enumerate(self.layers):
            _PLACES[module] = (controller, number)
        for config, name in zip(self._configs, self._before, strict=True):
            _CONFIGS[id(config)] = controller
            config._attn_implementation_internal = f"{PREFIX}{name}"

    def detach(self) -> None:
        """Give the model its own functions back."""
        for config, name in zip(self._configs, self._before, strict=True):
            config._attn_implementation_internal = name
            _CONFIGS.pop(id(config), None)
        for module in self.layers:
            _PLACES.pop(module, None)


def _configs(model: Any, layers: list[Any]) -> list[Any]:
    """Return the configurations that the layers and the stack around them look at."""
    from transformers import PreTrainedModel

    found = [m.config for m in model.modules() if isinstance(m, PreTrainedModel)]
    found += [layer.config for layer in layers]
    return list({id(config): config for config in found}.values())


def _register(name: str) -> None:
    """Register attention and mask functions that stand for those of an implementation."""
    from transformers import AttentionInterface, AttentionMaskInterface

    def attention(
        module: Any, query: Any, key: Any, value: Any, mask: Any, *args: Any, **kwargs: Any
    ) -> Any:
        place = _PLACES.get(module)
        eager = place is not None and place[0].attentions and name == "sdpa"
        original = _original(module, "eager" if eager else name)
        if place is None:
            return original(module, query, key, value, mask, *args, **kwargs)
        controller, layer = place
        return controller.attend(layer, original, module, query, key, value, mask, **kwargs)

    def mask(*args: Any, **kwargs: Any) -> Any:
        controller = _CONFIGS.get(id(kwargs.get("config")))
        eager = controller is not None and controller.attentions and name == "sdpa"
        return _masks()["eager" if eager else name](*args, **kwargs)

    AttentionInterface.register(PREFIX + name, attention)
    AttentionMaskInterface.register(PREFIX + name, mask)


def _masks() -> Any:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    return ALL_MASK_ATTENTION_FUNCTIONS


def _original(module: Any, name: str) -> Callable:
    """Return the attention function that a module would call without us."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if name != "eager":
        found: Callable = ALL_ATTENTION_FUNCTIONS[name]
        return found
    if getattr(module, "reorder_and_upcast_attn", False):  # an option of GPT-2
        return lambda m, query, key, value, mask, **_: m._upcast_and_reordered_attn(
            query, key, value, mask
        )
    for kind in type(module).__mro__:
        eager = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if eager is not None:
            return eager
    raise InputError(f"{type(module).__name__} has no eager attention to fall back on")


class DropoutAdapter:
    """BLOOM, GPT-Neo and older GPT-J: attention probabilities pass through a dropout module."""

    def __init__(self, layers: list[Any], dropout: str) -> None:
        self.layers, self._name = layers, dropout
        self.implementation = "eager"
        self._hooks: list[Any] = []

    def attach(self, controller: Controller) -> None:
        """Exchange what leaves the dropout modules."""
        for number, module in enumerate(self.layers):

            def exchange(_: Any, __: Any, output: Any, number: int = number) -> Any:
                return controller.weights(number, output)

            self._hooks.append(getattr(module, self._name).register_forward_hook(exchange))

    def detach(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


class SoftmaxAdapter:
    """Falcon: the layer's only ``softmax`` of four dimensions gives its probabilities.

    While it is attached, the layers use eager attention, for ``sdpa`` keeps its probabilities.
    """

    def __init__(self, layers: list[Any], configs: list[Any]) -> None:
        self.layers, self._configs = layers, configs
        self.implementation = str(configs[0]._attn_implementation)
        self._hooks: list[Any] = []

    def attach(self, controller: Controller) -> None:
        """Watch the calls of ``softmax`` inside of each layer."""
        self._before = [config._attn_implementation_internal for config in self._configs]
        for config in self._configs:
            config._attn_implementation_internal = "eager"
        for number, module in enumerate(self.layers):
            watch = _Softmax(controller, number)
            self._hooks += [
                module.register_forward_pre_hook(watch.start),
                module.register_forward_hook(watch.stop, always_call=True),
            ]

    def detach(self) -> None:
        """Remove the hooks."""
        for config, name in zip(self._configs, self._before, strict=True):
            config._attn_implementation_internal = name
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


class _Softmax(TorchFunctionMode):
    """Exchanges the result of ``softmax`` while a layer runs."""

    def __init__(self, controller: Controller, layer: int) -> None:
        super().__init__()
        self.controller, self.layer, self._open = controller, layer, False

    def start(self, *_: Any) -> None:
        """Begin to watch."""
        self._open = True
        self.__enter__()

    def stop(self, *_: Any) -> None:
        """Stop watching, however the layer ended."""
        if self._open:
            self._open = False
            self.__exit__(None, None, None)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is torch.nn.functional.softmax and found.dim() == 4:
            return self.controller.weights(self.layer, found)
        return found


_DROPOUTS = {
    "GPTNeoSelfAttention": "attn_dropout",
    "GPTJAttention": "attn_dropout",
    "BloomAttention": "attention_dropout",
}


def adapter_for(model: Any) -> Adapter:
    """Find out how to reach the attention of a model.

    Raises:
        InputError: it cannot be reached; such a model is never left as it is without a word.
    """
    config = model.config
    if getattr(config, "is_encoder_decoder", False) or getattr(
        config, "add_cross_attention", False
    ):
        raise InputError(
            f"{_name(model)} attends to a second text (cross-attention); heads can be replaced in "
            "models with one stack of layers: decoders like GPT-2 or Llama, encoders like BERT"
        )
    modules = list(body(model).modules())
    for kind, dropout in _DROPOUTS.items():
        layers = [m for m in modules if type(m).__name__ == kind]
        if layers and hasattr(layers[0], dropout):
            return DropoutAdapter(layers, dropout)
    falcon = [m for m in modules if type(m).__name__ == "FalconAttention"]
    if falcon:
        return SoftmaxAdapter(falcon, _configs(model, falcon))
    layers = [m for m in modules if _asks_for_function(m)]
    if not layers or len(layers) != int(getattr(config, "num_hidden_layers", 0)):
        raise InputError(
            f"the attention of {_name(model)} cannot be reached: {len(layers)} of its layers ask "
            "transformers for their attention function; heads can be replaced in models like "
            "GPT-2, Llama, Mistral, Qwen, GPT-NeoX, BERT and RoBERTa, and in BLOOM, Falcon, GPT-J "
            "and GPT-Neo"
        )
    implementation = str(layers[0].config._attn_implementation)
    if implementation not in ("eager", "sdpa"):
        raise InputError(
            f"the model uses {implementation} attention, which works without a mask of tokens; "
            'call model.set_attn_implementation("sdpa") first'
        )
    return InterfaceAdapter(model, layers)


def _asks_for_function(module: Any) -> bool:
    """Say whether a module is an attention layer that asks for its function by name."""
    forward = getattr(type(module), "forward", None)
    names = getattr(getattr(forward, "__code__", None), "co_names", ())
    unwrapped = getattr(forward, "__wrapped__", None)
    names += getattr(getattr(unwrapped, "__code__", None), "co_names", ())
    return "ALL_ATTENTION_FUNCTIONS" in names and hasattr(module, "config")


def _name(model: Any) -> str:
    return f"a {getattr(model.config, 'model_type', type(model).__name__)} model"
