"""Tokens of a forward pass: from the ids and the mask of a model's input to what programs read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.vocabulary import Vocabulary

REMEMBERED = 1024
"""How many texts are kept as tokens, for texts that come again."""
LOOK_BACK = 8
"""How many ids decide how the newest one is written: more than the bytes of a character."""


class TokenReader:
    """Turns ids into tokens, whole texts or one id after the other.

    >>> TokenReader(Vocabulary(gpt2_tokenizer)).text((7454, 2402)).strings
    ('Once', ' upon')
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._texts: OrderedDict[tuple[int, ...], Tokens] = OrderedDict()

    def text(self, ids: tuple[int, ...]) -> Tokens:
        """Return the tokens of a text."""
        found = self._texts.get(ids)
        if found is None:
            found = self._texts[ids] = self.vocabulary.tokens_of(ids)
            if len(self._texts) > REMEMBERED:
                self._texts.popitem(last=False)
        else:
            self._texts.move_to_end(ids)
        return found

    def newest(self, ids: Sequence[int]) -> tuple[str, str, bool]:
        """Return the newest token of a text: its string, the text it covers, whether special."""
        tokens = self.vocabulary.tokens_of(ids[-LOOK_BACK:])
        start, end = tokens.spans[-1]
        return tokens.strings[-1], tokens.text[start:end], tokens.special[-1]


def vocabulary_for(model: Any, tokenizer: Any, vocabulary: Vocabulary | None) -> Vocabulary:
    """Find out what a model's ids mean.

    Raises:
        InputError: no tokenizer was given and none can be loaded, or it has ids that the model
            does not know.
    """
    if vocabulary is None:
        vocabulary = Vocabulary(tokenizer if tokenizer is not None else _own_tokenizer(model))
    rows = int(model.get_input_embeddings().weight.shape[0])
    if len(vocabulary.tokenizer) > rows:
        raise InputError(
            f"the tokenizer has {len(vocabulary.tokenizer):,} tokens, the model only {rows:,}: they "
            "do not belong together"
        )
    return vocabulary


def _own_tokenizer(model: Any) -> Any:
    from attn_dsl.eval.models import load_tokenizer

    name = getattr(model, "name_or_path", "") or ""
    remedy = "give the model's tokenizer: replace_heads(model, heads, tokenizer=tokenizer)"
    if not name:
        raise InputError(f"the model does not say where it comes from; {remedy}")
    try:
        return load_tokenizer(name)
    except InputError as error:
        raise InputError(f"no tokenizer for the model {name} ({error}); {remedy}") from error


@dataclass(frozen=True, slots=True)
class Inputs:
    """The ids of a forward pass, and which of them are tokens of a text.

    Attributes:
        ids: per row of the batch, the ids of this pass, padding included.
        real: per row, for the tokens of the cache and of this pass: whether it is no padding.
        cache: the cache that the pass was given, or None.
        attentions: whether the caller asked for attention matrices.
    """

    ids: list[list[int]]
    real: list[list[bool]]
    cache: Any
    attentions: bool


def read_inputs(given: dict[str, Any], past: int, cache: Any) -> Inputs:
    """Read the arguments of a model's forward pass.

    Args:
        given: the arguments by name.
        past: how many tokens the cache holds.
        cache: the cache among them, or None.

    Raises:
        InputError: there are no ids; the mask is no mask of tokens; several texts were packed into
            one row.
    """
    ids = given.get("input_ids")
    if ids is None:
        raise InputError(
            "the model was called without input_ids (with inputs_embeds): programs read tokens; "
            "pass input_ids, or leave the context to run the model on embeddings"
        )
    if ids.dim() == 1:
        ids = ids[None]
    rows: list[list[int]] = ids.tolist()
    total = past + ids.shape[1]
    mask = given.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.dim() == 2:
        if mask.shape[0] != ids.shape[0] or mask.shape[1] < total:
            raise InputError(
                f"the attention mask is {mask.shape[0]} x {mask.shape[1]}, but there are "
                f"{ids.shape[0]} texts of {total} tokens"
            )
        real = (mask[:, :total] != 0).tolist()
    elif isinstance(mask, torch.Tensor) and (found := _of_square(mask, past, total)) is not None:
        real = found.tolist()
    elif mask is None:
        _refuse_packed(given.get("position_ids"), past)
        real = [[True] * total for _ in rows]
    else:
        shape = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise InputError(
            f"the attention mask ({shape}) is neither one 0 or 1 per token nor the causal mask made "
            "of one: what a program may see cannot be read from it; pass one 0 or 1 per token"
        )
    return Inputs(rows, real, cache, bool(given.get("output_attentions")))


def _of_square(mask: torch.Tensor, past: int, total: int) -> torch.Tensor | None:
    """Read which tokens are no padding from a causal mask, such as ``generate`` makes ahead of time.

    Args:
        mask: (texts, 1, queries, keys): true or not negative where a query sees a key.

    Returns:
        bool (texts, total); None if the mask is not just padding and what follows a query.
    """
    if mask.dim() != 4 or mask.shape[1] != 1 or mask.shape[-1] < total:
        return None
    seen = (mask if mask.dtype == torch.bool else mask >= 0)[:, 0, :, :total]
    real = seen[:, -1]
    earlier = torch.ones(total, total, dtype=torch.bool, device=mask.device).tril()[past:]
    expected = earlier[None] & real[:, None, :]
    counts = real[:, past:, None]  # rows of padding may hold anything
    return real if bool((~counts | (seen == expected)).all()) else None


def _refuse_packed(positions: Any, past: int) -> None:
    if positions is None or past or positions.dim() != 2 or positions.shape[1] < 2:
        return
    if bool((positions.diff(dim=-1) != 1).any()):
        raise InputError(
            "position_ids start again within a row, so several texts are packed into it; give "
            "programs one text per row, with an attention mask for padding"
        )


def spread(matrices: torch.Tensor, real: Sequence[Sequence[bool]], width: int) -> torch.Tensor:
    """Put matrices of texts where their tokens are in a padded batch.

    >>> spread(torch.ones(1, 1, 1, 1), [[False, True]], 2).tolist()
    [[[[0.0, 0.0], [0.0, 1.0]]]]

    Args:
        matrices: float32 (heads, texts, n, n), queries by keys, without padding.
        real: per text, which places of the batch hold its tokens.
        width: of the batch.

    Returns:
        (heads, texts, width, width), zero where there is padding.
    """
    places = [[i for i, mark in enumerate(row) if mark] for row in real]
    n = matrices.shape[-1]
    if all(not row or row[-1] == len(row) - 1 for row in places):
        if n == width:
            return matrices
        return torch.nn.functional.pad(matrices, (0, width - n, 0, width - n))
    heads, texts = matrices.shape[:2]
    out = matrices.new_zeros(heads, texts, width, width)
    for i, row in enumerate(places):
        m = len(row)
        if m and row[-1] - row[0] == m - 1:
            here = slice(row[0], row[0] + m)
            out[:, i, here, here] = matrices[:, i, :m, :m]
        elif m:
            at = torch.tensor(row, device=out.device)
            out[:, i, at[:, None], at[None, :]] = matrices[:, i, :m, :m]
    return out


def spread_row(row: torch.Tensor, real: Sequence[Sequence[bool]]) -> torch.Tensor:
    """Put the newest rows of texts where their tokens are in a padded batch.

    Args:
        row: (heads, texts, 1, tokens): entries without padding, zero behind them.
        real: per text, which places of the batch hold its tokens; the newest may be padding.

    Returns:
        (heads, texts, 1, tokens), zero for padding.
    """
    if all(all(marks) for marks in real):
        return row
    out = torch.zeros_like(row)
    for i, marks in enumerate(real):
        places = [at for at, mark in enumerate(marks) if mark]
        if marks[-1]:
            out[:, i, :, torch.tensor(places)] = row[:, i, :, : len(places)]
    return out
