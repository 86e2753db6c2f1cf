"""Trains the demo model: a byte-level BPE tokenizer and a small GPT-2 on short stories.

    python demo/train.py --text stories.jsonl --out demo/demo-gpt2 --seed 0 --minutes 60

Every training sequence is one story behind `<|bos|>`, which also ends it; in some a span of the
story is repeated, which teaches induction in little time. One story in ten, by a hash of its
content, is held out: half of those pick the checkpoint (`valid`), the other half are only ever
reported on (`test`). A run is as long as `--minutes` allows, or has exactly `--steps`,
which is what makes it repeatable from its seed. It writes a checkpoint of the weights as it goes,
from which `--resume` goes on, with new optimizers. `sample.py` then writes stories, and `measure.py`
prints the figures of the README.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import stories
import torch
from safetensors.torch import load_model, save_model
from stories import CONTEXT, IGNORE, START
from transformers import AttentionInterface, GPT2Config, GPT2LMHeadModel

VOCABULARY, LAYERS, HEADS, WIDTH = 2048, 4, 8, 128
DROPOUT, EMBEDDING_STD = 0.05, 0.04
ADAMW_RATE, MUON_RATE, WEIGHT_DECAY = 3e-3, 0.02, 0.05
BATCH, WARMUP, EVERY = 16, 100, 400
"""Rows of a step; steps to the peak rates, and between evaluations."""


def float32_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any,
    scaling: float | None = None, **_: object,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Causal attention in float32: in bfloat16 its backward pass takes half a step on a CPU."""
    with torch.autocast(query.device.type, enabled=False):
        mixed = torch.nn.functional.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), is_causal=True, scale=scaling
        )
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register("float32_attention", float32_attention)


def build_model(vocab: int) -> GPT2LMHeadModel:
    """Return an untrained GPT-2."""
    config = GPT2Config(
        vocab_size=vocab, n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS,
        n_head=HEADS, embd_pdrop=DROPOUT, resid_pdrop=0.0, attn_pdrop=0.0,
        initializer_range=WIDTH**-0.5, bos_token_id=START, eos_token_id=START,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own, in one fused kernel
    )  # fmt: skip
    model = GPT2LMHeadModel._from_config(config, attn_implementation="float32_attention")
    # Two things make heads form in fewer steps: positions as waves of periods from 2 to 512
    # tokens, and keys that start out equal to the queries, so that like attends to like.
    rate = math.pi * torch.logspace(0, -8, WIDTH // 2, base=2.0)
    angle = torch.arange(CONTEXT)[:, None] * rate
    waves = torch.stack([angle.sin(), angle.cos()], 2).flatten(1)
    with torch.no_grad():
        model.transformer.wte.weight.normal_(std=EMBEDDING_STD)
        model.transformer.wpe.weight.copy_(waves * 2 * EMBEDDING_STD)
        for block in model.transformer.h:
            query, key, _ = block.attn.c_attn.weight.chunk(3, dim=1)
            key.copy_(query)
    return model


@torch.no_grad()
def favour_first(model: GPT2LMHeadModel, inputs: torch.Tensor, bonus: float) -> None:
    """Raise position 0 by `bonus` logits over the mean key, by the query biases of layers 1 up.

    A head that finds nothing can look there; training changes this start as it likes.
    """
    states = model.transformer(inputs, output_hidden_states=True).hidden_states
    for block, state in list(zip(model.transformer.h, states[:-1], strict=True))[1:]:
        attention = block.attn
        keys = attention.c_attn(block.ln_1(state)).chunk(3, dim=-1)[1]
        ahead = (keys[0, 0] - keys[:, 1:].mean((0, 1))).view(attention.num_heads, -1)
        scale = bonus * attention.head_dim**0.5 / ahead.square().sum(1, keepdim=True)
        attention.c_attn.bias[: model.config.n_embd] += (scale * ahead).flatten()


def optimizers(model: GPT2LMHeadModel) -> list[torch.optim.Optimizer]:
    """Return Muon for the blocks' matrices, and AdamW for embeddings, biases and norms."""
    matrices = [p for p in model.transformer.h.parameters() if p.dim() == 2]
    chosen = set(map(id, matrices))
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(rest, lr=ADAMW_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


class Run:
    """A training run: its data, model and optimizers, and how far it has come."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Read the text, train the tokenizer and build the model, or take up the checkpoint."""
        self.args = args
        torch.manual_seed(args.seed)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        parts = stories.read_stories(args.text)
        self.tokenizer = stories.train_tokenizer(parts["train"], VOCABULARY)
        encode = self.tokenizer.backend_tokenizer.encode_batch
        self.encoded = {
            name: [np.array(text.ids) for text in encode(parts[name], add_special_tokens=False)]
            for name in ("train", "valid", "test")
        }
        self.model = build_model(len(self.tokenizer)).to(self.device)
        self.optimizers = optimizers(self.model)
        self.checkpoint = args.out.with_name("checkpoint.safetensors")
        self.facts: dict[str, Any] = {
            "device": self.device,
            "stories": {name: len(rows) for name, rows in self.encoded.items()},
            "story_tokens": {name: sum(map(len, rows)) for name, rows in self.encoded.items()},
            "step": 0, "tokens": 0, "seconds": 0.0, "best": math.inf, "best_step": 0, "valid": [],
            "legs": [],
        }  # fmt: skip
        if args.resume:
            load_model(self.model, self.checkpoint)
            self.facts = json.loads((args.out / "training.json").read_text(encoding="utf-8"))
            self.facts["best"] = math.inf  # the leg before may have had other settings
        if args.sink:
            self.model.eval()
            rows = [row for row in self.encoded["train"] if len(row) > 200][:16]
            rows = np.stack([np.concatenate([[START], row[:200]]) for row in rows])
            favour_first(self.model, torch.from_numpy(rows).to(self.device), args.sink)
        settings = {k: v for k, v in vars(args).items() if not isinstance(v, Path)}
        self.first = self.facts["step"]
        self.facts["legs"].append({"from_step": self.first, **settings})
        self.began = time.monotonic() - self.facts["seconds"]

    @property
    def done(self) -> float:
        """The share of the run that lies behind, by steps where they are given, else by time."""
        args, seconds = self.args, time.monotonic() - self.began
        return self.facts["step"] / args.steps if args.steps else seconds / (60 * args.minutes)

    def learn(self, inputs: torch.Tensor, labels: torch.Tensor) -> float:
        """Take one step and return its loss."""
        step = self.facts["step"]
        torch.manual_seed((self.args.seed << 32) + step)
        self.model.train()
        with torch.autocast(self.device, torch.bfloat16):
            logits = self.model(input_ids=inputs.to(self.device), use_cache=False).logits
        flat, wanted = logits.float().flatten(0, 1), labels.to(self.device).flatten()
        loss = torch.nn.functional.cross_entropy(flat, wanted, ignore_index=IGNORE)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        # a linear warm-up, then a cosine to 1 % of the peak rates
        fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.done)))
        rate = fall * min(1.0, (step - self.first + 1) / WARMUP)
        for part in self.optimizers:
            part.param_groups[0]["lr"] = rate * part.defaults["lr"]
            part.step()
            part.zero_grad()
        self.facts["step"] += 1
        self.facts["tokens"] += int((labels != IGNORE).sum())
        return loss.item()

    def evaluate(self) -> None:
        """Measure on the valid split, save the model if it is the best so far, and checkpoint."""
        facts, out = self.facts, self.args.out
        rows = sorted(map(stories.framed, self.encoded["valid"]), key=len)
        losses = stories.token_losses(self.model.eval(), rows)
        loss = float(np.concatenate(losses).mean(dtype=np.float64))
        print(f"valid loss {loss:.4f}, perplexity {math.exp(loss):.3f}", flush=True)
        facts["valid"].append([facts["step"], round(loss, 4)])
        if loss < facts["best"]:
            facts |= {"best": loss, "best_step": facts["step"]}
            half = copy.deepcopy(self.model).to(torch.float16)
            half.config.activation_function = "gelu_new"
            half.save_pretrained(out)
            self.tokenizer.save_pretrained(out)
        facts["seconds"] = time.monotonic() - self.began
        save_model(self.model, self.checkpoint)
        (out / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    def __call__(self) -> None:
        """Train to the end; the best model by the valid split is then in `--out`."""
        args, rows = self.args, self.encoded["train"]
        how = len(self.tokenizer), args.repeat, args.span
        per_epoch = sum(1 for _ in stories.epoch_batches(rows, BATCH, args.seed, 0, *how))
        while self.done < 1:
            epoch, skip = divmod(self.facts["step"], per_epoch)
            batches = stories.epoch_batches(rows, BATCH, args.seed, epoch, *how)
            for inputs, labels in islice(batches, skip, None):
                loss, step = self.learn(inputs, labels), self.facts["step"]
                if step % 50 == 0:
                    print(f"step {step}, {self.done:.0%}, loss {loss:.3f}", flush=True)
                if self.done >= 1 or step % EVERY == 0:
                    self.evaluate()
                if self.done >= 1:
                    return


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="JSONL with a `text` field")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "demo-gpt2")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--steps", type=int, help="exactly so many steps, whatever the time")
    parser.add_argument("--repeat", type=float, default=0.3, help="share of rows with a repetition")
    parser.add_argument("--span", type=int, default=63, help="tokens of the longest repetition")
    parser.add_argument("--sink", type=float, default=0.0, help="logits that position 0 gains")
    args = parser.parse_args()
    torch.set_num_threads(1)
    Run(args)()


if __name__ == "__main__":
    main()
