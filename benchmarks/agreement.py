"""Runs random programs on random texts by every back end, and compares them with the reference.

    python benchmarks/agreement.py [--count 100000] [--seed 0] [--jobs 2]

Softmax and linear programs of both visibilities, with every construct and feature, texts with gaps,
special tokens and split characters. Some linear programs have weights around the least mass that
counts, down to subnormal numbers. Ends with 1 if any back end differs by more than 1e-5.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from attn_dsl import testing
from attn_dsl.compiler.program import Program
from attn_dsl.compiler.stream import Stream
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.tokens import Tokens

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from exporting import TOLERANCE, by_flex, by_numba, by_numpy, by_torch, reference

TINY = (5e-324, 1e-310, 2.3e-308, 9e-301, 1e-300, 1.1e-300, 3e-299, 1e-200)
PART = 2500
"""Programs that a process compares at once."""


@st.composite
def programs(draw: st.DrawFn) -> t.Head:
    """Draw a program; a linear one may have tiny weights."""
    program = draw(testing.programs(max_terms=5))
    if program.normaliser == "linear" and program.weights and draw(st.booleans()):
        return program.with_weights([draw(st.sampled_from(TINY)) for _ in program.weights])
    return program


def row_by_row(program: Program, tokens: Tokens) -> np.ndarray:
    """Compute the rows of a causal program as the text grows."""
    stream, out = Stream(program), np.zeros((len(tokens), len(tokens)))
    for q, string in enumerate(tokens):
        out[q, : q + 1] = stream.append([string], [tokens.special[q]])[0]
    return out


BACK_ENDS = {
    "evaluator": lambda program, tokens: program(tokens),
    "stream": row_by_row, "numpy": by_numpy, "torch": by_torch, "numba": by_numba,
    "flex": lambda program, tokens: by_flex(program, [tokens])[0],
}  # fmt: skip


def compare(first_seed: int, count: int) -> list[tuple[str, float, str]]:
    """Compare all back ends on ``count`` programs: name, difference, and on what."""
    found: list[tuple[str, float, str]] = []

    @seed(first_seed)
    @settings(max_examples=count, phases=[Phase.generate], database=None, deadline=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(programs(), testing.tokens(max_size=10), testing.tokens(max_size=10, gaps=True))
    def run(tree: t.Head, plain: Tokens, gapped: Tokens) -> None:
        program = Program.from_tree(tree)
        left_out = set() if program.causal else {"stream"}
        if tree.normaliser == "linear" or not len(gapped):
            left_out.add("flex")
        for name in BACK_ENDS.keys() - left_out:
            tokens = plain if name == "stream" else gapped
            difference = np.abs(BACK_ENDS[name](program, tokens) - reference(tree, tokens))
            off = float(difference.max(initial=0.0))
            where = f"{list(tokens)}:\n{program.source}" if off > TOLERANCE else ""
            found.append((name, off, where))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run()
    return found


def main() -> None:
    """Compare, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    parts = max(options.jobs, options.count // PART)
    seeds = range(options.seed * 1_000_000, options.seed * 1_000_000 + parts)
    with ProcessPoolExecutor(options.jobs) as executor:
        work = partial(compare, count=-(-options.count // parts))
        found = [one for part in executor.map(work, seeds) for one in part]
    print("| back end | programs | largest difference from the reference |\n|---|---|---|")
    for name in BACK_ENDS:
        offs = [off for back_end, off, _ in found if back_end == name]
        print(f"| {name} | {len(offs):,} | {max(offs):.1e} |")
    wrong = [f"{name} on {where}" for name, _, where in found if where]
    sys.exit("\n".join(wrong[:5]) or None)


if __name__ == "__main__":
    main()
