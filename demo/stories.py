"""Turns a file of stories into the demo model's splits, tokens and training batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BOS = "<|bos|>"
CONTEXT = 256
IGNORE = -100
SPLITS = ("train", "valid", "test")


def read_stories(path: Path) -> list[str]:
    """Return the `text` fields of a JSONL file, in order, stripped and without empty ones."""
    with path.open(encoding="utf-8") as lines:
        stories = [json.loads(line)["text"].strip() for line in lines if line.strip()]
    return [story for story in stories if story]


def split_of(story: str) -> str:
    """Return the split a story is in by its content: train (90 %), valid or test (5 % each)."""
    part = int.from_bytes(hashlib.sha256(story.encode()).digest()[:8], "big") % 20
    return {0: "valid", 1: "test"}.get(part, "train")


def split_stories(stories: list[str]) -> dict[str, list[str]]:
    """Return the stories of each split, keeping their order."""
    parts: dict[str, list[str]] = {name: [] for name in SPLITS}
    for story in stories:
        parts[split_of(story)].append(story)
    return parts


def train_tokenizer(stories: list[str], size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer that puts `<|bos|>` before every text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[BOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(stories, trainer)
    bos = core.token_to_id(BOS)
    # The template alone: offsets stay those of the pre-tokenizer, leading spaces included.
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=BOS,
        pad_token=BOS,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


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
    copy = np.concatenate([[IGNORE], span[1:]])
    labels[place : place + 1] = IGNORE
    return (
        np.concatenate([tokens[:place], span, tokens[place:]]),
        np.concatenate([labels[:place], copy, labels[place:]]),
    )


def sequence(
    tokens: np.ndarray, bos: int, vocab: int, repeat: float, longest: int, rng: np.random.Generator
) -> np.ndarray:
    """Return `<|bos|>`, a story or a crop of it, `<|bos|>` if it ends; and the labels below."""
    room = CONTEXT - 1
    if len(tokens) > room and rng.random() < 0.5:
        tokens = tokens[int(rng.integers(0, len(tokens) - room + 1)) :]
    both = repeat_span(tokens, vocab, longest, rng) if rng.random() < repeat else (tokens, tokens)
    return np.stack([np.concatenate([[bos], x, [bos]])[: CONTEXT + 1] for x in both])


def pad(rows: list[np.ndarray], bos: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and next-token labels of rows of tokens over labels, or of tokens alone."""
    width = -(-(max(row.shape[-1] for row in rows) - 1) // 32) * 32
    inputs = np.full((len(rows), width), bos)
    labels = np.full((len(rows), width), IGNORE)
    for i, row in enumerate(rows):
        tokens, wanted = row if row.ndim == 2 else (row, row)
        inputs[i, : len(tokens) - 1] = tokens[:-1]
        labels[i, : len(tokens) - 1] = wanted[1:]
    return torch.from_numpy(inputs), torch.from_numpy(labels)


def epoch_batches(
    encoded: list[np.ndarray],
    bos: int,
    vocab: int,
    repeat: float,
    longest: int,
    size: int,
    seed: int,
    epoch: int,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield one epoch's batches, rows of like length together, as seed and epoch determine."""
    rng = np.random.default_rng([seed, epoch])
    rows = [
        sequence(encoded[i], bos, vocab, repeat, longest, rng)
        for i in rng.permutation(len(encoded))
    ]
    pool = 16 * size
    groups: list[list[np.ndarray]] = []
    for at in range(0, len(rows), pool):
        near = sorted(rows[at : at + pool], key=lambda row: row.shape[1])
        groups += [near[i : i + size] for i in range(0, len(near), size)]
    for i in rng.permutation(len(groups)):
        yield pad(groups[i], bos)
