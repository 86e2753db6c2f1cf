"""Opening captures on disk: what is checked at once, and what only on request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attn_dsl.dsl.errors import InputError, did_you_mean
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.models import file_hash
from attn_dsl.eval.records import Record
from attn_dsl.eval.shards import REMEDY, ShardStore

META_FILE, TEXTS_FILE, PARTIAL_FILE = "capture.json", "texts.jsonl", "capture.partial.json"
FORMAT, VERSION = "attn-dsl-capture", 1


def read_capture(path: Path) -> dict[str, Any]:
    """Read the fields of a finished ``Capture``: names and sizes of its files, but not the data.

    Raises:
        InputError: a file is missing or damaged, or the format is of another version.
    """
    meta = _read_meta(path)
    for file in [meta["texts"], *meta["shards"]]:
        _check_size(path / file["file"], file["bytes"])
    records = _read_records(path / meta["texts"]["file"])
    shard_of = [""] * len(records)
    try:
        for shard in meta["shards"]:
            for index in shard["texts"]:
                shard_of[index] = shard["file"]
    except IndexError as error:
        raise InputError(f"{path / META_FILE} speaks of more texts than there are") from error
    if len(records) != meta["n_texts"] or "" in shard_of:
        raise InputError(
            f"{path / TEXTS_FILE} has {len(records)} texts, {META_FILE} speaks of "
            f"{meta['n_texts']}; {REMEDY}"
        )
    return {
        "name": meta["name"],
        "n_layers": meta["n_layers"],
        "heads_per_layer": meta["heads_per_layer"],
        "causal": meta["causal"],
        "records": tuple(records),
        "store": ShardStore(path, shard_of),
        "meta": meta,
        "path": path,
    }


def verify_files(folder: Path, meta: Mapping[str, Any]) -> None:
    """Compare every file of a capture with the hash that was stored when it was written.

    Raises:
        InputError: a file has changed.
    """
    for file in [meta["texts"], *meta["shards"]]:
        path = folder / file["file"]
        _check_size(path, file["bytes"])
        if file_hash(path) != file["sha256"]:
            raise InputError(f"{path} has changed since it was written; {REMEDY}")


def _read_meta(path: Path) -> dict[str, Any]:
    """Read capture.json, explaining what is wrong where it is not one."""
    if not path.is_dir():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, near) or "make a capture with `attn-dsl capture`"
        what = "is a file, not the directory of a capture" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}; {hint}")
    file = path / META_FILE
    if not file.exists():
        if (path / PARTIAL_FILE).exists():
            raise InputError(
                f"{path} holds an unfinished capture; run the same `attn-dsl capture` again "
                "and it goes on where it stopped"
            )
        raise InputError(f"{path} holds no capture: {META_FILE} is missing; {REMEDY}")
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is damaged: {error}; {REMEDY}") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise InputError(f"{file} does not describe a capture; {REMEDY}")
    if meta.get("version") != VERSION:
        raise InputError(
            f"{file} has format version {meta.get('version')}, this attn-dsl reads version "
            f"{VERSION}; {REMEDY}, or use the attn-dsl that wrote it"
        )
    wanted = ("name", "n_layers", "heads_per_layer", "causal", "n_texts", "texts", "shards")
    lacking = [key for key in wanted if key not in meta]
    if lacking:
        raise InputError(f"{file} lacks {', '.join(lacking)}; {REMEDY}")
    return meta


def _check_size(path: Path, size: int) -> None:
    """Make sure that a file is there and has the size that it was written with."""
    try:
        found = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} is missing; {REMEDY}") from error
    if found != size:
        what = "cut off" if found < size else "changed"
        raise InputError(f"{path} is {what}: it has {found} bytes, not {size}; {REMEDY}")


def record_line(record: Record) -> str:
    """Write a record as one line of JSON."""
    tokens = record.tokens
    return json.dumps(
        {
            "source": record.source,
            "window": record.window,
            "source_hash": record.source_hash,
            "text": tokens.text,
            "ids": record.ids,
            "strings": tokens.strings,
            "spans": tokens.spans,
            "special": [number for number, mark in enumerate(tokens.special) if mark],
        },
        ensure_ascii=True,
        separators=(",", ":"),
    )


def _read_records(path: Path) -> list[Record]:
    """Read what is kept of the texts."""
    records: list[Record] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                records.append(_record(json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}:{number} is damaged: {error}; {REMEDY}") from error
    return records


def _record(fields: dict[str, Any]) -> Record:
    special = set(fields["special"])
    tokens = Tokens(
        tuple(fields["strings"]),
        fields["text"],
        tuple((start, end) for start, end in fields["spans"]),
        tuple(number in special for number in range(len(fields["strings"]))),
    )
    return Record(
        tokens, fields["source_hash"], fields["source"], fields["window"], tuple(fields["ids"])
    )
