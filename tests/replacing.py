"""Small runs for the tests of replacement: made by the command line, on models with random weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from command_line import succeed, write_texts

SETTINGS = ("--max-evals", "8", "--max-tokens", "32", "--jobs", "1")


_MADE: dict[Path, Path] = {}
"""By model, the folder of its run: fitted once, copied for every module that writes into it."""


def small_run(small_model: Callable[[str], Path], folder: Path, family: str = "llama") -> Path:
    """Fit programs to the eight heads of a small model on 48 short texts."""
    model = small_model(family)
    if model not in _MADE:
        texts = write_texts(folder / "texts.jsonl", 48)
        succeed("fit", model, "--text", texts, *SETTINGS, "--out", folder / "made")
        _MADE[model] = folder
    made = _MADE[model]
    shutil.copytree(made / "made", folder / "run")
    if folder != made:
        shutil.copy(made / "texts.jsonl", folder)
    return folder / "run"


def masked_model(folder: Path) -> Path:
    """Save a small encoder with a masked-language-model head and a tokenizer with a mask token."""
    from small_models import save_model
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(save_model(folder, "bert"))
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    model = AutoModelForMaskedLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    return folder
