"""Streams: the rows of a causal program token by token, for generation with a key-value cache.

A new token costs what its own features and its own row cost: the text before it is not read again,
and the few features of earlier tokens that a new one settles are changed in place, such as the
text of the word that goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from attn_dsl.compiler.kernel import Kernel
from attn_dsl.compiler.program import Program
from attn_dsl.compiler.stream_features import Reader
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.features import Value
from attn_dsl.dsl.tokens import Tokens


class Stream:
    """A text that grows, and the rows of a program on it.

    >>> from attn_dsl.compiler.program import parse
    >>> stream = Stream(parse("head copies causal linear:\\n    1 where text(k) == text(q)"))
    >>> stream.append(["a", " b"])
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    >>> stream.append([" a"])
    array([[0.5, 0. , 0.5]], dtype=float32)

    Args:
        program: causal, without holes; or its kernel.

    Raises:
        InputError: a weight is a hole, or the program sees what follows a query.
    """

    def __init__(self, program: Program | Kernel) -> None:
        chosen = program.program if isinstance(program, Kernel) else program
        if not chosen.causal:
            raise InputError(
                f"the program {chosen.name} is bidirectional, so its rows change with every token; "
                "only a causal program can be streamed"
            )
        if chosen.facts.lookahead:
            raise InputError(
                f"the program {chosen.name} looks ahead ({', '.join(chosen.facts.lookahead)}), so "
                "its rows change with every token; only what reads to the left can be streamed"
            )
        self.kernel = program if isinstance(program, Kernel) else Kernel(program)
        self._users: dict[str, list[int]] = {}
        for i, key in enumerate(self.kernel.columns):
            self._users.setdefault(key.name, []).append(i)
        self.reset()

    def __len__(self) -> int:
        return self._n

    def reset(self) -> None:
        """Start a new text."""
        self._n = 0
        self._tail: list[str] = []
        self._symbols: dict[str, int] = {"": 0}
        self._reader = Reader(self._users)
        self._settled = np.zeros((len(self.kernel.columns), 64), dtype=np.int32)
        self._nothing = np.zeros_like(self._settled)

    def append(
        self, tokens: Sequence[str] | Tokens, special: Iterable[bool] | None = None
    ) -> np.ndarray:
        """Add tokens to the text and compute their rows.

        Args:
            tokens: decoded token strings as for ``Program``; the bytes of a character may come in
                several calls. ``Tokens`` say themselves what text they add.
            special: which token strings are special; by default those that look so.

        Returns:
            float32 (new tokens, tokens so far): the last rows of the matrix of the whole text.
        """
        skip = 0
        if not isinstance(tokens, Tokens):
            strings, skip = [*self._tail, *tokens], len(self._tail)
            marks = None if special is None else [*([False] * skip), *special]
            tokens = Tokens.from_strings(strings, marks)
        out = np.zeros((len(tokens) - skip, self._n + len(tokens) - skip), dtype=np.float32)
        end = 0
        for i, (start, stop) in enumerate(tokens.spans):
            if i >= skip:
                gap, piece = tokens.text[end:start], tokens.text[start:stop]
                self._read(tokens.strings[i], gap, piece, tokens.special[i])
                arrays = (self._settled, self._nothing, self._nothing)
                self.kernel.run(self._n, self._n - 1, 0, 0, arrays, out[i - skip])
            end = stop
        self._tail = _unfinished(tokens)
        return out

    def _read(self, string: str, gap: str, piece: str, special: bool) -> None:
        """Add the features of one token, and change those of earlier ones that it settles."""
        if self._n == self._settled.shape[1]:
            self._settled = np.concatenate([self._settled, np.zeros_like(self._settled)], axis=1)
            self._nothing = np.zeros_like(self._settled)
        self._n += 1
        for name, position, value in self._reader.add(string, gap, piece, special):
            for column in self._users.get(name, ()):
                self._settled[column, position] = self._number(column, value)

    def _number(self, column: int, value: Value) -> int:
        if not isinstance(value, str):
            return int(value)
        key = self.kernel.columns[column]
        if key.kind != "feature":
            return int(key.test(value))
        return self._symbols.setdefault(value, len(self._symbols))


def _unfinished(tokens: Tokens) -> list[str]:
    """Return the bytes at the end of a text that do not make a whole character yet."""
    tail: list[str] = []
    for string, (start, end), special in zip(
        tokens.strings[::-1], tokens.spans[::-1], tokens.special[::-1], strict=True
    ):
        if special or end > start or not string.startswith("<0x"):
            break
        tail.insert(0, string)
    return tail
