"""Predictions: a model's log-probabilities of chosen tokens of texts, in padded batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.models import LoadedModel, padded

Ids = Sequence[int]
"""The token ids of a text."""


@dataclass(frozen=True, slots=True, eq=False)
class PaddedBatch:
    """Texts that a model reads at once, padded on the right."""

    texts: tuple[int, ...]  # their numbers; counts: predictions of each
    inputs: dict[str, torch.Tensor]  # what the model is called with
    # rows, columns: int64 (predictions,): where predictions stand in the batch, text by text
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor  # int64 (predictions,): the tokens to be predicted
    counts: tuple[int, ...]
    start: int  # the number of the first prediction among those of all batches


def batches(loaded: LoadedModel, texts: Sequence[Ids], places: Sequence[Sequence[int]],
            size: int = 8) -> list[PaddedBatch]:  # fmt: skip
    """Arrange texts in batches of similar lengths.

    A decoder predicts the token at a place from those before it. An encoder predicts it from the
    text in which the tokens at all the places are masked.
    """
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
    device = loaded.model.device
    found: list[PaddedBatch] = []
    start = 0
    for first in range(0, len(order), size):
        chosen = order[first : first + size]
        call = padded(loaded.model, [texts[i] for i in chosen])
        counts = [len(places[i]) for i in chosen]
        rows = torch.arange(len(chosen)).repeat_interleave(torch.tensor(counts)).to(device)
        columns = torch.tensor([place for i in chosen for place in places[i]]).to(device)
        targets = call["input_ids"][rows, columns]
        if not loaded.causal:
            call["input_ids"][rows, columns] = loaded.tokenizer.mask_token_id
        columns = columns - 1 if loaded.causal else columns
        found.append(PaddedBatch(tuple(chosen), call, rows, columns, targets, tuple(counts), start))
        start += sum(counts)
    return found


def log_probabilities(loaded: LoadedModel, batch: PaddedBatch) -> torch.Tensor:
    """Return the model's predictions of a batch, float32 (predictions, vocabulary)."""
    options = {"use_cache": False} if loaded.causal else {}
    chosen = False

    def choose(module: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        nonlocal chosen
        chosen = True
        return given[0][batch.rows, batch.columns][None], *given[1:]

    # the layer of the vocabulary's size reads only what is predicted
    hook = loaded.model.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        logits = loaded.model(**batch.inputs, **options).logits
    finally:
        hook.remove()
    logits = logits[0] if chosen else logits[batch.rows, batch.columns]
    return torch.log_softmax(logits.float(), dim=-1)


def refuse_headless(loaded: LoadedModel) -> None:
    """Refuse, as an InputError, a model that predicts no tokens."""
    if loaded.model.get_output_embeddings() is None:
        raise InputError(f"{loaded.name} has no language-model head, so it predicts no tokens and has no "
                         "perplexity; use a checkpoint with one (…ForCausalLM or …ForMaskedLM)")  # fmt: skip
    if not loaded.causal and loaded.tokenizer.mask_token_id is None:
        raise InputError(f"{loaded.name}: its tokenizer has no mask token, so that no token can be masked "
                         "and predicted; set `mask_token` in its tokenizer_config.json")  # fmt: skip
