"""Compiles programs of Tracr's library to transformers and writes what their heads attend to.

    pip install tracr-pypi==1.0.0 jax==0.10.2 dm-haiku==0.0.17 numpy==2.4.6 safetensors==0.8.0
    python benchmarks/tracr/make.py

Run it in an environment of its own: attn-dsl does not need JAX. It writes ``attention.safetensors``,
per program the attention of all heads on all texts, float16 [layers, heads, sum of n * n], one matrix
after the other; and ``texts.json``, per program its texts, its visibility, and the coldness of its softmax.

With c = 100 / sqrt(key size of the model), the logits of a head are c for keys that its selector selects
and 0 for others. BOS has c/2 in an aggregate, so that rows that select nothing attend to it; it has c in a
selector width. It is never selected, and its own row selects nothing. Unused heads are uniform.
"""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file
from tracr.compiler import lib
from tracr.compiler.compiling import compile_rasp_to_model
from tracr.rasp import rasp

HERE = Path(__file__).parent
BOS, TEXTS, LONGEST = "<s>", 80, 10
"""The token that Tracr puts before each text, how many texts, and the most tokens without BOS."""
EXACTNESS = 1000
"""Of Tracr's MLPs; with the usual 100 they do not tell a count of 10 from 9, and of 8 from 7 not surely."""
LETTERS, NUMBERS = "abcd", (2, 3, 5, 7, 9, 10, 12, 20, 35, 41, 86, 100)
TOLERANCE = 1e-5  # the most that an entry may differ from what the head's selector predicts

TOKENS = rasp.tokens
SORT = {"max_seq_len": LONGEST, "min_key": 1}
PROGRAMS = {"length": (lib.make_length(), LETTERS), "reverse": (lib.make_reverse(TOKENS), LETTERS),
            "hist": (lib.make_hist(), LETTERS), "count": (lib.make_count(TOKENS, "a"), LETTERS),
            "count_less_freq": (lib.make_count_less_freq(2), LETTERS),
            "sort_unique": (lib.make_sort_unique(TOKENS, TOKENS), NUMBERS),
            "sort": (lib.make_sort(TOKENS, TOKENS, **SORT), NUMBERS),
            "sort_freq": (lib.make_sort_freq(LONGEST), LETTERS),
            "pair_balance": (lib.make_pair_balance(TOKENS, "(", ")"), "()a"),
            "shuffle_dyck": (lib.make_shuffle_dyck(["()", "{}"]), "(){}"),
            "frac_prevs": (lib.make_frac_prevs(TOKENS == "a"), LETTERS),
            "shift_by": (lib.shift_by(2, TOKENS), LETTERS),
            "detect_pattern": (lib.detect_pattern(TOKENS, "abc"), "abc"),
            "hist_causal": (lib.make_hist(), LETTERS)}  # fmt: skip
"""By name, the program and its vocabulary."""
CAUSAL = "frac_prevs", "shift_by", "detect_pattern", "hist_causal"


def texts_of(vocabulary: Sequence, repeats: bool) -> list[list]:
    """Draw different texts of 2 to ``LONGEST`` tokens."""
    rng, texts = random.Random(0), []
    while len(texts) < TEXTS:
        n = rng.randint(2, LONGEST)
        text = rng.choices(vocabulary, k=n) if repeats else rng.sample(vocabulary, n)
        if text not in texts:
            texts.append(text)
    return texts


def selectors(program: rasp.RASPExpr) -> Iterator[tuple[rasp.Select, float]]:
    """Yield each selector of a program, with the logit of BOS where that of a selected key is 1."""
    if isinstance(program, rasp.SelectorWidth | rasp.Aggregate):
        yield program.selector, 1.0 if isinstance(program, rasp.SelectorWidth) else 0.5
    for child in program.children:
        yield from selectors(child)


def predicted(selected: Sequence, bos: float, coldness: float, causal: bool) -> np.ndarray:
    """Return the attention of a head with a selector, which does not know of BOS."""
    n = len(selected) + 1
    logits = np.zeros((n, n))
    logits[1:, 1:] = selected
    logits[:, 0] = bos
    logits = np.where(np.tri(n) > 0, coldness * logits, -np.inf) if causal else coldness * logits
    rows = np.exp(logits - logits.max(1, keepdims=True))
    return rows / rows.sum(1, keepdims=True)


def main() -> None:
    """Write the attention of all programs."""
    tensors, about = {}, {}
    for name, (program, vocabulary) in PROGRAMS.items():
        causal = name in CAUSAL
        model = compile_rasp_to_model(program, set(vocabulary), LONGEST, causal, compiler_bos=BOS,
                                      mlp_exactness=EXACTNESS)  # fmt: skip
        texts = texts_of(vocabulary, repeats=name != "sort_unique")
        outputs = [model.apply([BOS, *text]).attn_logits for text in texts]
        attention = [np.concatenate(jax.nn.softmax(np.array(x)[:, 0], axis=-1)) for x in outputs]
        config = model.model_config
        coldness = 100 / config.key_size**0.5
        expected = {one.label: [predicted(one(text), bos, coldness, causal) for text in texts]
                    for one, bos in selectors(program)}  # fmt: skip
        expected["unused"] = [predicted(np.zeros((len(text), len(text))), 0, 1, causal)
                              for text in texts]  # fmt: skip
        for head in range(config.num_layers * config.num_heads):
            errors = {label: max(np.abs(a[head] - b).max() for a, b in zip(attention, rows, strict=True))
                      for label, rows in expected.items()}  # fmt: skip
            label = min(errors, key=errors.get)
            layer, own = divmod(head, config.num_heads)
            print(f"{name} L{layer}H{own} {label} {errors[label]:.1e}", flush=True)
            assert errors[label] < TOLERANCE, (
                "the head is none that the program's selectors explain")  # fmt: skip
        shape = (config.num_layers, config.num_heads, -1)
        flat = np.concatenate([a.reshape(len(a), -1) for a in attention], axis=1)
        tensors[name] = flat.reshape(shape).astype(np.float16)
        about[name] = {"causal": causal, "coldness": coldness,
                       "texts": [[BOS, *(f" {token}" for token in text)] for text in texts]}  # fmt: skip
    save_file(tensors, HERE / "attention.safetensors")
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in about.items())
    (HERE / "texts.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
