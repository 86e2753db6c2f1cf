"""The probe: a short text on which a replacement is verified before anyone relies on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from attn_dsl.eval.replace.controller import Controller, within
from attn_dsl.eval.replace.programs import Programs
from attn_dsl.eval.replace.source import Head, Part
from attn_dsl.eval.vocabulary import Vocabulary

ATTENTION_TOLERANCE = 1e-4
"""How far the attention that a replaced head uses may be from its program's, before it is cast to
the model's precision."""
_TEXT = 'Once upon a time, the cat sat on the mat. "The cat," she said, "sat on the mat again."'
_LENGTH = 24


def ids_for(model: Any, vocabulary: Vocabulary, most: int | None) -> torch.Tensor:
    """Return the ids of the probe, int64 (1, tokens)."""
    tokenizer = vocabulary.tokenizer
    ids = tokenizer(_TEXT, add_special_tokens=True).input_ids
    rows = int(model.get_input_embeddings().weight.shape[0])
    # a tokenizer that knows none of these words still gives tokens that differ
    ids += [(5 + 7 * i) % min(rows, len(tokenizer)) for i in range(_LENGTH)]
    return torch.tensor([ids[: min(_LENGTH, most or _LENGTH)]], device=model.device)


def outputs(stack: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the last hidden states on the probe."""
    with _still(stack):
        found = stack(input_ids=ids, attention_mask=torch.ones_like(ids))
        hidden: torch.Tensor = found[0].detach().float().clone()
        return hidden


def is_causal(stack: Any, ids: torch.Tensor) -> bool:
    """Measure whether outputs depend on what follows: change the last token and look."""
    other = ids.clone()
    rows = int(stack.get_input_embeddings().weight.shape[0])
    other[0, -1] = (ids[0, -1] + 1 + rows // 2) % rows
    before, after = outputs(stack, ids)[:, :-1], outputs(stack, other)[:, :-1]
    return difference(before, after) <= identity_tolerance(stack)


def difference(before: torch.Tensor, after: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    return float((before - after).abs().max() / before.abs().max().clamp(min=1e-30))


def identity_tolerance(stack: Any) -> float:
    """Return how much outputs may differ when nothing is replaced, relative to the largest."""
    return 1e-5 if stack.dtype == torch.float32 else 3e-2


def attention(
    stack: Any, ids: torch.Tensor, controller: Controller, parts: dict[Head, Part]
) -> float:
    """Return the largest difference between what replaced heads used and what they should."""
    controller.used = {}
    try:
        outputs(stack, ids)
        used = controller.used
    finally:
        controller.used = None
    tokens = controller.reader.text(tuple(ids[0].tolist()))
    with torch.no_grad():
        whole = {
            group: group.bundle([tokens])[:, 0].float().cpu()
            for group in {part.group for part in parts.values()}
            if not isinstance(group, Programs)
        }
    worst = 0.0
    for (layer, head), part in parts.items():
        if layer not in used:
            return float("inf")
        found, window = used[layer]
        actual = found[controller.heads(layer).index(head), 0].detach().float().cpu()
        if isinstance(part.group, Programs):
            expected = torch.from_numpy(part.group.programs[part.number](tokens))
        else:
            expected = whole[part.group][part.number]
        if window is not None:
            expected = within(expected, window)
        worst = max(worst, float((actual - expected).abs().max()))
    return worst


@contextmanager
def _still(stack: Any) -> Iterator[None]:
    """Hold dropout, gradients and autocast back."""
    training = [module for module in stack.modules() if module.training]
    stack.eval()
    try:
        with torch.no_grad(), torch.autocast(stack.device.type, enabled=False):
            yield
    finally:
        for module in training:
            module.training = True
