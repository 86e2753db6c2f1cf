"""Records: what is kept of the texts of a capture beside their attention."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from attn_dsl.dsl.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of one text beside its attention.

    Attributes:
        tokens: the tokens of the window that the model read.
        source_hash: the hash of the whole text that the window was cut from.
        source: the number of that text among those given.
        window: the number of the window in its text.
        ids: token ids, empty where they are not known.
    """

    tokens: Tokens
    source_hash: str
    source: int
    window: int
    ids: tuple[int, ...] = ()

    @property
    def own_hash(self) -> str:
        """The hash of the window's own tokens, its place among the windows included."""
        content = json.dumps([self.source_hash, self.window, self.tokens.strings])
        return hashlib.sha256(content.encode()).hexdigest()
