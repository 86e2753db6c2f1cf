"""Trains the model that proposes programs: makes pairs of prompt and program, trains, exports.

    python demo/train_proposer.py --work runs/proposer --batches 90 --minutes 40 --seed 0
    python demo/train_proposer.py --work runs/proposer --resume --minutes 10 --models RUN RUN

Everything happens on one core, in ``--work``: pairs (``proposer_data.py``) are added to
``pairs.jsonl``, those of heads of models (``--models``, run directories of ``attn-dsl fit``) to
``models.jsonl``; then a tokenizer is made and the network (``proposer_model.py``) trained on the
program's tokens. A checkpoint is written as it goes; ``--resume`` goes on from there. Strings are
replaced by other ones in a share of the pairs, in prompt and program alike, and a share of the
prompts is made up of terms of several (``--made-up``), which teaches to copy. A run of ``--steps``
depends on the seed alone, one of ``--minutes`` on the clock as well. ``--export`` writes what ships
into a folder (``demo``).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from optimizer import Optimizer
from proposer_model import Network, config_of, export
from proposer_samples import CONTEXT, Samples, padded
from proposer_tokenizer import build
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

HELD_OUT = 20
"""Every so manieth batch of pairs is held out."""


def make_pairs(path: Path, batches: int) -> None:
    """Make pairs until there are those of so many batches; what is there already is kept."""
    from attn_dsl.demo.proposer_data import pairs

    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done = {json.loads(line)["seed"] for line in lines}
    for seed in range(batches):
        if seed in done:
            continue
        started = time.process_time()
        made = list(pairs(seed))
        text = "".join(json.dumps({"seed": seed, **asdict(pair)}) + "\n" for pair in made)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
        spent = (time.process_time() - started) / max(len(made), 1)
        print(f"batch {seed + 1}/{batches}: {len(made)} pairs, {spent:.2f} s each", flush=True)


def read_pairs(path: Path) -> list[dict]:
    """Read pairs."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def loss_of(network: Network, ids: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the mean loss of the learned tokens, in nats."""
    return cross_entropy(network(ids, wanted), ids.roll(-1, 1)[wanted])


def save(path: Path, network: Network, optimizer: Optimizer, progress: dict) -> None:
    """Write a checkpoint."""
    tensors = {f"model.{k}": v.detach().contiguous() for k, v in network.named_parameters()}
    tensors |= {f"optimizer.{k}": v for k, v in optimizer.tensors().items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"progress": json.dumps(progress)})
    partial.replace(path)


def load(path: Path, network: Network, optimizer: Optimizer) -> dict:
    """Restore a checkpoint; return its progress."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        progress = json.loads(file.metadata()["progress"])
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(tensors.pop(f"model.{name}"))
    optimizer.restore({name.removeprefix("optimizer."): x for name, x in tensors.items()})
    return progress


def share_of(done: float, step: int, decay: float) -> float:
    """Return a step's share of the peak rate: a warm-up, flat, then linearly down."""
    fall = min(1.0, max(0.02, (1.0 - done) / decay)) if decay else 1.0
    return min(1.0, (step + 1) / 50) * fall


@torch.inference_mode()
def held_out(network: Network, samples: Samples, tokens: int) -> float:
    """Return the loss by token on held-out pairs, as they are."""
    encoded = [samples.encode(p["prompt"], p["program"]) for p in samples.pairs]
    encoded = sorted((x for x in encoded if len(x[0]) <= CONTEXT), key=lambda x: len(x[0]))
    total, count = 0.0, 0
    step = max(1, tokens // 400)
    for at in range(0, len(encoded), step):
        ids, wanted = padded(encoded[at : at + step])
        total += float(loss_of(network, ids, wanted)) * int(wanted.sum())
        count += int(wanted.sum())
    return total / max(count, 1)


def train(
    args: argparse.Namespace,
    tokenizer: PreTrainedTokenizerFast,
    pairs: list[dict],
    held: list[dict],
) -> tuple[Network, dict]:
    """Train for the given time or number of steps, from the checkpoint if asked for."""
    torch.manual_seed(args.seed)
    network = Network(config_of(len(tokenizer), args.width, args.layers, args.inner, CONTEXT))
    optimizer = Optimizer(network, network.blocks, args.rate, args.matrix_rate, 0.05)
    path = args.work / "checkpoint.safetensors"
    progress = {"step": 0, "tokens": 0, "minutes": 0.0, "legs": []}
    if args.resume and path.exists():
        progress = load(path, network, optimizer)
    rng = random.Random(args.seed * 1_000_003 + progress["step"])
    samples = Samples(pairs, tokenizer, rng, args.longest, args.made_up)
    checks = Samples(held, tokenizer, rng)
    started, first, before = time.monotonic(), progress["step"], progress["minutes"]
    saved, mean = started, math.nan
    for ids, wanted in samples.batches(args.tokens):
        spent = (time.monotonic() - started) / 60
        taken = progress["step"] - first
        done = taken / args.steps if args.steps else spent / args.minutes
        if done >= 1.0:
            break
        loss = loss_of(network, ids, wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step(args.peak * share_of(done, progress["step"], args.decay))
        value = loss.item()
        mean = value if math.isnan(mean) else 0.97 * mean + 0.03 * value
        progress |= {"step": progress["step"] + 1, "tokens": progress["tokens"] + ids.numel(),
                     "minutes": before + spent}  # fmt: skip
        if progress["step"] % 50 == 0:
            rate = ids.numel() / max(time.monotonic() - started - 60 * spent, 1e-9)
            print(
                f"step {progress['step']} loss {mean:.3f} {rate:.0f} tokens/s {100 * done:.0f} %",
                flush=True,
            )
        if time.monotonic() - saved > 60 * args.save_every:
            saved = time.monotonic()
            print(
                f"step {progress['step']} held out {held_out(network, checks, args.tokens):.3f}",
                flush=True,
            )
            save(path, network, optimizer, progress)
    progress["loss"] = held_out(network, checks, args.tokens)
    minutes = round(progress["minutes"] - before, 1)
    leg = {"from_step": first, "pairs": len(pairs), "held_out": len(held), "minutes": minutes}
    names = ("seed", "peak", "decay", "longest", "made_up")
    progress["legs"].append(leg | {name: getattr(args, name) for name in names})
    save(path, network, optimizer, progress)
    print(f"step {progress['step']} held out {progress['loss']:.3f}", flush=True)
    return network, progress


def parser() -> argparse.ArgumentParser:
    """Describe the options."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--work", type=Path, default=Path("runs/proposer"))
    made.add_argument("--batches", type=int, default=90, help="batches of pairs to make")
    made.add_argument(
        "--models", type=Path, nargs="*", default=[], help="runs of attn-dsl fit to learn from"
    )
    made.add_argument(
        "--models-share",
        type=int,
        default=4,
        help="how often their pairs come for one of the others",
    )
    made.add_argument("--minutes", type=float, default=40.0)
    made.add_argument("--steps", type=int, help="in the place of minutes")
    made.add_argument("--resume", action="store_true")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--width", type=int, default=128)
    made.add_argument("--layers", type=int, default=4)
    made.add_argument("--inner", type=int, default=384)
    made.add_argument("--tokens", type=int, default=6_000, help="of a batch")
    made.add_argument("--longest", type=int, default=640, help="pairs of more tokens are left out")
    made.add_argument(
        "--made-up", type=float, default=0.0, help="share of prompts made of terms of several"
    )
    made.add_argument("--rate", type=float, default=3e-3)
    made.add_argument("--matrix-rate", type=float, default=2e-2)
    made.add_argument(
        "--peak", type=float, default=1.0, help="share of the rates that this leg begins with"
    )
    made.add_argument(
        "--decay", type=float, default=0.5, help="share of the leg in which they fall"
    )
    made.add_argument("--save-every", type=float, default=3.0, help="minutes")
    made.add_argument("--export", type=Path, help="where proposer/ and proposer.gguf go")
    return made


def main() -> None:
    """Run what is asked for."""
    args = parser().parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    make_pairs(args.work / "pairs.jsonl", args.batches)
    pairs = read_pairs(args.work / "pairs.jsonl")
    held = [p for p in pairs if p["seed"] % HELD_OUT == 0]
    pairs = [p for p in pairs if p["seed"] % HELD_OUT]
    if args.models:
        from attn_dsl.demo.proposer_heads import make_model_pairs

        make_model_pairs(args.work / "models.jsonl", args.models)
    pairs += read_pairs(args.work / "models.jsonl") * args.models_share
    folder = args.work / "tokenizer"
    if folder.exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    else:
        tokenizer = build([p["prompt"] for p in pairs], [p["program"] for p in pairs])
        tokenizer.save_pretrained(folder)
    network, progress = train(args, tokenizer, pairs, held)
    if args.export:
        export(network, tokenizer, args.export, progress)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
