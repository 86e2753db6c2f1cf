"""Vocabulary: from the ids of a transformers tokenizer to tokens with exact character spans."""

import codecs
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.tokens import Tokens

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_ESCAPED = re.compile("[\udc80-\udcff]")
_META = "\N{LOWER ONE EIGHTH BLOCK}"
"""SentencePiece's mark for a space."""
_CLOSERS = frozenset(".,;:!?%)]}\N{RIGHT DOUBLE QUOTATION MARK}\N{HORIZONTAL ELLIPSIS}")
"""Word-piece tokens that a text attaches to the word before; they start no word."""

PROBE = (
    'Once upon a time, the cat sat on the mat. "It\'s me," said Zoé (the cat), "on the mat!"\n\n'
    "    He didn't  go: 3 \N{LEFT DOUBLE QUOTATION MARK}yes\N{RIGHT DOUBLE QUOTATION MARK} - and so on."
)
"""A short text that shows what a tokenizer keeps, and on which models are tried."""


class Window(NamedTuple):
    """A stretch of a text that a model reads at once: ids, special ones included, and tokens."""

    ids: tuple[int, ...]
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class _Piece:
    """One entry of the vocabulary."""

    string: str  # what the model sees
    raw: bytes  # the bytes of UTF-8 that it stands for
    special: bool = False  # whether it marks something and stands for no text
    joins: bool = True  # whether no space comes before it, even behind the end of a word
    ends: bool = False  # whether it ends a word, so that a space comes behind it


class Vocabulary:
    """What the ids of a tokenizer mean, as the strings and spans that programs read.

    >>> Vocabulary(gpt2_tokenizer).tokens_of(gpt2_tokenizer("Once upon a café").input_ids).strings
    ('Once', ' upon', ' a', ' café')

    A string depends on the id alone (with word pieces and marked word ends also on the token
    before). A leading space starts a word. Bytes that are no whole character are written
    ``<0xE2>`` each: the GPT-2 token of the bytes 20 F0 9F is ``" <0xF0><0x9F>"``.

    Raises:
        InputError: the tokenizer is one of the slow ones, that know no character offsets.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(
                f"the tokenizer {type(tokenizer).__name__} gives no character offsets; convert "
                "it to a `tokenizer.json` (a fast tokenizer of transformers) and try again")  # fmt: skip
        self.tokenizer = tokenizer
        self._spec: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
        self._kind = _kind(self._spec)
        self._added = tokenizer.added_tokens_decoder
        self._special_ids = frozenset(tokenizer.all_special_ids)
        self._pieces: dict[int, _Piece] = {}  # at most one for each id of the vocabulary

    @cached_property
    def hash(self) -> str:
        """A hash of what decides how text turns into ids; padding and truncation do not count."""
        spec = {key: self._spec[key] for key in self._spec if key not in ("truncation", "padding")}
        special = sorted(map(str, self.tokenizer.all_special_tokens))
        content = json.dumps([spec, special], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @cached_property
    def untold(self) -> frozenset[str]:
        """The features that ids do not tell: of lower-case word pieces, sentences and lines."""
        (window,) = self.encode(PROBE, 10 * len(PROBE))
        read, told = Analysis(window.tokens), Analysis(self.tokens_of(window.ids))
        own = [name for name, one in FEATURES.items() if not one.extra]
        lost = {n for n in own if FEATURES[n].compute(read) != FEATURES[n].compute(told)}
        spoken = "".join(read.text).strip() == "".join(told.text).strip()
        return frozenset(lost if spoken else lost | (FEATURES.keys() - own))

    def tokens_of(self, ids: Sequence[int]) -> Tokens:
        """Make tokens from ids alone, with the text that the ids decode to.

        >>> Vocabulary(gpt2_tokenizer).tokens_of([2634, 163, 43769]).spans
        ((0, 1), (1, 1), (1, 2))

        Each token covers only what is complete with it, so a prefix of the ids gives a prefix
        of the tokens. Where the original text is at hand, :meth:`encode` keeps it as it is.
        """
        pieces = [self._piece(int(i)) for i in ids]
        strings = _strings(pieces)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        spans: list[tuple[int, int]] = []
        text = ""
        for piece, string in zip(pieces, strings, strict=True):
            start = len(text)
            if piece.special:
                decoder.reset()
            else:
                space = b" " if string[:1] == " " and piece.raw[:1] != b" " else b""
                # SentencePiece puts a space before a text, which is not in the text
                extra = not text and self._kind == "sentencepiece" and piece.raw[:1] == b" "
                text += decoder.decode(space + piece.raw[extra:])
            spans.append((start, len(text)))
        return Tokens(strings, text, tuple(spans), tuple(piece.special for piece in pieces))

    def encode(self, text: str, max_tokens: int, *, max_windows: int | None = None) -> list[Window]:
        """Cut a text into consecutive windows of tokens whose spans lie in the original text.

        >>> [w.tokens.text for w in Vocabulary(gpt2_tokenizer).encode("Once upon a time", 2)]
        ['Once upon', ' a time']

        The windows' slices join to the text. Of a character that is split over several tokens
        only the last piece covers it; white space belongs to the token after it; a special
        token (``[UNK]`` is one) covers nothing. An empty text may give no window.

        Args:
            max_tokens: the most tokens of a window, with the special ones that are added to each.
            max_windows: the most windows; what comes behind them is left out.

        Raises:
            InputError: ``max_tokens`` leaves no room beside the special tokens.
        """
        added = self.tokenizer.num_special_tokens_to_add()
        if max_tokens <= added:
            raise InputError(f"windows of {max_tokens} tokens leave no room: the tokenizer adds {added} "
                             f"special tokens to each; allow at least {added + 1}")  # fmt: skip
        side, self.tokenizer.truncation_side = self.tokenizer.truncation_side, "right"
        try:
            encoding = self.tokenizer(text, truncation=True, max_length=max_tokens, stride=0, padding=False,
                                      return_overflowing_tokens=True, return_offsets_mapping=True,
                                      return_special_tokens_mask=True)  # fmt: skip
        finally:
            self.tokenizer.truncation_side = side
        # one window more is looked at: the rest of a split character may stand there
        stop = None if max_windows is None else max_windows + 1
        names = ("input_ids", "offset_mapping", "special_tokens_mask")
        ids, offsets, marks = ([*chain.from_iterable(encoding[n][:stop])] for n in names)
        pieces = [self._piece(i) for i in ids]
        special = [piece.special or bool(mark) for piece, mark in zip(pieces, marks, strict=True)]
        spans = _place([piece.string for piece in pieces], offsets, special, text)
        windows, first, base = [], 0, 0
        for size in map(len, encoding["input_ids"][:stop]):
            here = slice(first, first + size)
            first += size
            end = len(text) if first == len(ids) else max([base, *(end for _, end in spans[here])])
            placed = tuple((start - base, stop - base) for start, stop in spans[here])
            tokens = Tokens(_strings(pieces[here]), text[base:end], placed, tuple(special[here]))
            if size:
                windows.append(Window(tuple(ids[here]), tokens))
            base = end
        return windows[:max_windows]

    def _piece(self, token_id: int) -> _Piece:
        """Look up one id, keeping the answer."""
        if token_id not in self._pieces:
            self._pieces[token_id] = self._make_piece(token_id)
        return self._pieces[token_id]

    def _make_piece(self, token_id: int) -> _Piece:
        added = self._added.get(token_id)
        string = added.content if added else self.tokenizer.convert_ids_to_tokens(token_id)
        if token_id in self._special_ids or (added and added.special):
            return _Piece(string, b"", special=True)
        if string is None:  # models pad their vocabulary to round sizes
            return _Piece(f"<|unused_{token_id}|>", b"", special=True)
        words = self._kind in ("wordpiece", "word")
        if added:
            return _Piece(string, string.encode(), joins=False, ends=words)
        if self._kind == "byte-level":
            known = all(char in _BYTE_OF for char in string)
            raw = bytes(_BYTE_OF[char] for char in string) if known else string.encode()
            return _Piece(_write_bytes(raw), raw)
        if words:
            prefix = self._spec["model"].get("continuing_subword_prefix")
            inside = bool(prefix) and string.startswith(prefix)
            string = string.removeprefix(prefix or "")
            return _Piece(string, string.encode(), joins=inside or string in _CLOSERS, ends=True)
        if self._kind == "end-of-word":
            suffix = self._spec["model"]["end_of_word_suffix"]
            ends = string.endswith(suffix)
            string = string.removesuffix(suffix)
            return _Piece(string, string.encode(), joins=False, ends=ends)
        if byte := _BYTE.fullmatch(string):
            return _Piece(string, bytes.fromhex(byte.group(1)))
        if self._kind == "sentencepiece":
            string = string.replace(_META, " ")
        return _Piece(string, string.encode())


def _strings(pieces: Sequence[_Piece]) -> tuple[str, ...]:
    """Write pieces as strings, adding the spaces that a vocabulary leaves to context."""
    ended = [False, *(piece.ends for piece in pieces)]  # whether the piece before ends a word
    return tuple(" " + piece.string if end and not (piece.joins or piece.special) else piece.string
                 for end, piece in zip(ended, pieces, strict=False))  # fmt: skip


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
    return "word" if any(name in around for name in splitters) else "plain"


def _byte_table() -> dict[str, int]:
    """Return GPT-2's characters for the 256 bytes: printable ones stand for themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in set(plain))
    return {chr(x): x for x in plain} | {chr(256 + at): x for at, x in enumerate(others)}


_BYTE_OF = _byte_table()


def _write_bytes(raw: bytes) -> str:
    """Decode bytes, writing each one that belongs to no whole character as ``<0xE2>``."""
    text = raw.decode("utf-8", "surrogateescape")  # each such byte b is the surrogate DC00 + b
    return _ESCAPED.sub(lambda found: f"<0x{ord(found[0]) - 0xDC00:02X}>", text)


def _place(strings: Sequence[str], offsets: Sequence[tuple[int, int]], special: Sequence[bool],
           text: str) -> list[tuple[int, int]]:  # fmt: skip
    """Turn a tokenizer's offsets into spans that follow each other without overlap.

    The pieces of a split character all come with that character's offsets; only the last keeps
    it. White space that offsets leave out goes to the token that it precedes.
    """
    ends = [end for _, end in offsets]
    limit = len(text)
    for number in range(len(offsets) - 1, -1, -1):
        start, end = offsets[number]
        if not special[number] and end > start:
            ends[number] = min(end, limit)
            limit = min(limit, start)
    spans: list[tuple[int, int]] = []
    at = 0
    for string, (first, last), mark, end in zip(strings, offsets, special, ends, strict=True):
        start = max(at, min(first, end))
        if mark:
            start = end = at
        elif end > start:
            while start > at and text[start - 1].isspace():
                start -= 1
        else:  # a piece, or white space whose offsets were trimmed
            lead = len(string) - len(string.lstrip())
            start, end, stop = at, at, min(at + lead, max(start, last))
            while end < stop and text[end].isspace():
                end += 1
        spans.append((start, end))
        at = end
    return spans
