"""Adapters: how the attention of a model's layers is reached.

Most models of transformers ask by name for a registered attention function, whose output is then
computed anew for the replaced heads. Others, such as BLOOM, MPT or ALBERT, call ``softmax`` in
their layers, or run one layer several times: there the result of each ``softmax`` is exchanged.
"""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.head_outputs import SOFTMAX
from attn_dsl.eval.models import body
from attn_dsl.eval.replace.controller import Controller


class Adapter:
    """Reaches the attention of a model.

    Attributes:
        layers: per layer, its attention module; none where ``softmax`` is exchanged.
        implementation: the model's own attention implementation.
    """

    def __init__(self, model: Any, layers: list[Any]) -> None:
        from transformers import PreTrainedModel

        self.layers = layers
        found = [m.config for m in model.modules() if isinstance(m, PreTrainedModel)]
        found += [layer.config for layer in layers if hasattr(layer, "config")]
        self._configs = list({id(config): config for config in found}.values())
        self.implementation = str(self._configs[-1]._attn_implementation)

    def attach(self, controller: Controller, undo: ExitStack) -> None:
        """Let the controller compute the attention, until ``undo`` is closed."""
        attribute = "_attn_implementation_internal"
        names = []
        for config in self._configs:
            own = getattr(config, attribute)
            undo.callback(setattr, config, attribute, own)
            names.append(self._register(str(own), controller, undo) if self.layers else "eager")
            setattr(config, attribute, names[-1])

        def check() -> None:
            if [getattr(config, attribute) for config in self._configs] != names:
                raise InputError("the model's attention implementation was changed while heads are "
                                 "replaced, which brings its own heads back; call set_attn_implementation "
                                 "before replace_heads")  # fmt: skip

        controller.check = check
        controller.mode = None if self.layers else lambda: _Softmax(controller)

    def _register(self, own: str, controller: Controller, undo: ExitStack) -> str:
        """Register attention and mask functions that stand for an implementation's; name them.

        Without a mask function of its own a model would attend to what follows a token.
        """
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

        numbers = {id(module): number for number, module in enumerate(self.layers)}

        def chosen() -> str:
            return "eager" if own == "sdpa" and controller.now.attentions else own

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


class _Softmax(TorchFunctionMode):
    """Exchanges the probabilities of every layer of a pass: results of ``softmax`` and dropout."""

    def __init__(self, controller: Controller) -> None:
        super().__init__()
        self.controller, self.layer = controller, -1
        self.scores: Any = None

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func not in (*SOFTMAX, torch.nn.functional.dropout):
            return found
        by_head = self.controller.by_head(found)
        if by_head is not None and func in SOFTMAX:
            self.layer, self.scores = self.layer + 1, self.controller.by_head(args[0])
        if by_head is None or self.layer < 0:
            return found
        return self.controller.weights(self.layer, by_head, self.scores).reshape(found.shape)


def adapter_for(model: Any) -> Adapter:
    """Find out how to reach the attention of a model; an InputError if it cannot be reached."""
    config = model.config
    name = f"a {getattr(config, 'model_type', type(model).__name__)} model"
    if any(getattr(config, key, False) for key in ("is_encoder_decoder", "add_cross_attention")):
        raise InputError(
            f"{name} attends to a second text (cross-attention); heads can be replaced in "
            "models with one stack of layers: decoders like GPT-2 or Llama, encoders like BERT")  # fmt: skip
    if not getattr(config, "num_attention_heads", 0):
        raise InputError(f"the attention of {name} cannot be reached: it has no attention heads")
    layers = [m for m in body(model).modules() if _asks_for_function(m)]
    whole = len(layers) == int(getattr(config, "num_hidden_layers", 0))
    adapter = Adapter(model, layers if whole else [])
    if whole and adapter.implementation not in ("eager", "sdpa"):
        raise InputError(f"the model uses {adapter.implementation} attention, which works without a mask of "
                         'tokens; call model.set_attn_implementation("sdpa") first')  # fmt: skip
    return adapter


def _asks_for_function(module: Any) -> bool:
    """Say whether a module is an attention layer that asks for its function by name."""
    forward = getattr(type(module), "forward", None)
    names: tuple[str, ...] = ()
    for function in (forward, getattr(forward, "__wrapped__", None)):
        names += getattr(getattr(function, "__code__", None), "co_names", ())
    return "ALL_ATTENTION_FUNCTIONS" in names and hasattr(module, "config")
