"""`attn-dsl score`: how much of captured heads some programs explain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attn_dsl.cli import completion, options
from attn_dsl.dsl.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from attn_dsl.compiler.program import Program
    from attn_dsl.eval.capture import Capture

SHOWN = {"iou": "IoU", "iou_low": "from", "iou_high": "to", "iou_no_sink": "no sink", "jsd": "JSD",
         "top1": "top-1"}  # fmt: skip
OUTPUTS = {"output_r2": "output R²", "output_r2_low": "from", "output_r2_high": "to"}
"""The figures of the table, with the heads of their columns; those of captures with values."""


@click.command()
@click.argument("program", shell_complete=completion.programs, nargs=-1, required=True)
@options.text_option()
@options.on_option(help="Score on this text alone, which the model reads; there is no interval.")
@options.capture_option()
@click.option("--heads", **options.HEADS, help="Heads to score against, as in L2H3,L4.")
@click.option("--top", metavar="N", type=click.IntRange(1), default=5, show_default=True,
              help="How many heads to list for each program.")  # fmt: skip
@options.max_tokens_option()
@options.max_texts_option()
@options.seed_option()
@options.define_option()
@options.lookahead_option()
@options.json_option()
def score(program: tuple[str, ...], text: Any, on: str | None, capture: str | None, heads: str | None,
          top: int, max_tokens: int, max_texts: int, seed: int, define: tuple[str, ...],
          allow_lookahead: bool, as_json: bool) -> None:  # fmt: skip
    """Score each PROGRAM (.attn) against the heads of a capture, or of MODEL on a text.

    The last argument may be MODEL, as for fit. All numbers come from the test split of the texts, or
    from the text of --on. Heads are listed by IoU; output R² is the share of what a head writes that the
    program gives.
    """
    options.quiet_libraries()
    import tempfile

    from attn_dsl.compiler.program import load
    from attn_dsl.eval.capture import Capture
    from attn_dsl.eval.capture_write import capture_of, read_text
    from attn_dsl.eval.heads import parse_heads
    from attn_dsl.eval.metrics import decimal
    from attn_dsl.eval.scores import foreign

    files = [name for name in program if name.endswith(".attn")
             or (Path(name).is_file() and not name.endswith(".gguf"))]  # fmt: skip
    models = [name for name in program if name not in files]
    if len(models) > 1 or not files:
        raise InputError(f"name programs (.attn) and at most one model, not {', '.join(program)}")
    programs = [load(file, allow_lookahead=allow_lookahead, define=define) for file in files]
    if capture is None and not models:
        raise InputError("name what to score against: --capture DIR, or MODEL and --text FILE")
    if on is not None and (text is not None or (capture and models)):
        raise InputError("--on takes MODEL or --capture, one of them, and no --text")
    with tempfile.TemporaryDirectory(prefix="attn-dsl-") as folder:
        if on is None:
            attention = capture_of(capture, models[0] if models else None, text, f"{folder}/capture",
                                   max_tokens=max_tokens, max_texts=max_texts)  # fmt: skip
        else:
            attention = read_text(models[0] if models else Capture.open(capture or ""), on)
        known: list[tuple[str, Program]] = []
        skipped: list[tuple[str, Program]] = []
        for file, one in zip(files, programs, strict=True):
            if one.facts.holes:
                raise InputError(f"{file}: weights are holes (`?`); write numbers, or fit them by fit "
                                 "--program")  # fmt: skip
            (known if one.causal == attention.causal else skipped).append((file, one))
        if skipped:
            kind, (file, one) = "causal" if attention.causal else "bidirectional", skipped[0]
            told = f"{file}: the model is {kind}; write `head {one.name} {kind}`"
            if not known:
                raise InputError(told)
            more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
            click.echo(f"attn-dsl: left out {told}{more}", err=True)
        chosen = parse_heads(heads, attention.n_layers, attention.heads_per_layer)
        texts = attention.split(seed)["test"] if on is None else [0]
        if not texts:
            raise InputError(f"{attention.n_texts} texts are too few: none is left to test on")
        tokens = [attention.tokens(i) for i in texts]
        warnings = [x for x in (foreign(one.tree, tokens) for _, one in known) if x]
        found = _measure([one for _, one in known], attention, chosen, texts)
        lacking = attention.lacking
    rows = [
        _row(file, one, head, {name: x[:, i, j] for name, x in found.items()}, seed)
        for i, head in enumerate(chosen)
        for j, (file, one) in enumerate(known)
    ]
    for warning in dict.fromkeys(warnings):
        click.echo(f"attn-dsl: warning: {warning}", err=True)
    if as_json:
        options.print_json(rows)
        return
    shown: list[tuple[str, ...]] = []
    columns = SHOWN if lacking else SHOWN | OUTPUTS
    if len(texts) == 1:
        columns = {name: head for name, head in columns.items() if head not in ("from", "to")}
    for file in dict.fromkeys(file for file, _ in known):
        own = sorted((r for r in rows if r["program"] == file), key=lambda r: -r["iou"])[:top]
        name = Path(file).name + (" (looks ahead)" if own[0]["lookahead"] else "")
        for at, r in enumerate(own):
            cells = (decimal(r[x]) for x in columns)
            shown.append(("" if at else name, f"L{r['layer']}H{r['head']}", *cells))
    names = ("program", "head", *columns.values())
    options.print_table(names, shown, left=("program",), gap=1)
    mean = sum(len(attention.tokens(i)) for i in texts) / len(texts)
    screen = options.console()
    counted = f"{len(texts)} test texts of {mean:.0f} tokens in the mean."
    screen.print(counted if len(texts) > 1 else f"One text of {mean:.0f} tokens gives no interval.")
    if lacking:
        screen.print(f"Output R² is not known: {lacking}.", markup=False)


def _measure(programs: list[Program], capture: Capture, heads: list[tuple[int, int]],
             texts: list[int]) -> dict[str, np.ndarray]:  # fmt: skip
    """Compare all programs with all heads.

    Returns:
        By metric, and by ``errors`` and ``spreads`` of the outputs (nan without values), float64
        (texts, heads, programs).
    """
    import os
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from attn_dsl.compiler.columns import Batch
    from attn_dsl.compiler.evaluate import Plan
    from attn_dsl.eval.outputs import spreads, squared_errors
    from attn_dsl.eval.score_matrix import METRICS, measure_texts

    def attention(at: int) -> np.ndarray:
        return capture.attention(texts[at], numbers)

    def errors(at: int) -> np.ndarray:
        return squared_errors(capture, texts[at], numbers, plan.packed(at))

    numbers = [layer * capture.heads_per_layer + head for layer, head in heads]
    plan = Plan([one.tree for one in programs], Batch([capture.tokens(i) for i in texts]))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = list(measure_texts(plan, attention, METRICS, threads))
        by_metric = {name: np.array([one[name] for one in found]) for name in METRICS}
        by_metric["errors"] = by_metric["spreads"] = np.full_like(by_metric["iou"], np.nan)
        if capture.has_outputs:
            later = threads.submit(spreads, capture, texts, numbers)
            by_metric["errors"] = np.array(list(threads.map(errors, range(len(texts)))))
            by_metric["spreads"] = later.result().T[..., None].repeat(len(programs), -1)
    return by_metric


def _row(file: str, program: Program, head: tuple[int, int], metrics: dict[str, np.ndarray],
         seed: int) -> dict[str, Any]:  # fmt: skip
    """Return what is said of one program on one head; an output R² of None is not known."""
    from attn_dsl.eval.metrics import bootstrap
    from attn_dsl.eval.outputs import output_r2

    iou, errors, spread = (metrics.pop(name)[None] for name in ("iou", "errors", "spreads"))
    row = {"program": file, "nodes": program.nodes, "layer": head[0], "head": head[1],
           **bootstrap(iou[0], seed).named("iou"), **output_r2(errors, spread, seed).named("output_r2"),
           **{name: float(values.mean()) for name, values in metrics.items()}, "texts": len(iou[0]),
           "lookahead": list(program.facts.lookahead)}  # fmt: skip
    if row["texts"] == 1:  # nothing to resample
        row |= dict.fromkeys(name for name in row if name.endswith(("_low", "_high")))
    return row
