"""The context manager that puts programs in the place of heads, checks it, and undoes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attn_dsl.compiler.program import Program, load
from attn_dsl.dsl.errors import InputError, WorkError
from attn_dsl.eval.locate import max_positions
from attn_dsl.eval.models import LoadedModel, body
from attn_dsl.eval.replace.adapters import adapter_for
from attn_dsl.eval.replace.controller import Controller, within
from attn_dsl.eval.replace.programs import Programs
from attn_dsl.eval.replace.source import Head, Part
from attn_dsl.eval.replace.tokens import TokenReader, vocabulary_for
from attn_dsl.eval.vocabulary import Vocabulary

Standing = Program | str | Path | Part
"""What can stand in the place of a head: a program, the path of one, or part of a source group."""
ATTENTION_TOLERANCE = 1e-4
"""How far the attention that a replaced head uses may be from its program's, before it is cast to
the model's precision."""
_OPEN = "attn_dsl_replacement"
"""The attribute of a stack of layers that keeps adapter and controller while heads are replaced."""
_PROBE = 'Once upon a time, the cat sat on the mat. "The cat," she said, "sat on the mat again."'
"""The text on which a replacement is verified before anyone relies on it, and its tokens."""
_LENGTH = 24


@dataclass(frozen=True, slots=True)
class Replacement:
    """What was replaced, and what was verified before the body of the ``with`` began.

    Attributes:
        heads: (layer, head) of the replaced heads, those of outer contexts left out.
        names: of what stands in their place, in the same order.
        implementation: the model's own attention implementation, which kept heads go on using.
        causal: whether the model's heads see only what precedes them; measured, not read.
        identity: the largest difference of an output of the stack of layers on the probe, in
            place but with no head replaced, relative to the largest output.
        attention: the largest difference between the attention that replaced heads used on the
            probe and what their programs give, computed apart.
    """

    heads: tuple[Head, ...]
    names: tuple[str, ...]
    implementation: str
    causal: bool
    identity: float
    attention: float


@contextmanager
def replace_heads(
    model: Any, heads: Mapping[Head, Standing], *, tokenizer: Any = None
) -> Iterator[Replacement]:
    """Put programs in the place of heads of a live transformers model.

    >>> with replace_heads(model, {(5, 1): program}, tokenizer=tokenizer) as report:
    ...     logits = model(**tokenizer("Once upon a time", return_tensors="pt")).logits

    Inside, the model is used as ever: forward passes, gradients, ``generate`` with its cache.
    A replaced head keeps its values and its part of the output projection; what it attends to is
    what the program says of the tokens that the attention mask leaves, counted from the first of
    them. Dropout does not touch it. Afterwards the model is as before, also after an exception.
    A context within another replaces further heads.

    Args:
        model: a transformers model, or what ``load_model`` returned.
        heads: by (layer, query head), both from 0: a program, the path of one, or a ``Part`` of
            a source group. In a causal model all must be causal; a bidirectional model takes both.
        tokenizer: the model's; without it, the one that belongs to the model's name is loaded.

    Raises:
        InputError: before anything is changed: no such head, a head that is replaced already, a
            program that sees what a causal head cannot, holes, no tokenizer, a model whose
            attention cannot be reached. In a forward pass: no input_ids, a text longer than the
            model's context, a cache that was filled outside.
        WorkError: the verification failed; the model is as before.
    """
    if isinstance(model, LoadedModel):
        tokenizer = model.tokenizer if tokenizer is None else tokenizer
        model = model.model
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise InputError(
            f"a {type(model).__name__} is no transformers model; give the model itself, not what "
            "is wrapped around it"
        )
    stack = body(model)
    nested = hasattr(stack, _OPEN)
    if nested:
        adapter, controller = getattr(stack, _OPEN)
    else:
        adapter, reader = adapter_for(model), TokenReader(vocabulary_for(model, tokenizer))
        controller = Controller(stack, reader, max_positions(model.config))
    outer, parts = dict(controller.members), parts_of(heads)
    _check_heads(parts, len(adapter.layers), int(model.config.num_attention_heads), outer)
    ids = _probe_ids(model, controller.reader.vocabulary, controller.max_positions)
    before, tolerance = _outputs(stack, ids), 1e-5 if stack.dtype == torch.float32 else 3e-2
    causal = _depends_on_the_last(stack, ids) <= tolerance
    if causal:
        _check_visibility(parts)
    with ExitStack() as undo:
        if not nested:
            setattr(stack, _OPEN, (adapter, controller))
            undo.callback(delattr, stack, _OPEN)
            controller.open(undo)
            adapter.attach(controller, undo)
        identity = _difference(before, _outputs(stack, ids))
        if identity > tolerance:
            raise WorkError(
                f"with no head replaced, the model's outputs differ by {identity:.1e} of their "
                "size from its own, so its attention is not understood; nothing was replaced"
            )
        undo.callback(controller.set_members, outer)
        controller.set_members(outer | parts)
        off = _attention_error(stack, ids, controller, parts)
        if not off <= ATTENTION_TOLERANCE:
            raise WorkError(
                f"replaced heads used an attention that differs by {off:.1e} from that of their "
                "programs; the model is as before"
            )
        yield Replacement(
            tuple(parts), tuple(part.name for part in parts.values()), adapter.implementation,
            causal, identity, off,
        )  # fmt: skip


def open_controller(model: LoadedModel) -> Controller | None:
    """Return the controller of a model within ``replace_heads``, None outside."""
    found: tuple[Any, Controller | None] = getattr(body(model.model), _OPEN, (None, None))
    return found[1]


def parts_of(heads: Mapping[Head, Standing], keep: int = 0) -> dict[Head, Part]:
    """Turn what was given into parts of groups, all programs of one visibility in one group.

    Args:
        keep: bytes of matrices that each group of programs keeps.
    """
    found: dict[Head, Part] = {}
    programs: dict[Head, Program] = {}
    for (layer, head), given in heads.items():
        if isinstance(given, Part):
            found[layer, head] = given
        elif isinstance(given, Program | str | Path):
            programs[layer, head] = given if isinstance(given, Program) else load(given)
        else:
            raise InputError(
                f"L{layer}H{head}: a {type(given).__name__} cannot stand in the place of a head; "
                "give a program, the path of one, or a part of a source group"
            )
    for causal in (True, False):
        chosen = sorted(place for place, program in programs.items() if program.causal == causal)
        if chosen:
            group = Programs([programs[place] for place in chosen], keep)
            found |= {place: Part(group, i) for i, place in enumerate(chosen)}
    return {place: found[place] for place in sorted(found)}


def _check_heads(
    parts: Mapping[Head, Part], layers: int, count: int, outer: Mapping[Head, Part]
) -> None:
    for layer, head in parts:
        if not (0 <= layer < layers and 0 <= head < count):
            raise InputError(
                f"there is no head L{layer}H{head}: the model has {layers} layers (0 to "
                f"{layers - 1}) of {count} heads (0 to {count - 1})"
            )
        if (layer, head) in outer:
            raise InputError(
                f"the head L{layer}H{head} is replaced already by an outer replace_heads; leave "
                "that context first"
            )


def _check_visibility(parts: Mapping[Head, Part]) -> None:
    """Refuse, in a causal model, whatever sees what follows a query."""
    for (layer, head), part in parts.items():
        causal, ahead = part.group.causal, ""
        if isinstance(part.group, Programs):
            program = part.group.programs[part.number]
            ahead = ", ".join(program.facts.lookahead) if program.causal else ""
            causal = program.causal and not ahead
        if not causal:
            why = f"looks ahead ({ahead})" if ahead else "is bidirectional"
            raise InputError(
                f"the program {part.name} for L{layer}H{head} {why}, but the heads of this model "
                "see only what precedes them; write it `causal`, with features that read to the "
                "left"
            )


def _probe_ids(model: Any, vocabulary: Vocabulary, most: int | None) -> torch.Tensor:
    """Return the ids of the probe, int64 (1, tokens)."""
    tokenizer = vocabulary.tokenizer
    ids = tokenizer(_PROBE, add_special_tokens=True).input_ids
    rows = int(model.get_input_embeddings().weight.shape[0])
    # a tokenizer that knows none of these words still gives tokens that differ
    ids += [(5 + 7 * i) % min(rows, len(tokenizer)) for i in range(_LENGTH)]
    return torch.tensor([ids[: min(_LENGTH, most or _LENGTH)]], device=model.device)


def _outputs(stack: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the last hidden states, with dropout, gradients and autocast held back."""
    training = [module for module in stack.modules() if module.training]
    stack.eval()
    try:
        with torch.no_grad(), torch.autocast(stack.device.type, enabled=False):
            found = stack(input_ids=ids, attention_mask=torch.ones_like(ids))
            hidden: torch.Tensor = found[0].detach().float().clone()
            return hidden
    finally:
        for module in training:
            module.training = True


def _depends_on_the_last(stack: Any, ids: torch.Tensor) -> float:
    """Measure how much the outputs at earlier tokens change with the last token."""
    other = ids.clone()
    rows = int(stack.get_input_embeddings().weight.shape[0])
    other[0, -1] = (ids[0, -1] + 1 + rows // 2) % rows
    return _difference(_outputs(stack, ids)[:, :-1], _outputs(stack, other)[:, :-1])


def _difference(before: torch.Tensor, after: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    return float((before - after).abs().max() / before.abs().max().clamp(min=1e-30))


def _attention_error(
    stack: Any, ids: torch.Tensor, controller: Controller, parts: Mapping[Head, Part]
) -> float:
    """Return the largest difference between what replaced heads used and what they should."""
    controller.used = {}
    try:
        _outputs(stack, ids)
        used = controller.used
    finally:
        controller.used = None
    tokens = controller.reader.text(tuple(ids[0].tolist()))
    with torch.no_grad():
        whole = {
            group: {
                number: torch.from_numpy(group.programs[number](tokens))
                for number in {part.number for part in parts.values() if part.group is group}
            }
            if isinstance(group, Programs)
            else group.bundle([tokens])[:, 0].float().cpu()
            for group in {part.group for part in parts.values()}
        }
    worst = 0.0
    for (layer, head), part in parts.items():
        if layer not in used:
            return float("inf")
        found, window = used[layer]
        actual = found[controller.heads(layer).index(head), 0].detach().float().cpu()
        expected = whole[part.group][part.number]
        if window is not None:
            expected = within(expected, window)
        worst = max(worst, float((actual - expected).abs().max()))
    return worst
