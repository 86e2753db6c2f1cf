"""Tokens of a forward pass: from a model's input and its key-value cache to what programs read.

A cache holds keys and values, and programs read tokens. While heads are replaced, a layer of ids is added to
each cache of the model: whatever crops, repeats or reorders the cache (beam search) does so with its ids.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.tokenizer import PROBE, Vocabulary

REMEMBERED = 1024
"""How many texts are kept as tokens, for texts that come again."""
LOOK_BACK = 8
"""How many ids decide how the newest one is written: more than the bytes of a character."""
_IDS = "attn_dsl_tokens"
"""The attribute of a cache that is its layer of ids."""


class TokenReader:
    """Turns ids into tokens: ``text`` a tuple of them, ``newest`` one id after the other.

    Tokens of a known text are those that were known, also where some of them are masked.

    Attributes:
        known: by ids, the tokens of texts, as a fit saw them.
        untold: features that are read, and that the ids of other texts do not tell.
    """

    def __init__(self, vocabulary: Vocabulary, known: Mapping[tuple[int, ...], Tokens]) -> None:
        self.vocabulary, self.known = vocabulary, dict(known)
        self.untold: frozenset[str] = frozenset()
        self.text = lru_cache(REMEMBERED)(self._text)

    def read(self, features: Iterable[str]) -> None:
        """Say which features are read from now on."""
        self.untold = self.vocabulary.untold.intersection(features)
        self.text.cache_clear()

    def newest(self, ids: Sequence[int]) -> tuple[str, str, bool]:
        """Return the newest token of a text: its string, the text it covers, whether special."""
        self._refuse_untold()
        tokens = self.vocabulary.tokens_of(ids[-LOOK_BACK:])
        start, end = tokens.spans[-1]
        return tokens.strings[-1], tokens.text[start:end], tokens.special[-1]

    def _text(self, ids: tuple[int, ...]) -> Tokens:
        if ids in self.known:
            return self.known[ids]
        mask = self.vocabulary.tokenizer.mask_token_id
        for other in (k for k in self.known if mask in ids and len(k) == len(ids)):
            hidden = [i != k for i, k in zip(ids, other, strict=True)]
            if all(i == mask for i, hides in zip(ids, hidden, strict=True) if hides):
                return masked(self.known[other], hidden, self.vocabulary.tokenizer.mask_token)
        self._refuse_untold()
        return self.vocabulary.tokens_of(ids)

    def _refuse_untold(self) -> None:
        if self.untold:
            raise InputError(f"the programs read {', '.join(sorted(self.untold))}, and the ids of this "
                             "tokenizer do not tell that of a text; give the texts that the model is to "
                             "read: replace_heads(model, heads, texts=[...])")  # fmt: skip


def masked(tokens: Tokens, hidden: Sequence[bool], string: str) -> Tokens:
    """Return tokens of which some are masked, with blanks in the place of their text."""
    strings, text, spans = list(tokens.strings), list(tokens.text), list(tokens.spans)
    for i, (first, last) in enumerate(tokens.spans):
        if hidden[i]:
            text[first:last] = [char if char.isspace() else " " for char in text[first:last]]
            strings[i], spans[i] = string, (first, first)
    special = tuple(map(max, tokens.special, hidden))
    return Tokens(tuple(strings), "".join(text), tuple(spans), special)


def vocabulary_for(model: Any, tokenizer: Any) -> Vocabulary:
    """Find out what a model's ids mean; an InputError if that is not known or cannot be."""
    from attn_dsl.eval.models import ids_known, load_tokenizer

    if tokenizer is None:
        name = getattr(model, "name_or_path", "")
        remedy = "give the model's tokenizer: replace_heads(model, heads, tokenizer=tokenizer)"
        if not name:
            raise InputError(f"the model does not say where it comes from; {remedy}")
        try:
            tokenizer = load_tokenizer(name)
        except InputError as error:
            raise InputError(f"no tokenizer for the model {name} ({error}); {remedy}") from error
    rows, vocabulary = ids_known(model), Vocabulary(tokenizer)
    if (largest := max(vocabulary.encode(PROBE, len(PROBE))[0].ids)) >= rows:
        raise InputError(f"the tokenizer gives ids up to {largest:,} for a few words, and the model knows "
                         f"only {rows:,}: they do not belong together; give the tokenizer that the model was "
                         "trained with")  # fmt: skip
    return vocabulary


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """The ids of a forward pass, and which of them are tokens of a text."""

    # int64 (texts, tokens), those of the cache and then those of this pass, with padding
    ids: torch.Tensor
    real: torch.Tensor  # bool (texts, tokens), False for padding
    count: int  # how many of the tokens are new in this pass
    attentions: bool  # whether the caller asked for attention matrices


def read_inputs(given: Mapping[str, Any], past: torch.Tensor | None) -> Inputs:
    """Read the arguments of a forward pass, by name, after the ids that the cache holds.

    Raises:
        InputError: there are no ids; the mask is no mask of tokens; texts were packed into a row.
    """
    new, mask = given.get("input_ids"), given.get("attention_mask")
    if new is None:
        raise InputError("the model was called without input_ids (with inputs_embeds): programs read tokens; "
                         "pass input_ids, or leave the context to run the model on embeddings")  # fmt: skip
    new = new.reshape(-1, new.shape[-1]).cpu()
    ids = new if past is None else torch.cat([past.cpu(), new], dim=1)
    count, positions = new.shape[1], given.get("position_ids")
    if mask is not None:
        real = _tokens_in(mask, len(ids), ids.shape[1], count).cpu()
    elif past is None and positions is not None and bool((positions.diff(dim=-1) != 1).any()):
        raise InputError("position_ids start again within a row, so several texts are packed into it; give "
                         "programs one text per row, with an attention mask for padding")  # fmt: skip
    else:
        real = torch.ones_like(ids, dtype=torch.bool)
    return Inputs(ids, real, count, bool(given.get("output_attentions")))


def _tokens_in(mask: Any, texts: int, total: int, count: int) -> torch.Tensor:
    """Read which tokens are no padding, bool (texts, total).

    A mask of four dimensions, such as ``generate`` makes ahead of time for a static cache, is
    true or not negative where a query sees a key.
    """
    shape = tuple(mask.shape) if isinstance(mask, torch.Tensor) else ()
    if len(shape) in (2, 4) and shape[0] == texts and shape[-1] >= total:
        if len(shape) == 2:
            return mask[:, :total] != 0
        seen = (mask if mask.dtype == torch.bool else mask >= 0)[:, 0, :, :total]
        real = seen[:, -1]
        earlier = torch.ones(total, total, dtype=torch.bool, device=mask.device).tril()[-count:]
        padding = ~real[:, -count:, None]  # rows of padding may hold anything
        if shape[1] == 1 and bool((padding | (seen == earlier & real[:, None, :])).all()):
            return real
    raise InputError(f"the attention mask ({shape or type(mask).__name__}) is neither one 0 or 1 per token "
                     f"({texts} x {total}) nor the causal mask made of one: what a program may see cannot be "
                     "read from it; pass one 0 or 1 per token")  # fmt: skip


def unpadded(ids: torch.Tensor, real: torch.Tensor) -> list[tuple[int, ...]]:
    """Return the ids of each text without its padding."""
    return [tuple(row[marks].tolist()) for row, marks in zip(ids, real, strict=True)]


def spread(matrices: torch.Tensor, real: torch.Tensor, queries: int) -> torch.Tensor:
    """Put rows of texts where their tokens are in a padded batch.

    Args:
        matrices: (heads, texts, rows, n), without padding: all rows of a text, or the newest one.
        real: bool (texts, places): which places of the batch hold tokens of the text.
        queries: how many of the last places are wanted as rows; those of padding are zero.
    """
    width, rows, n = real.shape[1], matrices.shape[2], matrices.shape[3]
    whole = rows == n
    if bool((real[:, :-1] >= real[:, 1:]).all() if whole else real.all()):
        out = torch.nn.functional.pad(matrices, (0, width - n, 0, (width - n) * whole))
        return out[:, :, out.shape[2] - queries :]
    out = matrices.new_zeros(*matrices.shape[:2], queries, width)
    for i, marks in enumerate(real):
        at = marks.nonzero()[:, 0]
        new = at[at >= width - queries] - (width - queries)
        own = matrices[:, i, : min(len(at), rows), : len(at)]
        out[:, i, new[:, None], at] = own[:, own.shape[1] - len(new) :]
    return out


def cache_among(values: Iterable[Any]) -> Any:
    """Find a cache by its type, since releases of ``transformers`` differ in what they call it."""
    from transformers import Cache

    return next((value for value in values if isinstance(value, Cache)), None)


def ids_in(cache: Any) -> torch.Tensor | None:
    """Return the ids that a cache holds, int64 (texts, tokens); None for an empty cache."""
    length = int(cache.get_seq_length()) if cache is not None else 0
    if length == 0:
        return None
    layer = getattr(cache, _IDS, None)
    if layer is None or layer.get_seq_length() != length:
        raise InputError(
            f"the key-value cache holds {length} tokens that were read before heads were replaced, "
            "and the programs do not know them; start with an empty cache inside of the context")  # fmt: skip
    ids: torch.Tensor = layer.keys[:, 0, :, 0]
    return ids


def note_ids(cache: Any, ids: torch.Tensor) -> None:
    """Note the ids that a cache holds, int64 (texts, tokens)."""
    from transformers.cache_utils import DynamicLayer

    layer = getattr(cache, _IDS, None)
    if layer is None:
        layer = DynamicLayer()
        setattr(cache, _IDS, layer)
        cache.layers.append(layer)
    layer.is_initialized = False
    layer.update(ids[:, None, :, None], ids[:, None, :, None])


def forget_ids(cache: Any) -> None:
    """Turn a cache into what it was."""
    cache.layers.remove(cache.__dict__.pop(_IDS))
