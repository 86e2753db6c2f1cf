"""What the proposer learns from: random programs, their attention on real text, and the pairs of both.

Programs are drawn term by term from the forms that proposals may have. Their attention on texts of
several tokenizers, with noise of several strengths or mixed with that of other programs, is described by
the very prompt that heads of models are described by; the answer is the program, written with the
terms of the prompt where those do as well. Attention that no program made is answered by the best of
what the prompt offers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan, unpack
from attn_dsl.demo.proposer_programs import draw_programs
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.shipped import model_dir, stories_path
from attn_dsl.synth import weights as w
from attn_dsl.synth.design import Design
from attn_dsl.synth.llm.compact import listing, prompt_of, proposal_term
from attn_dsl.synth.llm.grammar import as_proposal, is_proposal
from attn_dsl.synth.llm.pool import look
from attn_dsl.synth.llm.sketch import Sketch

ROOT = Path(__file__).resolve().parents[1]
TEXTS, TOKENS = 40, 96
HEADS, ENTRIES = 64, 4_500
"""Heads by batch of texts, and the entries of rows that they are described by."""
LOST = 0.006
"""IoU that the terms of the prompt may lose against the true program and still be the answer."""
SAME = 0.985
"""A true term is written as the prompt writes one whose scores correlate by more with its own."""


@dataclass(frozen=True)
class Pair:
    """A prompt and its answer, and how the head was made: ``clean``, ``noisy``, ``mixed``, ``model``."""

    prompt: str
    program: str
    kind: str


def sources() -> dict[str, list[str]]:
    """Read the texts of this repository: stories, and its own pages and code."""
    lines = stories_path().read_text(encoding="utf-8").splitlines()
    files = [*ROOT.glob("docs/*.md"), *ROOT.glob("*.md"), *ROOT.glob("[dcse]*/*.py")]
    pages = [path.read_text(encoding="utf-8") for path in sorted(files)]
    return {"stories": [json.loads(line)["text"] for line in lines], "pages": pages}


def tokenised(rng: np.random.Generator, texts: dict[str, list[str]], causal: bool) -> list[Tokens]:
    """Draw texts and a way to cut them into tokens."""
    chosen = texts["stories" if rng.random() < 0.7 else "pages"]
    way = rng.choice(
        ["demo", "words", "pieces", "lower", "characters"], p=[0.4, 0.2, 0.2, 0.15, 0.05]
    )
    first = rng.choice(["<|bos|>", "<s>", "[CLS]", ""], p=[0.35, 0.25, 0.2, 0.2])
    special = [first] if first else []
    from transformers import AutoTokenizer

    model = AutoTokenizer.from_pretrained(model_dir()).backend_tokenizer
    found = []
    for i in rng.choice(len(chosen), size=min(TEXTS, len(chosen)), replace=False):
        text = chosen[i]
        if len(text) > 700:
            at = int(rng.integers(len(text) - 600))
            text = text[at : at + 600] if chosen is texts["pages"] else text[:600]
        if way == "demo":
            ids = model.encode(text, add_special_tokens=False).ids
            strings = [model.decode([x]) for x in ids]
        elif way == "characters":
            strings = list(text)
        elif way == "pieces":  # long words are cut into pieces, as by a small vocabulary
            words = re.findall(r" ?\w+|\s+(?=\w)|\s|[^\w\s]+", text)
            strings = [p for x in words for p in re.findall(r"^ ?\w{1,4}|\w{1,3}|\W+", x)]
        else:
            text = text.lower() if way == "lower" else text
            strings = re.findall(r" ?\w+|\n| ?[^\w\s]+|\s", text)
            if way == "lower":
                strings = [s for s in strings if s.strip()]
        most = TOKENS - int(rng.integers(40)) - len(special)
        strings = strings[:most]
        if len(strings) < 20:
            continue
        end = ["[SEP]"] if first == "[CLS]" and not causal else []
        found.append(Tokens.from_strings([*special, *strings, *end]))
    return found


def noisy(
    rows: np.ndarray, starts: np.ndarray, level: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw every row from a Dirichlet distribution around it, float32 (entries)."""
    drawn = rng.standard_gamma(np.maximum(rows.astype(np.float64) * level, 1e-9)) + 1e-9 * rows
    sums = np.add.reduceat(drawn, starts)
    return (drawn / np.repeat(sums, np.diff(np.append(starts, len(rows))))).astype(np.float32)


def pairs(seed: int) -> Iterator[Pair]:
    """Make the pairs of one batch of texts; the same seed makes the same ones."""
    rng = np.random.default_rng([20_26, seed])
    causal = bool(rng.random() < 0.6)
    texts = tokenised(rng, sources(), causal)
    programs = draw_programs(rng, texts, causal, HEADS)
    plan = Plan(programs, Batch(texts))
    kinds = rng.choice(["clean", "noisy", "mixed"], size=HEADS, p=[0.45, 0.3, 0.25])
    levels = np.exp(rng.uniform(1.5, 6.5, size=HEADS))
    partners = rng.integers(HEADS, size=(HEADS, 2))
    parts = rng.dirichlet([1.0, 1.0, 0.7], size=HEADS)
    squares = []
    for at, text in enumerate(texts):
        n = len(text)
        rows = plan.packed(at).copy()
        widths = np.arange(1, n + 1) if causal else np.full(n, n)
        starts = np.concatenate([[0], np.cumsum(widths)])[:-1]
        uniform = np.repeat(1 / widths, widths)
        made = rows.copy()
        for h in range(HEADS):
            if kinds[h] == "mixed":
                a, b = partners[h]
                made[h] = (
                    parts[h, 0] * rows[h]
                    + parts[h, 1] * rows[a]
                    + parts[h, 2] * (rows[b] + uniform) / 2
                )
            if kinds[h] != "clean":
                made[h] = noisy(made[h], starts, levels[h], rng)
        squares.append(unpack(made, n, causal)[None])
    capture = Capture.from_arrays(texts, squares, causal=causal, name="made")
    sketch = Sketch(Design(capture, range(len(texts)), ENTRIES, seed))
    for h in range(HEADS):
        truth = None if kinds[h] == "mixed" else programs[h]
        pair = pair_of(sketch, 0, h, truth, str(kinds[h]))
        if pair is not None:
            yield pair


def pair_of(sketch: Sketch, layer: int, head: int, truth: t.Head | None, kind: str) -> Pair | None:
    """Describe a head and write down the answer; None if there is nothing to say."""
    looked = look(sketch, layer, head)
    offered = listing(sketch, looked)
    prompt = prompt_of(sketch, layer, head, looked)
    answer = Answer(sketch, layer, head)
    chosen = [proposal_term(sketch, h.rule) for h in looked.chosen if h in offered]
    if truth is None:
        more = [(h.instead, proposal_term(sketch, h.rule)) for h in looked.others if h in offered]
        more += [(None, proposal_term(sketch, h.rule)) for h in looked.more if h in offered]
        terms = answer.improved(chosen, more)
    else:
        terms = answer.shortened(chosen, [proposal_term(sketch, h.rule) for h in offered], truth)
    if not terms:
        return None
    program = as_proposal(answer.head(terms))
    if not is_proposal(program, sketch.design.causal):
        return None
    return Pair(prompt, program, kind)


class Answer:
    """Finds the program that answers a prompt best."""

    def __init__(self, sketch: Sketch, layer: int, head: int) -> None:
        self.sketch, self.design = sketch, sketch.design
        self.rows = self.design.target(layer, head)
        symbols = np.union1d(self.design.key_symbols, self.design.query_symbols)
        self.known = {self.design.symbols[int(x)] for x in symbols}

    def head(self, terms: Sequence[t.Term]) -> t.Head:
        """Write terms as a program."""
        return t.Head(
            "answer", "causal" if self.design.causal else "bidirectional", "softmax", tuple(terms)
        )

    def reached(self, terms: Sequence[t.Term]) -> float:
        """Fit the weights of some terms; return the IoU."""
        planes = self.design.planes(self.head(terms))
        _, predicted = w.fit(planes, self.rows, ridge=1e-5, steps=6)
        return w.iou_of(self.rows.actual, predicted, len(self.rows))

    def shortened(self, chosen: list[t.Term], offered: list[t.Term], truth: t.Head) -> list[t.Term]:
        """Answer with what the prompt offers where that comes near to the truth, else with the truth."""
        goal = self.reached(truth.terms) - LOST
        if not chosen or self.reached(chosen) < goal:
            return self.translated(truth, offered)
        for term in reversed(chosen[1:]):  # the prompt has the most important ones first
            rest = [x for x in chosen if x != term]
            if self.reached(rest) < goal:
                break
            chosen = rest
        return chosen

    def translated(self, truth: t.Head, offered: list[t.Term]) -> list[t.Term]:
        """Write a program with terms of the prompt that are the same on the rows, in their order."""
        if not offered:
            return list(truth.terms)
        there = self.middle(offered)
        found = []
        for at, term in enumerate(truth.terms):
            if isinstance(term, t.Table):
                found.append((len(offered) + at, term))
                continue
            like = np.abs(there @ self.middle([term])[0])
            best = int(np.argmax(like))
            near = best if like[best] > 0.3 else len(offered) + at
            found.append((near, offered[best] if like[best] > SAME else self.visible(term)))
        found.sort(key=lambda x: x[0])
        return list(dict.fromkeys(term for _, term in found))

    def middle(self, terms: Sequence[t.Term]) -> np.ndarray:
        """Compute planes less their rows' means, with length 1."""
        planes = self.design.planes(self.head(terms)).astype(np.float32)
        starts = self.design.starts
        widths = np.diff(starts)
        planes = planes - np.repeat(
            np.add.reduceat(planes, starts[:-1], axis=1) / widths, widths, axis=1
        )
        return planes / np.maximum(np.linalg.norm(planes, axis=1, keepdims=True), 1e-9)

    def visible(self, term: t.Term) -> t.Term:
        """Leave out of a term's sets what does not occur in the texts that were looked at."""
        known = self.known

        def visit(node: t.Node) -> t.Node:
            if not isinstance(node, t.SetLiteral):
                return node
            kept = tuple(x for x in node.elements if x in known)
            return t.SetLiteral(kept or node.elements)

        return t.rewrite(term, visit)

    def improved(
        self, chosen: list[t.Term], offered: list[tuple[int | None, t.Term]]
    ) -> list[t.Term]:
        """Take what raises the IoU of the chosen terms: further ones first, then others."""
        best, terms = self.reached(chosen), list(chosen)
        for instead, term in reversed(offered):
            if term in terms:
                continue
            if instead is not None and instead < len(chosen) and chosen[instead] in terms:
                new = [term if x == chosen[instead] else x for x in terms]
            else:
                new = [*terms, term]
            tried = [new] if len(terms) >= 8 else [new, [*terms, term]]
            for option in tried:
                score = self.reached(option) if len(option) <= 8 else 0.0
                if score > best + 0.002:
                    best, terms = score, option
        return terms
