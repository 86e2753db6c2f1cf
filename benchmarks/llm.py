"""Measures sampling under the grammar: the time of a token mask and a draw, and tokens a second of a model.

    python benchmarks/llm.py [--count 200] [--samples 64] [MODEL ...]

**masks**: completions that are drawn from random logits, over the tokenizer of the demo model and,
where ``../shared`` is, GPT-2's and a SentencePiece one. Each one is parsed and checked, up to its
last whole term if it was cut off. **speed**: the models that are named as for ``fit --llm``, or the
demo model and stories260k. Times are those of a core that this process had.
"""

import argparse
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from measuring import SHARED, Figure, print_table

from attn_dsl.eval.locate import embedded
from attn_dsl.synth.llm.model import Request
from attn_dsl.synth.llm.named import open_model
from attn_dsl.synth.llm.parse_output import programs, whole_terms
from attn_dsl.synth.llm.sampling import SLICES, Writing

TOKENIZERS = {"demo model": embedded("demo"), "SentencePiece": SHARED / "models/stories260k",
              "GPT-2": SHARED / "models/gpt2-tokenizer"}  # fmt: skip
MODELS = (embedded("demo"), SHARED / "models/stories260k", SHARED / "models/stories260k.gguf")


def masks(name: str, where: Path, count: int) -> Iterator[Figure]:
    """Draw completions from random logits: the share of programs, and the time of a token."""
    from llguidance.hf import from_tokenizer
    from transformers import AutoTokenizer

    words = from_tokenizer(AutoTokenizer.from_pretrained(where), slices=SLICES)
    writing = Writing(words, Request("", True, count, 0), room=384)
    rng, spent, steps = np.random.default_rng(0), 0.0, 0
    for at in range(count):
        token: int | None = 0
        while token is not None:
            logits = rng.standard_normal(words.vocab_size, dtype=np.float32)
            started = time.thread_time()
            token = writing.step(at, logits)
            spent, steps = spent + time.thread_time() - started, steps + 1
    done = [c for c in writing.completions() if not c.truncated or whole_terms(c.text)]
    valid = len(list(programs(done, causal=True, name="a")))
    label = f"{name} ({words.vocab_size:,} tokens)"
    yield Figure(f"{label}: completions that parse and check", f"{valid} of {len(done)}", "all")
    reached = f"{1e6 * spent / steps:.0f} us"
    yield Figure(f"{label}: time of a mask and a draw, of {steps:,}", reached, "under 200 us")


def speed(spec: str, samples: int) -> Iterator[Figure]:
    """Tokens a second of a core, prompt and masks included; the best of three times."""
    model, rates = open_model(spec), []
    request = Request("Once upon a time", True, samples, 0, max_tokens=192)
    for _ in range(3):
        started = time.process_time()
        tokens = sum(c.tokens for c in model.complete(request, lambda: False))
        rates.append(tokens / (time.process_time() - started))
    name = "/".join(Path(spec).parts[-2:])
    yield Figure(f"{name}: {samples} samples", f"{max(rates):,.0f} tokens/s of a core")


def main() -> None:
    """Measure, and print a table."""
    import torch

    parser = argparse.ArgumentParser(description="Measures sampling under the grammar.")
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--samples", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)
    words = {name: where for name, where in TOKENIZERS.items() if where.exists()}
    models = args.models or [str(where) for where in MODELS if where.exists()]
    print_table([*(partial(masks, name, where, args.count) for name, where in words.items()),
                 *(partial(speed, spec, args.samples) for spec in models)])  # fmt: skip


if __name__ == "__main__":
    main()
