"""Vocabulary: from the ids of a transformers tokenizer to tokens with exact character spans."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.tokens import Tokens

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_META = "\N{LOWER ONE EIGHTH BLOCK}"
"""SentencePiece's mark for a space."""
_CLOSERS = frozenset(".,;:!?%)]}\N{RIGHT DOUBLE QUOTATION MARK}\N{HORIZONTAL ELLIPSIS}")
"""Word-piece tokens that a text attaches to the word before; they start no word."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a text that a model reads at once.

    Attributes:
        ids: token ids, special tokens included.
        tokens: the same tokens as strings with spans; their text is the window's slice.
        start: where the slice begins in the text, in characters.
    """

    ids: tuple[int, ...]
    tokens: Tokens
    start: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """One entry of the vocabulary: its string, and the bytes of UTF-8 that it stands for."""

    string: str
    raw: bytes
    special: bool
    joins: bool = False
    """Whether it continues the word before; read for word pieces only."""
    ends: bool = False
    """Whether it ends a word; read where words are marked at their ends only."""


class Vocabulary:
    """What the ids of a tokenizer mean, as the strings and spans that programs read.

    >>> Vocabulary(gpt2_tokenizer).strings_of(gpt2_tokenizer("Once upon a café").input_ids)
    ['Once', ' upon', ' a', ' café']

    A string depends on the id alone (with word pieces and marked word ends also on the token
    before), never on the text, so that a model's ids give the same strings without the text.
    A leading space starts a word. Bytes that are no whole character are written ``<0xE2>``
    each: the GPT-2 token of the bytes 20 F0 9F is ``" <0xF0><0x9F>"``.

    Raises:
        InputError: the tokenizer is one of the slow ones, that know no character offsets.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(
                f"the tokenizer {type(tokenizer).__name__} gives no character offsets; convert "
                "it to a `tokenizer.json` (a fast tokenizer of transformers) and try again"
            )
        self.tokenizer = tokenizer
        self._spec = _backend_spec(tokenizer)
        self.kind = _kind(self._spec)
        self._prefix = self._spec["model"].get("continuing_subword_prefix") or ""
        self._suffix = self._spec["model"].get("end_of_word_suffix") or ""
        self._added = tokenizer.added_tokens_decoder
        self._special_ids = frozenset(tokenizer.all_special_ids)
        self._pieces: dict[int, _Piece] = {}

    @cached_property
    def hash(self) -> str:
        """The tokenizer's hash (see :func:`tokenizer_hash`)."""
        return _hash_of(self._spec, self.tokenizer)

    def strings_of(self, ids: Iterable[int]) -> list[str]:
        """Write each id as what the model sees, one string per id.

        >>> Vocabulary(bert_tokenizer).strings_of([101, 2320, 2588, 1012, 102])
        ['[CLS]', 'once', ' upon', '.', '[SEP]']
        """
        return list(self._strings([self._piece(int(i)) for i in ids]))

    def tokens_of(self, ids: Sequence[int]) -> Tokens:
        """Make tokens from ids alone, with the text that the ids decode to.

        >>> Vocabulary(gpt2_tokenizer).tokens_of([2634, 163, 43769]).spans
        ((0, 1), (1, 1), (1, 2))

        Each token covers only what is complete with it, so a prefix of the ids gives a prefix
        of the tokens. Where the original text is at hand, :meth:`encode` keeps it as it is.
        """
        pieces = [self._piece(int(i)) for i in ids]
        strings = tuple(self._strings(pieces))
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        spans: list[tuple[int, int]] = []
        text = ""
        for piece, string in zip(pieces, strings, strict=True):
            start = len(text)
            if piece.special:
                decoder.reset()
            else:
                space = b" " if string[:1] == " " and piece.raw[:1] != b" " else b""
                text += decoder.decode(space + piece.raw)
            spans.append((start, len(text)))
        return Tokens(strings, text, tuple(spans), tuple(piece.special for piece in pieces))

    def encode(
        self,
        text: str,
        max_tokens: int,
        *,
        add_special_tokens: bool = True,
        max_windows: int | None = None,
    ) -> list[Window]:
        """Cut a text into consecutive windows of tokens whose spans lie in the original text.

        >>> [w.tokens.text for w in Vocabulary(gpt2_tokenizer).encode("Once upon a time", 2)]
        ['Once upon', ' a time']

        The windows' slices join to the text. Of a character that is split over several tokens
        only the last piece covers it; white space belongs to the token after it; a special
        token (``[UNK]`` is one) covers nothing. Special tokens that the tokenizer adds by
        default are added to each window.

        Args:
            text: any text; an empty one may give no window.
            max_tokens: the most tokens of a window, special tokens included.
            add_special_tokens: follow the tokenizer's default, or add none.
            max_windows: the most windows; what comes behind them is left out.

        Raises:
            InputError: ``max_tokens`` leaves no room beside the special tokens.
        """
        added = self.tokenizer.num_special_tokens_to_add() if add_special_tokens else 0
        if max_tokens <= added:
            raise InputError(
                f"windows of {max_tokens} tokens leave no room: the tokenizer adds {added} "
                f"special tokens to each; allow at least {added + 1}"
            )
        encoding = self._windows(text, max_tokens, add_special_tokens)
        rows: list[tuple[list[int], list[_Piece]]] = []
        flat: list[_Placed] = []
        columns = ("input_ids", "offset_mapping", "special_tokens_mask")
        # one window more is looked at: the rest of a split character may stand there
        stop = None if max_windows is None else max_windows + 1
        for ids, offsets, mask in zip(*(encoding[key][:stop] for key in columns), strict=True):
            pieces = [self._piece(i) for i in ids]
            rows.append((ids, pieces))
            for piece, (start, end), added_mark in zip(pieces, offsets, mask, strict=True):
                flat.append(_Placed(piece.string, start, end, piece.special or bool(added_mark)))
        spans = _place(flat, text)
        return list(self._cut(rows, flat, spans, text))[:max_windows]

    def _cut(
        self,
        rows: list[tuple[list[int], list[_Piece]]],
        flat: list[_Placed],
        spans: list[tuple[int, int]],
        text: str,
    ) -> Iterator[Window]:
        """Make windows from the spans of all tokens, each with its slice of the text."""
        at, base = 0, 0
        for number, (ids, pieces) in enumerate(rows):
            here = slice(at, at + len(ids))
            at += len(ids)
            last = number == len(rows) - 1
            end = len(text) if last else max([base, *(stop for _, stop in spans[here])])
            tokens = Tokens(
                tuple(self._strings(pieces)),
                text[base:end],
                tuple((start - base, stop - base) for start, stop in spans[here]),
                tuple(placed.special for placed in flat[here]),
            )
            if ids:
                yield Window(tuple(ids), tokens, base)
            base = end

    def _windows(self, text: str, max_tokens: int, add_special_tokens: bool) -> Any:
        """Call the tokenizer so that it cuts windows itself, from the left."""
        side = self.tokenizer.truncation_side
        self.tokenizer.truncation_side = "right"
        try:
            return self.tokenizer(
                text,
                add_special_tokens=add_special_tokens,
                truncation=True,
                max_length=max_tokens,
                stride=0,
                padding=False,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
                return_special_tokens_mask=True,
            )
        finally:
            self.tokenizer.truncation_side = side

    def _strings(self, pieces: Sequence[_Piece]) -> Iterator[str]:
        """Write pieces as strings, adding the spaces that a vocabulary leaves to context."""
        fresh = True  # nothing before, or a special token
        ended = False
        for piece in pieces:
            if piece.special:
                yield piece.string
            elif self.kind in ("wordpiece", "word"):
                yield piece.string if fresh or piece.joins else " " + piece.string
            elif self.kind == "end-of-word":
                yield " " + piece.string if ended and not fresh else piece.string
            else:
                yield piece.string
            fresh, ended = piece.special, piece.ends

    def _piece(self, token_id: int) -> _Piece:
        """Look up one id, keeping the answer."""
        piece = self._pieces.get(token_id)
        if piece is None:
            piece = self._pieces[token_id] = self._make_piece(token_id)
        return piece

    def _make_piece(self, token_id: int) -> _Piece:
        added = self._added.get(token_id)
        special = token_id in self._special_ids or bool(added and added.special)
        if added is not None or special:
            string = added.content if added else self.tokenizer.convert_ids_to_tokens(token_id)
            return _Piece(string, b"" if special else string.encode(), special)
        string = self.tokenizer.convert_ids_to_tokens(token_id)
        if string is None:  # models pad their vocabulary to round sizes
            return _Piece(f"<|unused_{token_id}|>", b"", True)
        if self.kind == "byte-level":
            raw = _bytes_of(string)
            return _Piece(_write_bytes(raw), raw, False)
        if self.kind in ("wordpiece", "word"):
            inside = bool(self._prefix) and string.startswith(self._prefix)
            string = string[len(self._prefix) :] if inside else string
            return _Piece(string, string.encode(), False, joins=inside or string in _CLOSERS)
        if self.kind == "end-of-word":
            ends = string.endswith(self._suffix)
            string = string.removesuffix(self._suffix)
            return _Piece(string, string.encode(), False, ends=ends)
        byte = _BYTE.fullmatch(string)
        if byte is not None:
            return _Piece(string, bytes.fromhex(byte.group(1)), False)
        if self.kind == "sentencepiece":
            string = string.replace(_META, " ")
        return _Piece(string, string.encode(), False)


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash what decides how a tokenizer turns text into ids, the same in every process.

    >>> tokenizer_hash(gpt2_tokenizer)[:8]
    '7bc6677e'

    Padding and truncation settings do not count: they are a caller's, and calls change them.

    Returns:
        SHA-256, 64 hexadecimal digits.
    """
    if getattr(tokenizer, "is_fast", False):
        return _hash_of(_backend_spec(tokenizer), tokenizer)
    return _hash_of({"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab()}, tokenizer)


def _hash_of(spec: dict[str, Any], tokenizer: Any) -> str:
    special = sorted(map(str, tokenizer.all_special_tokens))
    content = json.dumps([spec, special], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _backend_spec(tokenizer: Any) -> dict[str, Any]:
    """Return the description of a fast tokenizer, without what its callers set."""
    spec: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    spec.pop("truncation", None)
    spec.pop("padding", None)
    return spec


def _kind(spec: dict[str, Any]) -> str:
    """Say how a vocabulary marks words: the family that its strings are written in."""
    model = spec["model"]
    around = json.dumps([spec.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")])
    if '"ByteLevel"' in around:
        return "byte-level"
    if model["type"] == "WordPiece":
        return "wordpiece"
    if '"Metaspace"' in around or json.dumps(_META) in around:
        return "sentencepiece"
    if model.get("end_of_word_suffix"):
        return "end-of-word"
    splitters = ('"Whitespace"', '"WhitespaceSplit"', '"BertPreTokenizer"')
    if any(name in around for name in splitters):
        return "word"
    return "plain"


def _byte_table() -> dict[str, int]:
    """Return GPT-2's characters for the 256 bytes: printable ones stand for themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in plain}
    others = (byte for byte in range(256) if byte not in set(plain))
    return table | {chr(256 + number): byte for number, byte in enumerate(others)}


_BYTE_OF = _byte_table()


def _bytes_of(string: str) -> bytes:
    """Undo the byte-level alphabet; a string outside of it stands for itself."""
    try:
        return bytes(_BYTE_OF[char] for char in string)
    except KeyError:
        return string.encode()


def _write_bytes(raw: bytes) -> str:
    """Decode bytes, writing each one that belongs to no whole character as ``<0xE2>``.

    >>> _write_bytes(b" \\xf0\\x9f")
    ' <0xF0><0x9F>'
    """
    parts: list[str] = []
    while raw:
        try:
            parts.append(raw.decode("utf-8"))
            break
        except UnicodeDecodeError as error:
            parts.append(raw[: error.start].decode("utf-8"))
            parts += [f"<0x{byte:02X}>" for byte in raw[error.start : error.end]]
            raw = raw[error.end :]
    return "".join(parts)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A token where the tokenizer says that it lies in the text."""

    string: str
    start: int
    end: int
    special: bool


def _place(tokens: Sequence[_Placed], text: str) -> list[tuple[int, int]]:
    """Turn a tokenizer's offsets into spans that follow each other without overlap.

    The pieces of a split character all come with that character's offsets; only the last keeps
    it. White space that offsets leave out goes to the token that it precedes.
    """
    ends = [token.end for token in tokens]
    limit = len(text)
    for number in range(len(tokens) - 1, -1, -1):
        token = tokens[number]
        if not token.special and token.end > token.start:
            ends[number] = min(token.end, limit)
            limit = min(limit, token.start)
    spans: list[tuple[int, int]] = []
    at = 0
    for token, end in zip(tokens, ends, strict=True):
        if token.special:
            spans.append((at, at))
            continue
        start = max(at, min(token.start, end))
        if end > start:
            while start > at and text[start - 1].isspace():
                start -= 1
            spans.append((start, end))
        else:  # a piece, or white space whose offsets were trimmed
            lead = len(token.string) - len(token.string.lstrip())
            end = at
            while end < min(at + lead, max(start, token.end)) and text[end].isspace():
                end += 1
            spans.append((at, end))
        at = spans[-1][1]
    return spans
