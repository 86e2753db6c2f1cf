"""Recovery: random programs make attention on real text, and a search must find them again.

    python benchmarks/recovery.py [--programs 12] [--terms 1,2,3,5,7,10] [--seed 0]
                                  [--proposers recovery] [--effort 1] [--jobs 1] [--show]

Programs come from ``random_programs.py``. Those of all sizes are the heads of one synthetic model for
each corpus (the demo model's stories; with ``../shared`` also encyclopedic text) and each visibility,
so that the search gets matrices alone, on 200 texts of up to 96 tokens that are split 60/20/20. The
tokens that programs name are drawn from the fit split: no matrix shows what is said of others. The
**found** program is the smallest of the head's front whose IoU on the select split is within 0.0002 of
the best one there; it is **recovered** if its IoU on the test split is at least 0.99.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from random_programs import Maker

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan, unpack
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.printer import show
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.results import FrontRow
from attn_dsl.synth.search import Search
from attn_dsl.synth.session import Session, Settings

SHARED = Path(__file__).resolve().parents[2] / "shared"
TEXTS, TOKENS = 200, 96
RECOVERED = 0.99
"""IoU on the test split from which on a program counts as recovered."""
NEAR = 0.0002
"""The found program is the smallest that comes so near to the best one on the select split."""


@dataclass(frozen=True)
class Cell:
    """Programs on one corpus with one visibility: the heads of one synthetic model."""

    corpus: str
    causal: bool
    programs: tuple[t.Head, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of one program: the one that was found, its IoU on the test split, the time."""

    true: t.Head
    found: str
    found_nodes: int
    iou: float
    seconds: float


def corpora() -> dict[str, list[Tokens]]:
    """Read and tokenise the texts: windows of up to 96 tokens, at most 200 of each corpus."""
    from attn_dsl.eval.capture_write import choose_windows
    from attn_dsl.eval.models import load_tokenizer
    from attn_dsl.eval.shipped import model_dir, stories_path
    from attn_dsl.eval.texts import read_texts
    from attn_dsl.eval.vocabulary import Vocabulary

    sources = {"stories": (model_dir(), stories_path())}
    if SHARED.is_dir():
        wikitext = SHARED / "text/wikitext2-valid.txt"
        sources["wikitext"] = SHARED / "models/gpt2-tokenizer", wikitext
    found = {}
    for name, (tokenizer, path) in sources.items():
        texts = [text for text in read_texts(str(path)) if len(text) > 300]
        vocabulary = Vocabulary(load_tokenizer(str(tokenizer)))
        records = choose_windows(vocabulary, texts, TOKENS, TEXTS)
        found[name] = [record.tokens for record in records]
    return found


def draw(texts: dict[str, list[Tokens]], sizes: Sequence[int], count: int, seed: int) -> list[Cell]:
    """Draw ``count`` programs of each size, shared out evenly over corpora and visibilities."""
    kinds = [(corpus, causal) for corpus in texts for causal in (True, False)]
    cells = []
    for at, (corpus, causal) in enumerate(kinds):
        maker = Maker(shown(texts[corpus], seed), causal, seed * 1_000 + at)
        mine = range(at, count, len(kinds))
        made = tuple(maker.program(size, f"true{size}_{i}") for size in sizes for i in mine)
        cells += [Cell(corpus, causal, made)] if made else []
    return cells


def shown(texts: Sequence[Tokens], seed: int) -> list[Tokens]:
    """Return the texts of the fit split, whose matrices a search sees."""
    itself = [np.eye(len(text), dtype=np.float32)[None, None] for text in texts]
    split = Capture.from_arrays(texts, itself, causal=True).split(seed)
    return [texts[i] for i in split["fit"]]


def capture_of(cell: Cell, texts: Sequence[Tokens]) -> Capture:
    """Make the attention of a cell's programs on its texts."""
    plan = Plan(list(cell.programs), Batch(texts))
    packed = ((plan.packed(at).copy(), len(text)) for at, text in enumerate(texts))
    squares = [unpack(rows, size, cell.causal)[None] for rows, size in packed]
    return Capture.from_arrays(texts, squares, causal=cell.causal, name=cell.corpus)


def found_row(front: Sequence[FrontRow]) -> FrontRow:
    """Return the smallest program of a front so near to the best on the select split."""
    best = max(row.iou_select for row in front)
    return min((row for row in front if row.iou_select >= best - NEAR), key=lambda row: row.nodes)


def outcomes(cell: Cell, texts: Sequence[Tokens], settings: Settings) -> list[Outcome]:
    """Search the programs of a cell, one after the other, and tell what became of each."""
    session, found = Session(capture_of(cell, texts), settings), []
    search = Search(session)
    search.prepare()
    for head, true in enumerate(cell.programs):
        started = time.process_time()
        result, _ = search.head(0, head, lambda: {})
        row, seconds = found_row(result.front), time.process_time() - started
        found.append(Outcome(true, row.program, row.nodes, row.iou_test, seconds))
        line = f"{cell.corpus} {true.visibility}, {len(true.terms)} terms: IoU {row.iou_test:.4f}"
        print(f"{line}, {seconds:.1f} s", file=sys.stderr)
    return found


def table(found: Sequence[Outcome]) -> Iterator[str]:
    """Write by number of terms how many programs were recovered, how large, and in what time."""
    sizes = sorted({len(o.true.terms) for o in found})
    groups = {str(n): [o for o in found if len(o.true.terms) == n] for n in sizes}
    for most in (5, 10):
        if sizes and sizes[0] < most <= sizes[-1]:
            groups[f"up to {most}"] = [o for o in found if len(o.true.terms) <= most]
    yield "| terms | recovered | nodes found / true, mean | processor seconds, mean |"
    yield "|---|---|---|---|"
    for name, group in groups.items():
        hits = sum(o.iou >= RECOVERED for o in group)
        ratio = statistics.fmean(o.found_nodes / t.nodes(o.true) for o in group)
        seconds = statistics.fmean(o.seconds for o in group)
        yield f"| {name} | {hits} of {len(group)} | {ratio:.2f} | {seconds:.1f} |"


def main() -> None:
    """Run the benchmark."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--programs", type=int, default=12, help="programs of each size")
    made.add_argument("--terms", default="1,2,3,5,7,10", help="sizes, in terms")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--proposers", default="recovery", help="as of `attn-dsl fit`")
    made.add_argument("--effort", type=int, default=1, help="as of `attn-dsl fit`")
    made.add_argument("--jobs", type=int, default=1, help="processes, one for each cell")
    made.add_argument("--show", action="store_true", help="print what was not recovered")
    options = made.parse_args()
    texts = corpora()
    sizes = [int(size) for size in options.terms.split(",")]
    settings = Settings(tuple(options.proposers.split(",")), options.seed, max_nodes=400,
                        effort=options.effort)  # fmt: skip
    cells = draw(texts, sizes, options.programs, options.seed)
    with ProcessPoolExecutor(options.jobs) as pool:
        parts = pool.map(outcomes, cells, [texts[c.corpus] for c in cells], [settings] * len(cells))
        found = [outcome for part in parts for outcome in part]
    print("\n".join(table(found)))
    for o in found if options.show else ():
        if o.iou < RECOVERED:
            print(f"\n# IoU {o.iou:.4f}\n{show(o.true)}\n{o.found}")


if __name__ == "__main__":
    main()
