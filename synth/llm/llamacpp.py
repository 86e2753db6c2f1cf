"""Language models by llama.cpp: any GGUF file, with our own sampling loop.

Completions are sequences of one batch that share the cells of the prompt's keys and values.
llama.cpp's own samplers and grammars play no part.
"""

import ctypes
import hashlib
import os
import warnings
import weakref
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.locate import find
from attn_dsl.synth.llm import kept
from attn_dsl.synth.llm.model import ModelError
from attn_dsl.synth.llm.sampling import SIDE_BY_SIDE, SLICES, LocalModel, Row, Writing

CACHE_BYTES = 1 << 30  # memory for the keys and values of completions that are written side by side
CHUNK = 512  # tokens of a prompt that are read at once
SMALL = 100_000_000
"""Models of fewer weights run on one thread: more would only wait for each other."""


class LlamaCpp(LocalModel):
    """A GGUF file, by its path or as ``hf:REPO:FILE.gguf``.

    Raises:
        InputError: it cannot be loaded; quotes llama.cpp.
    """

    def __init__(self, where: str) -> None:
        import llama_cpp as api
        from llguidance.llamacpp import lltokenizer_from_vocab

        self._said, _ = _log()
        self._kept: tuple[list[int], bytes] = (
            [],
            b"",
        )  # the tokens that prompts share, and their state
        self._writing = 0  # how many requests are on their way
        folder, _, how = find(where)
        path = str(Path(folder or "", how["gguf_file"]))
        options = api.llama_model_default_params()
        options.n_gpu_layers = 999  # all, where there is a GPU
        model = api.llama_model_load_from_file(path.encode(), options)
        if not model:
            raise InputError(f"--llm {where}: llama.cpp cannot load it{self._because()}")
        weakref.finalize(self, api.llama_model_free, model)
        self._api: Any = api
        self._model: Any = model
        self._vocabulary: Any = api.llama_model_get_vocab(model)
        self._size = int(api.llama_vocab_n_tokens(self._vocabulary))
        over = [i for i in range(self._size) if api.llama_vocab_is_eog(self._vocabulary, i)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a name that it calls
            tokenizer = lltokenizer_from_vocab(self._vocabulary, eos_token=over, slices=SLICES)
        super().__init__(where, int(api.llama_model_n_ctx_train(model)), tokenizer)
        data = np.memmap(path, np.uint8, "r")  # its size and its ends tell files apart
        ends = data[: 1 << 20].tobytes() + data[-(1 << 20) :].tobytes()
        self.fingerprint = hashlib.sha256(b"%d" % len(data) + ends).hexdigest()[:16]
        self._small = api.llama_model_n_params(model) < SMALL

    def _because(self) -> str:
        """Return what llama.cpp said last."""
        return f": {self._said[-1]}" if self._said else ""

    def encoded(self, prompt: str) -> list[int]:
        """Return the tokens of a prompt, as the model's chat template writes it if there is one."""
        api, template = self._api, self._api.llama_model_chat_template(self._model, None)
        if template:
            prompt = self._as_chat(template.decode("utf-8", errors="replace"), prompt)
        data = prompt.encode("utf-8", errors="replace")
        ids = (api.llama_token * (len(data) + 8))()
        found = api.llama_tokenize(self._vocabulary, data, len(data), ids, len(ids), True, True)
        return list(ids[:found])

    def _as_chat(self, template: str, prompt: str) -> str:
        """Write a prompt as the model's template has a user say it."""
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        api, vocabulary = self._api, self._vocabulary
        ends = api.llama_vocab_bos(vocabulary), api.llama_vocab_eos(vocabulary)
        first, last = (api.llama_vocab_get_text(vocabulary, x).decode("utf-8", "replace") if x >= 0 else ""
                       for x in ends)  # fmt: skip
        formatter = Jinja2ChatFormatter(template, eos_token=last, bos_token=first)
        written = formatter(messages=[{"role": "user", "content": prompt}]).prompt
        return written.removeprefix(first)  # the tokenizer puts it there itself

    def write(self, writing: Writing, ids: list[int], shared: int, stop: Callable[[], bool]) -> None:
        """Read the prompt as sequence 0; each slot is a sequence that begins with its cells.

        Each request has a context of its own, so that it does not depend on those before or beside it.
        """
        api, model = self._api, self._model
        width = api.llama_model_n_embd(model) // max(1, api.llama_model_n_head(model))
        cell = 4 * width * api.llama_model_n_head_kv(model) * api.llama_model_n_layer(model)
        fits = (CACHE_BYTES // max(1, cell) - len(ids)) // writing.most
        side = max(1, min(writing.request.count, fits, SIDE_BY_SIDE))
        options = api.llama_context_default_params()
        options.n_ctx = len(ids) + side * writing.most
        options.n_batch = options.n_ubatch = max(CHUNK, side)
        options.n_seq_max, options.kv_unified = side + 1, True
        if not api.llama_supports_gpu_offload():
            options.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED  # slower on a CPU
        if hasattr(options, "n_outputs_max"):
            options.n_outputs_max = side + 1
        context = api.llama_init_from_model(model, options)
        if not context:
            raise ModelError(f"{self.name}: llama.cpp cannot make a context{self._because()}")
        batch, memory = api.llama_batch_init(options.n_batch, 0, 1), api.llama_get_memory(context)

        def read(rows: list[Row]) -> list[np.ndarray]:
            for slot, place, _ in rows:
                if not place:
                    api.llama_memory_seq_rm(memory, slot, -1, -1)
                    api.llama_memory_seq_cp(memory, 0, slot, -1, -1)
            rows = [(slot, len(ids) + place, token) for slot, place, token in rows]
            return self._read(context, batch, rows, len(rows))

        self._writing += 1
        try:
            self._recall(context, batch, ids[:shared], stop)
            if begin := self._chunks(context, batch, ids, shared, stop):
                writing.fill(range(1, side + 1), range(writing.request.count), begin[0], read, stop)
        finally:
            self._writing -= 1
            api.llama_batch_free(batch)
            api.llama_free(context)

    def _recall(self, context: Any, batch: Any, ids: list[int], stop: Callable[[], bool]) -> None:
        """Have sequence 0 hold the tokens that prompts share: kept from before, on disk, or read now."""
        api, file = (
            self._api,
            hashlib.sha256(f"{self.fingerprint} {self._api.__version__} {ids}".encode()),
        )
        name = f"{file.hexdigest()[:32]}.state"
        with self._lock:
            if not ids:
                return
            if self._kept[0] != ids:
                self._kept = ids, kept.load(name) or b""
            data = self._kept[1]
            if data and api.llama_state_seq_set_data(context, _bytes(data), len(data), 0):
                return
            self._kept = [], b""
            api.llama_memory_clear(api.llama_get_memory(context), True)
            self._chunks(context, batch, ids, 0, stop)
            if not stop():
                buffer = (ctypes.c_uint8 * api.llama_state_seq_get_size(context, 0))()
                api.llama_state_seq_get_data(context, buffer, len(buffer), 0)
                self._kept = ids, bytes(buffer)
                kept.save(name, self._kept[1])

    def _chunks(self, context: Any, batch: Any, ids: list[int], start: int,
                stop: Callable[[], bool]) -> list[np.ndarray]:  # fmt: skip
        """Read a prompt from a place on as sequence 0; return the logits behind it, if not stopped."""
        found: list[np.ndarray] = []
        for low in range(start, len(ids), CHUNK):
            if stop():
                return []
            rows = [(0, low + i, token) for i, token in enumerate(ids[low : low + CHUNK])]
            found = self._read(context, batch, rows, 1)
        return found

    def _read(self, context: Any, batch: Any, rows: list[Row], wanted: int) -> list[np.ndarray]:
        """Read tokens, each at a position of a sequence; return the logits of the last so many."""
        cores = 1 if self._small else (os.cpu_count() or 1) // 2  # the others search
        threads = max(1, cores // max(1, self._writing))
        self._api.llama_set_n_threads(context, threads, threads)
        batch.n_tokens = len(rows)
        for i, (sequence, place, token) in enumerate(rows):
            batch.token[i], batch.pos[i] = token, place
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = i >= len(rows) - wanted
        if code := self._api.llama_decode(context, batch):
            raise ModelError(f"{self.name}: llama.cpp failed ({code}){self._because()}")
        found = (self._api.llama_get_logits_ith(context, i) for i in range(-wanted, 0))
        return [np.ctypeslib.as_array(row, (self._size,)).copy() for row in found]


def _bytes(data: bytes) -> Any:
    """Return bytes as llama.cpp takes them."""
    return ctypes.cast(ctypes.c_char_p(data), ctypes.POINTER(ctypes.c_uint8))


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
