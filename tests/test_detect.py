"""Detection: planted heads are found and no others; shares are the usual scores of the literature."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import attn_dsl, succeed

from attn_dsl import Capture, InputError, detect, parse
from attn_dsl.dsl.library import library
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.detect import KINDS, Detection
from attn_dsl.eval.models import load_model

WORDS = "the cat saw a dog . Tom and Mia ran to the park , and she said hi to him !".split()
PLANTED = ("I", "D", "F", "P", "C", "M", "L", "none", "uniform", "commas and the first")
"""The kinds of the planted heads, by letter, and heads that are of none."""


def planted(share: float) -> Capture:
    """Heads that give a share of their attention to a kind's keys, and the rest to all keys alike."""
    rng, known = np.random.default_rng(4), library("causal")
    tokens = []
    for _ in range(60):
        words = [f" {x}" for x in rng.choice(WORDS, size=12)]
        tokens.append(Tokens.from_strings([*words, *rng.permutation(words[:6]), *words]))
    by_letter = {kind.letter: known.get(kind.program) for kind in KINDS}
    attention = []
    for x in tokens:
        n, heads = len(x), []
        uniform = np.tri(n) / np.arange(1, n + 1)[:, None]
        for letter in PLANTED[:7]:
            program = by_letter[letter]
            assert program is not None
            heads.append(share * parse(program.source)(x) + (1 - share) * uniform)
        noise = np.tril(rng.random((n, n)))
        mixed = parse("head a causal:\n 1 where text(k) in Comma\n 1 where k == 0")(x)
        heads += [noise / noise.sum(1, keepdims=True), uniform, mixed]
        attention.append(np.stack(heads)[None])
    return Capture.from_arrays(tokens, attention, causal=True)


def test_planted_heads_are_of_their_kinds_and_others_of_none() -> None:
    found = detect(capture=planted(0.8))
    assert found.map == ["IDFPCML..."]
    for one in found.every:
        assert one.share.low <= one.share.mean <= one.share.high
        if PLANTED[one.head] == one.kind.letter and one.kind.letter in "FPC":
            assert one.share.mean == pytest.approx(0.8, abs=0.06)
    assert detect(capture=planted(0.05), threshold=0.4).map == [".........."]


def test_a_kind_with_few_cases_is_not_told() -> None:
    tokens = [Tokens.from_strings([f" w{i}x{j}" for j in range(9)]) for i in range(40)]
    attention = [np.eye(9)[None, None] for _ in tokens]
    found = detect(capture=Capture.from_arrays(tokens, attention, causal=True))
    assert found.map == ["C"]
    assert {one.kind.name for one in found.every}.isdisjoint({"induction", "delimiter"})
    assert found.queries["induction"] == 0
    with pytest.raises(InputError, match="too few"):
        detect(capture=Capture.from_arrays(tokens[:1], attention[:1], causal=True))


def repeated(model: str, half: int = 40, count: int = 20) -> tuple[np.ndarray, Capture]:
    """Attention of a model on random tokens that are repeated once, behind the first token of texts."""
    loaded, rng = load_model(model), np.random.default_rng(0)
    attention, strings = [], []
    for _ in range(count):
        once = rng.permutation(np.arange(20, loaded.model.config.vocab_size))[:half]
        ids = np.concatenate([[loaded.tokenizer.bos_token_id or 0], once, once])
        with torch.inference_mode():
            layers = loaded.model(torch.tensor(ids)[None], output_attentions=True).attentions
        attention.append(torch.cat(layers).double().numpy())
        strings.append([f" t{i}" for i in ids])
    return np.stack(attention), Capture.from_arrays(strings, attention, causal=True)


def shares(found: Detection, kind: str) -> np.ndarray:
    one = [x.share.mean for x in found.every if x.kind.name == kind]
    return np.reshape(one, (found.layers, found.heads_per_layer))


@pytest.mark.parametrize("name", ["demo", "stories260k"])
def test_shares_are_the_scores_of_the_literature(name: str, request: pytest.FixtureRequest) -> None:
    """On repeated random tokens: induction (Olsson et al. 2022), previous and duplicate token scores."""
    if name != "demo":
        name = str(request.getfixturevalue("shared") / "models" / name)
    half = 40
    attention, capture = repeated(name, half)
    own = attention[capture.split(0)["test"]].mean(0)  # layers, heads, n, n
    n = own.shape[-1]
    rows, second = np.arange(1, n), np.arange(half + 1, n)
    previous = own[:, :, rows, rows - 1].mean(-1)
    duplicate = own[:, :, second, second - half].mean(-1)
    induction = own[:, :, second[1:], second[1:] - half + 1].mean(-1)
    found = detect(capture=capture)
    np.testing.assert_allclose(shares(found, "previous token"), previous, atol=1e-3)
    np.testing.assert_allclose(shares(found, "duplicate token"), duplicate, atol=1e-3)
    np.testing.assert_allclose(shares(found, "induction"), induction, atol=1e-3)
    for kind, scores in (("previous token", previous), ("induction", induction)):
        least = next(x.threshold for x in KINDS if x.name == kind)
        there = {x.label for x in found.every if x.kind.name == kind and x.detected}
        high = {f"L{layer}H{head}" for layer, head in np.argwhere(scores > least + 0.05)}
        assert high <= there <= {f"L{i}H{j}" for i, j in np.argwhere(scores > least)}
    assert previous.max() > 0.45, "the model has such a head"


def test_the_command_prints_a_table_and_a_map(small_capture: Path) -> None:
    rows = json.loads(succeed("detect", "--capture", small_capture, "--json"))
    assert {(x["layer"], x["head"]) for x in rows} == {(i, j) for i in (0, 1) for j in range(4)}
    for row in rows:
        assert row["share_low"] <= row["share"] <= row["share_high"]
        assert row["detected"] == (row["share_low"] > max(row["control"], 0.4)) or row["kind"] in (
            "induction", "duplicate token",
        )  # fmt: skip
    out = succeed("detect", "--capture", small_capture, "--threshold", "0.01")
    assert max(map(len, out.splitlines())) <= 80
    assert "a letter for each head" in out
    assert "first-token sink" in out
    assert attn_dsl("detect", "--capture", small_capture, "--threshold", "2").code == 2
