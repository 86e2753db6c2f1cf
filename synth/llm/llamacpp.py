"""Language models by llama.cpp: any GGUF file, with our own sampling loop.

Completions are sequences of one batch that share the cells of the prompt's keys and values; as one
ends, the next begins in its place. llama.cpp's own samplers and grammars play no part.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from attn_dsl.dsl.errors import InputError
from attn_dsl.synth.llm.model import (
    GGUF_PROMPT_KEY,
    PROMPTS,
    Completion,
    ModelError,
    PromptKind,
    Sampling,
    left_over,
)
from attn_dsl.synth.llm.sampling import SLICES, Writing

CACHE_BYTES = 1 << 30
"""Memory for the keys and values of completions that are written side by side."""
SIDE_BY_SIDE = 16
"""The most completions that are written side by side: each looks at the cells of all."""
SMALL = 100_000_000
"""Models of fewer weights run on one thread: more would only wait for each other."""
CHUNK = 512
"""Tokens of a prompt that are read at once."""
_said: deque[str] = deque(maxlen=8)
"""The last lines that llama.cpp logged, for messages."""
_log: Any = None


class LlamaCpp:
    """A GGUF file.

    Args:
        where: a path, or ``hf:REPO:FILE.gguf``.
        threads: of llama.cpp; if None, all cores, or one for a small model.

    Raises:
        InputError: it cannot be loaded; says what llama.cpp says.
    """

    def __init__(self, where: str, *, threads: int | None = None) -> None:
        _quiet()
        import llama_cpp

        path = _downloaded(where) if where.startswith("hf:") else Path(where).expanduser()
        self.name, self._path, self._api = where, path, llama_cpp
        self._lock = threading.Lock()
        options = llama_cpp.llama_model_default_params()
        if llama_cpp.llama_supports_gpu_offload():
            options.n_gpu_layers = 999
        _said.clear()
        self._model: Any = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
        if not self._model:
            raise InputError(f"--llm {where}: llama.cpp cannot load it{_because()}")
        small = llama_cpp.llama_model_n_params(self._model) < SMALL
        self._threads = threads or (1 if small else os.cpu_count() or 1)
        self._vocabulary: Any = llama_cpp.llama_model_get_vocab(self._model)
        self.context = int(llama_cpp.llama_model_n_ctx_train(self._model))
        self._size = int(llama_cpp.llama_vocab_n_tokens(self._vocabulary))
        wanted = self._meta(GGUF_PROMPT_KEY) or "page"
        if wanted not in PROMPTS:
            raise InputError(f"--llm {where}: it wants the prompt {wanted!r}, which is unknown")
        self.prompt: PromptKind = wanted
        self._masks = self._tokenizer()

    def _meta(self, key: str) -> str | None:
        """Read a value of the file's metadata."""
        size = self._api.llama_model_meta_val_str(self._model, key.encode(), None, 0)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        self._api.llama_model_meta_val_str(self._model, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", errors="replace")

    def _tokenizer(self) -> Any:
        from llguidance.llamacpp import lltokenizer_from_vocab

        api, vocabulary = self._api, self._vocabulary
        ends = [i for i in range(self._size) if api.llama_vocab_is_eog(vocabulary, i)]
        if not ends:
            raise InputError(f"--llm {self.name}: its vocabulary has no token that ends a text")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a name that it calls
            return lltokenizer_from_vocab(vocabulary, eos_token=ends, slices=SLICES)

    @property
    def fingerprint(self) -> str:
        """A hash of the file's size, its first and its last MiB."""
        total = hashlib.sha256(str(self._path.stat().st_size).encode())
        with self._path.open("rb") as file:
            total.update(file.read(1 << 20))
            file.seek(max(0, self._path.stat().st_size - (1 << 20)))
            total.update(file.read())
        return total.hexdigest()[:16]

    def count(self, text: str) -> int:
        """Count the tokens of a prompt."""
        return len(self._encoded(text))

    def _encoded(self, prompt: str) -> list[int]:
        if self.prompt == "page" and (template := self._meta("tokenizer.chat_template")):
            prompt = self._as_chat(template, prompt)
        data = prompt.encode("utf-8", errors="replace")
        room = len(data) + 8
        ids = (self._api.llama_token * room)()
        found = self._api.llama_tokenize(
            self._vocabulary, data, len(data), ids, room, True, self.prompt == "page"
        )
        if found < 0:
            raise ModelError(f"{self.name}: the prompt could not be split into tokens")
        return list(ids[:found])

    def _as_chat(self, template: str, prompt: str) -> str:
        """Write a prompt as the model's template has a user say it."""
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        api, vocabulary = self._api, self._vocabulary

        def text(token: int) -> str:
            found = api.llama_vocab_get_text(vocabulary, token) if token >= 0 else None
            return found.decode("utf-8", errors="replace") if found else ""

        first, last = api.llama_vocab_bos(vocabulary), api.llama_vocab_eos(vocabulary)
        formatter = Jinja2ChatFormatter(template, eos_token=text(last), bos_token=text(first))
        written = formatter(messages=[{"role": "user", "content": prompt}]).prompt
        return written.removeprefix(text(first)) if text(first) else written

    def complete(
        self, prompt: str, grammar: str, count: int, seed: int, sampling: Sampling,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[Completion]:  # fmt: skip
        """Write completions side by side, from one pass over the prompt; see ``LanguageModel``."""
        ids = self._encoded(prompt)
        most = left_over(self.name, len(ids), self.context, sampling)
        writing = Writing(self._masks, grammar, count, seed, sampling, most)
        side = self._side_by_side(count, len(ids), writing.most)
        with self._lock, self._open(len(ids) + side * writing.most, side) as context:
            self._write(context, writing, ids, side, stop)
        return writing.completions()

    def _side_by_side(self, count: int, prompt: int, most: int) -> int:
        """Choose how many completions are written at once: as memory allows."""
        api, model = self._api, self._model
        width = api.llama_model_n_embd(model) // max(1, api.llama_model_n_head(model))
        cell = 4 * width * api.llama_model_n_head_kv(model) * api.llama_model_n_layer(model)
        fits = max(1, CACHE_BYTES // max(1, cell) - prompt) // most
        return max(1, min(count, fits, SIDE_BY_SIDE, api.llama_max_parallel_sequences() - 1))

    @contextlib.contextmanager
    def _open(self, cells: int, side: int) -> Iterator[Any]:
        """Open a context whose sequences share one cache: 0 is the prompt, the others completions."""
        options = self._api.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = cells, CHUNK, CHUNK
        options.n_seq_max, options.kv_unified = side + 1, True
        options.n_threads = options.n_threads_batch = self._threads
        if hasattr(options, "n_outputs_max"):
            options.n_outputs_max = side + 1
        _said.clear()
        context = self._api.llama_init_from_model(self._model, options)
        if not context:
            raise ModelError(f"{self.name}: llama.cpp cannot make a context{_because()}")
        try:
            yield context
        finally:
            self._api.llama_free(context)

    def _write(
        self, context: Any, writing: Writing, ids: list[int], side: int, stop: Callable[[], bool]
    ) -> None:
        """Read the prompt, then write all completions, so many at a time."""
        api = self._api
        memory = api.llama_get_memory(context)
        batch = api.llama_batch_init(CHUNK, 0, 1)
        try:
            for start in range(0, len(ids), CHUNK):
                part = ids[start : start + CHUNK]
                rows = [(token, start + i, 0) for i, token in enumerate(part)]
                self._decode(context, batch, rows, only_last=True)
            begin = self._logits(context, len(rows) - 1)
            waiting, free = deque(range(len(writing.tokens))), list(range(side, 0, -1))
            going: dict[int, tuple[int, int, int]] = {}  # by sequence: completion, token, position
            while (waiting or going) and not stop():
                while waiting and free:
                    at = waiting.popleft()
                    token = writing.step(at, begin)
                    if token is not None:
                        sequence = free.pop()
                        api.llama_memory_seq_cp(memory, 0, sequence, -1, -1)
                        going[sequence] = at, token, len(ids)
                if not going:
                    continue
                rows = [(token, place, seq) for seq, (_, token, place) in going.items()]
                self._decode(context, batch, rows, only_last=False)
                for i, (sequence, (at, _, place)) in enumerate(list(going.items())):
                    token = writing.step(at, self._logits(context, i))
                    if token is not None:
                        going[sequence] = at, token, place + 1
                        continue
                    del going[sequence]
                    free.append(sequence)
                    api.llama_memory_seq_rm(memory, sequence, -1, -1)
        finally:
            api.llama_batch_free(batch)

    def _decode(
        self, context: Any, batch: Any, rows: list[tuple[int, int, int]], *, only_last: bool
    ) -> None:
        """Evaluate tokens, each at a position of a sequence."""
        batch.n_tokens = len(rows)
        for i, (token, place, sequence) in enumerate(rows):
            batch.token[i], batch.pos[i] = token, place
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = not only_last or i + 1 == len(rows)
        _said.clear()
        if code := self._api.llama_decode(context, batch):
            raise ModelError(f"{self.name}: llama.cpp failed ({code}){_because()}")

    def _logits(self, context: Any, row: int) -> np.ndarray:
        """Return the logits of a row of the batch; a copy, for the next batch writes over them."""
        found = self._api.llama_get_logits_ith(context, row)
        return np.ctypeslib.as_array(found, (self._size,)).copy()

    def __del__(self) -> None:
        model, self._model = getattr(self, "_model", None), None
        if model:
            self._api.llama_model_free(model)


def _downloaded(where: str) -> Path:
    """Fetch a file from the hub, or find it where it was fetched before."""
    from huggingface_hub import try_to_load_from_cache
    from llama_cpp import Llama

    _, repo, file = where.split(":")
    try:
        cached = try_to_load_from_cache(repo, file)
        if isinstance(cached, str):
            return Path(cached)
        model = Llama.from_pretrained(repo, file, vocab_only=True, verbose=False)
    except Exception as error:  # of several packages, whose families have nothing in common
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"--llm {where}: cannot be fetched ({first}); fetch it elsewhere and name the file"
        ) from None
    path = Path(model.model_path)
    model.close()
    return path


def _quiet() -> None:
    """Keep llama.cpp's log off the terminal, and remember its last lines."""
    global _log
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # it would start a debugger
    import llama_cpp

    if _log is None:

        @llama_cpp.llama_log_callback
        def remember(level: int, text: bytes, _: Any) -> None:
            if level >= 3:  # warnings and errors
                _said.append(text.decode("utf-8", errors="replace").strip())

        _log = remember
    llama_cpp.llama_log_set(_log, ctypes.c_void_p(0))


def _because() -> str:
    """Return what llama.cpp said last."""
    lines = [line for line in _said if line and line != "."]
    return f": {lines[-1]}" if lines else ""
