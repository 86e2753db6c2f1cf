"""Whether completions under the product's masks are programs, and what a mask costs; see ``llm``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from run import Figure

from attn_dsl.dsl.check import check
from attn_dsl.dsl.parser import parse
from attn_dsl.eval.texts import read_texts
from attn_dsl.synth.llm.grammar import proposal_grammar
from attn_dsl.synth.llm.model import Sampling
from attn_dsl.synth.llm.named import kind_of
from attn_dsl.synth.llm.sampling import SLICES, Writing

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
SIDE = 64
"""Completions that the masks are measured on side by side."""
LIMIT = 384
"""Tokens of a completion at the most, as in the product."""


class Timed(Writing):
    """Writing that measures its masks."""

    seconds, masks, whole = 0.0, 0, 0.0

    def mask(self, at: int) -> np.ndarray:
        """Return the tokens that a completion may go on with, as bits."""
        started = time.thread_time()
        words = super().mask(at)
        self.seconds += time.thread_time() - started
        self.masks += 1
        return words

    def step(self, at: int, logits: np.ndarray) -> int | None:
        """Draw the next token."""
        started = time.thread_time()
        token = super().step(at, logits)
        self.whole += time.thread_time() - started
        return token


def random_completions(
    tokenizer: Any, grammar: str, count: int, seed: int
) -> tuple[list[Any], float, float, int]:
    """Let a recurrent net with random weights write.

    Returns:
        The completions, seconds for masks, seconds for masks and draws, how many masks.
    """
    rng = np.random.default_rng(seed)
    size, width = int(tokenizer.vocab_size), 8
    tokens = rng.standard_normal((size, width), dtype=np.float32)
    inner = rng.standard_normal((width, width), dtype=np.float32) / 2
    outer = rng.standard_normal((size, width), dtype=np.float32) / 2
    done: list[Any] = []
    seconds, whole, masks = 0.0, 0.0, 0
    for start in range(0, count, SIDE):
        side = min(SIDE, count - start)
        writing = Timed(
            tokenizer, grammar, side, seed * count + start, Sampling(max_tokens=LIMIT), LIMIT
        )
        states = rng.standard_normal((side, width), dtype=np.float32)
        left = list(range(side))
        while left:
            logits = np.tanh(states[left]) @ outer.T
            drawn = [writing.step(at, row) for at, row in zip(left, logits, strict=True)]
            pairs = [(at, x) for at, x in zip(left, drawn, strict=True) if x is not None]
            left = [at for at, _ in pairs]
            if left:
                states[left] = np.tanh(states[left]) @ inner + tokens[[x for _, x in pairs]]
        done += writing.completions()
        seconds, whole = seconds + writing.seconds, whole + writing.whole
        masks += writing.masks
    return done, seconds, whole, masks


def tokenizers(spm: str | None, model: str | None) -> dict[str, Any]:
    """Open the tokenizers that completions are checked with."""
    from llguidance.hf import from_tokenizer
    from transformers import AutoTokenizer

    found: dict[str, Any] = {}
    shipped = Path(kind_of(model)[1])
    if shipped.is_dir():
        found["the one that ships"] = from_tokenizer(
            AutoTokenizer.from_pretrained(shipped), slices=SLICES
        )
    found["SentencePiece"] = from_gguf(spm) if spm else trained()
    if SHARED.is_dir():
        path = SHARED / "models" / "gpt2-tokenizer"
        found["GPT-2 BPE"] = from_tokenizer(AutoTokenizer.from_pretrained(path), slices=SLICES)
    return found


def from_gguf(path: str) -> Any:
    """Open the vocabulary of a GGUF file."""
    import llama_cpp
    from llguidance.llamacpp import lltokenizer_from_vocab

    from attn_dsl.synth.llm import llamacpp

    llamacpp._quiet()
    options = llama_cpp.llama_model_default_params()
    options.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(path.encode(), options)
    return lltokenizer_from_vocab(llama_cpp.llama_model_get_vocab(model), slices=SLICES)


def trained(size: int = 32_000) -> Any:
    """Train a tokenizer of the kind that Llama has on the texts that there are."""
    import sys

    from llguidance.hf import from_tokenizer

    sys.path.insert(0, str(ROOT / "tests"))
    from llm_models import byte_fallback_tokenizer

    files = sorted((SHARED / "text").glob("*.txt")) + sorted((SHARED / "text").glob("*.jsonl"))
    texts = [text for file in files for text in read_texts(str(file))]
    return from_tokenizer(byte_fallback_tokenizer(texts, size), slices=SLICES)


def masks(count: int, spm: str | None, seed: int, model: str | None) -> list[Figure]:
    """Share of valid completions, truncations, mask times."""
    found = tokenizers(spm, model)
    grammars = [proposal_grammar(causal) for causal in (True, False)]
    figures, all_done, all_valid, all_cut = [], 0, 0, 0
    for name, tokenizer in found.items():
        ended = valid = cut = masks = length = 0
        seconds = whole = 0.0
        for grammar, share in zip(grammars, (0.7, 0.3), strict=True):
            part = round(share * count / len(found)) + 1
            done, spent, all_spent, times = random_completions(tokenizer, grammar, part, seed)
            seconds, whole, masks = seconds + spent, whole + all_spent, masks + times
            for completion in done:
                length += completion.tokens
                cut += completion.truncated
                if not completion.truncated:
                    ended += 1
                    valid += parses(completion.text)
        all_done, all_valid, all_cut = all_done + ended, all_valid + valid, all_cut + cut
        figures += [
            Figure(
                f"{name} ({tokenizer.vocab_size:,} tokens): completions that parse and check",
                f"{valid} of {ended} that ended; {cut} truncated at {LIMIT}; "
                f"{length / (ended + cut):.0f} tokens in the mean",
                "all",
            ),
            Figure(f"... mean time of a mask, {masks:,} masks", f"{1e6 * seconds / masks:.0f} us "
                   f"({1e6 * whole / masks:.0f} us with the draw)",
                   "under 200 us at 50 K"),
        ]  # fmt: skip
    figures.append(
        Figure("all of them", f"{all_valid} of {all_done}; {all_cut} truncated", "all of 10,000")
    )
    return figures


def parses(source: str) -> bool:
    """Say whether a completion is a program."""
    try:
        check(parse(source))
    except Exception as error:
        print(f"NOT A PROGRAM: {error}\n{source}")
        return False
    return True
