"""Measures what the demo model's heads do and how well it predicts, and writes README.md.

    python demo/measure.py --text stories.jsonl

`--text` is the file that the model was trained on; only its `test` split is read, and its `train`
split to look for copied phrases. Head scores are taken on demo/stories.jsonl and, for induction,
on random tokens that are repeated.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from stories import CONTEXT, IGNORE, pad, read_stories, split_stories
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

COLUMNS = ("previous", "sink", "duplicate", "prefix match", "induction")
HALF = 64
SEQUENCES = 100
PHRASE = 8


@dataclass(frozen=True)
class Perplexity:
    """Perplexity per token with a 95 % bootstrap interval over stories, and its sample size."""

    value: float
    low: float
    high: float
    stories: int
    tokens: int


def load(folder: Path) -> tuple[torch.nn.Module, PreTrainedTokenizerFast]:
    """Return the model in float32, with attention it can show, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Return a text's first context of tokens, `<|bos|>` first."""
    return tokenizer(text, truncation=True, max_length=CONTEXT)["input_ids"]


@torch.inference_mode()
def token_losses(model: torch.nn.Module, rows: list[np.ndarray]) -> list[np.ndarray]:
    """Return each row's losses in nats, one for every token after its first."""
    losses: list[np.ndarray] = []
    for at in range(0, len(rows), 16):
        inputs, labels = pad(rows[at : at + 16], 0)
        logits = model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits
        flat = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none"
        )
        losses += [row[label != IGNORE].numpy() for row, label in zip(flat, labels, strict=True)]
    return losses


def perplexity(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, stories: list[str]
) -> Perplexity:
    """Return the perplexity over stories' first contexts, the end token being predicted too."""
    bos = tokenizer.bos_token_id
    rows = [
        np.array([*tokenizer(text, verbose=False)["input_ids"], bos])[: CONTEXT + 1]
        for text in stories
    ]
    losses = token_losses(model, sorted(rows, key=len))
    sums, sizes = np.array([x.sum() for x in losses]), np.array([len(x) for x in losses])
    draws = np.random.default_rng(0).integers(0, len(sums), (2000, len(sums)))
    low, high = np.percentile(np.exp(sums[draws].sum(1) / sizes[draws].sum(1)), [2.5, 97.5])
    value = math.exp(sums.sum() / sizes.sum())
    return Perplexity(value, low, high, len(sums), int(sizes.sum()))


@torch.inference_mode()
def attention(model: torch.nn.Module, ids: Iterable[int]) -> np.ndarray:
    """Return the attention of every head on one sequence, shape (heads, n, n), in layer order."""
    output = model(input_ids=torch.tensor([list(ids)]), output_attentions=True)
    return torch.cat(output.attentions).flatten(0, 1).numpy()


def story_scores(
    model: torch.nn.Module, sequences: list[list[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return each head's first four scores on texts, and those of uniform attention.

    Means over queries of all texts of the attention on: the token before the query; position 0;
    earlier tokens equal to the query's, where there are any; tokens that follow such an earlier
    one, where there are any. Position 0 is no query, and is a key of the second score only.
    """
    total = uniform = count = 0.0
    for ids in sequences:
        matrix, tokens = attention(model, ids), np.array(ids)
        n = len(tokens)
        flat = np.tril(np.ones((n, n))) / np.arange(1, n + 1)[:, None]
        same = np.tril(tokens[:, None] == tokens[None, :], -1)
        same[:, 0] = False
        after = np.zeros_like(same)
        after[:, 1:] = same[:, :-1]
        first, before = np.zeros_like(same), np.eye(n, k=-1, dtype=bool)
        first[1:, 0], before[1, 0] = True, False
        masks = np.stack([before, first, same, after])
        total = total + np.einsum("mqk,hqk->hm", masks, matrix)
        uniform = uniform + np.einsum("mqk,qk->m", masks, flat)
        count = count + masks.any(2).sum(1)
    return total / count, uniform / count


def induction_scores(model: torch.nn.Module, vocab: int) -> tuple[np.ndarray, float, list[float]]:
    """Return each head's induction score, that of uniform attention, and the loss of both halves.

    A sequence is `<|bos|>`, 64 tokens drawn uniformly and without repetition, and the same 64
    again. The score is the mean attention from a token of the second copy to the token that came
    after it in the first.
    """
    rng = np.random.default_rng(0)
    total, rows = 0.0, []
    queries = np.arange(HALF + 1, 2 * HALF + 1)
    for _ in range(SEQUENCES):
        half = rng.choice(np.arange(1, vocab), HALF, replace=False)
        rows.append(np.concatenate([[0], half, half]))
        total = total + attention(model, rows[-1])[:, queries, queries - HALF + 1].mean(1)
    losses = np.stack(token_losses(model, rows))
    halves = [float(losses[:, :HALF].mean()), float(losses[:, HALF + 1 :].mean())]
    return total / SEQUENCES, float(np.mean(1 / (queries + 1))), halves


def phrases(text: str) -> set[tuple[str, ...]]:
    """Return the runs of eight words in a text."""
    words = text.split()
    return {tuple(words[i : i + PHRASE]) for i in range(len(words) - PHRASE + 1)}


def copied(stories: list[str], source: list[str]) -> float:
    """Return the share of the stories' runs of eight words that also stand in the source."""
    known = set().union(*map(phrases, source))
    runs = [run for story in stories for run in phrases(story)]
    return sum(run in known for run in runs) / len(runs)


def table(scores: np.ndarray, uniform: np.ndarray, heads: int) -> str:
    """Return the scores of all heads as a Markdown table, those of 0.3 and more in bold."""
    lines = ["| head | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for i, row in enumerate(scores):
        cells = [f"**{x:.2f}**" if x >= 0.3 else f"{x:.2f}" for x in row]
        lines.append(f"| L{i // heads}H{i % heads} | " + " | ".join(cells) + " |")
    lines.append("| *uniform* | " + " | ".join(f"*{x:.2f}*" for x in uniform) + " |")
    return "\n".join(lines)


README = """# The demo model

What `attn-dsl fit` explains when no model is named: a small causal language model of GPT-2
architecture, and {sampled} stories that it wrote. This page is written by `measure.py`.

| | |
|---|---|
| architecture | GPT-2: {layers} layers x {heads} heads, width {width}, context {context}, \
tied embeddings, {parameters:,} parameters |
| tokenizer | byte-level BPE, {vocab:,} tokens; `<\\|bos\\|>` begins every text and ends a story |
| files | `demo-gpt2/`: {megabytes:.2f} MB, weights in float16; `stories.jsonl`: {story_kb:.0f} kB |
| training text | {train_stories:,} TinyStories (Eldan & Li 2023), {train_tokens:,} tokens |
| training | {steps:,} steps of {batch} sequences, {seen:.1f} M tokens ({epochs:.0f} epochs), \
{minutes:.0f} minutes on {threads} {device} thread(s), seed {seed} |
| optimizer | Muon for the blocks' matrices, AdamW for the rest; cosine schedule; bfloat16 |
| held-out perplexity | **{ppl.value:.2f}** per token (95 % interval {ppl.low:.2f} to \
{ppl.high:.2f}; {ppl.stories} stories, {ppl.tokens:,} tokens) |

Held out is one story in ten by a hash of its content: half of them ({valid_stories}) picked the
checkpoint, at step {best_step:,} of {steps:,}, and the other half ({ppl.stories}) gave the \
perplexity above.
The interval is a bootstrap over stories. Perplexity is over each story's first {context} tokens,
read from `<|bos|>` at position 0.

Every training sequence is one story, so that `<|bos|>` stands at position 0 and can serve as a
sink. Head types were helped along, since so little text and training give less of them, so this
model is no evidence that they form by themselves:

- In a share of the sequences (`repeat` below) a random span of 8 to `span` tokens of the story
  was copied to a later place, one time in three as it is, else shuffled or replaced by random
  tokens in both places (the loss leaves out what cannot be told: the first of such copies, and
  the token where a copy starts). This teaches induction. In the leg from step 0 the span was
  shuffled one time in two and never replaced.
- Positions start out as waves, and each head's keys equal to its queries (`build_model`).
- The run had {count} legs, each but the last stopped by hand at the step where the next begins,
  when the head scores of the time (on 25 held-out stories and 20 random sequences) had been
  looked at. At step 1,800 no head's induction score was above 0.06; after 150 steps of the leg
  from step 1,950, with repeats in every sequence, a higher learning rate and the shift below, two
  heads had 0.3. What each of the three did was not measured apart.
- Where `sink` is not 0, the query biases of layers 1 to {last} were shifted once, at the leg's
  first step, so that position 0 gained that many logits over the mean key (`favour_first`);
  training then kept or undid this.

{legs}

## The stories

`stories.jsonl` holds {sampled} stories sampled by `sample.py` from the model itself, temperature
0.8, top-p 0.95, up to 200 tokens, seed 0. {copied:.1%} of their runs of eight words also stand
in the training text; for the held-out stories it is {copied_test:.1%}.

## The heads

{table}

Each score is a mean attention weight; the last row is what uniform attention would get, and 0.3
or more is in bold.

- **previous**: on the token just before the query.
- **sink**: on position 0, `<|bos|>`.
- **duplicate**: on all earlier tokens equal to the query's, over queries that have one.
- **prefix match**: on all tokens that follow an earlier copy of the query's token, over queries
  that have one.
- **induction**: on {sequences} random sequences, `<|bos|>`, {half} tokens drawn uniformly
  without repetition, and the same {half} again: from each token of the second copy to the token
  that came after it in the first.

The first four are taken over all queries of the {sampled} stories ({story_tokens:,} tokens),
leaving out position 0 as a query and, but for the sink, as a key. In the random sequences the
loss is {loss_first:.2f} nats per token in the first copy and {loss_second:.2f} in the second.

## Making it again

{commands}
    python demo/sample.py
    python demo/measure.py --text tinystories-5k.jsonl

Each leg but the last was stopped at the step where the next begins (see the table above), and
goes on from the checkpoint that the one before left. With `--minutes` the schedule follows the
clock, so that a second run gives a model like this one, not this one. With `--steps` a run
depends on the seed alone, up to rounding, which differs between machines and library versions.
"""


def describe_legs(legs: list[dict]) -> str:
    """Return a table of what was set differently in the legs of a run."""
    names = ("from_step", "minutes", "repeat", "span", "sink", "lr", "matrix_lr", "dropout")
    lines = ["| " + " | ".join(names) + " |", "|" + "---:|" * len(names)]
    lines += ["| " + " | ".join(str(leg[name]) for name in names) + " |" for leg in legs]
    return "\n".join(lines)


def command(leg: dict) -> str:
    """Return the command that a leg was run by, as an indented line."""
    length = f"--steps {leg['steps']}" if leg["steps"] else f"--minutes {leg['minutes']:g}"
    resume = " --resume" if leg["resume"] else ""
    return (
        f"    python demo/train.py --text tinystories-5k.jsonl --seed {leg['seed']} {length}"
        f"{resume} --repeat {leg['repeat']:g} --span {leg['span']}"
        f" --sink {leg['sink']:g}"
    )


def main() -> None:
    """Read the options, measure and write the README."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="the file trained on")
    parser.add_argument("--model", type=Path, default=here / "demo-gpt2")
    parser.add_argument("--stories", type=Path, default=here / "stories.jsonl")
    parser.add_argument("--out", type=Path, default=here / "README.md")
    args = parser.parse_args()
    torch.set_num_threads(2)
    model, tokenizer = load(args.model)
    parts = split_stories(read_stories(args.text))
    stories = read_stories(args.stories)
    sequences = [encode(tokenizer, story) for story in stories]
    scores, uniform = story_scores(model, sequences)
    induction, chance, halves = induction_scores(model, len(tokenizer))
    record = json.loads((args.model / "training.json").read_text(encoding="utf-8"))
    settings, config = record["legs"][-1], model.config
    text = README.format(
        table=table(
            np.column_stack([scores, induction]), np.append(uniform, chance), config.n_head
        ),
        sampled=len(stories),
        layers=config.n_layer,
        heads=config.n_head,
        width=config.n_embd,
        context=config.n_positions,
        parameters=model.num_parameters(),
        vocab=len(tokenizer),
        megabytes=sum(f.stat().st_size for f in args.model.iterdir()) / 1e6,
        story_kb=args.stories.stat().st_size / 1e3,
        train_stories=record["stories"]["train"],
        train_tokens=record["story_tokens"]["train"],
        valid_stories=record["stories"]["valid"],
        steps=record["step"],
        best_step=record["best_step"],
        seen=record["tokens"] / 1e6,
        epochs=record["tokens"] / record["story_tokens"]["train"],
        minutes=record["seconds"] / 60,
        batch=settings["batch"],
        threads=settings["threads"],
        device=record["device"].upper(),
        seed=settings["seed"],
        last=config.n_layer - 1,
        legs=describe_legs(record["legs"]),
        commands="\n".join(map(command, record["legs"])),
        count=len(record["legs"]),
        ppl=perplexity(model, tokenizer, parts["test"]),
        copied=copied(stories, parts["train"]),
        copied_test=copied(parts["test"], parts["train"]),
        sequences=SEQUENCES,
        half=HALF,
        story_tokens=sum(map(len, sequences)),
        loss_first=halves[0],
        loss_second=halves[1],
    )
    args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
