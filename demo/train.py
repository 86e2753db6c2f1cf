"""Trains the demo model: a byte-level BPE tokenizer and a small GPT-2 on short stories.

    python demo/train.py --text stories.jsonl --out demo/demo-gpt2 --seed 0 --minutes 60

Every training sequence is one story behind `<|bos|>`, which also ends it; in some a span of the
story is repeated, which teaches induction in little time. One story in ten, by a hash of its
content, is held out: half of those pick the checkpoint (`valid`), the other half are only ever
reported on (`test`). A run is as long as `--minutes` allows, or has exactly `--steps`,
which is what makes it repeatable from its seed. It writes a checkpoint as it goes, from which
`--resume` goes on. `sample.py` then writes stories and `measure.py` the README.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from optimizer import Optimizer
from safetensors import safe_open
from safetensors.torch import save_file
from stories import (
    CONTEXT,
    IGNORE,
    epoch_batches,
    pad,
    read_stories,
    split_stories,
    train_tokenizer,
)
from transformers import AttentionInterface, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

EMBEDDING_STD = 0.04


def float32_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention in float32: in bfloat16 its backward pass takes half a step on a CPU."""
    with torch.autocast(query.device.type, enabled=False):
        mixed = torch.nn.functional.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), is_causal=True, scale=scaling
        )
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register("float32_attention", float32_attention)


def build_model(args: argparse.Namespace, vocab: int, bos: int) -> GPT2LMHeadModel:
    """Return an untrained GPT-2 of the size asked for."""
    config = GPT2Config(
        vocab_size=vocab,
        n_positions=CONTEXT,
        n_embd=args.width,
        n_layer=args.layers,
        n_head=args.heads,
        embd_pdrop=args.dropout,
        resid_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=args.width**-0.5,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own, in one fused kernel
        bos_token_id=bos,
        eos_token_id=bos,
    )
    model = GPT2LMHeadModel._from_config(config, attn_implementation="float32_attention")
    # Two things make heads form in fewer steps: positions as waves of periods from 2 to 512
    # tokens, and keys that start out equal to the queries, so that like attends to like.
    rate = math.pi * torch.logspace(0, -8, args.width // 2, base=2.0)
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

    It is where a head can look that finds nothing, once it is easy to find; training does with
    this start as it likes.
    """
    states = model.transformer(inputs, output_hidden_states=True).hidden_states
    for block, state in list(zip(model.transformer.h, states[:-1], strict=True))[1:]:
        attention = block.attn
        keys = attention.c_attn(block.ln_1(state)).chunk(3, dim=-1)[1]
        ahead = keys[0, 0] - keys[:, 1:].mean((0, 1))
        ahead = ahead.view(attention.num_heads, -1)
        scale = bonus * attention.head_dim**0.5 / ahead.square().sum(1, keepdim=True)
        attention.c_attn.bias[: model.config.n_embd] += (scale * ahead).flatten()


def loss_of(logits: torch.Tensor, labels: torch.Tensor, reduction: str) -> torch.Tensor:
    """Return the loss in nats over a batch's labels, in float32."""
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction=reduction
    )


@torch.inference_mode()
def held_out_loss(model: GPT2LMHeadModel, encoded: list[np.ndarray], bos: int) -> float:
    """Return the mean loss per token in nats over the stories' first contexts.

    Each story is read from `<|bos|>` at position 0 and its end token counts as a prediction.
    """
    model.eval()
    rows = sorted((np.concatenate([[bos], t, [bos]])[: CONTEXT + 1] for t in encoded), key=len)
    total, count = 0.0, 0
    for at in range(0, len(rows), 32):
        inputs, labels = (x.to(model.device) for x in pad(rows[at : at + 32], bos))
        total += loss_of(model(input_ids=inputs).logits, labels, "sum").item()
        count += int((labels != IGNORE).sum())
    return total / count


def schedule(step: int, warmup: int, done: float) -> float:
    """Return a step's share of the peak rate: a linear warm-up, a cosine to 1 % at `done` = 1."""
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return min(1.0, (step + 1) / warmup) * (0.01 + 0.99 * fall)


def save_checkpoint(
    path: Path, model: GPT2LMHeadModel, optimizer: Optimizer, progress: dict[str, object]
) -> None:
    """Write all that `load_checkpoint` needs to go on with the next step, as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    tensors |= {f"optimizer.{name}": value for name, value in optimizer.tensors().items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"progress": json.dumps(progress)})
    partial.replace(path)


def load_checkpoint(path: Path, model: GPT2LMHeadModel, optimizer: Optimizer) -> dict[str, object]:
    """Restore a checkpoint's weights and optimizer, and return its progress."""
    with safe_open(path, "pt", device=str(model.device)) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        progress = json.loads(file.metadata()["progress"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors.pop(f"model.{name}"))
    optimizer.restore({name.removeprefix("optimizer."): x for name, x in tensors.items()})
    return progress


def save_model(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model in float16 with its tokenizer."""
    config = GPT2Config.from_dict(model.config.to_dict())
    config.activation_function = "gelu_new"
    half = GPT2LMHeadModel(config)
    half.load_state_dict(model.state_dict())
    half.to(torch.float16).save_pretrained(out)
    tokenizer.save_pretrained(out)


class Run:
    """A training run: its data, model and optimizer, and how far it has come."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Read the text, train the tokenizer and build the model, or take up the checkpoint."""
        self.args = args
        torch.manual_seed(args.seed)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        parts = split_stories(read_stories(args.text))
        self.tokenizer = train_tokenizer(parts["train"], args.vocab)
        self.bos = self.tokenizer.bos_token_id
        encode = self.tokenizer.backend_tokenizer.encode_batch
        self.encoded = {
            name: [np.array(text.ids) for text in encode(texts, add_special_tokens=False)]
            for name, texts in parts.items()
        }
        self.sizes = {name: sum(map(len, rows)) for name, rows in self.encoded.items()}
        self.model = build_model(args, len(self.tokenizer), self.bos).to(self.device)
        self.optimizer = Optimizer(
            self.model, self.model.transformer.h, args.lr, args.matrix_lr, args.weight_decay
        )
        self.checkpoint = args.checkpoint or args.out.with_name("checkpoint.safetensors")
        self.step, self.tokens, self.best_step, self.valid, self.legs = 0, 0, 0, [], []
        self.best, spent = math.inf, 0.0
        if args.resume:
            progress = load_checkpoint(self.checkpoint, self.model, self.optimizer)
            spent = progress.pop("seconds")
            vars(self).update(progress)
            self.best = math.inf  # the leg before may have had other settings
        if args.sink:
            self.model.eval()
            rows = [row for row in self.encoded["train"] if len(row) > 200][:16]
            rows = np.stack([np.concatenate([[self.bos], row[:200]]) for row in rows])
            favour_first(self.model, torch.from_numpy(rows).to(self.device), args.sink)
        settings = {k: v for k, v in vars(args).items() if not isinstance(v, Path)}
        self.legs.append({"from_step": self.step, **settings})
        self.began = time.monotonic() - spent
        count = self.model.num_parameters()
        print(f"{count:,} parameters on {self.device}, tokens {self.sizes}", flush=True)

    @property
    def seconds(self) -> float:
        """The time spent, over all resumptions."""
        return time.monotonic() - self.began

    @property
    def done(self) -> float:
        """The share of the run that lies behind, by steps where they are given, else by time."""
        args = self.args
        return self.step / args.steps if args.steps else self.seconds / (60 * args.minutes)

    def learn(self, inputs: torch.Tensor, labels: torch.Tensor) -> float:
        """Take one step and return its loss."""
        args = self.args
        torch.manual_seed((args.seed << 32) + self.step)  # so that dropout repeats on resuming
        self.model.train()
        with torch.autocast(self.device, torch.bfloat16):
            logits = self.model(input_ids=inputs.to(self.device), use_cache=False).logits
        loss = loss_of(logits, labels.to(self.device), "mean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step(schedule(self.step, args.warmup, self.done))
        self.step += 1
        self.tokens += int((labels != IGNORE).sum())
        return loss.item()

    def evaluate(self) -> None:
        """Measure on the valid split, save the model if it is the best so far, and checkpoint."""
        loss = held_out_loss(self.model, self.encoded["valid"], self.bos)
        print(f"valid loss {loss:.4f}, perplexity {math.exp(loss):.3f}", flush=True)
        self.valid.append([self.step, round(loss, 4)])
        if loss < self.best:
            self.best, self.best_step = loss, self.step
            save_model(self.model, self.tokenizer, self.args.out)
        progress = {
            key: getattr(self, key)
            for key in ("step", "tokens", "seconds", "best", "best_step", "valid", "legs")
        }
        save_checkpoint(self.checkpoint, self.model, self.optimizer, progress)
        stories = {name: len(rows) for name, rows in self.encoded.items()}
        record = {
            "device": self.device,
            "stories": stories,
            "story_tokens": self.sizes,
            **progress,
        }
        text = json.dumps(record, indent=1) + "\n"
        (self.args.out / "training.json").write_text(text, encoding="utf-8")

    def __call__(self) -> None:
        """Train to the end; the best model by the valid split is then in `--out`."""
        args, rows = self.args, self.encoded["train"]
        how = (rows, self.bos, len(self.tokenizer), args.repeat, args.span, args.batch, args.seed)
        per_epoch = sum(1 for _ in epoch_batches(*how, 0))
        mean = math.nan
        while self.done < 1:
            epoch, skip = divmod(self.step, per_epoch)
            for inputs, labels in islice(epoch_batches(*how, epoch), skip, None):
                loss = self.learn(inputs, labels)
                mean = loss if math.isnan(mean) else 0.98 * mean + 0.02 * loss
                if self.step % 50 == 0:
                    print(
                        f"step {self.step}, epoch {epoch}, loss {mean:.4f}, {self.done:.1%}, "
                        f"{self.seconds / 60:.1f} min, {self.tokens / self.seconds:,.0f} tokens/s",
                        flush=True,
                    )
                if self.done >= 1 or self.step % args.every == 0:
                    self.evaluate()
                if self.done >= 1:
                    return


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="JSONL with a `text` field")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "demo-gpt2")
    parser.add_argument("--checkpoint", type=Path, help="file of an unfinished run's state")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--steps", type=int, help="exactly so many steps, whatever the time")
    for name, value, text in (
        ("vocab", 2048, "tokens of the tokenizer"),
        ("layers", 4, "blocks"),
        ("heads", 8, "heads of a block"),
        ("width", 128, "width of the residual stream"),
        ("dropout", 0.05, "on the embeddings"),
        ("repeat", 0.3, "share of rows with a span repeated"),
        ("span", 63, "tokens of the longest repeated span"),
        ("batch", 16, "rows of a step"),
        ("lr", 3e-3, "peak rate of AdamW"),
        ("matrix-lr", 0.02, "peak rate of Muon"),
        ("weight-decay", 0.05, "of Muon"),
        ("sink", 0.0, "logits that position 0 is raised by at the start of a run or a resumption"),
        ("warmup", 100, "steps to the peak rates"),
        ("every", 400, "steps between evaluations"),
        ("threads", 1, "processor threads; two only pay on idle cores"),
    ):
        parser.add_argument(f"--{name}", type=type(value), default=value, help=text)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    Run(args)()


if __name__ == "__main__":
    main()
