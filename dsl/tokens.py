"""Tokens: a text as a model sees it, with the exact characters that each token covers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

SPECIAL_STRINGS = frozenset("<s> </s> <unk> <pad> <mask> <bos> <eos> <cls> <sep> "
                            "[CLS] [SEP] [PAD] [MASK] [UNK] [BOS] [EOS]".split())  # fmt: skip
"""Token strings that count as special tokens if the caller does not say which tokens are special."""

_SPECIAL_PIPES = re.compile(r"<\|[A-Za-z0-9_]+\|>")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WORDS = re.compile(r"[ \t]?(?:\w+|[^\w\s])|\s")
_SHOWN = 24  # the most tokens that ``repr`` shows


def looks_special(string: str) -> bool:
    """Return whether a token string looks like a special token.

    >>> looks_special("<|endoftext|>"), looks_special("[CLS]"), looks_special(" the")
    (True, True, False)
    """
    return string in SPECIAL_STRINGS or _SPECIAL_PIPES.fullmatch(string) is not None


@dataclass(frozen=True, slots=True, repr=False)
class Tokens(Sequence[str]):
    """The tokens of one text: their strings, and the characters of the text that each one covers.

    >>> Tokens.from_strings(["<s>", "Once", " upon", "."]).text
    'Once upon.'

    In ``strings`` a leading space starts a word, and ``<0xE2>`` is one byte of a character that is split over
    several tokens. Spans are in order and do not overlap. Special tokens cover no characters. Of a split
    character only the token with its last byte covers it, so that no token depends on bytes after it.

    Raises:
        ValueError: the lengths differ, or the spans overlap or leave the text.
    """

    strings: tuple[str, ...]  # per token, its decoded string
    text: str  # the text without special tokens
    spans: tuple[tuple[int, int], ...]  # per token, ``(start, end)`` in ``text``
    special: tuple[bool, ...]  # per token, whether it is a special token

    def __post_init__(self) -> None:
        if not len(self.strings) == len(self.spans) == len(self.special):
            raise ValueError("strings, spans and special must have one entry per token")
        end = 0
        for start, stop in self.spans:
            if start < end or stop < start or stop > len(self.text):
                raise ValueError(f"token spans must follow each other inside the text of {len(self.text)} "
                                 f"characters, but ({start}, {stop}) comes after {end}")  # fmt: skip
            end = stop

    @classmethod
    def from_strings(cls, strings: Iterable[str], special: Iterable[bool] | None = None) -> Tokens:
        """Make tokens from decoded token strings; the text is what they spell.

        >>> Tokens.from_strings([" caf", "<0xC3>", "<0xA9>"]).spans
        ((0, 4), (4, 4), (4, 5))

        Args:
            strings: in which ``<0xE2>`` is one byte of a character in UTF-8. ``Tokens`` are
                returned as they are.
            special: whether each is a special token; by default those that look so (``<s>``,
                ``[CLS]``, ``<|endoftext|>`` …), see ``looks_special``.
        """
        if isinstance(strings, Tokens):
            return strings
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

    @classmethod
    def from_text(cls, text: str | Iterable[str]) -> Tokens:
        """Cut a text into words and marks, as no model does; token strings are taken as they are.

        >>> Tokens.from_text("Tom's dog.")
        <Tokens 5: 'Tom', "'", 's', ' dog', '.'>
        """
        return cls.from_strings(_WORDS.findall(text) if isinstance(text, str) else text)

    def __len__(self) -> int:
        return len(self.strings)

    def __repr__(self) -> str:
        more = ", …" if len(self) > _SHOWN else ""
        return f"<Tokens {len(self)}: {', '.join(map(repr, self.strings[:_SHOWN]))}{more}>"

    def _repr_html_(self) -> str:
        cell = '<span style="border:1px solid #8886;white-space:pre" title="{}">{}</span>'
        return "".join(cell.format(i, escape(s)) for i, s in enumerate(self.strings))

    def __getitem__(self, index: Any) -> Any:
        return self.strings[index]

    def prefix(self, n: int) -> Tokens:
        """Return the first ``n`` tokens, with the text up to the end of the last one."""
        end = self.spans[n - 1][1] if n else 0
        return Tokens(self.strings[:n], self.text[:end], self.spans[:n], self.special[:n])


def _complete(pending: bytes) -> tuple[str, bytes]:
    """Decode the bytes of one character; return the character, or the bytes if some are missing."""
    try:
        return pending.decode("utf-8"), b""
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and len(pending) < 4:
            return "", pending
        return "\ufffd", b""
