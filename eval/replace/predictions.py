"""Predictions: a model's log-probabilities of chosen tokens of texts, in padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.models import LoadedModel

Ids = Sequence[int]
"""The token ids of a text."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Texts that a model reads at once, padded on the right.

    Attributes:
        texts: their numbers.
        inputs: what the model is called with.
        rows, columns: int64 (predictions,): where predictions stand in the batch, text by text.
        targets: int64 (predictions,): the tokens to be predicted.
        counts: predictions of each text.
        start: the number of the first prediction among those of all batches.
    """

    texts: tuple[int, ...]
    inputs: dict[str, torch.Tensor]
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    counts: tuple[int, ...]
    start: int


def batches(
    loaded: LoadedModel, texts: Sequence[Ids], places: Sequence[Sequence[int]], size: int = 8
) -> list[Batch]:
    """Arrange texts in batches of similar lengths.

    A decoder predicts the token at a place from those before it. An encoder predicts it from the
    text in which the tokens at all the places are masked.

    Args:
        loaded: the model.
        texts: per text its token ids.
        places: per text, which of its tokens are predicted.
        size: texts of a batch.
    """
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
    found: list[Batch] = []
    start = 0
    for first in range(0, len(order), size):
        found.append(_batch(loaded, texts, places, order[first : first + size], start))
        start += len(found[-1].targets)
    return found


def _batch(
    loaded: LoadedModel, texts: Sequence[Ids], places: Sequence[Sequence[int]], chosen: list[int],
    start: int,
) -> Batch:  # fmt: skip
    ids = [torch.tensor(texts[i]) for i in chosen]
    inputs = pad_sequence(ids, batch_first=True, padding_value=_padding(loaded))
    mask = pad_sequence([torch.ones_like(one) for one in ids], batch_first=True)
    counts = tuple(len(places[i]) for i in chosen)
    rows = torch.arange(len(chosen)).repeat_interleave(torch.tensor(counts))
    columns = torch.tensor([place for i in chosen for place in places[i]])
    targets = inputs[rows, columns]
    if loaded.causal:
        columns = columns - 1
    else:
        inputs[rows, columns] = loaded.tokenizer.mask_token_id
    device = loaded.model.device
    call = {"input_ids": inputs.to(device), "attention_mask": mask.to(device)}
    at = (part.to(device) for part in (rows, columns, targets))
    return Batch(tuple(chosen), call, *at, counts, start)


def _padding(loaded: LoadedModel) -> int:
    """Return a token id to fill up batches with; attention never reads it."""
    for one in (loaded.tokenizer.pad_token_id, getattr(loaded.model.config, "pad_token_id", None)):
        if one is not None:
            return int(one)
    return 0


def log_probabilities(loaded: LoadedModel, batch: Batch) -> torch.Tensor:
    """Return the model's predictions of a batch, float32 (predictions, vocabulary)."""
    options = {"use_cache": False} if loaded.causal else {}
    logits = loaded.model(**batch.inputs, **options).logits[batch.rows, batch.columns]
    return torch.log_softmax(logits.float(), dim=-1)


def refuse_headless(loaded: LoadedModel) -> None:
    """Make sure that a model predicts tokens.

    Raises:
        InputError: it has no language-model head, or an encoder's tokenizer no mask token.
    """
    if loaded.model.get_output_embeddings() is None:
        raise InputError(
            f"{loaded.name} has no language-model head, so it predicts no tokens and has no "
            "perplexity; use a checkpoint with one (…ForCausalLM or …ForMaskedLM)"
        )
    if not loaded.causal and loaded.tokenizer.mask_token_id is None:
        raise InputError(
            f"{loaded.name}: its tokenizer has no mask token, so that no token can be masked and "
            "predicted; set `mask_token` in its tokenizer_config.json"
        )


def refuse_long(loaded: LoadedModel, count: int, what: str) -> None:
    """Make sure that a model takes a text of so many tokens.

    Raises:
        InputError: it is longer than the model's context.
    """
    limit = loaded.max_positions
    if limit is not None and count > limit:
        raise InputError(f"{what} has {count} tokens, and {loaded.name} takes {limit}; shorten it")
