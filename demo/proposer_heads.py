"""Pairs of prompt and program from heads of models, for which `attn-dsl fit` has found programs.

A head's answer is the best of the programs on its front that proposals may have, if it is better than
what the prompt's own terms can be made into. Prompts are of several samples of the head's rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from attn_dsl.demo.proposer_data import Answer, Pair, pair_of
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.run import Run
from attn_dsl.synth.design import Design
from attn_dsl.synth.llm.compact import describe
from attn_dsl.synth.llm.grammar import as_proposal, is_proposal
from attn_dsl.synth.llm.sketch import Sketch

ENTRIES, SAMPLES = 6_000, 2
"""Entries that a head is described by, and how many descriptions are made of it."""
NODES = 60
"""The largest program of a front that is an answer."""
BETTER = 0.003
"""IoU by which the front's program must be better than the prompt's terms to be the answer."""


def make_model_pairs(path: Path, runs: Sequence[Path]) -> None:
    """Make the pairs of some run directories; those that are there already are kept."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done = {(x["run"], x["seed"]) for x in map(json.loads, lines)}
    for run in runs:
        for seed in range(SAMPLES):
            if (run.name, seed) in done:
                continue
            made = [asdict(pair) | {"run": run.name, "seed": seed} for pair in pairs_of(run, seed)]
            with path.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(x) + "\n" for x in made))
            print(f"{run.name}, sample {seed + 1}: {len(made)} pairs", flush=True)


def pairs_of(path: Path, seed: int) -> Iterator[Pair]:
    """Make one pair of each head of a run."""
    run = Run.open(path)
    capture = Capture.open(run.info["capture"])
    texts = capture.split(run.info["key"]["seed"])["fit"]
    sketch = Sketch(Design(capture, texts, ENTRIES, 1_000 + seed))
    for result in run.results:
        pair = pair_of(sketch, result.layer, result.head, None, "model")
        answer = Answer(sketch, result.layer, result.head)
        best = answer.reached(parse(pair.program).terms) + BETTER if pair is not None else 0.0
        for row in result.front:
            terms = inline(parse(row.program)).terms
            source = as_proposal(answer.head(terms))
            if row.nodes > NODES or not terms or not is_proposal(source, capture.causal):
                continue
            if (score := answer.reached(terms)) > best:
                prompt = pair.prompt if pair else describe(sketch, result.layer, result.head)
                best, pair = score, Pair(prompt, source, "model")
        if pair is not None:
            yield pair


def inline(program: t.Head) -> t.Head:
    """Write a program's sets where they are used."""
    return parse(as_proposal(program, numbers=True))
