"""`attn-dsl score`: how much of captured heads some programs explain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attn_dsl.cli import options
from attn_dsl.dsl.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from attn_dsl.compiler.program import Program
    from attn_dsl.eval.capture import Capture

SHOWN = ("iou_no_sink", "jsd", "top1")
"""The figures of the table beside IoU and output R²."""


@click.command()
@click.argument("program", nargs=-1, required=True)
@options.text_option()
@options.capture_option()
@click.option("--heads", metavar="LIST", help="Heads to score against, as in L2H3,L4.")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True,
              help="How many heads to list for each program.")  # fmt: skip
@options.max_tokens_option()
@options.max_texts_option()
@options.seed_option()
@options.lookahead_option()
@options.json_option()
def score(
    program: tuple[str, ...], text: str | None, capture: str | None, heads: str | None, top: int,
    max_tokens: int, max_texts: int, seed: int, allow_lookahead: bool, as_json: bool,
) -> None:  # fmt: skip
    """Score each PROGRAM (.attn) against the heads of a capture, or of MODEL on a text.

    The last argument may be MODEL, as for fit. All numbers come from the test split of the texts.
    Heads are listed by IoU; output R² is the share of what a head writes that the program gives.
    """
    options.quiet_libraries()
    from attn_dsl.compiler.program import load
    from attn_dsl.eval.heads import parse_heads

    files = [
        name for name in program
        if name.endswith(".attn") or (Path(name).is_file() and not name.endswith(".gguf"))
    ]  # fmt: skip
    models = [name for name in program if name not in files]
    if len(models) > 1 or not files:
        raise InputError(f"name programs (.attn) and at most one model, not {', '.join(program)}")
    programs = [load(file, allow_lookahead=allow_lookahead) for file in files]
    with options.opened_capture(
        capture, models[0] if models else None, text, max_tokens, max_texts
    ) as attention:
        for file, one in zip(files, programs, strict=True):
            if one.facts.holes:
                raise InputError(f"{file}: weights are holes (`?`); write numbers, or fit them")
            if one.causal != attention.causal:
                kind = "causal" if attention.causal else "bidirectional"
                raise InputError(f"{file}: the model is {kind}; write `head {one.name} {kind}`")
        chosen = parse_heads(heads, attention.n_layers, attention.heads_per_layer)
        texts = attention.split(seed)["test"]
        if not texts:
            raise InputError(f"{attention.n_texts} texts are too few: none is left to test on")
        found, spreads, lacking = *_measure(programs, attention, chosen, texts), attention.lacking
    rows = [
        _row(file, one, head, {name: x[:, i, j] for name, x in found.items()}, spreads[i], seed)
        for i, head in enumerate(chosen)
        for j, (file, one) in enumerate(zip(files, programs, strict=True))
    ]
    if as_json:
        options.print_json(rows)
        return
    shown: list[tuple[str, ...]] = []
    for file in dict.fromkeys(files):
        own = sorted((r for r in rows if r["program"] == file), key=lambda r: -r["iou"])[:top]
        name = Path(file).name + (" (looks ahead)" if own[0]["lookahead"] else "")
        for at, r in enumerate(own):
            figures = [
                cell for x in ("iou", "output_r2")[: 1 + (not lacking)] for cell in _cells(r, x)
            ]
            head = f"L{r['layer']}H{r['head']}"
            others = (f"{r[x]:.3f}" for x in SHOWN)
            shown.append(("" if at else name, head, *figures, *others))
    outputs = () if lacking else ("output R²", "95 %")
    columns = ("program", "head", "IoU", "95 %", *outputs, "no sink", "JSD", "top-1")
    options.print_table(columns, shown, left=("program",), gap=1 if outputs else 2)
    mean = sum(len(attention.tokens(i)) for i in texts) / len(texts)
    screen = options.console()
    screen.print(f"{len(texts)} test texts of {mean:.0f} tokens in the mean.")
    if lacking:
        screen.print(f"Output R² is not known: {lacking}.", markup=False)


def _cells(row: dict[str, Any], name: str) -> tuple[str, str]:
    """Write a figure and its interval."""
    from attn_dsl.eval.metrics import decimal

    mean, low, high = (
        "–" if row[x] is None else decimal(row[x]) for x in (name, f"{name}_low", f"{name}_high")
    )
    return mean, f"{low} {high}"


def _measure(
    programs: list[Program], capture: Capture, heads: list[tuple[int, int]], texts: list[int]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Compare all programs with all heads.

    Returns:
        By metric, and by ``errors`` the squared errors of the outputs, float64 (texts, heads,
        programs); the spreads of the heads' outputs, float64 (heads, texts). Without values,
        errors and spreads are nan.
    """
    import os
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from attn_dsl.compiler.columns import Batch
    from attn_dsl.compiler.evaluate import Plan
    from attn_dsl.eval.outputs import spreads, squared_errors
    from attn_dsl.eval.score_matrix import METRICS, measure_texts

    def errors(at: int) -> np.ndarray:
        return squared_errors(capture, texts[at], numbers, plan.packed(at))

    numbers = [layer * capture.heads_per_layer + head for layer, head in heads]
    plan = Plan([one.tree for one in programs], Batch([capture.tokens(i) for i in texts]))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = list(
            measure_texts(plan, lambda at: capture.attention(texts[at], numbers), METRICS, threads)
        )
        by_metric = {name: np.array([one[name] for one in found]) for name in METRICS}
        spread = np.full((len(heads), len(texts)), np.nan)
        by_metric["errors"] = np.full((len(texts), len(heads), len(programs)), np.nan)
        if capture.has_outputs:
            later = threads.submit(spreads, capture, texts, numbers)
            by_metric["errors"] = np.array(list(threads.map(errors, range(len(texts)))))
            spread = later.result()
    return by_metric, spread


def _row(
    file: str, program: Program, head: tuple[int, int], metrics: dict[str, np.ndarray],
    spread: np.ndarray, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Return what is said of one program on one head; an output R² of None is not known."""
    from attn_dsl.eval.metrics import bootstrap
    from attn_dsl.eval.outputs import output_r2

    iou, r2 = metrics.pop("iou"), output_r2(metrics.pop("errors")[None], spread[None], seed)
    return {
        "program": file, "nodes": program.nodes, "layer": head[0], "head": head[1],
        **bootstrap(iou, seed).named("iou"), **r2.named("output_r2"),
        **{name: float(values.mean()) for name, values in metrics.items()},
        "texts": len(iou), "lookahead": list(program.facts.lookahead),
    }  # fmt: skip
