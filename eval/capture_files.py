"""The files of a capture: what they are called, how they are read, checked and written.

``capture.json`` says what was captured and names the other files with their sizes and hashes,
``texts.jsonl`` holds a record for each text, ``attention-*.safetensors`` their attention and value
vectors, ``projections.safetensors`` what is kept of output projections.
``capture.partial.json`` is what a capture that is not finished has in place of the first.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_dsl.dsl.errors import InputError, did_you_mean
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.shards import REMEDY, Shards

META_FILE, TEXTS_FILE, PARTIAL_FILE = "capture.json", "texts.jsonl", "capture.partial.json"
PROJECTIONS_FILE = "projections.safetensors"
FORMAT, VERSION = "attn-dsl-capture", 1
NEEDED = ("name", "n_layers", "heads_per_layer", "causal", "n_texts", "texts", "shards")


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
        fields = {
            "source": self.source, "window": self.window, "source_hash": self.source_hash,
            "text": self.tokens.text, "ids": self.ids, "strings": self.tokens.strings,
            "spans": self.tokens.spans,
            "special": [number for number, mark in enumerate(self.tokens.special) if mark],
        }  # fmt: skip
        return json.dumps(fields, ensure_ascii=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Read what ``to_json`` wrote."""
        fields = json.loads(line)
        strings, special = tuple(fields["strings"]), set(fields["special"])
        spans = tuple((start, end) for start, end in fields["spans"])
        marks = tuple(number in special for number in range(len(strings)))
        tokens = Tokens(strings, fields["text"], spans, marks)
        where = {name: fields[name] for name in ("source_hash", "source", "window")}
        return cls(tokens, ids=tuple(fields["ids"]), **where)


def read_capture(path: Path) -> dict[str, Any]:
    """Read the fields of a finished ``Capture``: names and sizes of its files, but not the data.

    Raises:
        InputError: a file is missing or damaged, or the format is of another version.
    """
    meta = _read_meta(path)
    projections = [meta["projections"]] if "projections" in meta else []
    for file in [meta["texts"], *meta["shards"], *projections]:
        place, size = path / file["file"], file["bytes"]
        found = place.stat().st_size if place.is_file() else -1
        if found != size:
            what = "missing" if found < 0 else "cut off" if found < size else "changed"
            raise InputError(f"{place} is {what}: it should have {size} bytes; {REMEDY}")
    records = []
    with (path / meta["texts"]["file"]).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                records.append(Record.from_json(line))
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path / TEXTS_FILE}:{number} is damaged: {error}; {REMEDY}"
                ) from error
    shard_of = {index: shard["file"] for shard in meta["shards"] for index in shard["texts"]}
    if not len(records) == len(shard_of) == meta["n_texts"]:
        raise InputError(
            f"{path / TEXTS_FILE} has {len(records)} texts, {META_FILE} speaks of "
            f"{meta['n_texts']} and of attention for {len(shard_of)}; {REMEDY}"
        )
    shards = [shard_of[index] for index in range(len(records))]
    one_file = [PROJECTIONS_FILE] * (meta["n_layers"] * meta["heads_per_layer"])
    outputs = {
        "values": Shards(path, shards, "values"),
        "projections": Shards(path, one_file, "projections"),
    }
    return {
        **{key: meta[key] for key in ("name", "n_layers", "heads_per_layer", "causal")},
        "records": tuple(records),
        "store": Shards(path, shards, "attention"),
        **(outputs if projections else {}),
        "meta": meta,
        "path": path,
    }


def _read_meta(path: Path) -> dict[str, Any]:
    """Read capture.json, explaining what is wrong where it is not one."""
    file = path / META_FILE
    if not path.is_dir():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, near) or "make a capture with `attn-dsl capture`"
        what = "is a file, not the directory of a capture" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}; {hint}")
    if not file.exists() and (path / PARTIAL_FILE).exists():
        raise InputError(
            f"{path} holds an unfinished capture; run the same `attn-dsl capture` again "
            "and it goes on where it stopped"
        )
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise ValueError("it does not describe a capture")
        if meta["version"] != VERSION:
            raise InputError(
                f"{file} has format version {meta['version']}, this attn-dsl reads version "
                f"{VERSION}; {REMEDY}, or use the attn-dsl that wrote it"
            )
        if lacking := [key for key in NEEDED if key not in meta]:
            raise ValueError(f"it lacks {', '.join(lacking)}")
    except FileNotFoundError:
        raise InputError(f"{path} holds no capture: {META_FILE} is missing; {REMEDY}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is damaged: {error}; {REMEDY}") from error
    return meta
