"""The context manager that puts programs in the place of heads, checks it, and undoes it."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from attn_dsl.compiler.program import Program, load
from attn_dsl.dsl.errors import InputError, WorkError
from attn_dsl.eval.files import first_line
from attn_dsl.eval.heads import Pair
from attn_dsl.eval.models import LoadedModel, body, ids_known, position_limit
from attn_dsl.eval.replace.adapters import adapter_for
from attn_dsl.eval.replace.controller import Controller
from attn_dsl.eval.replace.predictions import refuse_headless
from attn_dsl.eval.replace.programs import HeadSource, Programs, baseline
from attn_dsl.eval.replace.tokens import TokenReader, vocabulary_for
from attn_dsl.eval.tokenizer import PROBE

Standing = Program | str | Path | HeadSource
"""What can stand in the place of a head: a program, the path of one, or part of a source group."""
ATTENTION_TOLERANCE = 1e-4
"""How far the attention that a replaced head uses may be from its program's, before it is cast to
the model's precision."""
_OPEN = "attn_dsl_replacement"
"""The attribute of a stack of layers that keeps adapter and controller while heads are replaced."""
_LENGTH = 24
"""Tokens of the text on which a replacement is verified before anyone relies on it."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """What was replaced, and what was verified before the body of the ``with`` began."""

    heads: tuple[Pair, ...]  # (layer, head) of the replaced heads, those of outer contexts left out
    names: tuple[str, ...]  # of what stands in their place, in the same order
    implementation: str  # the model's own attention implementation, which kept heads go on using
    causal: bool  # whether the model's heads see only what precedes them; measured, not read
    # the largest difference of an output of the model on the probe, in place but with no head
    # replaced, relative to the largest output; 0 within another context, which has measured it
    identity: float
    # the largest difference between what stood in the place of heads on the probe and what their
    # programs give, computed apart
    attention: float
    controller: Controller = field(repr=False)


@contextmanager
def replace_heads(model: Any, heads: Mapping[Pair, Standing], *, tokenizer: Any = None,
                  texts: Sequence[str] = ()) -> Iterator[Replacement]:  # fmt: skip
    """Put programs in the place of heads of a live transformers model.

    >>> with replace_heads(model, {(5, 1): program}, tokenizer=tokenizer) as report:
    ...     logits = model(**tokenizer("Once upon a time", return_tensors="pt")).logits

    Inside, the model is used as ever: forward passes, gradients, ``generate`` with its cache. A replaced
    head keeps its values and its part of the output projection, and attends to what the program says of
    the tokens that the attention mask leaves; dropout does not touch it. Afterwards the model is as
    before, also after an exception. A context within another replaces further heads.

    Args:
        model: a transformers model, or what ``load_model`` returned.
        heads: by (layer, query head), both from 0: a program, the path of one, or a ``HeadSource`` of
            a source group. In a causal model all must be causal; a bidirectional model takes both.
        tokenizer: the model's; without it, the one that belongs to the model's name is loaded.
        texts: what the model will read, for programs that read what word pieces do not tell, such
            as its lines.

    Raises:
        InputError: before anything is changed: no such head, a head that is replaced already, a
            program that sees what a causal head cannot, holes, no tokenizer, a model whose attention
            cannot be reached. In a forward pass: no input_ids, ids that do not tell what a program
            reads, a text that is too long, a cache that was filled outside.
        WorkError: the verification failed; the model is as before.
    """
    loaded = model if isinstance(model, LoadedModel) else None
    if loaded is not None:
        model, tokenizer = loaded.model, tokenizer or loaded.tokenizer
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise InputError(f"a {type(model).__name__} is no transformers model; give the model itself, not "
                         "what is wrapped around it")  # fmt: skip
    stack = body(model)
    nested = hasattr(stack, _OPEN)
    if nested:
        adapter, controller = getattr(stack, _OPEN)
    else:
        adapter = adapter_for(model)
        reader = TokenReader(vocabulary_for(model, tokenizer), loaded.texts if loaded else {})
        limit = loaded.max_positions if loaded else position_limit(model)
        controller = Controller(stack, reader, limit, int(model.config.num_attention_heads))
    for text in texts:
        for window in controller.reader.vocabulary.encode(text, sys.maxsize):
            controller.reader.known[window.ids] = window.tokens
    outer, parts = dict(controller.members), parts_of(heads)
    ids = _probe_ids(model, controller)
    identity, tolerance = 0.0, 1e-5 if stack.dtype == torch.float32 else 3e-2
    with ExitStack() as undo:
        if not nested:
            before = _run(model, ids)[0]
            setattr(stack, _OPEN, (adapter, controller))
            undo.callback(delattr, stack, _OPEN)
            controller.open(undo)
            adapter.attach(controller, undo)
            change = (before - _run(model, ids)[0]).abs().max()
            identity = float(change / before.abs().max().clamp(min=1e-30))
            if identity > tolerance:
                raise WorkError(f"with no head replaced, the model's outputs differ by {identity:.1e} of "
                                "their size from its own, so its attention is not understood; nothing was "
                                "replaced")  # fmt: skip
            controller.own = _attention(model, ids)
        causal = not any(bool(layer.triu(1).any()) for layer in controller.own)
        _check_heads(parts, controller.own, outer)
        if causal:
            _check_visibility(parts)
        undo.callback(controller.set_members, outer)
        controller.set_members(outer | parts)
        off = _attention_error(model, ids, controller, parts)
        yield Replacement(tuple(parts), tuple(part.name for part in parts.values()), adapter.implementation,
                          causal, identity, off, controller)  # fmt: skip


def obstacle(loaded: LoadedModel) -> str | None:
    """Try to replace all heads of a model; return why that cannot be done or measured, or None."""
    heads = [(i, h) for i in range(loaded.n_layers) for h in range(loaded.n_heads)]
    try:
        with replace_heads(loaded, baseline("uniform", heads, loaded.causal)):
            pass
        refuse_headless(loaded)
    except Exception as error:  # whatever a model raises is a reason
        return first_line(error)
    return None


def parts_of(heads: Mapping[Pair, Standing]) -> dict[Pair, HeadSource]:
    """Turn what was given into parts of groups, all programs of one visibility in one group."""
    found: dict[Pair, HeadSource] = {}
    programs: dict[Pair, Program] = {}
    for (layer, head), given in heads.items():
        if isinstance(given, HeadSource):
            found[layer, head] = given
        elif isinstance(given, Program | str | Path):
            programs[layer, head] = given if isinstance(given, Program) else load(given)
        else:
            raise InputError(
                f"L{layer}H{head}: a {type(given).__name__} cannot stand in the place of a head; "
                "give a program, the path of one, or a part of a source group")  # fmt: skip
    for causal in (True, False):
        chosen = sorted(place for place, program in programs.items() if program.causal == causal)
        if chosen:
            group = Programs([programs[place] for place in chosen])
            found |= {place: HeadSource(group, i) for i, place in enumerate(chosen)}
    return {place: found[place] for place in sorted(found)}


def _check_heads(parts: Mapping[Pair, HeadSource], own: Sequence[torch.Tensor],
                 outer: Mapping[Pair, HeadSource]) -> None:  # fmt: skip
    layers, count = len(own), len(own[0])
    for layer, head in parts:
        if not (0 <= layer < layers and 0 <= head < count):
            raise InputError(f"there is no head L{layer}H{head}: the model has {layers} layers (0 to "
                             f"{layers - 1}) of {count} heads (0 to {count - 1})")  # fmt: skip
        if (layer, head) in outer:
            raise InputError(f"the head L{layer}H{head} is replaced already by an outer replace_heads; leave "
                             "that context first")  # fmt: skip


def _check_visibility(parts: Mapping[Pair, HeadSource]) -> None:
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
                "see only what precedes them; write it `causal`, with features that read left")  # fmt: skip


def _probe_ids(model: Any, controller: Controller) -> torch.Tensor:
    """Return the ids of the probe, int64 (1, tokens)."""
    vocabulary, rows = controller.reader.vocabulary, ids_known(model)
    # a tokenizer that knows none of these words still gives tokens that differ
    ids = [*vocabulary.tokenizer(PROBE).input_ids, *(5 + 7 * i for i in range(_LENGTH))]
    ids = [i % rows for i in ids[: min(_LENGTH, controller.max_positions or _LENGTH)]]
    # what its ids do not tell makes no difference to the probe
    controller.reader.known[tuple(ids)] = vocabulary.tokens_of(ids)
    return torch.tensor([ids], device=model.device)


def _run(model: Any, ids: torch.Tensor, **more: Any) -> tuple[torch.Tensor, Any]:
    """Return outputs and attention, with dropout, gradients and autocast held back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            found = model(input_ids=ids, attention_mask=torch.ones_like(ids), **more)
            output = found.logits if "logits" in found else found[0]
            return output.detach().float().clone(), getattr(found, "attentions", None)
    finally:
        for module in training:
            module.training = True


def _attention(model: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """Return what the model says that it attended to, (heads, queries, keys) per layer."""
    layers, n = getattr(model.config, "num_hidden_layers", 0), ids.shape[1]
    try:
        found = [x for x in _run(model, ids, output_attentions=True)[1] or () if x is not None]
    except (AttributeError, TypeError, ValueError):
        found = []
    if not found or [one.shape[2:] for one in found] != [(n, n)] * layers:
        kind = getattr(model.config, "model_type", type(model).__name__)
        raise InputError(f"the attention of a {kind} model cannot be reached: of its {layers} layers, "
                         f"{len(found)} give a matrix of tokens per head; heads can be replaced in models "
                         "like GPT-2, Llama, GPT-NeoX, BLOOM, BERT and RoBERTa")  # fmt: skip
    return [one[0].float().cpu() for one in found]


def _attention_error(model: Any, ids: torch.Tensor, controller: Controller,
                     parts: Mapping[Pair, HeadSource]) -> float:  # fmt: skip
    """Return how far what replaced heads use is from their programs; a WorkError if it is far."""
    controller.seen = {}
    try:
        actual, seen = _attention(model, ids), controller.seen
    finally:
        controller.seen = None
    tokens = controller.reader.text(tuple(ids[0].tolist()))
    with torch.no_grad():
        whole = {group: {number: torch.from_numpy(group.programs[number](tokens))
                     for number in {part.number for part in parts.values() if part.group is group}}
                 if isinstance(group, Programs) else group.bundle([tokens])[:, 0].float().cpu()
                 for group in {part.group for part in parts.values()}}  # fmt: skip
    worst, rounding = 0.0, ATTENTION_TOLERANCE if model.dtype == torch.float32 else 2e-2
    for (layer, head), part in parts.items():
        if layer not in seen:
            raise WorkError(f"{part.name} did not reach layer {layer}; the model is as before")
        at, hidden = controller.heads(layer).index(head), _hidden(controller.own[layer])
        given, used = (one[at, 0].detach().float().cpu() for one in seen[layer])
        off = float((given - whole[part.group][part.number]).abs().max())
        apart = float((actual[layer][head] - used).abs().max())
        beyond = float((used * hidden).sum(-1).max())
        if not (off <= ATTENTION_TOLERANCE and apart <= rounding and beyond <= rounding):
            raise WorkError(f"L{layer}H{head} used an attention that differs by {max(off, apart):.1e} from "
                            f"that of {part.name}, and {beyond:.1e} of a row goes to tokens that no head of "
                            "the layer sees; the model is as before")  # fmt: skip
        worst = max(worst, off)
    return worst


def _hidden(own: torch.Tensor) -> torch.Tensor:
    """Say which pairs lie at a distance at which no head of a layer (heads, n, n) sees anything."""
    at = torch.arange(own.shape[-1])
    gap = at[:, None] - at + len(at) - 1
    seen = torch.zeros(2 * len(at), dtype=torch.bool)
    seen[gap[own.amax(0) > 0]] = True
    return ~seen[gap]
