"""Language models by transformers: any causal one, by id or directory, on CPU or GPU."""

import copy
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.files import first_line
from attn_dsl.eval.models import load_tokenizer
from attn_dsl.synth.llm.model import ModelError
from attn_dsl.synth.llm.sampling import SIDE_BY_SIDE, SLICES, LocalModel, Row, Writing


class Transformers(LocalModel):
    """A causal language model with its tokenizer, by Hugging Face id or directory.

    Completions are branches of one sequence: each token sees the cells of the prompt and those of
    its own completion, so that the prompt's keys and values are kept and read once.

    Raises:
        InputError: it cannot be loaded, or is no causal language model with a fast tokenizer.
    """

    def __init__(self, where: str, *, device: str = "cpu") -> None:
        from llguidance.hf import from_tokenizer

        self.device, self._words = device, load_tokenizer(where)
        self._model: Any = _load(where, device)
        ends = self._model.generation_config.eos_token_id
        known = {*(ends if isinstance(ends, list) else [ends]), self._words.eos_token_id} - {None}
        if not known or not self._words.is_fast:
            raise InputError(
                f"--llm {where}: token masks need a fast tokenizer with an end of text")  # fmt: skip
        size = int(self._model.get_output_embeddings().weight.shape[0])
        tokenizer = from_tokenizer(self._words, n_vocab=size, eos_token=sorted(known),
                                   slices=SLICES)  # fmt: skip
        text = self._model.config.get_text_config()
        context = int(getattr(text, "max_position_embeddings", 0) or 4096)
        super().__init__(where, context, tokenizer)
        self._kept: tuple[list[int], Any] = (
            [],
            None,
        )  # the tokens that prompts share, and their cache
        self._window = getattr(text, "sliding_window", None) or context
        self._mixed = len(set(getattr(text, "layer_types", None) or ())) > 1
        names = inspect.signature(self._model.forward).parameters
        self._cache = "cache" if "cache" in names else "past_key_values"  # before 5.24
        total = hashlib.sha256(self._words.backend_tokenizer.to_str().encode())
        for weights in self._model.parameters():
            total.update(weights.detach().flatten()[:1024].float().cpu().numpy().tobytes())
        self.fingerprint = total.hexdigest()[:16]

    def encoded(self, prompt: str) -> list[int]:
        """Return the tokens of a prompt, as the model's chat template writes it if there is one."""
        if not self._words.chat_template:
            return list(self._words(prompt, verbose=False)["input_ids"])
        turns = [{"role": "user", "content": prompt}]
        how = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
        return list(self._words.apply_chat_template(turns, **how))

    def write(self, writing: Writing, ids: list[int], shared: int, stop: Callable[[], bool]) -> None:
        """Read the prompt, then write all completions, so many side by side."""
        import torch
        from transformers import DynamicCache

        count = writing.request.count
        try:
            with torch.inference_mode(), self._lock:
                if self._kept[0] != ids[:shared] or not shared:
                    self._kept = ids[:shared], DynamicCache()
                    if shared:
                        self._read(ids[:shared], self._kept[1], logits_to_keep=1)
                prompt = copy.deepcopy(self._kept[1])
                if stop():
                    return
                begin = self._read(ids[shared:], prompt, logits_to_keep=1)[-1]
                for start in range(0, count, SIDE_BY_SIDE):
                    slots = range(start, min(start + SIDE_BY_SIDE, count))
                    read = self._branches(copy.deepcopy(prompt), len(ids))
                    writing.fill(slots, slots, begin, read, stop)
        except (RuntimeError, TypeError, ValueError) as error:  # no memory, or an unusual model
            raise ModelError(f"{self.name}: {first_line(error)}") from None

    def _branches(self, cache: Any, length: int) -> Callable[[list[Row]], np.ndarray]:
        """Return a function that reads a token of each of some branches of a prompt."""
        import torch

        dtype = self._model.dtype
        owners, places = [-1] * length, [*range(length)]  # of each cell; -1 is the prompt

        def read(rows: list[Row]) -> np.ndarray:
            slots, behind, tokens = zip(*rows, strict=True)
            here = [length + place for place in behind]
            owners.extend(slots)
            places.extend(here)
            owner = torch.tensor(owners)
            seen = (owner == -1) | (owner == torch.tensor(slots)[:, None])
            near = torch.tensor(here)[:, None] - torch.tensor(places) < self._window
            masks = [(~cells * torch.finfo(dtype).min).to(self.device, dtype)[None, None]
                     for cells in (seen, seen & near)]  # fmt: skip
            by_kind = dict(zip(("full_attention", "sliding_attention"), masks, strict=True))
            position = torch.tensor([here], device=self.device)
            mask = by_kind if self._mixed else masks[1]
            return self._read(tokens, cache, position_ids=position, attention_mask=mask)

        return read

    def _read(self, tokens: Any, cache: Any, **how: Any) -> np.ndarray:
        """Read tokens, which are added to a cache; return their logits."""
        import torch

        given, kept = torch.tensor([tokens], device=self.device), {self._cache: cache}
        out = self._model(given, **kept, **how, use_cache=True)
        return out.logits[0].float().cpu().numpy()


def _load(where: str, device: str) -> Any:
    """Load a model from safetensors, in float32 on a CPU."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # it would be drawn over the one of the run
    kind = torch.float32 if device == "cpu" else "auto"
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(where, dtype=kind, use_safetensors=True)
        return model.to(device).eval()
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, AssertionError) as error:
        raise InputError(f"--llm {where} --llm-device {device}: cannot be loaded as a causal language model: "
                         f"{first_line(error)}") from None  # fmt: skip
