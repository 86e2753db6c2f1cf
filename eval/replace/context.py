"""The context manager that puts programs in the place of heads, checks it, and undoes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_dsl.compiler.program import Program, load
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import InputError, WorkError
from attn_dsl.eval.locate import max_positions
from attn_dsl.eval.models import LoadedModel, body
from attn_dsl.eval.replace import probe
from attn_dsl.eval.replace.adapters import Adapter, adapter_for
from attn_dsl.eval.replace.controller import Controller
from attn_dsl.eval.replace.programs import Programs
from attn_dsl.eval.replace.source import Head, Part
from attn_dsl.eval.replace.tokens import TokenReader, vocabulary_for

Standing = Program | t.Head | str | Path | Part
"""What can stand in the place of a head: a program, the path of one, or part of a source group."""
_OPEN = "attn_dsl_replacement"
"""The attribute of a stack of layers that keeps adapter and controller while heads are replaced."""


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
    found: tuple[Adapter, Controller] | None = getattr(stack, _OPEN, None)
    adapter = found[0] if found is not None else adapter_for(model)
    outer = dict(found[1].members) if found is not None else {}
    parts = _parts(heads)
    _check_heads(parts, len(adapter.layers), int(model.config.num_attention_heads), outer)
    reader = TokenReader(vocabulary_for(model, tokenizer))
    ids = probe.ids_for(model, reader.vocabulary, max_positions(model.config))
    before, causal = probe.outputs(stack, ids), probe.is_causal(stack, ids)
    if causal:
        _check_visibility(parts)
    with ExitStack() as undo:
        if found is not None:
            controller = found[1]
        else:
            controller = Controller(stack, reader, max_positions(model.config))
            setattr(stack, _OPEN, (adapter, controller))
            for step in (lambda: delattr(stack, _OPEN), controller.close, adapter.detach):
                undo.callback(step)
            controller.open()
            adapter.attach(controller)
        identity = probe.difference(before, probe.outputs(stack, ids))
        if identity > probe.identity_tolerance(stack):
            raise WorkError(
                f"with no head replaced, the model's outputs differ by {identity:.1e} of their "
                "size from its own, so its attention is not understood; nothing was replaced"
            )
        undo.callback(controller.set_members, outer)
        controller.set_members(outer | parts)
        off = probe.attention(stack, ids, controller, parts)
        if not off <= probe.ATTENTION_TOLERANCE:
            raise WorkError(
                f"replaced heads used an attention that differs by {off:.1e} from that of their "
                "programs; the model is as before"
            )
        yield Replacement(
            tuple(parts), tuple(part.name for part in parts.values()), adapter.implementation,
            causal, identity, off,
        )  # fmt: skip


def _parts(heads: Mapping[Head, Standing]) -> dict[Head, Part]:
    """Turn what was given into parts of groups, all programs of one visibility in one group."""
    programs: dict[Head, Program] = {}
    found: dict[Head, Part] = {}
    for place, given in heads.items():
        if isinstance(given, Part):
            found[place] = given
        elif isinstance(given, Program):
            programs[place] = given
        elif isinstance(given, t.Head):
            programs[place] = Program.from_tree(given)
        elif isinstance(given, str | Path):
            programs[place] = load(given)
        else:
            raise InputError(
                f"L{place[0]}H{place[1]}: a {type(given).__name__} cannot stand in the place of a "
                "head; give a program, the path of one, or a part of a source group"
            )
    for causal in (True, False):
        chosen = sorted(place for place, program in programs.items() if program.causal == causal)
        if chosen:
            group = Programs([programs[place] for place in chosen])
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
