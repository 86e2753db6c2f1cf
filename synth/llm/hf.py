"""Language models by transformers: any causal one, by id or directory, on CPU or GPU."""

from __future__ import annotations

import copy
import hashlib
import inspect
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.models import load_tokenizer
from attn_dsl.synth.llm.model import Completion, ModelError, Request
from attn_dsl.synth.llm.sampling import SLICES, Writing

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
        from llguidance.hf import from_tokenizer

        self.name, self.device, self._lock = where, device, threading.Lock()
        self._tokens: Any = load_tokenizer(where)
        self._model: Any = _load(where, device)
        known = self._tokens.eos_token_id, self._model.generation_config.eos_token_id
        flat = [x for ids in known for x in (ids if isinstance(ids, list) else [ids])]
        ends = sorted({int(x) for x in flat if x is not None})
        if not ends or not self._tokens.is_fast:
            raise InputError(
                f"--llm {where}: token masks need a fast tokenizer with an end of text"
            )
        size = int(self._model.get_output_embeddings().weight.shape[0])
        self._masks = from_tokenizer(self._tokens, n_vocab=size, eos_token=ends, slices=SLICES)
        text = self._model.config.get_text_config()
        self.context = int(getattr(text, "max_position_embeddings", 0) or 4096)
        names = inspect.signature(self._model.forward).parameters
        self._cache = "cache" if "cache" in names else "past_key_values"  # before 5.24
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        """Hash the tokenizer and a sample of all weights."""
        total = hashlib.sha256(self._tokens.backend_tokenizer.to_str().encode())
        for name, tensor in sorted(self._model.state_dict().items()):
            data = tensor.detach().flatten()
            sample = data[:: max(1, len(data) // 4096)].float().cpu().numpy()
            total.update(name.encode() + np.ascontiguousarray(sample).tobytes())
        return total.hexdigest()[:16]

    def count(self, text: str) -> int:
        """Count the tokens of a prompt."""
        return len(self._encoded(text))

    def _encoded(self, prompt: str) -> list[int]:
        """Return the tokens of a prompt, as the model's chat template writes it if there is one."""
        if not self._tokens.chat_template:
            return list(self._tokens(prompt, verbose=False)["input_ids"])
        turns = [{"role": "user", "content": prompt}]
        how = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
        return list(self._tokens.apply_chat_template(turns, **how))

    def complete(self, request: Request, stop: Callable[[], bool]) -> list[Completion]:
        """Write completions side by side, from one pass over the prompt; see ``LanguageModel``."""
        import torch

        ids = self._encoded(request.prompt)
        writing = Writing(self._masks, request, self.context - len(ids))
        try:
            with self._lock, torch.inference_mode():
                self._write(writing, ids, stop)
        except torch.OutOfMemoryError as error:
            raise ModelError(f"{self.name}: {str(error).splitlines()[0]}") from None
        return writing.completions()

    def _write(self, writing: Writing, ids: list[int], stop: Callable[[], bool]) -> None:
        """Read the prompt, then write all completions, as many at a time as memory allows."""
        import torch
        from transformers import DynamicCache

        def read(tokens: list[list[int]], cache: Any) -> np.ndarray:
            given, keys = torch.tensor(tokens, device=self.device), {self._cache: cache}
            out = self._model(given, **keys, use_cache=True, logits_to_keep=1)
            return out.logits[:, -1].float().cpu().numpy()

        prompt = DynamicCache(config=self._model.config)
        begin = read([ids], prompt)
        size = sum(layer.keys.nbytes + layer.values.nbytes for layer in prompt.layers)
        fits = int(CACHE_BYTES / (size * (1 + writing.most / len(ids))))
        side, count = max(1, min(SIDE_BY_SIDE, fits)), writing.request.count
        for start in range(0, count, side):
            rows = list(range(start, min(start + side, count)))
            cache, logits = copy.deepcopy(prompt), begin.repeat(len(rows), axis=0)
            cache.batch_repeat_interleave(len(rows))
            while rows and not stop():
                drawn = [writing.step(at, logits[i]) for i, at in enumerate(rows)]
                on = [i for i, token in enumerate(drawn) if token is not None]
                if 0 < len(on) < len(rows):
                    cache.batch_select_indices(torch.tensor(on, device=self.device))
                rows = [rows[i] for i in on]
                if rows:
                    logits = read([[token] for token in drawn if token is not None], cache)


def _load(where: str, device: str) -> Any:
    """Load a model from safetensors, in float32 on a CPU."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # it would be drawn over the one of the run
    kind = torch.float32 if device == "cpu" else "auto"
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(where, dtype=kind, use_safetensors=True)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        wrong = f"--llm {where}: cannot be loaded as a causal language model: {first}"
        raise InputError(wrong) from None
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--llm-device {device}: {str(error).splitlines()[0]}") from None
