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
import weakref
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from attn_dsl.dsl.errors import InputError
from attn_dsl.synth.llm.model import Completion, ModelError, Request
from attn_dsl.synth.llm.sampling import SLICES, Writing

CACHE_BYTES = 1 << 30
"""Memory for the keys and values of completions that are written side by side."""
SIDE_BY_SIDE = 16
"""The most completions that are written side by side: each looks at the cells of all."""
SMALL = 100_000_000
"""Models of fewer weights run on one thread: more would only wait for each other."""
CHUNK = 512
"""Tokens of a prompt that are read at once."""


class LlamaCpp:
    """A GGUF file.

    Args:
        where: a path, or ``hf:REPO:FILE.gguf``.

    Raises:
        InputError: it cannot be loaded; quotes llama.cpp.
    """

    def __init__(self, where: str) -> None:
        import llama_cpp
        from llguidance.llamacpp import lltokenizer_from_vocab

        self._said, _ = _log()
        self._path = _downloaded(where) if where.startswith("hf:") else Path(where).expanduser()
        self.name, self._api, self._lock = where, llama_cpp, threading.Lock()
        options = llama_cpp.llama_model_default_params()
        if llama_cpp.llama_supports_gpu_offload():
            options.n_gpu_layers = 999
        path = str(self._path).encode()
        self._model: Any = llama_cpp.llama_model_load_from_file(path, options)
        if not self._model:
            raise InputError(f"--llm {where}: llama.cpp cannot load it{self._because()}")
        weakref.finalize(self, llama_cpp.llama_model_free, self._model)
        small = llama_cpp.llama_model_n_params(self._model) < SMALL
        self._threads = 1 if small else os.cpu_count() or 1
        self._vocabulary: Any = llama_cpp.llama_model_get_vocab(self._model)
        self._size = int(llama_cpp.llama_vocab_n_tokens(self._vocabulary))
        self.context = int(llama_cpp.llama_model_n_ctx_train(self._model))
        ends = [i for i in range(self._size) if llama_cpp.llama_vocab_is_eog(self._vocabulary, i)]
        if not ends:
            raise InputError(f"--llm {where}: its vocabulary has no token that ends a text")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a name that it calls
            self._masks = lltokenizer_from_vocab(self._vocabulary, eos_token=ends, slices=SLICES)

        size = self._path.stat().st_size
        with self._path.open("rb") as file:  # the size, the first and the last MiB tell files apart
            first = file.read(1 << 20)
            file.seek(max(0, size - (1 << 20)))
            data = b"%d" % size + first + file.read()
        self.fingerprint = hashlib.sha256(data).hexdigest()[:16]

    def _because(self) -> str:
        """Return what llama.cpp said last."""
        return f": {self._said[-1]}" if self._said else ""

    def count(self, text: str) -> int:
        """Count the tokens of a prompt."""
        return len(self._encoded(text))

    def _encoded(self, prompt: str) -> list[int]:
        """Return the tokens of a prompt, as the model's chat template writes it if there is one."""
        api, template = self._api, self._api.llama_model_chat_template(self._model, None)
        if template:
            prompt = self._as_chat(template.decode("utf-8", errors="replace"), prompt)
        data = prompt.encode("utf-8", errors="replace")
        room = len(data) + 8
        ids = (api.llama_token * room)()
        found = api.llama_tokenize(self._vocabulary, data, len(data), ids, room, True, True)
        if found < 0:
            raise ModelError(f"{self.name}: the prompt could not be split into tokens")
        return list(ids[:found])

    def _as_chat(self, template: str, prompt: str) -> str:
        """Write a prompt as the model's template has a user say it."""
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        api, vocabulary = self._api, self._vocabulary

        def text(token: int) -> str:
            found = api.llama_vocab_get_text(vocabulary, token) if token >= 0 else b""
            return found.decode("utf-8", errors="replace")

        first, last = api.llama_vocab_bos(vocabulary), api.llama_vocab_eos(vocabulary)
        formatter = Jinja2ChatFormatter(template, eos_token=text(last), bos_token=text(first))
        written = formatter(messages=[{"role": "user", "content": prompt}]).prompt
        return written.removeprefix(text(first))  # the tokenizer puts it there itself

    def complete(self, request: Request, stop: Callable[[], bool]) -> list[Completion]:
        """Write completions side by side, from one pass over the prompt; see ``LanguageModel``."""
        api, model, ids = self._api, self._model, self._encoded(request.prompt)
        writing = Writing(self._masks, request, self.context - len(ids))
        width = api.llama_model_n_embd(model) // max(1, api.llama_model_n_head(model))
        cell = 4 * width * api.llama_model_n_head_kv(model) * api.llama_model_n_layer(model)
        fits = max(1, CACHE_BYTES // max(1, cell) - len(ids)) // writing.most
        side = max(1, min(request.count, fits, SIDE_BY_SIDE))
        options = api.llama_context_default_params()
        options.n_ctx = len(ids) + side * writing.most
        options.n_batch = options.n_ubatch = CHUNK
        options.n_seq_max, options.kv_unified = side + 1, True  # sequence 0 is the prompt
        options.n_threads = options.n_threads_batch = self._threads
        if hasattr(options, "n_outputs_max"):
            options.n_outputs_max = side + 1
        with self._lock, contextlib.ExitStack() as stack:
            context = api.llama_init_from_model(model, options)
            if not context:
                raise ModelError(f"{self.name}: llama.cpp cannot make a context{self._because()}")
            stack.callback(api.llama_free, context)
            batch = api.llama_batch_init(CHUNK, 0, 1)
            stack.callback(api.llama_batch_free, batch)
            self._write(context, batch, writing, ids, side, stop)
        return writing.completions()

    def _write(
        self, context: Any, batch: Any, writing: Writing, ids: list[int], side: int,
        stop: Callable[[], bool],
    ) -> None:  # fmt: skip
        """Read the prompt, then write all completions, so many side by side."""
        api, memory = self._api, self._api.llama_get_memory(context)
        for start in range(0, len(ids), CHUNK):
            part = enumerate(ids[start : start + CHUNK], start)
            rows = [(token, place, 0) for place, token in part]
            self._decode(context, batch, rows, only_last=True)
        begin = self._logits(context, -1)
        waiting, free = deque(range(writing.request.count)), list(range(side, 0, -1))
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
            self._decode(context, batch, rows)
            for i, (sequence, (at, _, place)) in enumerate(list(going.items())):
                token = writing.step(at, self._logits(context, i))
                if token is not None:
                    going[sequence] = at, token, place + 1
                    continue
                del going[sequence]
                free.append(sequence)
                api.llama_memory_seq_rm(memory, sequence, -1, -1)

    def _decode(
        self, context: Any, batch: Any, rows: list[tuple[int, int, int]], only_last: bool = False
    ) -> None:
        """Evaluate tokens, each at a position of a sequence; the logits of all or of the last one."""
        batch.n_tokens = len(rows)
        for i, (token, place, sequence) in enumerate(rows):
            batch.token[i], batch.pos[i] = token, place
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = not only_last or i + 1 == len(rows)
        if code := self._api.llama_decode(context, batch):
            raise ModelError(f"{self.name}: llama.cpp failed ({code}){self._because()}")

    def _logits(self, context: Any, row: int) -> np.ndarray:
        """Return the logits of a row of the batch; a copy, for the next batch writes over them."""
        found = self._api.llama_get_logits_ith(context, row)
        return np.ctypeslib.as_array(found, (self._size,)).copy()


def _downloaded(where: str) -> Path:
    """Fetch a file from the hub, or find it where it was fetched before."""
    from huggingface_hub import hf_hub_download

    _, repo, file = where.split(":")
    try:
        return Path(hf_hub_download(repo, file))
    except Exception as error:  # of several packages, whose families have nothing in common
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"--llm {where}: cannot be fetched ({first}); fetch it elsewhere and name the file"
        ) from None


@lru_cache(maxsize=1)
def _log() -> tuple[deque[str], Any]:
    """Keep llama.cpp's log off the terminal; return its last warning, and what must stay alive."""
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # it would start a debugger
    import llama_cpp

    said: deque[str] = deque(maxlen=1)

    @llama_cpp.llama_log_callback
    def remember(level: int, text: bytes, _: Any) -> None:
        line = text.decode("utf-8", errors="replace").strip(" \n.")
        if level >= 3 and line:  # warnings and errors
            said.append(line)

    llama_cpp.llama_log_set(remember, ctypes.c_void_p(0))
    return said, remember
