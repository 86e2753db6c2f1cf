"""Language models by transformers: any causal one, by id or directory, on CPU or GPU."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from attn_dsl.dsl.errors import InputError
from attn_dsl.synth.llm.model import (
    PROMPT_KEY,
    PROMPTS,
    Completion,
    ModelError,
    PromptKind,
    Sampling,
    left_over,
)
from attn_dsl.synth.llm.sampling import SLICES, Writing

SMALL = 100_000_000
"""Models of fewer weights run on one thread: more would only wait for each other."""
CACHE_BYTES = 2 << 30
"""Memory for the keys and values of completions that are written side by side."""
SIDE_BY_SIDE = 64
"""The most completions that are written side by side."""


class Transformers:
    """A causal language model with its tokenizer.

    Args:
        where: a Hugging Face id or a directory.
        device: ``cpu``, ``cuda``, ``cuda:1``.

    Raises:
        InputError: it cannot be loaded, or is no causal language model with a fast tokenizer.
    """

    def __init__(self, where: str, *, device: str = "cpu") -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        from attn_dsl.synth.llm.branching import NAME, can_branch

        try:
            with _quiet():
                config = AutoConfig.from_pretrained(where)
                self._tokens: Any = AutoTokenizer.from_pretrained(where)
                kind = torch.float32 if device == "cpu" else "auto"
                self._model: Any = AutoModelForCausalLM.from_pretrained(where, dtype=kind)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            first = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(
                f"--llm {where}: cannot be loaded as a causal language model: {first[0]}"
            ) from None
        if not getattr(self._tokens, "is_fast", False):
            raise InputError(
                f"--llm {where}: its tokenizer is a slow one; token masks need a fast one"
            )
        ends = self._ends()
        if not ends:
            raise InputError(f"--llm {where}: its tokenizer has no token that ends a text")
        try:
            self._model.to(device).eval()
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"--llm-device {device}: {str(error).splitlines()[0]}") from None
        from llguidance.hf import from_tokenizer

        size = int(self._model.get_output_embeddings().weight.shape[0])
        self._masks = from_tokenizer(self._tokens, n_vocab=size, eos_token=ends, slices=SLICES)
        self.name, self.device, self._lock = where, device, threading.Lock()
        self._threads = 1 if self._model.num_parameters() < SMALL else torch.get_num_threads()
        wanted = getattr(config, PROMPT_KEY, "page")
        if wanted not in PROMPTS:
            raise InputError(
                f"--llm {where}: config.json wants the prompt {wanted!r}, which is unknown"
            )
        self.prompt: PromptKind = wanted
        text = config.get_text_config()
        self.context = int(getattr(text, "max_position_embeddings", 0) or 4096)
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self._branching = can_branch(text)
        if self._branching:
            self._model.set_attn_implementation(NAME)
        known = inspect.signature(self._model.forward).parameters
        self._cache_name = "cache" if "cache" in known else "past_key_values"  # before 5.24
        self._bytes = 2 * text.num_hidden_layers * heads * width * self._model.dtype.itemsize

    def _ends(self) -> list[int]:
        """Find the tokens that end a text."""
        found = self._tokens.eos_token_id, self._model.generation_config.eos_token_id
        flat = [x for ids in found for x in (ids if isinstance(ids, list) else [ids])]
        return sorted({int(x) for x in flat if x is not None})

    @property
    def fingerprint(self) -> str:
        """A hash of a sample of all weights, and of the tokenizer."""
        total = hashlib.sha256()
        for name, tensor in sorted(self._model.state_dict().items()):
            total.update(name.encode())
            data = tensor.detach().cpu().contiguous().flatten()
            sample = data[:: max(1, len(data) // 4096)].float().numpy()
            total.update(np.ascontiguousarray(sample).tobytes())
        total.update(self._tokens.backend_tokenizer.to_str().encode())
        return total.hexdigest()[:16]

    def count(self, text: str) -> int:
        """Count the tokens of a prompt."""
        return len(self._encoded(text))

    def _encoded(self, prompt: str) -> list[int]:
        if self.prompt == "page" and self._tokens.chat_template:
            turns = [{"role": "user", "content": prompt}]
            found = self._tokens.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=True, return_dict=False
            )
            return [int(x) for x in found]
        return [int(x) for x in self._tokens(prompt)["input_ids"]]

    def complete(
        self, prompt: str, grammar: str, count: int, seed: int, sampling: Sampling,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[Completion]:  # fmt: skip
        """Write completions side by side, from one pass over the prompt; see ``LanguageModel``."""
        import torch

        ids = self._encoded(prompt)
        most = left_over(self.name, len(ids), self.context, sampling)
        writing = Writing(self._masks, grammar, count, seed, sampling, most)
        longest = writing.most + (0 if self._branching else len(ids))
        batch = max(1, min(count, SIDE_BY_SIDE, CACHE_BYTES // max(1, self._bytes * longest)))
        try:
            with self._lock, torch.inference_mode(), _threads(self._threads):
                for start in range(0, count, batch):
                    if stop():
                        break
                    self._write(writing, ids, list(range(start, min(start + batch, count))), stop)
        except torch.OutOfMemoryError as error:
            raise ModelError(f"{self.name}: {str(error).splitlines()[0]}") from None
        return writing.completions()

    def _write(
        self, writing: Writing, ids: list[int], rows: list[int], stop: Callable[[], bool]
    ) -> None:
        """Write some completions to their ends."""
        import torch
        from transformers import Cache, DynamicCache

        from attn_dsl.synth.llm.branching import branched, using

        cache: Cache = DynamicCache(config=self._model.config)

        def read(tokens: list[list[int]]) -> np.ndarray:
            given = torch.tensor(tokens, device=self.device)
            given_cache = {self._cache_name: cache}
            out = self._model(given, **given_cache, use_cache=True, logits_to_keep=1)
            return out.logits[:, -1].float().cpu().numpy()

        logits = read([ids]).repeat(len(rows), axis=0)
        if self._branching:
            cache = branched(cache)
        else:
            cache.batch_repeat_interleave(len(rows))
        first = True
        with using(cache) if self._branching else contextlib.nullcontext():
            while rows and not stop():
                drawn = [writing.step(at, logits[i]) for i, at in enumerate(rows)]
                on = [i for i, token in enumerate(drawn) if token is not None]
                if not on:
                    return
                if len(on) < len(rows):
                    if not (first and self._branching):  # then there is nothing to choose from
                        cache.batch_select_indices(torch.tensor(on, device=self.device))
                    rows = [rows[i] for i in on]
                first = False
                logits = read([[token] for token in drawn if token is not None])


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """Let torch use so many threads for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the progress bar that transformers draws while it loads weights."""
    from transformers.utils import logging as module

    logging: Any = module  # its functions have no types
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
