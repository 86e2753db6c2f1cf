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

SIDE_BY_SIDE = 16
"""The most completions that are written side by side: each looks at the cells of all."""


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
        self._window = getattr(text, "sliding_window", None) or self.context
        self._mixed = len(set(getattr(text, "layer_types", None) or ())) > 1
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
        except (RuntimeError, TypeError, ValueError) as error:  # no memory, or an unusual model
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{self.name}: {first}") from None
        return writing.completions()

    def _write(self, writing: Writing, ids: list[int], stop: Callable[[], bool]) -> None:
        """Read the prompt, then write all completions, so many side by side.

        They are branches of one sequence: each token sees the cells of the prompt and those of its
        own completion, so that the prompt's keys and values are kept and read once.
        """
        import torch
        from transformers import DynamicCache

        prompt = DynamicCache()
        begin = self._read(ids, prompt)[-1]
        for start in range(0, writing.request.count, SIDE_BY_SIDE):
            rows = list(range(start, min(start + SIDE_BY_SIDE, writing.request.count)))
            cache, logits, place = copy.deepcopy(prompt), [begin] * len(rows), len(ids)
            owners, places = (
                [-1] * len(ids),
                list(range(len(ids))),
            )  # of each cell; -1 is the prompt
            while rows and not stop():
                drawn = [writing.step(at, x) for at, x in zip(rows, logits, strict=True)]
                tokens = [token for token in drawn if token is not None]
                rows = [at for at, token in zip(rows, drawn, strict=True) if token is not None]
                if rows:
                    owners, places = owners + rows, places + [place] * len(rows)
                    owner = torch.tensor(owners)
                    seen = (owner == -1) | (owner == torch.tensor(rows)[:, None])
                    near = place - torch.tensor(places) < self._window
                    how = {"position_ids": torch.tensor([[place] * len(rows)], device=self.device)}
                    how["attention_mask"] = self._masked(seen, seen & near)
                    logits, place = [*self._read(tokens, cache, **how)], place + 1

    def _read(self, tokens: list[int], cache: Any, **how: Any) -> np.ndarray:
        """Read tokens, which are added to a cache; return the logits of all, or of a prompt's last."""
        import torch

        keep = 0 if how else 1
        given, kept = torch.tensor([tokens], device=self.device), {self._cache: cache}
        out = self._model(given, **kept, **how, use_cache=True, logits_to_keep=keep)
        return out.logits[0].float().cpu().numpy()

    def _masked(self, full: Any, sliding: Any) -> Any:
        """Return the attention mask of cells that are seen, by kind of layer where there are two."""
        lowest = np.finfo(np.float32).min if self._model.dtype.itemsize > 2 else -6e4
        masks = {
            kind: (~seen * lowest).to(self.device, self._model.dtype)[None, None]
            for kind, seen in (("full_attention", full), ("sliding_attention", sliding))
        }
        return masks if self._mixed else masks["sliding_attention"]


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
