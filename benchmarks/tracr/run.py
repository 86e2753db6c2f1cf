"""Fits the heads of transformers whose selectors are known, because Tracr compiled them from RASP.

    python benchmarks/tracr/run.py [--only PROGRAM] [--by-hand] [--out DIR]

``make.py`` wrote the attention. ``selectors.toml`` says what each head selects, and has programs written by
hand. Each program of RASP is a model of its own, fitted as ``attn-dsl fit`` comes with seed 0. ``--by-hand``
scores the programs written by hand and fits nothing.
"""

import argparse
import json
import os
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import attn_dsl

HERE = Path(__file__).parent
TARGET = 0.999  # the IoU that each head is to reach


def captures() -> dict[str, attn_dsl.Capture]:
    """Return by program of RASP its model's attention."""
    attention = load_file(HERE / "attention.safetensors")
    found = {}
    for name, about in json.loads((HERE / "texts.json").read_text(encoding="utf-8")).items():
        texts, (layers, heads, _) = about["texts"], attention[name].shape
        ends = np.cumsum([len(text) ** 2 for text in texts])[:-1]
        rows = [
            part.reshape(layers, heads, len(text), len(text))
            for part, text in zip(np.split(attention[name], ends, axis=2), texts, strict=True)]  # fmt: skip
        found[name] = attn_dsl.Capture.from_arrays(texts, rows, causal=about["causal"], name=name)
    return found


def by_hand(name: str, capture: attn_dsl.Capture) -> dict[str, attn_dsl.Program | None]:
    """Return by head the program written by hand."""
    visibility = "causal" if capture.causal else "bidirectional"
    places = [(x, y) for x in range(capture.n_layers) for y in range(capture.heads_per_layer)]
    unused = attn_dsl.parse(f"head uniform {visibility}:\n")
    found: dict[str, attn_dsl.Program | None] = {f"L{x}H{y}": unused for x, y in places}
    for entry in tomllib.loads((HERE / "selectors.toml").read_text(encoding="utf-8"))["head"]:
        program = attn_dsl.parse(entry["by_hand"]) if "by_hand" in entry else None
        found |= dict.fromkeys(entry["programs"].get(name, ()), program)
    return found


def iou(capture: attn_dsl.Capture, head: str, program: attn_dsl.Program, seed: int = 0) -> float:
    """Return the mean IoU of a program on the test texts."""
    layer, own = map(int, head[1:].split("H"))
    scores = []
    for index in capture.split(seed)["test"]:
        real, made = capture.matrix(index, layer, own), program(capture.tokens(index))
        scores.append(np.minimum(real, made).sum() / np.maximum(real, made).sum())
    return float(np.mean(scores))


def one_line(source: str) -> str:
    """Return the definitions and terms of a program on one line, without its comments."""
    lines = [line.strip() for line in source.splitlines() if not line.lstrip().startswith("#")]
    return "; ".join(line for line in lines if line and not line.startswith("head ")) or "uniform"


def rows(name: str, capture: attn_dsl.Capture, out: Path | None) -> Iterator[tuple[float, str]]:
    """Yield the IoU and the line of a table for each head: of its fit, or without ``out`` by hand."""
    results = ({} if out is None
               else {x.name: x for x in attn_dsl.fit(capture=capture, out=out).results})  # fmt: skip
    for head, program in by_hand(name, capture).items():
        hand = "-" if program is None else str(program.nodes)
        if out is None:
            score = float("nan") if program is None else iou(capture, head, program)
            nodes, source = hand, "-" if program is None else one_line(program.source)
        else:
            result = results[head]
            score, nodes, source = result.test["iou"].mean, result.nodes, one_line(result.program)
        texts = len(capture.split(0)["test"])
        yield score, f"| {name} {head} | {score:.4f} ({texts}) | {nodes} | {hand} | {source} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--only", help="one program of RASP")
    parser.add_argument("--by-hand", action="store_true", help="score what was written by hand")
    parser.add_argument("--out", type=Path, help="where runs are kept; nowhere by default")
    options = parser.parse_args()
    chosen = {n: c for n, c in captures().items() if options.only in (None, n)}
    scores = []
    print("| head | IoU (test texts) | nodes | by hand | program |\n|---|---|---|---|---|",
          flush=True)  # fmt: skip
    started = sum(os.times()[:4])  # of this process and those that it ran
    with tempfile.TemporaryDirectory() as folder:
        for name, capture in chosen.items():
            out = None if options.by_hand else (options.out or Path(folder)) / name
            for score, line in rows(name, capture, out):
                scores.append(score)
                print(line, flush=True)
    reached, spent = sum(score >= TARGET for score in scores), sum(os.times()[:4]) - started
    print(f"\n{reached} of {len(scores)} heads reach {TARGET}; {spent:.0f} s of processor time")


if __name__ == "__main__":
    main()
