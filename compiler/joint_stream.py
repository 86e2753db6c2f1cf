"""Joint streams: the rows of many programs on a text that grows, for generation with a cache.

A new token is read once for all programs; it costs its own features and one row of each. The text
before it is not read again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np

from attn_dsl.compiler import joint_machine as machine
from attn_dsl.compiler.joint import JointPlan
from attn_dsl.compiler.joint_tables import State
from attn_dsl.compiler.stream_features import Reader
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.features import FEATURES, Value
from attn_dsl.dsl.tokens import Tokens


class JointStream:
    """A text that grows, and the newest row of every program of a plan.

    >>> from attn_dsl.compiler.program import parse
    >>> plan = JointPlan([parse("head copies causal linear:\\n    1 where text(k) == text(q)").tree])
    >>> stream = JointStream(plan)
    >>> for token in Tokens.from_strings(["a", " b", " a"]):
    ...     stream.read(token, token, False)
    >>> out = np.zeros((1, 1, 3), dtype=np.float32)
    >>> stream.row(out, 0)
    >>> out
    array([[[0.5, 0. , 0.5]]], dtype=float32)

    Args:
        plan: of causal programs.

    Raises:
        InputError: the programs are bidirectional, or one of them looks ahead.
    """

    def __init__(self, plan: JointPlan) -> None:
        full = [key.name for key in plan.columns if FEATURES[key.name].reads == "full"]
        if not plan.causal or full:
            raise InputError(
                "rows of programs that see what follows a query change with every token; only "
                "causal programs that read to the left can be streamed"
            )
        self.plan, self.n = plan, 0
        self._users: dict[str, list[int]] = {}
        for i, key in enumerate(plan.columns):
            self._users.setdefault(key.name, []).append(i)
        self._reader = Reader(self._users)
        self._symbols: dict[str, int] = {"": 0}
        self._capacity = self._low = 0
        self._state: State
        self._grow(64)

    def read(self, string: str, piece: str, special: bool) -> None:
        """Add a token to the text.

        Args:
            string: what the model sees.
            piece: the text that it covers.
            special: whether it is a special token.
        """
        if self.n == self._capacity:
            self._grow(self.n + 1)
        columns = self._state.columns
        self._low = min(self._low, self.n)
        self.n += 1
        for name, position, value in self._reader.add(string, "", piece, special):
            for column in self._users.get(name, ()):
                number = self._number(column, value)
                if position == self.n - 1 or columns[column, position] != number:
                    columns[column, position] = number
                    self._low = min(self._low, position)
        if self.plan.token >= 0:
            machine.extend_match(columns[self.plan.token], self._state.match, self.n - 1)

    def read_all(self, tokens: Tokens) -> None:
        """Add the tokens of a text whose rows nobody asks for."""
        for string, (start, end), special in zip(
            tokens.strings, tokens.spans, tokens.special, strict=True
        ):
            self.read(string, tokens.text[start:end], special)

    def row(self, out: np.ndarray, row: int) -> None:
        """Compute the newest token's row of every program.

        Args:
            out: float32 (programs, rows, at least ``n``); what lies behind the row stays as it is.
            row: where to write.
        """
        low = max(self._low - self.plan.reach, 0)
        q = self.n - 1
        machine.compute_row(*self._tables, *self._state, q, self.n, low, out, row)
        self._low = self.n

    def copy(self) -> JointStream:
        """Return a stream of its own that has read the same text."""
        twin = copy.copy(self)
        twin._state = State(*(part.copy() for part in self._state))
        twin._reader, twin._symbols = copy.deepcopy(self._reader), dict(self._symbols)
        return twin

    def _grow(self, tokens: int) -> None:
        """Make room; what is computed from the columns is computed again with the next row."""
        self._tables, state = self.plan.tables(tokens), self.plan.state(tokens)
        if self._capacity:
            old = self._capacity
            state.columns[:, :old] = self._state.columns
            if self.plan.token >= 0:
                state.match[:old, :old] = self._state.match
        self._state, self._capacity, self._low = state, state.columns.shape[1], 0

    def _number(self, column: int, value: Value) -> int:
        if not isinstance(value, str):
            return int(value)
        key = self.plan.columns[column]
        if key.kind != "feature":
            return int(key.test(value))
        return self._symbols.setdefault(value, len(self._symbols))


def rows_of(streams: Iterable[JointStream], width: int) -> np.ndarray:
    """Return the newest rows of streams, float32 (programs, streams, 1, width).

    Args:
        streams: of one plan.
        width: at least as many tokens as any stream has read; zero behind its newest.
    """
    chosen = list(streams)
    out = np.zeros((chosen[0].plan.size, len(chosen), 1, width), dtype=np.float32)
    for i, stream in enumerate(chosen):
        if stream.n:
            stream.row(out[:, i], 0)
    return out
