"""Histories: which tokens a key-value cache holds, kept in step with all that is done to it.

Programs read tokens, a cache holds keys and values. While heads are replaced, each cache of the
model carries a ``History`` that is cropped, repeated and reordered (beam search) along with it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from attn_dsl.compiler.stream import Stream
from attn_dsl.dsl.errors import InputError

_TRACKED: dict[type, type] = {}
_NAME = "attn_dsl_history"


class History:
    """The tokens that a cache holds, row by row, and the streams that have read them.

    Attributes:
        ids: per row of the batch, the token ids, padding included.
        real: per row, whether each is a token of the text; False for padding.
        streams: by bundle, per row, the text as its programs have read it; None: not yet.
    """

    def __init__(self, ids: Sequence[list[int]], real: Sequence[list[bool]]) -> None:
        self.ids, self.real = [list(row) for row in ids], [list(row) for row in real]
        self.streams: dict[int, list[Stream | None]] = {}

    def __len__(self) -> int:
        return len(self.ids[0]) if self.ids else 0

    def __deepcopy__(self, memo: dict) -> History:
        twin = History(self.ids, self.real)
        twin.streams = {
            key: [stream and stream.copy() for stream in rows] for key, rows in self.streams.items()
        }
        return twin

    def select(self, rows: Sequence[int]) -> None:
        """Keep some rows, in another order or several times over."""
        self.ids = [list(self.ids[row]) for row in rows]
        self.real = [list(self.real[row]) for row in rows]
        for key, streams in self.streams.items():
            taken: set[int] = set()
            chosen: list[Stream | None] = []
            for row in rows:
                stream = streams[row]
                chosen.append(stream.copy() if stream is not None and row in taken else stream)
                taken.add(row)
            self.streams[key] = chosen

    def crop(self, length: int) -> None:
        """Forget the tokens from ``length`` on."""
        if length < len(self):
            self.ids = [row[:length] for row in self.ids]
            self.real = [row[:length] for row in self.real]
            self.streams.clear()

    def extend(self, ids: Sequence[list[int]], real: Sequence[list[bool]]) -> None:
        """Add the tokens of a forward pass."""
        for i, (row, marks) in enumerate(zip(ids, real, strict=True)):
            self.ids[i] += row
            self.real[i] += marks


def cache_among(values: Iterable[Any]) -> Any:
    """Find the cache among the arguments of a forward pass, or among what it returned; None: none.

    By its type: releases of ``transformers`` differ in what they call it, and an argument that
    was not found would be a text whose beginning the programs do not see.
    """
    from transformers import Cache

    return next((value for value in values if isinstance(value, Cache)), None)


def history_of(cache: Any) -> History | None:
    """Return what a cache holds; None for an empty cache that nobody has used.

    Raises:
        InputError: the cache was filled where nobody noted its tokens.
    """
    found: History | None = getattr(cache, _NAME, None)
    length = int(cache.get_seq_length()) if cache is not None else 0
    if length == 0:
        return None
    if found is None or len(found) != length:
        raise InputError(
            f"the key-value cache holds {length} tokens that were read before heads were replaced, "
            "and the programs do not know them; start with an empty cache inside of the context"
        )
    return found


def track(cache: Any, history: History, tracked: weakref.WeakSet) -> None:
    """Give a cache its history, to be kept in step until ``untrack``."""
    setattr(cache, _NAME, history)
    if type(cache) not in _TRACKED.values():
        cache.__class__ = _tracked(type(cache))
    tracked.add(cache)


def forget(cache: Any, kept: set[int]) -> None:
    """Drop the streams of bundles that no longer replace any head."""
    streams = _history(cache).streams
    for key in set(streams) - kept:
        del streams[key]


def untrack(cache: Any) -> None:
    """Turn a cache into what it was; its history is forgotten."""
    if type(cache) in _TRACKED.values():
        cache.__class__ = type(cache).__mro__[1]
    cache.__dict__.pop(_NAME, None)


def _tracked(kind: type) -> type:
    """Return a subclass of a cache class that keeps its history in step."""
    if kind in _TRACKED:
        return _TRACKED[kind]

    class Tracked(kind):  # type: ignore[misc]
        __slots__ = ()

        def reorder_cache(self, beam_idx: Any) -> Any:
            done = super().reorder_cache(beam_idx)
            _history(self).select(beam_idx.tolist())
            return done

        def batch_select_indices(self, indices: Any) -> Any:
            done = super().batch_select_indices(indices)
            _history(self).select(indices.tolist())
            return done

        def batch_repeat_interleave(self, repeats: int) -> Any:
            done = super().batch_repeat_interleave(repeats)
            rows = range(len(_history(self).ids))
            _history(self).select([row for row in rows for _ in range(repeats)])
            return done

        def crop(self, *args: Any, **kwargs: Any) -> Any:
            done = super().crop(*args, **kwargs)
            _history(self).crop(int(self.get_seq_length()))
            return done

        def reset(self) -> Any:
            done = super().reset()
            _history(self).crop(0)
            return done

    Tracked.__name__, Tracked.__qualname__ = kind.__name__, kind.__qualname__
    Tracked.__module__ = kind.__module__
    _TRACKED[kind] = Tracked
    return Tracked


def _history(cache: Any) -> History:
    found: History = getattr(cache, _NAME)
    return found
