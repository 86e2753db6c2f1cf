"""Recovery: random programs make attention on real text, and ``fit`` must find them again.

    python benchmarks/recovery.py [--programs 24] [--terms 1,2,5,10] [--noise] [--seed 0]
                                  [--effort N] [--jobs N] [--out DIR] [--json]

Programs come from ``random_programs.py``. Those of all sizes are the heads of one synthetic model
for each corpus (the demo model's stories; with ``../shared`` also encyclopedic text) and each
visibility, so that ``fit`` gets matrices alone, on 200 texts of up to 96 tokens that it splits
60/20/20. The tokens that programs name are drawn from the fit split: nobody can find what is said
of tokens that no matrix of it shows. The **found** program is the smallest of the head's front
whose IoU on the select split is within 0.0002 of the best one there; it is **recovered** if its IoU
on the test split is at least 0.99. With ``--noise`` each row is drawn from a Dirichlet distribution
around the program's row, concentrated such that the program itself keeps an IoU of 0.9; the found
program is then the smallest within 0.002, and what counts is that it comes within 0.01 of the true
one on the noisy test matrices.

A program that was not recovered is looked into: which of its terms would raise the found program's
IoU on the fit split, and of which form they are.

Runs are kept in ``--out``, under a hash of the search's sources, and are resumed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from outcomes import AS_GOOD, RECOVERED, Outcome, by_form, print_forms, print_tables, summary
from random_programs import Made, Maker, Probe

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan, unpack
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import show
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.metrics import ious
from attn_dsl.eval.results import HeadResult
from attn_dsl.eval.run import Run

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
TEXTS, TOKENS = 200, 96
MAKER = "random_programs.py"
NEAR, EXACT = 0.002, 0.0002
"""The smallest program of a front within this of the best on the select split is the found one: with
noise, and without, where two that differ by more cannot both be the program."""
NOISY = 0.9
"""IoU that the true program keeps with its noisy matrices."""
MISSED = 0.003
"""IoU that a true term must add to the found program to count as missed."""


@dataclass(frozen=True)
class Cell:
    """Programs on one corpus with one visibility: the heads of one synthetic model."""

    corpus: str
    causal: bool
    made: tuple[Made, ...]

    @property
    def name(self) -> str:
        """Its name in tables and paths."""
        return f"{self.corpus}-{'causal' if self.causal else 'bidirectional'}"


def corpora() -> dict[str, list[Tokens]]:
    """Read and tokenise the texts: windows of up to 96 tokens, at most 200 of each corpus."""
    from attn_dsl.eval.capture_write import choose_windows
    from attn_dsl.eval.models import load_tokenizer
    from attn_dsl.eval.shipped import model_dir, stories_path
    from attn_dsl.eval.texts import read_texts
    from attn_dsl.eval.vocabulary import Vocabulary

    sources = {"stories": (model_dir(), stories_path())}
    if SHARED.is_dir():
        sources["wikitext"] = (
            SHARED / "models/gpt2-tokenizer",
            SHARED / "text/wikitext2-valid.txt",
        )
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
        if made:
            cells.append(Cell(corpus, causal, made))
    return cells


def shown(texts: Sequence[Tokens], seed: int) -> list[Tokens]:
    """Return the texts of the fit split, whose matrices a search sees."""
    itself = [np.eye(len(text), dtype=np.float32)[None, None] for text in texts]
    split = Capture.from_arrays(texts, itself, causal=True).split(seed)
    return [texts[i] for i in split["fit"]]


def capture_of(cell: Cell, texts: Sequence[Tokens], noise: bool, seed: int) -> Capture:
    """Make the attention of a cell's programs on its texts, noisy if asked for."""
    plan = Plan([m.program for m in cell.made], Batch(texts))
    clean = [plan.packed(at).copy() for at in range(len(texts))]
    if noise:
        rng = np.random.default_rng(seed)
        levels = [
            concentration([rows[i] for rows in clean[:8]], texts[:8], cell.causal, rng)
            for i in range(len(cell.made))
        ]
        clean = [
            np.stack([
                noisy(row, len(text), cell.causal, level, rng)
                for row, level in zip(rows, levels, strict=True)
            ])
            for rows, text in zip(clean, texts, strict=True)
        ]  # fmt: skip
    squares = [
        unpack(rows, len(text), cell.causal)[None] for rows, text in zip(clean, texts, strict=True)
    ]
    return Capture.from_arrays(texts, squares, causal=cell.causal, name=cell.name)


def noisy(
    packed: np.ndarray, n: int, causal: bool, level: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw every row from a Dirichlet distribution whose mean is the row, float32 (entries).

    >>> row = np.float32([1, 0.5, 0.5])
    >>> noisy(row, 2, True, 1e6, np.random.default_rng(0)).round(2)
    array([1. , 0.5, 0.5], dtype=float32)

    Args:
        level: the concentration; the larger, the less noise.
    """
    starts = np.concatenate([[0], np.cumsum(np.arange(1, n + 1) if causal else np.full(n, n))])
    drawn = rng.standard_gamma(np.maximum(packed.astype(np.float64) * level, 1e-12))
    sums = np.add.reduceat(drawn, starts[:-1])
    if (sums <= 0).any():  # a row without any mass, where the concentration is very small
        drawn = np.where(np.repeat(sums <= 0, np.diff(starts)), packed, drawn)
        sums = np.add.reduceat(drawn, starts[:-1])
    return (drawn / np.repeat(sums, np.diff(starts))).astype(np.float32)


def concentration(
    rows: Sequence[np.ndarray], texts: Sequence[Tokens], causal: bool, rng: np.random.Generator
) -> float:
    """Find the concentration at which a program keeps an IoU of 0.9 with its noisy matrices."""
    low, high = 0.0, 16.0
    for _ in range(20):
        middle = (low + high) / 2
        scores = [
            ious(noisy(row, len(text), causal, math.exp(middle), rng)[None], row[None])[0, 0]
            for row, text in zip(rows, texts, strict=True)
        ]
        low, high = (middle, high) if float(np.mean(scores)) < NOISY else (low, middle)
    return math.exp((low + high) / 2)


def found_row(result: HeadResult, near: float) -> Any:
    """Return the front's smallest row so near to the best on the select split."""
    best = max(row.iou_select for row in result.front)
    return min(
        (row for row in result.front if row.iou_select >= best - near), key=lambda row: row.nodes
    )


def missed_terms(made: Made, found: t.Head, texts: Sequence[Tokens], causal: bool) -> list[str]:
    """Name the forms of true terms that would raise the found program's IoU, the worst first."""
    probe = Probe(texts, causal, seed=1)
    target, base = probe.predict(made.program), probe.planes(found)
    start, scores = probe.reached(base, target), []
    for form, term in zip(made.forms, made.program.terms, strict=True):
        alone = t.Head("one", made.program.visibility, "softmax", (term,), made.program.sets)
        with_it = np.concatenate([base, probe.planes(alone)])
        scores.append((probe.reached(with_it, target) - start, form))
    return [form for gained, form in sorted(scores, reverse=True) if gained >= MISSED]


def outcomes(
    cell: Cell, run: Run, capture: Capture, texts: Sequence[Tokens], near: float = EXACT
) -> list[Outcome]:
    """Compare the programs of a run with the true ones; see ``found_row`` for ``near``."""
    split = capture.split(run.info["key"]["seed"])
    plan = Plan([m.program for m in cell.made], Batch([texts[i] for i in split["test"]]))
    true = np.zeros((len(split["test"]), len(cell.made)))
    for at, text in enumerate(split["test"]):
        rows = plan.packed(at)
        for i in range(len(cell.made)):
            true[at, i] = ious(capture.attention(text, [i]), rows[i : i + 1])[0, 0]
    fit_texts, found = [texts[i] for i in split["fit"]], []
    for result in run.results:
        made, row = cell.made[result.head], found_row(result, near)
        chosen = next(r for r in result.front if r.chosen)
        iou_true = float(true[:, result.head].mean())
        good = row.iou_test >= min(RECOVERED, iou_true - AS_GOOD)
        missed = [] if good else missed_terms(made, parse(row.program), fit_texts, cell.causal)
        found.append(Outcome(
            cell.name, result.head, len(made.program.terms), t.nodes(made.program), made.forms,
            iou_true, row.nodes, row.iou_select, row.iou_test, chosen.nodes, chosen.iou_test,
            tuple(missed), result.seconds, show(made.program), row.program,
        ))  # fmt: skip
    return found


def sources_hash() -> str:
    """Hash the search's sources and this benchmark's, so that no old run passes for a new one."""
    digest = hashlib.sha256()
    files = [*(ROOT / "synth").rglob("*.py"), Path(__file__), Path(__file__).with_name(MAKER)]
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def recover(options: argparse.Namespace) -> list[Outcome]:
    """Draw programs, fit their matrices, and compare; shows each cell as it is done."""
    from attn_dsl.synth.fit import fit
    from attn_dsl.synth.runs.progress import Progress

    texts = corpora()
    found: list[Outcome] = []
    sizes = [int(size) for size in options.terms.split(",")]
    extra = {
        name: value
        for name in ("effort", "max_evals", "timeout")
        if (value := getattr(options, name)) is not None
    }
    work = f"{options.seed}-{options.programs}-{options.terms}-{options.noise}-{extra}"
    folder = Path(options.out) / f"{sources_hash()}-{hashlib.sha256(work.encode()).hexdigest()[:8]}"
    for cell in draw(texts, sizes, options.programs, options.seed):
        capture = capture_of(cell, texts[cell.corpus], options.noise, options.seed)
        out = folder / cell.name

        def tell(progress: Progress, name: str = cell.name) -> None:
            if progress.result is not None:
                print(f"\r{name} {progress.done}/{progress.total} ", end="", file=sys.stderr)

        run = fit(
            capture=capture, out=out, seed=options.seed, jobs=options.jobs, watch=tell,
            max_nodes=options.max_nodes, resume=(out / "run.json").exists(), **extra,
        )  # fmt: skip
        found += outcomes(cell, run, capture, texts[cell.corpus], NEAR if options.noise else EXACT)
        print(file=sys.stderr)
    return found


def as_json(found: Sequence[Outcome], noise: bool) -> str:
    """Write all outcomes and what they come to as JSON."""
    data = {
        "summary": summary(found, noise), "by_form": by_form(found, noise),
        "outcomes": [asdict(o) for o in found],
    }  # fmt: skip
    return json.dumps(data, indent=1)


def parser() -> argparse.ArgumentParser:
    """Describe the options."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--programs", type=int, default=24, help="programs of each size")
    made.add_argument("--terms", default="1,2,3,5,7,10", help="sizes, in terms")
    made.add_argument("--noise", action="store_true", help="Dirichlet noise on the matrices")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--jobs", type=int)
    made.add_argument("--effort", type=int, help="as of `attn-dsl fit`; more rows from 2 on")
    made.add_argument("--max-nodes", type=int, default=400)
    made.add_argument("--max-evals", type=int, help="as of `attn-dsl fit`")
    made.add_argument("--timeout", type=float, help="as of `attn-dsl fit`, for each cell")
    made.add_argument("--out", default=str(ROOT / "runs/bench/recovery"))
    made.add_argument("--json", action="store_true", help="print all outcomes as JSON instead")
    return made


def main() -> None:
    """Run the benchmark."""
    options = parser().parse_args()
    found = recover(options)
    if options.json:
        print(as_json(found, options.noise))
    else:
        print_tables(summary(found, options.noise), options.noise)
        print_forms(by_form(found, options.noise))


if __name__ == "__main__":
    main()
