"""Writing captures: a model is run over windows of text, shard by shard, and can be resumed."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256
from importlib import metadata
from itertools import zip_longest
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval import capture_files as files
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.capture_files import Record
from attn_dsl.eval.files import UNREADABLE, alone, read_json, refuse_other_things, write_bytes
from attn_dsl.eval.locate import EMBEDDED, stories_path
from attn_dsl.eval.models import LoadedModel, ids_known, load_model
from attn_dsl.eval.notebook import notebook_progress
from attn_dsl.eval.shards import Array, ShardWriter, Verified, n_entries, tensor_name
from attn_dsl.eval.texts import KNOWN, Spec, read_texts, text_hash
from attn_dsl.eval.tokenizer import Vocabulary

if TYPE_CHECKING:
    from attn_dsl.eval.head_outputs import HeadOutputs

SHARD_BYTES = 64 * 2**20
LONGEST = 512
"""The most tokens of a sentence, where nothing else is said."""
_KIND_OF_SETTING = {
    "revision": "the model's weights", "tokenizer_hash": "the tokenizer",
    "max_tokens": "--max-tokens", "windows": "the texts or their number", "dtype": "--dtype",
    "values": "values, which --no-values leaves out",
}  # fmt: skip


def write_capture(model: str | LoadedModel, texts: Sequence[str], out: Path | str, *, max_tokens: int = 128,
                  max_texts: int = 300, values: bool = True, device: str = "cpu", dtype: str = "float32",
                  batch_size: int | None = None,
                  progress: Callable[[int, int], None] | None = None) -> Capture:  # fmt: skip
    """Run a model over texts and store attention and values of every head in a directory.

    >>> write_capture("openai-community/gpt2", ["Once upon a time", "The end."], out).n_heads
    144

    Long texts are cut into consecutive windows. The first windows of all texts come first, in
    the order of the texts, then the second windows and so on, until there are ``max_texts``.
    Attention and value vectors are kept as float16, and written as soon as a layer has run. Where
    heads do not write the sum of A v W_O, the capture has no values and ``lacking`` says why.

    An interrupted capture goes on where it stopped when it is called again with the same
    settings; a finished one is returned as it is.

    Args:
        model: a model from ``load_model``, or what it takes.
        texts: the texts, in order.
        out: a directory, new or holding this very capture.
        max_tokens: the most tokens of a window, special tokens included.
        max_texts: the most windows.
        values: whether to keep value vectors, so that outputs of heads can be measured.
        device, dtype: as for ``load_model``, where the model is not loaded yet.
        batch_size: windows that run at once, at most; what fits into memory if None.
        progress: called with (windows done, windows in all) after each batch.

    Raises:
        InputError: the model cannot be used, the texts give no tokens, ``out`` holds something
            else, disk or memory has no room, or values do not fit into float16.
        WorkError: the disk is full, or the model gives attention that is no distribution.
    """
    if max_texts < 1 or (batch_size is not None and batch_size < 1):
        raise InputError("the number of texts and the batch size must be at least 1")
    out = Path(out).expanduser()
    if not any((out / name).exists() for name in (files.META_FILE, files.PARTIAL_FILE)):
        mine = ("attention-", files.TEXTS_FILE, files.PROJECTIONS_FILE, ".")
        refuse_other_things(out, mine, "capture")
    with alone(out):
        loaded = load_model(model, device=device, dtype=dtype) if isinstance(model, str) else model
        return _write(loaded, texts, out, max_tokens, max_texts, values, batch_size, progress)


def _write(loaded: LoadedModel, texts: Sequence[str], out: Path, max_tokens: int, max_texts: int,
           values: bool, batch_size: int | None,
           progress: Callable[[int, int], None] | None) -> Capture:  # fmt: skip
    """Write a capture into a directory, or go on with it; see ``write_capture``."""
    from safetensors.numpy import save

    from attn_dsl.eval.capture_run import run_texts
    from attn_dsl.eval.head_outputs import head_outputs
    from attn_dsl.eval.replace.context import obstacle

    loaded.check_length(max_tokens, "a window of --max-tokens")
    told = warn_of(obstacle(loaded))
    vocabulary = Vocabulary(loaded.tokenizer)
    records = choose_windows(vocabulary, texts, max_tokens, max_texts)
    if (largest := max(max(record.ids) for record in records)) >= ids_known(loaded.model):
        raise InputError(f"{loaded.name} knows {ids_known(loaded.model)} token ids, but its tokenizer gave "
                         f"{largest}; the tokenizer belongs to another model")  # fmt: skip
    windows = [(record.source, record.window, record.source_hash, record.ids) for record in records]
    settings = {"revision": loaded.revision, "tokenizer_hash": vocabulary.hash, "max_tokens": max_tokens,
                "windows": sha256(json.dumps(windows).encode()).hexdigest(),
                "dtype": str(loaded.model.dtype).removeprefix("torch."), "values": values}  # fmt: skip
    if _same_work(out / files.META_FILE, settings):
        (out / files.PARTIAL_FILE).unlink(missing_ok=True)
        return Capture.open(out)
    heads, rows = head_outputs(loaded, values), loaded.n_layers * loaded.n_heads
    shapes: list[dict[str, tuple[int, ...]]] = []  # by text
    for index, n in enumerate(len(record.ids) for record in records):
        shapes.append({tensor_name("attention", index): (rows, n_entries(n, loaded.causal))})
        if heads.projections is not None:
            size = heads.projections.shape[2]
            shapes[-1][tensor_name("values", index)] = (rows // heads.group, n, size)
    sizes = [sum(2 * prod(one) for one in shape.values()) for shape in shapes]
    # Texts of like length lie beside each other, so that batches need little padding.
    plan: dict[str, list[int]] = {}
    filled = SHARD_BYTES
    for index in sorted(range(len(records)), key=lambda index: (len(records[index].ids), index)):
        if filled >= SHARD_BYTES:
            plan[f"attention-{len(plan):05d}.safetensors"] = group = []
            filled = 0
        group.append(index)
        filled += sizes[index]
    done = {shard["file"]: shard for shard in _same_work(out / files.PARTIAL_FILE, settings).get("shards", ())
            if plan.get(shard["file"]) == shard["texts"] and (out / shard["file"]).is_file()
            and (out / shard["file"]).stat().st_size == shard["bytes"]}  # fmt: skip
    resumed = set(done)
    todo = {file: indices for file, indices in plan.items() if file not in done}
    needed = sum(sizes[i] for group in todo.values() for i in group)
    if needed > (free := shutil.disk_usage(out).free):
        raise InputError(f"the capture needs {needed / 2**20:,.0f} MiB, {out} has {free / 2**20:,.0f} MiB "
                         "free; use fewer texts or tokens, or another disk")  # fmt: skip
    ids, total = [record.ids for record in records], len(records)
    seen = total - sum(map(len, todo.values()))
    writers: dict[int, ShardWriter] = {}  # by text

    def begin() -> Iterator[list[int]]:
        for file, group in todo.items():
            tensors = {name: shape for i in group for name, shape in shapes[i].items()}
            writers.update(dict.fromkeys(group, ShardWriter(out / file, tensors)))
            yield group

    def keep(index: int, layer: int, *read: Array) -> None:
        for name, rows in zip(shapes[index], read, strict=True):
            writers[index].put(name, layer * len(rows), rows)

    try:
        with closing(run_texts(loaded, heads, ids, begin(), keep, batch_size)) as batches:
            for indices in batches:
                seen += len(indices)
                if progress is not None:
                    progress(seen, total)
                writer = writers[indices[0]]
                if indices[-1] == plan[file := writer.path.name][-1]:
                    done[file] = {**writer.finish(), "texts": plan[file]}
                    state = {"settings": settings, "shards": list(done.values())}
                    write_bytes(out / files.PARTIAL_FILE, json.dumps(state).encode())
    finally:
        for writer in writers.values():
            writer.discard()
    meta = {**_meta(loaded, settings, max_texts, records), **told}
    lines = "".join(record.to_json() + "\n" for record in records)
    meta["texts"] = write_bytes(out / files.TEXTS_FILE, lines.encode())
    meta["shards"] = [done[file] for file in plan]
    if heads.projections is None:
        meta["lacking"] = heads.lacking
    else:
        each = enumerate(heads.projections.reshape(-1, *heads.projections.shape[2:]))
        data = save({tensor_name("projections", number): one for number, one in each})
        meta["projections"] = write_bytes(out / files.PROJECTIONS_FILE, data)
    meta["hash"] = files.content_hash(meta)
    written = [one for name in ("texts", "projections") if (one := meta.get(name))] + meta["shards"]
    verified = Verified(out, {one["file"]: one["sha256"] for one in written})
    for file in verified.hashes:
        if file in resumed:  # it was finished before an interruption
            verified.check(file, again=True)
        else:
            verified.note(file)
    write_bytes(out / files.META_FILE, (json.dumps(meta, indent=1) + "\n").encode())
    (out / files.PARTIAL_FILE).unlink(missing_ok=True)
    return Capture.open(out)


def capture(model: str, text: Spec | None = None, *, out: str | Path, texts: Sequence[str] | None = None,
            max_tokens: int = 128, max_texts: int = 300, values: bool = True, device: str = "cpu",
            dtype: str = "float32",
            progress: Callable[[int, int], None] | None = None) -> Capture:  # fmt: skip
    """Store attention and values of every head of a model on texts, as `attn-dsl capture` does.

    >>> capture("demo", texts=["Once upon a time, Tom saw Mia."], out="captures/demo")
    <Capture of demo-gpt2: attention and values of 2 layers of 4 heads on 1 texts>

    Model and text are as for ``fit``, everything else as for ``write_capture``; ``texts`` are texts
    themselves instead. A capture that was interrupted goes on; notebooks show a progress bar.
    """
    if texts is not None:
        return write_capture(model, texts, out, max_tokens=max_tokens, max_texts=max_texts, values=values,
                             device=device, dtype=dtype, progress=progress)  # fmt: skip
    return capture_of(None, model, text, out, max_tokens=max_tokens, max_texts=max_texts, values=values,
                      device=device, dtype=dtype, progress=progress)  # fmt: skip


def capture_of(capture: str | Path | Capture | None, model: str | None, text: Spec | None, out: Path | str, *,
               progress: Callable[[int, int], None] | None = None, **settings: Any) -> Capture:  # fmt: skip
    """Return the capture that is given, or run a model over texts; without any, the demo model.

    Raises:
        InputError: both are given, or a model without a text.
    """
    if capture is not None:
        if model is not None or text is not None:
            raise InputError("give either --capture, or MODEL and --text, not both")
        found = capture if isinstance(capture, Capture) else Capture.open(capture)
        warn_of(found.meta.get("not_replaceable"))
        return found
    model, texts = model_and_texts(model, text)
    if progress is None and (shown := notebook_progress()):
        progress = partial(shown, "reading attention")
    return write_capture(model, texts, out, progress=progress, **settings)


@dataclass(frozen=True, eq=False)
class TextReader:
    """A model that is run over one text after another."""

    loaded: LoadedModel
    vocabulary: Vocabulary
    heads: HeadOutputs

    @classmethod
    def of(cls, loaded: LoadedModel) -> TextReader:
        """Find out how the heads of a model are read."""
        from attn_dsl.eval.head_outputs import head_outputs

        return cls(loaded, Vocabulary(loaded.tokenizer), head_outputs(loaded, True))

    def read(self, text: str, longest: int = LONGEST) -> Capture:
        """Return a capture of one text, in memory, with value vectors where the model has them.

        Raises:
            InputError: the text is too short or too long.
        """
        from attn_dsl.eval.capture_run import run_texts

        loaded, heads = self.loaded, self.heads
        longest = min(longest, loaded.max_positions or longest)
        record, *more = choose_windows(self.vocabulary, [text], longest, 2)
        if more:
            raise InputError(f"the text has more than {longest} tokens; give a shorter one")
        layers: list[tuple[Array, ...]] = []

        def keep(index: int, layer: int, *read: Array) -> None:
            layers.append(read)

        with closing(run_texts(loaded, heads, [record.ids], [[0]], keep)) as batches:
            list(batches)
        attention, *values = map(np.concatenate, zip(*layers, strict=True))
        own = heads.projections
        return Capture(
            loaded.name, loaded.n_layers, loaded.n_heads, loaded.causal, (record,), (attention,),
            tuple(values), () if own is None else tuple(own.reshape(-1, *own.shape[2:])),
            {"lacking": heads.lacking},
        )  # fmt: skip


@lru_cache(maxsize=1)
def _reader_of(source: str, dtype: str) -> TextReader:
    """Load a model on the CPU; the last one is kept, so that a second text is read at once."""
    return TextReader.of(load_model(source, dtype=dtype))


def read_text(capture: Capture | str, text: str) -> Capture:
    """Run a model, or that of a capture, over one text; return a capture of that text, in memory.

    Raises:
        InputError: the capture was made from arrays, or the text is too short or too long.
    """
    if isinstance(capture, str):
        return _reader_of(capture, "float32").read(text)
    if not (source := capture.meta.get("source")):
        raise InputError(
            f"{capture.name} was made from arrays, and no model reads a sentence; give a text's number"
        )
    return _reader_of(str(source), str(capture.meta["settings"]["dtype"])).read(text)


def model_and_texts(model: str | None, text: Spec | None) -> tuple[str, list[str]]:
    """Return the model and the texts to read: the demo model, and stories for embedded models."""
    model = model or "demo"
    if text is None and model not in EMBEDDED:
        raise InputError(f"a model needs a text to read: --text FILE ({KNOWN}), DIR or hf:dataset")
    return model, read_texts(text or str(stories_path()))


def warn_of(reason: str | None) -> dict[str, str]:
    """Warn of what replacement refuses, before any work; return what a capture notes of it."""
    if reason is not None:
        warnings.warn(f"`attn-dsl replace` will refuse this model: {reason}", stacklevel=3)
    return {} if reason is None else {"not_replaceable": reason}


def choose_windows(
    vocabulary: Vocabulary, texts: Sequence[str], max_tokens: int, max_texts: int
) -> list[Record]:
    """Cut texts into windows and choose up to ``max_texts``: first windows come first.

    A window with no token of the text, or with a single token in all, is left out.

    Raises:
        InputError: no window is left.
    """
    found: list[Record] = []
    # Where texts are many, their first windows are cut alone; some of them may give none.
    for most in (1, None) if len(texts) >= max_texts else (None,):
        by_text: list[list[Record]] = []
        for source, text in enumerate(texts if len(found) < max_texts else ()):
            own, windows = text_hash(text), vocabulary.encode(text, max_tokens, max_windows=most)
            kept = [Record(window.tokens, own, source, number, window.ids) for number, window in enumerate(
                        windows) if len(window.ids) > 1 and not all(window.tokens.special)]  # fmt: skip
            by_text += [kept] if kept else []
            if len(by_text) == max_texts:
                break
        found = [one for level in zip_longest(*by_text) for one in level if one] or found
    if not found:
        raise InputError("the texts give no windows of two tokens or more; give longer texts")
    return found[:max_texts]


def _same_work(path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Read what a file says of a capture, finished or not; {} where it is not there.

    Raises:
        InputError: it is damaged, or of a capture of other settings.
    """
    try:
        found = read_json(path.read_text(encoding="utf-8"))
        there = dict(found["settings"])
        # older captures have no values; those that are finished are good as they are
        there.setdefault("values", path.name == files.META_FILE and wanted["values"])
    except FileNotFoundError:
        return {}
    except UNREADABLE as error:
        raise InputError(f"{path} is damaged: {error}; remove the directory or give another") from error
    shown = ", ".join(f"{_KIND_OF_SETTING[key]} ({str(there.get(key))[:10]} there, {str(value)[:10]} "
                      "now)" for key, value in wanted.items() if there.get(key) != value)  # fmt: skip
    if shown:
        raise InputError(f"{path.parent} holds a capture of other settings; what differs: {shown}. Give "
                         "another directory, or remove this one first")  # fmt: skip
    return dict(found)


def _meta(loaded: LoadedModel, settings: dict[str, Any], max_texts: int,
          records: Sequence[Record]) -> dict[str, Any]:  # fmt: skip
    """Describe a capture, all but its files."""
    libraries = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
    return {"format": files.FORMAT, "version": files.VERSION, "name": loaded.name, "source": loaded.source,
            "revision": loaded.revision, "family": loaded.family, "n_layers": loaded.n_layers,
            "heads_per_layer": loaded.n_heads, "causal": loaded.causal,
            "tokenizer_hash": settings["tokenizer_hash"], "max_tokens": settings["max_tokens"],
            "max_texts": max_texts, "n_texts": len(records), "dtype": "float16", "settings": settings,
            "libraries": {name: metadata.version(name) for name in libraries}}  # fmt: skip
