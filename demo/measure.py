"""Prints the figures of README.md: how well the demo model predicts, and what its heads do.

    python demo/measure.py --text stories.jsonl

`--text` is the file that the model was trained on; only its `test` split is read. Head scores are
taken on demo/stories.jsonl and, for induction, on random tokens that are repeated.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from stories import CONTEXT, framed, read_stories, token_losses
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

COLUMNS = ("previous", "sink", "duplicate", "prefix match", "induction")
HALF, SEQUENCES = 64, 100


def perplexity(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, stories: list[str]
) -> str:
    """Return the perplexity per token over stories' first contexts, the end token included.

    With it come the 95 % bootstrap interval over stories, and the numbers of stories and tokens.
    """
    ids = tokenizer(stories, add_special_tokens=False, verbose=False)["input_ids"]
    losses = token_losses(model, sorted(map(framed, ids), key=len))
    sums, sizes = np.array([x.sum() for x in losses]), np.array([len(x) for x in losses])
    draws = np.random.default_rng(0).integers(0, len(sums), (2000, len(sums)))
    low, high = np.percentile(np.exp(sums[draws].sum(1) / sizes[draws].sum(1)), [2.5, 97.5])
    value, tokens = math.exp(sums.sum() / sizes.sum()), int(sizes.sum())
    return f"{value:.2f} [{low:.2f}, {high:.2f}], {len(sums)} stories, {tokens:,} tokens"


@torch.inference_mode()
def attention(model: torch.nn.Module, ids: Iterable[int]) -> np.ndarray:
    """Return the attention of every head on a sequence, in layer order, and uniform attention.

    Shape (heads + 1, n, n).
    """
    output = model(input_ids=torch.tensor([list(ids)]), output_attentions=True)
    heads = torch.cat(output.attentions).flatten(0, 1).numpy()
    n = heads.shape[1]
    return np.concatenate([heads, [np.tril(np.ones((n, n))) / np.arange(1, n + 1)[:, None]]])


def story_scores(model: torch.nn.Module, sequences: list[list[int]]) -> np.ndarray:
    """Return the first four scores on texts, of each head and of uniform attention.

    Means over queries of all texts of the attention on: the token before the query; position 0;
    earlier tokens equal to the query's, where there are any; tokens that follow such an earlier
    one, where there are any. Position 0 is no query, and is a key of the second score only.
    """
    total = count = 0.0
    for ids in sequences:
        tokens, n = np.array(ids), len(ids)
        same = np.tril(tokens[:, None] == tokens[None, :], -1)
        same[:, 0] = False
        after = np.zeros_like(same)
        after[:, 1:] = same[:, :-1]
        first, before = np.zeros_like(same), np.eye(n, k=-1, dtype=bool)
        first[1:, 0], before[1, 0] = True, False
        masks = np.stack([before, first, same, after])
        total = total + np.einsum("mqk,hqk->hm", masks, attention(model, ids))
        count = count + masks.any(2).sum(1)
    return total / count


def induction_scores(model: torch.nn.Module, vocab: int) -> np.ndarray:
    """Return the induction score of each head and of uniform attention.

    A sequence is `<|bos|>`, 64 tokens drawn uniformly and without repetition, and the same 64
    again. The score is the mean attention from a token of the second copy to the token that came
    after it in the first.
    """
    rng = np.random.default_rng(0)
    queries = np.arange(HALF + 1, 2 * HALF + 1)
    halves = [rng.choice(np.arange(1, vocab), HALF, replace=False) for _ in range(SEQUENCES)]
    rows = [np.concatenate([[0], half, half]) for half in halves]
    return np.mean([attention(model, x)[:, queries, queries - HALF + 1].mean(1) for x in rows], 0)


def table(scores: np.ndarray, heads: int) -> str:
    """Return the scores as a Markdown table, those of 0.3 and more in bold; uniform is last."""
    lines = ["| head | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for i, row in enumerate(scores[:-1]):
        cells = [f"**{x:.2f}**" if x >= 0.3 else f"{x:.2f}" for x in row]
        lines.append(f"| L{i // heads}H{i % heads} | " + " | ".join(cells) + " |")
    lines.append("| *uniform* | " + " | ".join(f"*{x:.2f}*" for x in scores[-1]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure the shipped model and print its figures as Markdown."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="the file trained on")
    args = parser.parse_args()
    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_pretrained(
        here / "demo-gpt2", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(here / "demo-gpt2")
    print("perplexity", perplexity(model, tokenizer, read_stories(args.text)["test"]))
    cut = {"truncation": True, "max_length": CONTEXT}
    stories = read_stories(here / "stories.jsonl")["all"]
    known = story_scores(model, [tokenizer(story, **cut)["input_ids"] for story in stories])
    scores = np.column_stack([known, induction_scores(model, len(tokenizer))])
    print(table(scores, model.config.n_head))


if __name__ == "__main__":
    main()
