"""Measures the proposer llm: validity of completions, masks, sampling, and what its programs reach.

    python benchmarks/llm.py [--only masks,speed,heads,recovery,search] [--count 10000] [--samples 64]
                             [--spm FILE.gguf] [--stories 120] [--every 1] [--llm MODEL]
                             [--seed 0]

**masks**: completions of random-weight models (a recurrent net over the tokenizer's vocabulary)
under the product's masks, over the tokenizer that ships, a 32 K SentencePiece (``--spm``, a GGUF
with at least a vocabulary; without it, one trained on ``../shared``) and GPT-2's; each is parsed
and checked; times are of a core that this thread had. **speed**: tokens a second on one core.
**heads**: for each head of stories260k, the best of the proposer's samples with fitted weights,
and of what is put together of them, picked on the select split, scored on test, against as many
samples of the same architecture with random weights, and as many steps of the enumerator.
**recovery**: for how many random programs (``random_programs.py``) one of the samples has the same
attention. **search**: the full search, the same with the proposer, and with more effort instead.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import recovery
from llm_masks import masks
from run import Figure, print_table

from attn_dsl.eval.capture import Capture
from attn_dsl.eval.capture_write import write_capture
from attn_dsl.eval.metrics import bootstrap
from attn_dsl.eval.texts import read_texts
from attn_dsl.synth.llm.grammar import proposal_grammar
from attn_dsl.synth.llm.model import LanguageModel, Sampling
from attn_dsl.synth.llm.named import kind_of, open_model
from attn_dsl.synth.llm.proposer import Llm, Options
from attn_dsl.synth.llm.together import NAME, together
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.search import PROPOSERS, Session, Settings

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
MODEL: str | None = None
"""Which model is measured: the one that ships, or ``--llm``."""
LIMIT = 384
"""Tokens of a completion at the most, as in the product."""


def speed(seed: int) -> list[Figure]:
    """Tokens a second of a core, of the models at hand, prompt and masks included."""
    import torch

    torch.set_num_threads(1)
    grammar = proposal_grammar(True, numbers=False)
    specs: dict[str, str | None] = {}
    shipped = Path(kind_of(MODEL)[1])
    if shipped.is_dir():
        specs["the shipped model, transformers"] = str(shipped)
    if (gguf := shipped.with_name("proposer.gguf")).is_file():
        specs["the shipped model, llama.cpp"] = str(gguf)
    if SHARED.is_dir():
        specs["stories260k, transformers"] = str(SHARED / "models" / "stories260k")
        specs["stories260k, llama.cpp"] = str(SHARED / "models" / "stories260k.gguf")
    figures = []
    for name, spec in specs.items():
        model, best, told = open_model(spec), 0.0, ""
        for _ in range(3):
            started = time.process_time()
            found = model.complete("Once upon a time", grammar, 64, seed, Sampling(max_tokens=192))
            rate = sum(c.tokens for c in found) / (time.process_time() - started)
            best, told = max(best, rate), str(sum(c.truncated for c in found))
        figures.append(
            Figure(f"{name}: 64 samples", f"{best:,.0f} tokens/s of a core ({told} truncated)", "-")
        )
    return figures


def stories(count: int) -> Capture:
    """Capture the attention of stories260k, or open what was captured before."""
    place = ROOT / "runs" / f"llm-benchmark-{count}"
    if place.is_dir():
        return Capture.open(place)
    texts = read_texts(str(SHARED / "text" / "tinystories-5k.jsonl"))
    return write_capture(
        str(SHARED / "models" / "stories260k"), texts, place, max_tokens=128, max_texts=count
    )


def random_weights(seed: int) -> LanguageModel:
    """Return the shipped model with random weights in place of its own."""
    import tempfile

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from attn_dsl.synth.llm.hf import Transformers

    where = kind_of(MODEL)[1]
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(where)).save_pretrained(folder)
        AutoTokenizer.from_pretrained(where).save_pretrained(folder)
        return Transformers(folder)


class PutTogether:
    """Puts together what other proposers found, without a language model: what that does alone."""

    name = NAME

    def propose(self, task: HeadTask) -> Iterator[Fitted]:
        """Yield programs of the terms of several, beyond the evaluations that those had."""
        task.max_evals = task.evals + 64
        yield from together(task, task.tried)


def best_of(
    attention: Capture, proposer: str, settings: Settings, heads: Sequence[tuple[int, int]],
    model: LanguageModel | None = None, put_together: bool = False,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """Search heads with one proposer alone; what it found may be put together in the end.

    Returns:
        Test IoU of the program that is best on the select split, float64 (heads, texts), and seconds.
    """
    settings = dataclasses.replace(settings, proposers=(proposer,), price=0.0)
    session = Session(attention, settings)
    if model is not None:
        session.proposers = [Llm(settings.llm, model=model)]
    if put_together:
        session.proposers = [*session.proposers, PutTogether()]
    session.prepare()
    found, started = [], time.perf_counter()
    for layer, head in heads:
        result, _ = session.search(layer, head, lambda: {})
        found.append(result.test_ious)
    return np.array(found), time.perf_counter() - started


def told(values: np.ndarray, seed: int) -> str:
    """Write a mean over heads with its interval over texts."""
    e = bootstrap(values.mean(axis=0), seed)
    return f"{e.mean:.3f} [{e.low:.3f}, {e.high:.3f}]"


def heads(samples: int, texts: int, every: int, seed: int) -> list[Figure]:
    """Best of so many samples on the heads of stories260k, against what it must beat."""
    attention = stories(texts)
    pairs = list(itertools.product(range(attention.n_layers), range(attention.heads_per_layer)))[
        ::every
    ]
    # What is put together of samples is fitted as well; the enumerator has as many steps as samples.
    settings = Settings(seed=seed, rounds=1, llm=Options(MODEL, samples), max_evals=2 * samples)
    n = len(attention.split(seed)["test"])
    ours, seconds = best_of(attention, "llm", settings, pairs)
    figures = [
        Figure(f"shipped proposer, best of {samples}, {len(pairs)} heads, {n} test texts",
               f"{told(ours, seed)} ({seconds / len(pairs):.1f} s a head)", "-")
    ]  # fmt: skip
    rivals: list[tuple[str, Callable[[], tuple[np.ndarray, float]]]] = [
        ("same architecture, random weights",
         lambda: best_of(attention, "llm", settings, pairs, random_weights(seed))),
    ]  # fmt: skip
    if "enumerate" in PROPOSERS:
        steps = dataclasses.replace(settings, max_evals=samples)
        rivals.append(
            (f"enumerator, {samples} steps", lambda: best_of(attention, "enumerate", steps, pairs))
        )
        rivals.append((
            "enumerator, put together",
            lambda: best_of(attention, "enumerate", steps, pairs, put_together=True),
        ))  # fmt: skip
    for name, run in rivals:
        values, seconds = run()
        figures += [
            Figure(name, f"{told(values, seed)} ({seconds / len(pairs):.1f} s a head)", "-"),
            Figure(
                "... the shipped one is above it by", told(ours - values, seed), "at least 0.05"
            ),
        ]
    return figures


def search(samples: int, texts: int, every: int, seed: int) -> list[Figure]:
    """What the proposer adds to the full search in the same time."""
    attention = stories(texts)
    pairs = list(itertools.product(range(attention.n_layers), range(attention.heads_per_layer)))[
        ::every
    ]
    base = Settings(seed=seed, rounds=1, price=0.0)
    variants: dict[str, Settings] = {
        "full search": base,
        "with the proposer": dataclasses.replace(
            base, proposers=(*base.proposers, "llm"), llm=Options(MODEL, samples),
            max_evals=base.max_evals + 2 * samples,
        ),
        "put together without it": base,
        "longer without it": dataclasses.replace(base, effort=2),
    }  # fmt: skip
    found: dict[str, np.ndarray] = {}
    figures = []
    for name, settings in variants.items():
        session = Session(attention, settings)
        if name.startswith("put together"):
            session.proposers = [*session.proposers, PutTogether()]
        session.prepare()
        started = time.perf_counter()
        chosen = [session.search(*pair, lambda: {})[0] for pair in pairs]
        seconds = time.perf_counter() - started
        found[name] = np.array([r.test_ious for r in chosen])
        share = np.mean([
            next(row.proposer for row in r.front if row.chosen) in ("llm", NAME) for r in chosen
        ])  # fmt: skip
        figures.append(
            Figure(
                f"{name}, {len(pairs)} heads",
                f"{told(found[name], seed)} ({seconds / len(pairs):.1f} s a head; {share:.0%} of the "
                "chosen programs are the model's)",
                "-",
            )
        )
    return figures + [
        Figure(f"... {name}, above the full search", told(more - found["full search"], seed), "-")
        for name, more in found.items()
        if name != "full search"
    ]


def recovered(samples: int, count: int, seed: int) -> list[Figure]:
    """For how many random programs a sample, its weights fitted, has the same attention."""
    texts = recovery.corpora()
    cells = recovery.draw(texts, (1, 2, 3, 4), count, seed)
    settings = Settings(
        seed=seed, proposers=("llm",), price=0.0, rounds=1, max_evals=samples + 1, max_nodes=1_000,
        llm=Options(MODEL, samples),
    )  # fmt: skip
    found: dict[int, list[bool]] = {}
    for cell in cells:
        session = Session(recovery.capture_of(cell, texts[cell.corpus]), settings)
        for i, true in enumerate(cell.programs):
            result, _ = session.search(0, i, lambda: {})
            same = float(np.mean(result.test_ious)) >= recovery.RECOVERED
            found.setdefault(len(true.terms), []).append(same)
    every = [same for part in found.values() for same in part]
    by_terms = ", ".join(
        f"{sum(part)} of {len(part)} with {n}" for n, part in sorted(found.items())
    )
    share = bootstrap(np.array(every, dtype=float), seed)
    return [
        Figure(f"random programs of up to 4 terms that are among {samples} samples (IoU at least "
               f"{recovery.RECOVERED:g} on test)",
               f"{share.mean:.0%} [{share.low:.0%}, {share.high:.0%}]; terms: {by_terms}",
               "at least 50 %")
    ]  # fmt: skip


def main() -> None:
    """Run the parts that are asked for."""
    global MODEL
    parser = argparse.ArgumentParser(description="Measures the proposer llm.")
    parser.add_argument("--only", default="masks,speed,heads,recovery,search")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--spm", metavar="FILE.gguf")
    parser.add_argument("--stories", type=int, default=120)
    parser.add_argument("--programs", type=int, default=12, metavar="N", help="of each size")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take each Nth head")
    parser.add_argument("--llm", metavar="MODEL")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    MODEL = args.llm
    parts: dict[str, Callable[[], list[Figure]]] = {
        "masks": lambda: masks(args.count, args.spm, args.seed, MODEL),
        "speed": lambda: speed(args.seed),
        "heads": lambda: heads(args.samples, args.stories, args.every, args.seed),
        "recovery": lambda: recovered(args.samples, args.programs, args.seed),
        "search": lambda: search(args.samples, args.stories, args.every, args.seed),
    }
    print_table(parts[name] for name in args.only.split(","))


if __name__ == "__main__":
    main()
