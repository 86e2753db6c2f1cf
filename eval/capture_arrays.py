"""Captures from arrays: checking and packing attention and values from anywhere else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attn_dsl.compiler.evaluate import pack
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture_files import Record
from attn_dsl.eval.shards import ROW_TOLERANCE
from attn_dsl.eval.texts import text_hash

_ABOVE = 1e-6
"""Mass above the diagonal, of one entry, from which on a model is not causal."""


def packed_arrays(tokens: Sequence[Sequence[str] | Tokens], attention: Any, values: Any, projections: Any,
                  causal: bool | None) -> dict[str, Any]:  # fmt: skip
    """Check arrays, pack them, and return the fields of a ``Capture``; see its ``from_arrays``."""
    texts = [_tokens(one, number) for number, one in enumerate(tokens)]
    if not texts:
        raise InputError("a capture needs at least one text; the list of tokens is empty")
    arrays = _by_text(attention, len(texts), "attention", "[layers, heads, n, n]")
    rows = [_rows(x, texts[number], number) for number, x in enumerate(arrays)]
    n_layers, per_layer = rows[0].shape[:2]
    if len({array.shape[:2] for array in rows}) > 1:
        raise InputError("all texts must have the same layers x heads")
    above = [float(np.triu(array, 1).max()) for array in rows]
    if causal and max(above) > _ABOVE:
        number = int(np.argmax(above))
        raise InputError(f"text {number}: a token attends to a later one with weight {above[number]:.3g}, so "
                         "the attention is not causal; leave out causal=True")  # fmt: skip
    sees_left = max(above) <= _ABOVE if causal is None else causal
    if values is None and projections is not None:
        raise InputError("projections need the values that they project; give values= too")
    return {**({} if values is None else _outputs(values, projections, arrays, rows)), "n_layers": n_layers,
            "heads_per_layer": per_layer, "causal": sees_left,
            "records": tuple(Record(text, text_hash(text.text or "".join(text.strings)), number, 0)
                for number, text in enumerate(texts)),
            "store": tuple(pack(x.reshape(-1, *x.shape[2:]), sees_left) for x in rows)}  # fmt: skip


def _tokens(one: Sequence[str] | Tokens, number: int) -> Tokens:
    """Make tokens of a list of strings."""
    if isinstance(one, Tokens):
        return one
    if isinstance(one, str) or not all(isinstance(string, str) for string in one):
        raise InputError(f"text {number}: tokens must be a list of strings such as ['Once', ' upon']")
    return Tokens.from_strings(one)


def _by_text(given: Any, n_texts: int, what: str, shape: str) -> list[npt.NDArray[np.float32]]:
    """Make an array of each text's attention or values."""
    arrays = given if isinstance(given, (list, tuple)) else _array(given, what, shape)
    if len(arrays) != n_texts:
        raise InputError(f"there are {n_texts} texts but {what} for {len(arrays)}; give one array {shape} "
                         "per text")  # fmt: skip
    return [_array(one, what, shape) for one in arrays]


def _outputs(values: Any, projections: Any, arrays: Sequence[npt.NDArray],
             rows: Sequence[npt.NDArray]) -> dict[str, Any]:  # fmt: skip
    """Check values beside attention, with and without padding; return fields of a ``Capture``."""
    layers, heads = rows[0].shape[:2]
    given = _by_text(values, len(rows), "values", "[layers, kv_heads, n, d]")
    kv_heads, d = (*given[0].shape, 0, 0, 0, 0)[1:4:2]
    kept = []
    for number, array in enumerate(given):
        padded, n = arrays[number].shape[2], rows[number].shape[2]
        if array.shape != (layers, kv_heads, padded, d) or not kv_heads * d or heads % kv_heads:
            raise InputError(f"text {number}: values must have the shape [{layers}, kv_heads, {padded}, d], "
                             f"not {list(array.shape)}; kv_heads must divide {heads}, and it and d be the "
                             "same for all texts")  # fmt: skip
        kept.append(array[:, :, :n].reshape(-1, n, d))
    matrices = np.broadcast_to(np.eye(d, dtype=np.float32), (layers, heads, d, d))
    if projections is not None:
        wanted = f"[{layers}, {heads}, {d}, width]"
        matrices = _array(projections, "projections", wanted)
        if matrices.ndim != 4 or matrices.shape[:3] != (layers, heads, d):
            raise InputError(f"projections must have the shape {wanted}, not {list(matrices.shape)}")
    if not all(np.isfinite(array).all() for array in (*kept, matrices)):
        raise InputError("values or projections are not finite")
    factors = np.asarray(np.linalg.qr(np.concatenate(matrices).mT, mode="r"))
    return {"values": tuple(kept), "projections": tuple(factors.mT)}


def _array(values: Any, what: str, shape: str) -> npt.NDArray[np.float32]:
    """Make a float32 array of anything like one, tensors of torch included."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    try:
        return np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be numbers of shape {shape}: {error}") from error


def _rows(array: npt.NDArray[Any], text: Tokens, number: int) -> npt.NDArray[np.float32]:
    """Cut off the padding, make sure that what is left is attention, and normalise its rows."""
    n = len(text)
    if array.ndim != 4 or array.shape[2] != array.shape[3] or 0 in array.shape:
        raise InputError(f"text {number}: attention must have the shape [layers, heads, {n}, {n}], not "
                         f"{list(array.shape)}")  # fmt: skip
    if not 0 < n <= array.shape[2]:
        raise InputError(f"text {number} has {n} tokens but attention of {array.shape[2]} x {array.shape[3]}")
    array = array[:, :, :n, :n]
    for wrong, what in ((~np.isfinite(array), "is not finite"), (array < 0, "is negative")):
        if wrong.any():
            layer, head, query, key = np.argwhere(wrong)[0]
            raise InputError(f"text {number}: entry ({query}, {key}) of L{layer}H{head} {what}")
    sums = array.sum(-1, dtype=np.float64)
    wrong = np.abs(sums - 1) > ROW_TOLERANCE
    if wrong.any():
        layer, head, query = np.argwhere(wrong)[0]
        raise InputError(f"text {number}: row {query} of L{layer}H{head} sums to "
                         f"{sums[layer, head, query]:.4g}, not to 1; give attention after the softmax, and "
                         "only the entries of real tokens")  # fmt: skip
    return (array / sums[..., None]).astype(np.float32)
