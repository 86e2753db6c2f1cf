"""Writing captures: a model is run over windows of text, shard by shard, and can be resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from attn_dsl.dsl.errors import InputError, WorkError
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.capture_read import (
    FORMAT,
    META_FILE,
    PARTIAL_FILE,
    TEXTS_FILE,
    VERSION,
    record_line,
)
from attn_dsl.eval.capture_run import run_texts
from attn_dsl.eval.files import write_bytes
from attn_dsl.eval.models import LoadedModel, load_model
from attn_dsl.eval.records import Record
from attn_dsl.eval.shards import n_entries, tensor_name, write_shard
from attn_dsl.eval.texts import text_hash
from attn_dsl.eval.vocabulary import Vocabulary

SHARD_BYTES = 64 * 2**20
WINDOW_POLICY = "first windows of all texts in order, then second windows, and so on"
_KIND_OF_SETTING = {
    "revision": "the model's weights",
    "tokenizer_hash": "the tokenizer",
    "max_tokens": "--max-tokens",
    "windows": "the texts or their number",
}


@dataclass(frozen=True, slots=True)
class _Shard:
    """Which texts a shard holds, in the order in which they are run: by length."""

    file: str
    texts: tuple[int, ...]


def write_capture(
    model: str | LoadedModel,
    texts: Sequence[str],
    out: Path | str,
    *,
    max_tokens: int = 128,
    max_texts: int = 300,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
    resume: bool = True,
) -> Capture:
    """Run a model over texts and store the attention of every head in a directory.

    >>> write_capture("openai-community/gpt2", ["Once upon a time", "The end."], out).n_heads
    144

    Long texts are cut into consecutive windows. The first windows of all texts come first, in
    the order of the texts, then the second windows and so on, until there are ``max_texts``.
    Attention is kept as float16, which changes a row by less than 0.0005 of its mass.

    An interrupted capture goes on where it stopped when it is called again with the same
    settings; a finished one is returned as it is.

    Args:
        model: a hub id, a local directory, or a model from ``load_model``.
        texts: the texts, in order.
        out: a directory, new or holding this very capture.
        max_tokens: the most tokens of a window, special tokens included.
        max_texts: the most windows.
        batch_size: windows that run at once; it changes no result.
        progress: called with (windows done, windows in all) after each batch.
        resume: whether to keep what an earlier run with the same settings left behind.

    Raises:
        InputError: the model cannot be used, the texts give no tokens, ``max_tokens`` is more
            than the model takes, or ``out`` holds something else.
        WorkError: the disk is full, or the model gives attention that is no distribution.
    """
    if max_texts < 1 or batch_size < 1:
        raise InputError("the number of texts and the batch size must be at least 1")
    out = Path(out).expanduser()
    _check_folder(out)
    loaded = load_model(model) if isinstance(model, str) else model
    if loaded.max_positions is not None and max_tokens > loaded.max_positions:
        raise InputError(
            f"{loaded.name} takes {loaded.max_positions} tokens at most, not {max_tokens}; "
            f"use --max-tokens {loaded.max_positions} or less"
        )
    vocabulary = Vocabulary(loaded.tokenizer)
    records = choose_windows(vocabulary, texts, max_tokens, max_texts)
    _check_ids(loaded, records)
    settings = {
        "revision": loaded.revision,
        "tokenizer_hash": vocabulary.hash,
        "max_tokens": max_tokens,
        "windows": _hash_records(records),
    }
    finished = _settings_in(out / META_FILE)
    _compare(out, finished, settings)
    if finished and resume:
        return Capture.open(out)
    (out / META_FILE).unlink(missing_ok=True)
    _compare(out, _settings_in(out / PARTIAL_FILE) if resume else None, settings)
    plan = _plan(loaded, records)
    done = _kept(out, plan) if resume else {}
    _check_disk(out, loaded, records, [shard for shard in plan if shard.file not in done])
    meta = _meta(loaded, settings, len(records), max_texts, records)
    total = len(records)
    seen = sum(len(shard.texts) for shard in plan if shard.file in done)
    todo = [shard for shard in plan if shard.file not in done]
    tensors: dict[str, Any] = {}
    for indices, arrays in run_texts(loaded, records, [s.texts for s in todo], batch_size):
        tensors.update(zip(map(tensor_name, indices), arrays, strict=True))
        seen += len(indices)
        if progress is not None:
            progress(seen, total)
        if len(tensors) < len(todo[0].texts):
            continue
        shard = todo.pop(0)
        written = write_shard(out / shard.file, tensors)
        tensors = {}
        done[shard.file] = {**written, "texts": list(shard.texts)}
        state = {"settings": settings, "shards": list(done.values())}
        write_bytes(out / PARTIAL_FILE, json.dumps(state).encode())
    lines = "".join(record_line(record) + "\n" for record in records)
    meta["texts"] = write_bytes(out / TEXTS_FILE, lines.encode())
    meta["shards"] = [done[shard.file] for shard in plan]
    meta["hash"] = _hash_meta(meta)
    write_bytes(out / META_FILE, (json.dumps(meta, indent=1) + "\n").encode())
    (out / PARTIAL_FILE).unlink(missing_ok=True)
    return Capture.open(out)


def choose_windows(
    vocabulary: Vocabulary, texts: Sequence[str], max_tokens: int, max_texts: int
) -> list[Record]:
    """Cut texts into windows and choose up to ``max_texts``: first windows come first.

    >>> records = choose_windows(vocabulary, ["one two three four", "five"], 2, 3)
    >>> [(record.source, record.window) for record in records]
    [(0, 0), (1, 0), (0, 1)]

    A window with no token of the text, or with a single token in all, is left out.

    Raises:
        InputError: no window is left.
    """
    limit = 1 if len(texts) >= max_texts else None
    ordered = _in_order(vocabulary, texts, max_tokens, max_texts, limit)
    if limit and len(ordered) < max_texts:  # some texts gave nothing
        ordered = _in_order(vocabulary, texts, max_tokens, max_texts, None)
    if not ordered:
        raise InputError("the texts give no windows of two tokens or more; give longer texts")
    return ordered[:max_texts]


def _in_order(
    vocabulary: Vocabulary,
    texts: Sequence[str],
    max_tokens: int,
    max_texts: int,
    max_windows: int | None,
) -> list[Record]:
    """Cut texts into at most ``max_windows`` windows each; all first windows come first."""
    found: list[list[Record]] = []
    count = 0
    for source, text in enumerate(texts):
        own = text_hash(text)
        windows = vocabulary.encode(text, max_tokens, max_windows=max_windows)
        found.append(
            [
                Record(window.tokens, own, source, number, window.ids)
                for number, window in enumerate(windows)
                if len(window.ids) > 1 and not all(window.tokens.special)
            ]
        )
        count += bool(found[-1])
        if count >= max_texts:
            break
    depth = max(map(len, found), default=0)
    return [row[level] for level in range(depth) for row in found if level < len(row)]


def _check_folder(out: Path) -> None:
    """Make the directory, and refuse one that holds other things."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a directory for the capture")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made: {error.strerror}") from error
    names = {path.name for path in out.iterdir() if not path.name.endswith(".tmp")}
    known = {META_FILE, PARTIAL_FILE, TEXTS_FILE}
    foreign = [name for name in names - known if not name.startswith(("attention-", "."))]
    if foreign and not names & {META_FILE, PARTIAL_FILE}:
        raise InputError(
            f"{out} holds other things ({sorted(foreign)[0]}) and no capture; give a new directory"
        )


def _check_ids(loaded: LoadedModel, records: Sequence[Record]) -> None:
    """Make sure that the model knows every id that its tokenizer gave."""
    size = int(loaded.model.get_input_embeddings().weight.shape[0])
    largest = max(max(record.ids) for record in records)
    if largest >= size:
        raise InputError(
            f"{loaded.name} knows {size} token ids, but its tokenizer gave {largest}; the "
            "tokenizer belongs to another model"
        )


def _settings_in(path: Path) -> dict[str, Any] | None:
    """Read the settings of a finished or unfinished capture; None if there is none."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is damaged: {error}; remove the directory or give another"
        ) from error
    return dict(settings)


def _compare(out: Path, there: dict[str, Any] | None, wanted: dict[str, Any]) -> None:
    """Refuse a directory with a capture of other settings, naming those that differ."""
    if there is None:
        return
    differing = [key for key in wanted if there.get(key) != wanted[key]]
    if not differing:
        return
    shown = ", ".join(
        f"{_KIND_OF_SETTING[key]} ({_short(there.get(key))} there, {_short(wanted[key])} now)"
        for key in differing
    )
    raise InputError(
        f"{out} holds a capture of other settings; what differs: {shown}. Give another "
        "directory, or remove this one first"
    )


def _short(value: Any) -> str:
    return value[:10] if isinstance(value, str) else str(value)


def _plan(loaded: LoadedModel, records: Sequence[Record]) -> list[_Shard]:
    """Sort texts by length, so that batches need little padding, and cut them into shards."""
    heads = loaded.n_layers * loaded.n_heads
    order = sorted(range(len(records)), key=lambda index: (len(records[index].ids), index))
    groups: list[list[int]] = []
    size = SHARD_BYTES
    for index in order:
        if size >= SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(index)
        size += 2 * heads * n_entries(len(records[index].ids), loaded.causal)
    return [
        _Shard(f"attention-{number:05d}.safetensors", tuple(group))
        for number, group in enumerate(groups)
    ]


def _kept(out: Path, plan: Sequence[_Shard]) -> dict[str, dict[str, Any]]:
    """Return the shards that an interrupted run finished."""
    path = out / PARTIAL_FILE
    if not path.exists():
        return {}
    planned = {shard.file: list(shard.texts) for shard in plan}
    kept = {}
    for shard in json.loads(path.read_text(encoding="utf-8"))["shards"]:
        file = out / shard["file"]
        whole = file.exists() and file.stat().st_size == shard["bytes"]
        if whole and planned.get(shard["file"]) == shard["texts"]:
            kept[shard["file"]] = shard
    return kept


def _check_disk(
    out: Path, loaded: LoadedModel, records: Sequence[Record], shards: Sequence[_Shard]
) -> None:
    """Refuse to start what the disk has no room for."""
    heads = loaded.n_layers * loaded.n_heads
    entries = sum(
        n_entries(len(records[index].ids), loaded.causal)
        for shard in shards
        for index in shard.texts
    )
    free = shutil.disk_usage(out).free
    if 2 * heads * entries > free:
        raise WorkError(
            f"the capture needs {2 * heads * entries / 2**20:.0f} MiB, {out} has "
            f"{free / 2**20:.0f} MiB free; use fewer texts or tokens, or another disk"
        )


def _hash_records(records: Sequence[Record]) -> str:
    content = [(record.source, record.window, record.source_hash, record.ids) for record in records]
    return sha256(json.dumps(content).encode()).hexdigest()


def _meta(
    loaded: LoadedModel,
    settings: dict[str, Any],
    n_texts: int,
    max_texts: int,
    records: Sequence[Record],
) -> dict[str, Any]:
    """Describe a capture, all but its files."""
    first = [
        string
        for string, mark in zip(records[0].tokens.strings, records[0].tokens.special, strict=True)
        if mark
    ]
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": loaded.name,
        "source": loaded.source,
        "revision": loaded.revision,
        "family": loaded.family,
        "n_layers": loaded.n_layers,
        "heads_per_layer": loaded.n_heads,
        "causal": loaded.causal,
        "tokenizer_hash": settings["tokenizer_hash"],
        "max_tokens": settings["max_tokens"],
        "max_texts": max_texts,
        "n_texts": n_texts,
        "n_sources": len({record.source_hash for record in records}),
        "window_policy": WINDOW_POLICY,
        "special_tokens": {"policy": "those the tokenizer adds by default", "first_text": first},
        "dtype": "float16",
        "packing": "rows q of keys 0..q" if loaded.causal else "rows of all keys",
        "settings": settings,
        "libraries": {
            name: metadata.version(name)
            for name in ("torch", "transformers", "tokenizers", "safetensors", "numpy")
        },
    }


def _hash_meta(meta: dict[str, Any]) -> str:
    """Hash what a capture holds; where it came from and with which libraries is left out."""
    content = {key: meta[key] for key in meta if key not in ("source", "libraries", "max_texts")}
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
