"""Tokens: a text as a model sees it, with the exact characters that each token covers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

SPECIAL_STRINGS = frozenset(
    "<s> </s> <unk> <pad> <mask> <bos> <eos> <cls> <sep> "
    "[CLS] [SEP] [PAD] [MASK] [UNK] [BOS] [EOS]".split()
)
"""Token strings that are taken for special tokens where nobody says which ones are."""

_SPECIAL_PIPES = re.compile(r"<\|[A-Za-z0-9_]+\|>")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def looks_special(string: str) -> bool:
    """Say whether a token string is written like a special token.

    >>> looks_special("<|endoftext|>"), looks_special("[CLS]"), looks_special(" the")
    (True, True, False)
    """
    return string in SPECIAL_STRINGS or _SPECIAL_PIPES.fullmatch(string) is not None


@dataclass(frozen=True, slots=True)
class Tokens(Sequence[str]):
    """The tokens of one text: what the model reads, and which characters each one covers.

    >>> Tokens.from_strings(["<s>", "Once", " upon", "."]).text
    'Once upon.'

    In ``strings`` a leading space starts a word, and a piece of a character that is split over
    several tokens is written ``<0xE2>``. The spans follow each other without overlap. A special
    token and the first pieces of a split character cover nothing: only the piece that completes a
    character covers it, so that no token tells of characters that a model could not know yet.
    """

    strings: tuple[str, ...]  # per token, what the model sees
    text: str  # what the tokens cover, special tokens left out
    spans: tuple[tuple[int, int], ...]  # per token, ``(start, end)`` in ``text``
    special: tuple[bool, ...]  # per token, whether it is a special token

    def __post_init__(self) -> None:
        if not len(self.strings) == len(self.spans) == len(self.special):
            raise ValueError("strings, spans and special must have one entry per token")
        end = 0
        for start, stop in self.spans:
            if start < end or stop < start or stop > len(self.text):
                raise ValueError(
                    f"token spans must follow each other inside the text of {len(self.text)} "
                    f"characters, but ({start}, {stop}) comes after {end}"
                )
            end = stop

    @classmethod
    def from_strings(cls, strings: Iterable[str], special: Iterable[bool] | None = None) -> Tokens:
        """Build tokens from decoded token strings alone.

        >>> Tokens.from_strings([" caf", "<0xC3>", "<0xA9>"]).spans
        ((0, 4), (4, 4), (4, 5))

        ``<0xE2>`` stands for one byte of a character in UTF-8; special are by default the tokens
        that look so (``<s>``, ``[CLS]``, ``<|endoftext|>`` …).
        """
        strings = tuple(strings)
        marks = tuple(map(looks_special, strings)) if special is None else tuple(map(bool, special))
        parts: list[str] = []
        spans: list[tuple[int, int]] = []
        at, pending = 0, b""
        for string, mark in zip(strings, marks, strict=True):
            byte = None if mark else _BYTE.fullmatch(string)
            if byte is None:
                piece, pending = ("" if mark else string), b""
            else:
                piece, pending = _complete(pending + bytes.fromhex(byte[1]))
            parts.append(piece)
            spans.append((at, at + len(piece)))
            at += len(piece)
        return cls(strings, "".join(parts), tuple(spans), marks)

    def __len__(self) -> int:
        return len(self.strings)

    def __getitem__(self, index: Any) -> Any:
        return self.strings[index]

    def prefix(self, n: int) -> Tokens:
        """Return the first ``n`` tokens, and of the text only what they cover.

        >>> Tokens.from_strings(["a", " b", " c"]).prefix(2).text
        'a b'
        """
        end = self.spans[n - 1][1] if n else 0
        return Tokens(self.strings[:n], self.text[:end], self.spans[:n], self.special[:n])


def _complete(pending: bytes) -> tuple[str, bytes]:
    """Decode bytes that form a whole character; return what is decoded and what is left."""
    try:
        return pending.decode("utf-8"), b""
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and len(pending) < 4:
            return "", pending
        return "\ufffd", b""
