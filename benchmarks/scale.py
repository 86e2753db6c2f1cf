"""Measures capture and fit at the size of the paper's models, and what a plan's estimates rest on.

    python benchmarks/scale.py [--model gpt2] [--texts 300] [--tokens 128] [--timeout 900]
                               [--only plan,capture,fit,growth,calibrate,proposers] [--folder DIR]

The hub's weights are not needed: models have exactly the paper's configurations and random weights,
queries and keys scaled so that attention is peaked and differs from head to head. Only the
vocabulary of the Llama models is another one, GPT-2's, as their tokenizers are not at hand.
Processes are measured from outside: wall time, processor time, most memory. Needs ../shared.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from run import COMMAND, SHARED, Figure, print_table

TEXT = SHARED / "text/tinystories-5k.jsonl"
PEAKED = 2.0
"""By how much queries and keys are larger than a fresh model's."""


@dataclass(frozen=True)
class Usage:
    """What a process took: seconds of wall and of processor time, bytes of memory at the most."""

    wall: float
    cpu: float
    memory: int
    out: str

    def __str__(self) -> str:
        gigabytes = self.memory / 1e9
        return f"{self.wall:.0f} s, {self.cpu:.0f} s of processor time, {gigabytes:.1f} GB"


def configuration(name: str) -> tuple[Any, str]:
    """Return one of the paper's models' configurations, and whose tokenizer it is given."""
    import transformers as hf

    llama = {"vocab_size": 50_257, "rms_norm_eps": 1e-5}
    models: dict[str, Callable[[], tuple[Any, str]]] = {
        "gpt2": lambda: (hf.GPT2Config(), "gpt2-tokenizer"),
        "bert": lambda: (hf.BertConfig(), "minilm-l6"),
        "tinyllama": lambda: (
            hf.LlamaConfig(
                hidden_size=2048, intermediate_size=5632, num_hidden_layers=22,
                num_attention_heads=32, num_key_value_heads=4, max_position_embeddings=2048,
                **llama,
            ),
            "gpt2-tokenizer",
        ),
        "llama-3.2-3b": lambda: (
            hf.LlamaConfig(
                hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, head_dim=128,
                num_attention_heads=24, num_key_value_heads=8, max_position_embeddings=131_072,
                tie_word_embeddings=True, **llama,
            ),
            "gpt2-tokenizer",
        ),
    }  # fmt: skip
    return models[name]()


def build(name: str, folder: Path) -> Path:
    """Save a model with random weights, in bfloat16 to spare the disk, and its tokenizer."""
    out = folder / name
    if (out / "model.safetensors").exists():
        return out
    import torch
    import transformers as hf

    torch.manual_seed(0)
    config, tokenizer = configuration(name)
    kind = hf.AutoModelForMaskedLM if name == "bert" else hf.AutoModelForCausalLM
    network = kind.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for key, weight in network.named_parameters():
            if key.endswith(("q_proj.weight", "k_proj.weight", "query.weight", "key.weight")):
                weight *= PEAKED
            elif key.endswith("c_attn.weight"):  # queries, keys and values side by side
                weight[:, : 2 * config.n_embd] *= PEAKED
    network.save_pretrained(out, max_shard_size="100GB")
    hf.AutoTokenizer.from_pretrained(SHARED / "models" / tokenizer).save_pretrained(out)
    return out


def measured(*arguments: object) -> Usage:
    """Run the command line in a process of its own and measure it."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], stdout=out, stderr=subprocess.DEVNULL,
            env=os.environ | {"COLUMNS": "80"},
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, arguments))} ended with {process.returncode}")
    wall = time.perf_counter() - started
    return Usage(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, text)


class Scale:
    """The measurements of one model."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.name = options.model
        self.texts = ("--text", TEXT, "--max-texts", options.texts, "--max-tokens", options.tokens)
        self.place = folder / f"{self.name}-{options.texts}-{options.tokens}"

    def plan(self) -> list[Figure]:
        """What `--dry-run` expects."""
        model = build(self.name, self.folder)
        found = json.loads(measured("fit", model, *self.texts, "--dry-run", "--json").out)
        return [
            Figure(f"{self.name}: heads, tokens", f"{found['heads']}, {found['tokens']}", "-"),
            Figure(
                "plan: disk, memory",
                f"{found['capture_bytes'] / 1e9:.2f} GB, {found['memory_bytes'] / 1e9:.1f} GB", "-",
            ),
            Figure(
                "plan: capture, search",
                f"{found['capture_seconds']:.0f} s, {found['search_seconds']:.0f} s", "-",
            ),
        ]  # fmt: skip

    def capture(self) -> list[Figure]:
        """A whole `attn-dsl capture`."""
        model = build(self.name, self.folder)
        shutil.rmtree(self.place, ignore_errors=True)
        usage = measured("capture", model, *self.texts, "--out", self.place)
        disk = sum(file.stat().st_size for file in self.place.iterdir())
        return [
            Figure(f"capture, {self.name}", str(usage), "memory does not grow with texts"),
            Figure("capture: on disk, float16", f"{disk / 1e9:.2f} GB", "-"),
        ]

    def fitted(self, *more: object) -> tuple[Usage, list[dict[str, str]]]:
        """Fit programs to the heads of the capture; return the usage and `heads.csv`."""
        if not (self.place / "capture.json").exists():
            self.capture()
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            usage = measured("fit", "--capture", self.place, *more, "--out", out, "--json")
            with (out / "heads.csv").open(encoding="utf-8", newline="") as lines:
                return usage, list(csv.DictReader(lines))

    def fit(self) -> list[Figure]:
        """A whole `attn-dsl fit` with a time limit."""
        limit = self.options.timeout
        usage, rows = self.fitted("--timeout", limit)
        short = sum(int(row["cut_short"]) for row in rows)
        mean = sum(float(row["iou_test"]) for row in rows) / len(rows)
        return [
            Figure(
                f"fit, {self.name}, --timeout {limit:g}", str(usage), f"at most {1.05 * limit:g} s"
            ),
            Figure("fit: time against the limit", f"{usage.wall / limit:.3f}", "at most 1.05"),
            Figure("fit: heads, cut short, mean IoU", f"{len(rows)}, {short}, {mean:.3f}", "-"),
        ]

    def growth(self) -> list[Figure]:
        """Processor time of further heads, few and many."""
        times = {}
        for layers in (1, 2, 4):
            heads = ",".join(f"L{layer}" for layer in range(layers))
            usage, rows = self.fitted("--heads", heads, "--max-evals", self.options.evals)
            times[len(rows)] = usage.cpu
        counts = sorted(times)
        steps = [(times[b] - times[a]) / (b - a) for a, b in pairwise(counts)]
        shown = ", ".join(f"{count}: {times[count]:.0f} s" for count in counts)
        return [
            Figure(
                f"processor time by heads ({shown})",
                "a further head " + ", ".join(f"{step:.2f} s" for step in steps),
                "does not grow",
            )
        ]

    def calibrate(self) -> list[Figure]:
        """The rates of `synth/runs/plan.py`."""
        from attn_dsl.eval.capture import Capture
        from attn_dsl.eval.locate import locate
        from attn_dsl.synth.runs.plan import count_parameters

        model = build(self.name, self.folder)
        uses = {}
        for texts in (40, 120):
            out = self.folder / f"calibrate-{texts}"
            shutil.rmtree(out, ignore_errors=True)
            arguments = ("--text", TEXT, "--max-texts", texts, "--max-tokens", self.options.tokens)
            usage = measured("capture", model, *arguments, "--out", out)
            made = Capture.open(out)
            uses[sum(len(made.tokens(i)) for i in range(made.n_texts))] = usage.cpu
            shutil.rmtree(out)
        (small, less), (large, more) = sorted(uses.items())
        _, multiplied = count_parameters(locate(str(model)))
        flops = 2 * multiplied * (large - small) / (more - less)
        opened = Capture.open(self.place)
        entries = sum(opened.packed(i).shape[1] for i in range(opened.n_texts))
        alone, _ = self.fitted("--heads", "L0H0", "--rounds", 1, "--max-evals", 1)
        few, rows = self.fitted("--heads", "L0,L1", "--rounds", 1, "--max-evals", 1)
        by_head = (few.cpu - alone.cpu) / (len(rows) - 1)
        return [
            Figure("FLOPS", f"{flops:.2g}", "-"),
            Figure("SCORE_SECONDS", f"{by_head / (0.4 * entries):.2g}", "-"),
            Figure("START_SECONDS (processor time, one head)", f"{alone.cpu:.0f}", "-"),
        ]

    def proposers(self) -> list[Figure]:
        """The rates of `synth/runs/rates.py`: processor time of each proposer, by head and effort."""
        from attn_dsl.eval.capture import Capture
        from attn_dsl.synth.proposer import HeadTask, pool
        from attn_dsl.synth.runs.rates import MEASURED
        from attn_dsl.synth.search import PROPOSERS, Session, Settings

        capture, found = Capture.open(self.place), []
        last = capture.n_layers - 1
        for effort in (1, 2, 4):
            session = Session(capture, Settings(effort=effort))
            _ = session.design.vocabulary, session.design.conditions, session.probes
            for name in MEASURED:
                proposer = PROPOSERS[name](session)
                seconds = []
                for layer in (0, 0, last // 2, last):  # the first has what all share to make
                    job = HeadTask(session.design, layer, 1, seed=0, max_nodes=200, max_evals=200)
                    start = time.process_time()
                    pool(job, [proposer])
                    seconds.append(time.process_time() - start)
                shown = f"{sum(seconds[1:]) / 3:.2f} s by head, {job.evals} programs"
                found.append(Figure(f"{name}, effort {effort}", shown, "-"))
        return found


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", choices=["gpt2", "bert", "tinyllama", "llama-3.2-3b"], default="gpt2"
    )
    parser.add_argument("--texts", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--timeout", type=float, default=900)
    parser.add_argument("--evals", type=int, default=20, help="of growth and calibrate")
    parser.add_argument("--only", default="plan,capture,fit,growth")
    parser.add_argument("--folder", help="where models and captures are kept for the next time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scale = Scale(options, Path(options.folder or folder))
        parts: list[Callable[[], list[Figure]]] = [
            partial(getattr(scale, part)) for part in options.only.split(",")
        ]
        print_table(parts)


if __name__ == "__main__":
    main()
