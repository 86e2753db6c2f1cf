"""Turns a file of stories into the demo model's splits, tokens and training batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer, Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from attn_dsl.eval.texts import read_texts

BOS, CONTEXT, IGNORE = "<|bos|>", 256, -100
START = 0
"""The token of ``BOS``."""


def read_stories(path: Path) -> dict[str, list[str]]:
    """Return the stories of each split, in order: train (90 %), valid and test (5 % each).

    A story's content decides its split. The key `all` has all of them.
    """
    parts: dict[str, list[str]] = {"train": [], "valid": [], "test": [], "all": []}
    for story in (text.strip() for text in read_texts(str(path))):
        part = int.from_bytes(hashlib.sha256(story.encode()).digest()[:8], "big") % 20
        parts[{0: "valid", 1: "test"}.get(part, "train")].append(story)
        parts["all"].append(story)
    return parts


def train_tokenizer(stories: list[str], size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer that puts `<|bos|>` before every text."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(stories, size, 0, show_progress=False, special_tokens=[BOS])
    core = Tokenizer.from_str(bpe.to_str())
    # The template alone: offsets stay those of the pre-tokenizer, leading spaces included.
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, START)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BOS, eos_token=BOS, pad_token=BOS,
        model_max_length=CONTEXT, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def repeat_span(
    tokens: np.ndarray, vocab: int, longest: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return a story with a random span of it copied to a later place, and its labels.

    Two times in three the span is first shuffled or replaced by random tokens, so that nothing
    but its first copy tells what comes next in the second. What cannot be told, the changed tokens
    and where a copy starts, is no label.
    """
    length = int(rng.integers(8, max(9, min(longest, len(tokens) // 2) + 1)))
    start = int(rng.integers(0, max(1, min(len(tokens), CONTEXT - 2 * length) - length)))
    place = int(rng.integers(start + length, max(start + length + 1, CONTEXT - length)))
    place = min(place, len(tokens))
    span, labels = tokens[start : start + length].copy(), tokens.copy()
    kind = rng.integers(3)
    if kind > 0:
        span = rng.permutation(span) if kind == 1 else rng.integers(1, vocab, length)
        tokens = np.concatenate([tokens[:start], span, tokens[start + length :]])
        labels[start : start + length + 1] = IGNORE
    labels[place : place + 1] = IGNORE
    return (
        np.concatenate([tokens[:place], span, tokens[place:]]),
        np.concatenate([labels[:place], [IGNORE], span[1:], labels[place:]]),
    )


def sequence(
    tokens: np.ndarray, vocab: int, repeat: float, longest: int, rng: np.random.Generator
) -> np.ndarray:
    """Return `<|bos|>`, a story or a crop of it, `<|bos|>` if it ends; and the labels below."""
    room = CONTEXT - 1
    if len(tokens) > room and rng.random() < 0.5:
        tokens = tokens[int(rng.integers(0, len(tokens) - room + 1)) :]
    both = repeat_span(tokens, vocab, longest, rng) if rng.random() < repeat else (tokens, tokens)
    return np.stack([framed(row) for row in both])


def framed(tokens: np.ndarray) -> np.ndarray:
    """Return a story between two `<|bos|>`, as far as the context reaches."""
    return np.concatenate([[START], tokens, [START]])[: CONTEXT + 1]


def pad(rows: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and next-token labels of rows of tokens over labels, or of tokens alone."""
    width = -(-(max(row.shape[-1] for row in rows) - 1) // 32) * 32
    inputs, labels = np.full((len(rows), width), START), np.full((len(rows), width), IGNORE)
    for i, row in enumerate(rows):
        tokens, wanted = np.broadcast_to(row, (2, row.shape[-1]))
        inputs[i, : len(tokens) - 1] = tokens[:-1]
        labels[i, : len(tokens) - 1] = wanted[1:]
    return torch.from_numpy(inputs), torch.from_numpy(labels)


def epoch_batches(
    encoded: list[np.ndarray], size: int, seed: int, epoch: int, *how: Any
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield one epoch's batches, rows of like length together, as seed and epoch determine.

    `how` is what `sequence` takes behind the tokens.
    """
    rng = np.random.default_rng([seed, epoch])
    rows = [sequence(encoded[i], *how, rng) for i in rng.permutation(len(encoded))]
    groups: list[list[np.ndarray]] = []
    pool = 16 * size
    for at in range(0, len(rows), pool):
        near = sorted(rows[at : at + pool], key=lambda row: row.shape[1])
        groups += [near[i : i + size] for i in range(0, len(near), size)]
    for i in rng.permutation(len(groups)):
        yield pad(groups[i])


@torch.inference_mode()
def token_losses(model: Any, rows: list[np.ndarray]) -> list[np.ndarray]:
    """Return each row's losses in nats, one for every token after its first."""
    losses: list[np.ndarray] = []
    for at in range(0, len(rows), 16):
        inputs, labels = (x.to(model.device) for x in pad(rows[at : at + 16]))
        logits = model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits
        flat = torch.nn.functional.cross_entropy(
            logits.float().transpose(1, 2), labels, ignore_index=IGNORE, reduction="none"
        ).cpu()
        kept = labels.cpu() != IGNORE
        losses += [row[where].numpy() for row, where in zip(flat, kept, strict=True)]
    return losses
