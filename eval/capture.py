"""Captures: attention and values of every head of a model on texts, on disk or in memory."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture_files import Record, read_capture
from attn_dsl.eval.notebook import Tabular
from attn_dsl.eval.shards import REMEDY, ROW_TOLERANCE, Array, Shards, n_entries, normalise_rows
from attn_dsl.eval.texts import SPLITS, SplitName, hash_fraction, split_of

_OLDER = "it was made before captures had them; run `attn-dsl capture` into a fresh directory"
_NOT_GIVEN = "give values= to Capture.from_arrays"
MIN_SOURCES = 10
"""With fewer source texts than this, windows are split instead of texts."""


@dataclass(frozen=True, eq=False, repr=False)
class Capture(Tabular):
    """The attention of every head of one model on a number of texts.

    >>> capture = Capture.from_arrays([["a", " b"]], [[[[[1, 0], [0.5, 0.5]]]]])
    >>> capture.n_texts, capture.n_heads, capture.causal
    (1, 1, True)
    >>> capture.matrix(0, layer=0, head=0).tolist()
    [[1.0, 0.0], [0.5, 0.5]]

    A text here is one window that the model read at once, so a long text counts several times.
    Heads are numbered through all layers: ``layer * heads_per_layer + head``.
    """

    name: str  # the model's name
    n_layers: int
    heads_per_layer: int
    causal: bool  # whether row q has only the entries 0 … q
    records: tuple[Record, ...]  # per text, tokens and where they come from
    store: Shards | tuple[Array, ...]  # the packed attention of each text
    # of each text the value vectors, [layers * key-value heads, n, head size]; none where not kept
    values: Shards | tuple[Array, ...] = ()
    # of each head L with L Lᵀ = W_O W_Oᵀ, where W_O are its rows of the output projection;
    # [head size, width]
    projections: Shards | tuple[Array, ...] = ()
    # what the capture's file says about itself (model, revision, settings, versions)
    meta: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None  # the directory, None for a capture in memory

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a capture on disk; the attention itself is read when it is asked for.

        >>> Capture.open("captures/gpt2").n_texts
        300

        Raises:
            InputError: a file is missing, cut off or of another format.
        """
        return cls(**read_capture(Path(path).expanduser()))

    @classmethod
    def from_arrays(cls, tokens: Sequence[Sequence[str] | Tokens], attention: Any, *, values: Any = None,
                    projections: Any = None, causal: bool | None = None,
                    name: str = "arrays") -> Self:  # fmt: skip
        """Make a capture from attention that comes from anywhere else; see the class.

        Args:
            tokens: per text its token strings (a leading space starts a word) or ``Tokens``.
            attention: per text an array [layers, heads, n, n] of rows that sum to 1, or one
                array [texts, layers, heads, N, N] padded behind each text's tokens.
            values: per text its value vectors [layers, key-value heads, n, d], or one array
                padded as the attention; heads of a group that shares a key-value head follow
                each other.
            projections: W_O of each head, [layers, heads, d, width of the model]; without them
                outputs of heads are measured as sums of value vectors.
            causal: whether no token attends to later ones; looked up in the arrays if None.
            name: what to call the model.

        Raises:
            InputError: shapes that do not fit, entries that are negative or not finite, rows
                that do not sum to 1 within 0.01, mass above the diagonal of a causal model, or
                projections without values.
        """
        from attn_dsl.eval.capture_arrays import packed_arrays

        fields = packed_arrays(tokens, attention, values, projections, causal)
        return cls(name=name, meta={"name": name, "lacking": _NOT_GIVEN}, **fields)

    @property
    def n_texts(self) -> int:
        """How many texts (windows) there are."""
        return len(self.records)

    @property
    def n_heads(self) -> int:
        """How many heads there are in all layers together."""
        return self.n_layers * self.heads_per_layer

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Layer and number of every head."""
        return [divmod(number, self.heads_per_layer) for number in range(self.n_heads)]

    def rows(self) -> list[Mapping[str, Any]]:
        """Return a row for each text: number, number of its source text, tokens, and the text."""
        return [{"number": i, "source": r.source, "tokens": len(r.tokens),
                    "text": r.tokens.text} for i, r in enumerate(self.records)]  # fmt: skip

    def __repr__(self) -> str:
        kept = "attention and values" if self.has_outputs else "attention"
        heads = f"{self.n_layers} layers of {self.heads_per_layer} heads"
        return f"<Capture of {self.name}: {kept} of {heads} on {self.n_texts} texts>"

    @cached_property
    def hash(self) -> str:
        """A hash of everything in the capture; the same data gives the same hash."""
        if "hash" in self.meta:
            return str(self.meta["hash"])
        sizes = json.dumps([self.n_layers, self.heads_per_layer, self.causal])
        digest = hashlib.sha256(sizes.encode())
        for index, record in enumerate(self.records):
            digest.update(record.own_hash.encode())
            digest.update(np.ascontiguousarray(self.packed(index)).tobytes())
        for array in (*self.values, *self.projections):
            digest.update(array.tobytes())
        return digest.hexdigest()

    @property
    def has_outputs(self) -> bool:
        """Whether there are value vectors, so that outputs of heads can be measured."""
        return bool(self.values)

    @property
    def lacking(self) -> str | None:
        """Why there are no value vectors, and what to do; None where there are."""
        return None if self.has_outputs else str(self.meta.get("lacking", _OLDER))

    def contributions(self, index: int, number: int) -> npt.NDArray[np.float32]:
        """Return what each key of a text gives to the output of a head that attends to it alone.

        With attention A the head writes ``A @ contributions`` into the residual stream, in
        coordinates with the same norms and inner products as the model's own.

        >>> capture = Capture.from_arrays(
        ...     [["a", " b"]], [[[[[1, 0], [0.5, 0.5]]]]], values=[[[[[3, 0], [1, 4]]]]]
        ... )
        >>> (capture.matrix(0, 0, 0) @ capture.contributions(0, 0)).tolist()
        [[3.0, 0.0], [2.0, 2.0]]

        Returns:
            float32, shape [n, head size].

        Raises:
            InputError: the capture has no values.
        """
        if not self.has_outputs:
            raise InputError(f"{self.path or self.name} has no values of its heads: {self.lacking}")
        projection = self.projections[number]
        per_layer = max(1, _shape(self.values, index)[0] // self.n_layers)
        wanted = (self.n_layers * per_layer, len(self.tokens(index)), len(projection))
        at = number // (self.heads_per_layer // per_layer)
        (values,) = self._rows("values", index, wanted, slice(at, at + 1))
        with np.errstate(invalid="ignore"):
            found: Array = values.astype(np.float32) @ projection
        if not np.isfinite(found).all():
            raise InputError(f"{self.path or self.name}: values of text {index} are damaged: not finite; "
                             f"{REMEDY}")  # fmt: skip
        return found

    def tokens(self, index: int) -> Tokens:
        """Return the tokens of one text."""
        return self.records[index].tokens

    def ids(self, index: int) -> tuple[int, ...]:
        """Return the token ids of one text, empty where they are not known."""
        return self.records[index].ids

    def text_hash(self, index: int) -> str:
        """Return the hash of the source text that one text (window) was cut from."""
        return self.records[index].source_hash

    def packed(self, index: int, some: slice = slice(None)) -> Array:
        """Return one text's attention of some heads, as stored.

        Returns:
            float16 (from disk) or float32, shape [n_heads, entries]; the visible entries row by
            row, n(n+1)/2 of them for a causal model and n*n otherwise.
        """
        wanted = (self.n_heads, n_entries(len(self.tokens(index)), self.causal))
        return self._rows("attention", index, wanted, some)

    def _rows(self, kind: str, index: int, wanted: tuple[int, ...], some: slice) -> Array:
        """Read some heads' rows of a tensor of a text, which must have the wanted shape."""
        store = self.store if kind == "attention" else self.values
        if (shape := _shape(store, index)) != wanted:
            raise InputError(f"text {index} of {self.path or self.name} has {kind} of shape {shape}, not "
                             f"{wanted}; {REMEDY}")  # fmt: skip
        return store.rows(index, some) if isinstance(store, Shards) else store[index][some]

    def attention(self, index: int, heads: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
        """Return the attention of some heads on one text, packed, with rows that sum to 1.

        >>> capture = Capture.from_arrays([["a", " b"]], [[[[[1, 0], [0.5, 0.5]]]]])
        >>> capture.attention(0, [0]).tolist()
        [[1.0, 0.5, 0.5]]

        Returns:
            float32, shape [heads, entries], as :meth:`packed`.

        Raises:
            InputError: entries are negative or not finite, or a row does not sum to 1 within 0.01.
        """
        numbers = [*range(self.n_heads)] if heads is None else [*heads]
        first, last = min(numbers, default=0), max(numbers, default=-1) + 1
        near = self.packed(index, slice(first, last))  # of one head it reads no other
        values = near[[number - first for number in numbers]].astype(np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            sums = normalise_rows(values, len(self.tokens(index)), self.causal)
        wrong = ~(np.abs(sums - 1) <= ROW_TOLERANCE)  # also where it is not a number
        if wrong.any() or values.min(initial=0.0) < 0:
            head, query = np.argwhere(wrong)[0] if wrong.any() else (0, 0)
            layer, own = divmod(numbers[head], self.heads_per_layer)
            what = (f"the row of query {query} of L{layer}H{own} sums to "
                    f"{sums[head, query]:.3g}" if wrong.any() else "there are negative entries")  # fmt: skip
            raise InputError(f"{self.path or self.name}: attention of text {index} is damaged: {what}; "
                             f"{REMEDY}")  # fmt: skip
        return values

    def matrix(self, index: int, layer: int, head: int) -> npt.NDArray[np.float32]:
        """Return the attention of one head on one text, float32 [queries, keys], rows summing to 1.

        Raises:
            InputError: there is no such layer or head.
        """
        if not (0 <= layer < self.n_layers and 0 <= head < self.heads_per_layer):
            raise InputError(f"{self.name} has no head L{layer}H{head}: layers go from 0 to "
                             f"{self.n_layers - 1}, heads from 0 to {self.heads_per_layer - 1}")  # fmt: skip
        from attn_dsl.compiler.evaluate import unpack

        values = self.attention(index, [layer * self.heads_per_layer + head])[0]
        return unpack(values, len(self.tokens(index)), self.causal)

    def split(self, seed: int) -> dict[SplitName, list[int]]:
        """Split the texts into fit, select and test (60/20/20) by a seeded hash of content.

        >>> parts = Capture.open("captures/gpt2").split(seed=0)
        >>> {part: len(indices) for part, indices in parts.items()}
        {'fit': 179, 'select': 64, 'test': 57}

        All windows of a source text fall into one part, unless there are too few texts.
        """
        return self.split_and_rule(seed)[0]

    def split_and_rule(self, seed: int) -> tuple[dict[SplitName, list[int]], str]:
        """Split the texts; say what was split, and how.

        The rule is ``"texts"``, or ``"windows"`` where there are fewer than 10 source texts. With
        ``" by rank"`` behind it, hashes would have left a part empty, so that texts are ordered by
        them and cut at 60 and 80 %; of fewer than three, ``select`` and then ``test`` stay empty.
        """
        unit, rule = [record.source_hash for record in self.records], "texts"
        if len(set(unit)) < MIN_SOURCES:
            unit, rule = [record.own_hash for record in self.records], "windows"
        part_of = {one: split_of(one, seed) for one in unit}
        if len(set(part_of.values())) < len(SPLITS):
            rule += " by rank"
            units = sorted(part_of, key=lambda one: hash_fraction(one, seed))
            held = max(1, round(0.2 * len(units)))
            first = max(1, len(units) - 2 * held)
            cuts = (first, max(first, len(units) - held))
            part_of = {one: SPLITS[sum(at >= cut for cut in cuts)] for at, one in enumerate(units)}
        parts = {part: [i for i, u in enumerate(unit) if part_of[u] == part] for part in SPLITS}
        return parts, rule


def _shape(store: Shards | tuple[Array, ...], index: int) -> tuple[int, ...]:
    """Return the shape of a tensor of a text."""
    return store.shape(index) if isinstance(store, Shards) else store[index].shape
