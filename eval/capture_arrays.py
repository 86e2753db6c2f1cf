"""Captures from arrays: checking and packing attention that was not read by attn-dsl."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture_files import Record
from attn_dsl.eval.texts import text_hash

ROW_TOLERANCE = 0.01
"""How far a row's sum may be from 1; bfloat16 attention comes within 0.004."""
_ABOVE = 1e-6
"""Mass above the diagonal, of one entry, from which on a model is not causal."""


def packed_arrays(
    tokens: Sequence[Sequence[str] | Tokens], attention: Any, causal: bool | None
) -> dict[str, Any]:
    """Check arrays, pack them, and return the fields of a ``Capture``; see its ``from_arrays``."""
    texts = [_tokens(one, number) for number, one in enumerate(tokens)]
    if not texts:
        raise InputError("a capture needs at least one text; the list of tokens is empty")
    arrays = attention if isinstance(attention, (list, tuple)) else _array(attention)
    if len(arrays) != len(texts):
        raise InputError(
            f"there are {len(texts)} texts but attention for {len(arrays)}; give one array "
            "[layers, heads, n, n] per text"
        )
    rows = [
        _rows(_array(array), text, number)
        for number, (array, text) in enumerate(zip(arrays, texts, strict=True))
    ]
    heads = sorted({array.shape[:2] for array in rows})
    if len(heads) > 1:
        shown = " and ".join(f"{layers} x {per}" for layers, per in heads[:2])
        raise InputError(f"all texts must have the same layers x heads, not {shown}")
    above = [float(np.triu(array, 1).max()) for array in rows]
    if causal is None:
        causal = max(above) <= _ABOVE
    elif causal and max(above) > _ABOVE:
        number = int(np.argmax(above))
        raise InputError(
            f"text {number}: a token attends to a later one with weight {above[number]:.3g}, so "
            "the attention is not causal; leave out causal=True"
        )
    records = [
        Record(text, text_hash(text.text or "".join(text.strings)), number, 0)
        for number, text in enumerate(texts)
    ]
    n_layers, per_layer = heads[0]
    return {
        "n_layers": n_layers,
        "heads_per_layer": per_layer,
        "causal": causal,
        "records": tuple(records),
        "store": tuple(_packed(array, causal) for array in rows),
    }


def _tokens(one: Sequence[str] | Tokens, number: int) -> Tokens:
    """Make tokens of a list of strings."""
    if isinstance(one, Tokens):
        return one
    if isinstance(one, str) or not all(isinstance(string, str) for string in one):
        raise InputError(
            f"text {number}: tokens must be a list of strings such as ['Once', ' upon'], not "
            + (repr(one[:20]) if isinstance(one, str) else "a list of other things")
        )
    return Tokens.from_strings(one)


def _array(values: Any) -> npt.NDArray[np.float32]:
    """Make a float32 array of anything like one, tensors of torch included."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    try:
        return np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"attention must be numbers of shape [layers, heads, n, n]: {error}"
        ) from error


def _rows(array: npt.NDArray[Any], text: Tokens, number: int) -> npt.NDArray[np.float32]:
    """Cut off the padding, make sure that what is left is attention, and normalise its rows."""
    n = len(text)
    if n == 0:
        raise InputError(f"text {number} has no tokens")
    if array.ndim != 4 or array.shape[2] != array.shape[3] or 0 in array.shape:
        raise InputError(
            f"text {number}: attention must have the shape [layers, heads, {n}, {n}], not "
            f"{list(array.shape)}"
        )
    if array.shape[2] < n:
        raise InputError(
            f"text {number} has {n} tokens but attention of {array.shape[2]} x {array.shape[3]}"
        )
    array = array[:, :, :n, :n]
    for wrong, what in ((~np.isfinite(array), "is not finite"), (array < 0, "is negative")):
        if wrong.any():
            layer, head, query, key = np.argwhere(wrong)[0]
            raise InputError(f"text {number}: entry ({query}, {key}) of L{layer}H{head} {what}")
    sums = array.sum(-1, dtype=np.float64)
    wrong = np.abs(sums - 1) > ROW_TOLERANCE
    if wrong.any():
        layer, head, query = np.argwhere(wrong)[0]
        raise InputError(
            f"text {number}: row {query} of L{layer}H{head} sums to "
            f"{sums[layer, head, query]:.4g}, not to 1; give attention after the softmax, and "
            "only the entries of real tokens"
        )
    return (array / sums[..., None]).astype(np.float32)


def _packed(array: npt.NDArray[np.float32], causal: bool) -> npt.NDArray[np.float32]:
    """Keep the visible entries, row by row: [layers, heads, n, n] to [heads, entries]."""
    n = array.shape[-1]
    flat = array.reshape(-1, n, n)
    packed = flat[:, np.tri(n, dtype=bool)] if causal else flat.reshape(len(flat), -1)
    return np.ascontiguousarray(packed)
