"""The files of a capture: what they are called, how they are read, checked and written.

``capture.json`` says what was captured and names the other files with their sizes and hashes,
``texts.jsonl`` holds a record for each text, ``attention-*.safetensors`` their attention and value
vectors, ``projections.safetensors`` what is kept of output projections.
``capture.partial.json`` is what a capture that is not finished has in place of the first.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from attn_dsl.dsl.errors import InputError, did_you_mean
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.files import UNREADABLE, read_json, typed
from attn_dsl.eval.shards import REMEDY, Shards, Verified

META_FILE, TEXTS_FILE, PARTIAL_FILE = "capture.json", "texts.jsonl", "capture.partial.json"
PROJECTIONS_FILE = "projections.safetensors"
FORMAT, VERSION = "attn-dsl-capture", 1
_APART = ("not_replaceable", "source", "libraries", "max_texts", "projections", "hash")
"""What the hash of a capture leaves out: where it came from, with which libraries, and what follows."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of a capture."""

    file: str
    bytes: int
    sha256: str
    texts: tuple[int, ...] = ()  # the numbers of those whose tensors it holds


@dataclass(frozen=True, slots=True)
class Meta:
    """What ``capture.json`` must say."""

    name: str
    n_layers: int
    heads_per_layer: int
    causal: bool
    n_texts: int
    texts: File
    shards: tuple[File, ...]
    projections: File | None = None
    max_tokens: int = 128
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> list[File]:
        """All files of the capture but this one."""
        return [self.texts, *self.shards, *([self.projections] if self.projections else [])]


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of one text beside its attention."""

    tokens: Tokens  # the tokens of the window that the model read
    source_hash: str  # the hash of the whole text that the window was cut from
    source: int  # the number of that text among those given
    window: int  # the number of the window in its text
    ids: tuple[int, ...] = ()  # token ids, empty where they are not known

    @property
    def own_hash(self) -> str:
        """The hash of the window's own tokens, its place among the windows included."""
        content = json.dumps([self.source_hash, self.window, self.tokens.strings])
        return hashlib.sha256(content.encode()).hexdigest()

    def to_json(self) -> str:
        """Write the record as one line of JSON."""
        fields = {"source": self.source, "window": self.window, "source_hash": self.source_hash,
                  "text": self.tokens.text, "ids": self.ids, "strings": self.tokens.strings,
                  "spans": self.tokens.spans,
                  "special": [number for number, mark in enumerate(self.tokens.special) if mark]}  # fmt: skip
        return json.dumps(fields, ensure_ascii=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Read what ``to_json`` wrote."""
        found = read_json(line)
        read = {name: typed(kind, found[name], f"`{name}`") for name, kind in _RECORD.items()}
        strings, special, ids = read["strings"], set(read["special"]), read["ids"]
        marks = tuple(number in special for number in range(len(strings)))
        tokens = Tokens(strings, read["text"], read["spans"], marks)
        if not strings or len(ids) not in (0, len(strings)) or min(ids, default=0) < 0:
            raise ValueError("it has no tokens, or not one token id each")
        return cls(tokens, read["source_hash"], read["source"], read["window"], ids)


_RECORD = {"source": int, "window": int, "source_hash": str, "text": str, "ids": tuple[int, ...],
           "strings": tuple[str, ...], "spans": tuple[tuple[int, int], ...],
           "special": tuple[int, ...]}  # fmt: skip


def content_hash(meta: Mapping[str, Any]) -> str:
    """Return the hash of a capture: of what its description says, hashes of its files included."""
    content = {key: meta[key] for key in meta if key not in _APART}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_capture(path: Path) -> dict[str, Any]:
    """Read the fields of a finished ``Capture``: names and sizes of its files, but not the data.

    Raises:
        InputError: a file is missing or damaged, or the format is of another version.
    """
    meta, whole = _read_meta(path)
    for one in whole.files:
        place = path / one.file
        found = place.stat().st_size if place.is_file() else -1
        if found != one.bytes:
            what = "missing" if found < 0 else "cut off" if found < one.bytes else "changed"
            raise InputError(f"{place} is {what}: it should have {one.bytes} bytes; {REMEDY}")
    verified = Verified(path, {one.file: one.sha256 for one in whole.files})
    verified.check(whole.texts.file)
    if os.environ.get("ATTN_DSL_VERIFY"):
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(lambda one: verified.check(one.file, again=True), whole.files))
    records = []
    with (path / whole.texts.file).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                records.append(Record.from_json(line))
            except UNREADABLE as error:
                raise InputError(f"{path / TEXTS_FILE}:{number} is damaged: {error}; {REMEDY}") from error
    shard_of = {index: shard.file for shard in whole.shards for index in shard.texts}
    if sorted(shard_of) != [*range(len(records))] or len(records) != whole.n_texts:
        raise InputError(f"{path / TEXTS_FILE} has {len(records)} texts, {META_FILE} speaks of "
                         f"{whole.n_texts} and of attention for {len(shard_of)}; {REMEDY}")  # fmt: skip
    shards = [shard_of[index] for index in range(len(records))]
    one_file = [PROJECTIONS_FILE] * (whole.n_layers * whole.heads_per_layer)
    outputs = {"values": Shards(path, shards, "values", verified),
               "projections": Shards(path, one_file, "projections", verified)}  # fmt: skip
    return {**{key: meta[key] for key in ("name", "n_layers", "heads_per_layer", "causal")},
            "records": tuple(records), "store": Shards(path, shards, "attention", verified),
            **(outputs if whole.projections else {}), "meta": meta, "path": path}  # fmt: skip


def _read_meta(path: Path) -> tuple[dict[str, Any], Meta]:
    """Read capture.json, explaining what is wrong where it is not one."""
    file = path / META_FILE
    if not path.is_dir():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, near) or "make a capture with `attn-dsl capture`"
        what = "is a file, not the directory of a capture" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}; {hint}")
    if not file.exists() and (path / PARTIAL_FILE).exists():
        raise InputError(f"{path} holds an unfinished capture; run the same `attn-dsl capture` again and it "
                         "goes on where it stopped")  # fmt: skip
    try:
        meta = read_json(file.read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise ValueError("it does not describe a capture")
        if meta["version"] != VERSION:
            raise InputError(f"{file} has format version {meta['version']}, this attn-dsl reads version "
                             f"{VERSION}; {REMEDY}, or use the attn-dsl that wrote it")  # fmt: skip
        known = [one.name for one in fields(Meta)]
        whole: Meta = typed(Meta, {key: meta[key] for key in known if key in meta})
        if meta.get("hash", own := content_hash(meta)) != own:
            raise ValueError("it was changed: its content does not have its hash")
        if min(whole.n_layers, whole.heads_per_layer) < 1:
            raise ValueError("it speaks of no heads")
        for one in whole.files:
            if one.file != Path(one.file).name or "\0" in one.file:
                raise ValueError(f"it names a file outside of its directory: {one.file!r}")
    except FileNotFoundError:
        raise InputError(f"{path} holds no capture: {META_FILE} is missing; {REMEDY}") from None
    except (OSError, *UNREADABLE) as error:
        raise InputError(f"{file} is damaged: {error}; {REMEDY}") from error
    return meta, whole
