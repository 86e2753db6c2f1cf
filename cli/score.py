"""`attn-dsl score`: how much of captured heads some programs explain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from attn_dsl.cli import options
from attn_dsl.dsl.errors import InputError


@click.command()
@click.argument("program", nargs=-1, required=True)
@options.text_option()
@click.option("--capture", metavar="DIR", help="Attention captured before, instead of MODEL.")
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

    The last argument may be MODEL, a Hugging Face id or a directory. All numbers come from the
    test split of the texts.
    """
    options.quiet_libraries()
    from attn_dsl.compiler.program import load
    from attn_dsl.eval.heads import parse_heads
    from attn_dsl.synth.score import Split

    files = [name for name in program if name.endswith(".attn") or Path(name).is_file()]
    models = [name for name in program if name not in files]
    if len(models) > 1 or not files:
        raise InputError(f"name programs (.attn) and at most one model, not {', '.join(program)}")
    programs = [load(file, allow_lookahead=allow_lookahead) for file in files]
    attention, folder = options.attention_of(
        capture, models[0] if models else None, text, max_tokens, max_texts
    )
    for file, one in zip(files, programs, strict=True):
        if one.facts.holes:
            raise InputError(f"{file}: weights are holes (`?`); write numbers, or fit them")
        if one.causal != attention.causal:
            kind = "causal" if attention.causal else "bidirectional"
            raise InputError(f"{file}: the model is {kind}; write `head {one.name} {kind}`")
    chosen = parse_heads(heads, attention.n_layers, attention.heads_per_layer)
    test = Split(attention, attention.split(seed)["test"])
    if not len(test):
        raise InputError(f"{attention.n_texts} texts are too few: none is left to test on")
    rows = []
    for layer, head in chosen:
        number = layer * attention.heads_per_layer + head
        for file, one in zip(files, programs, strict=True):
            rows.append(_row(file, one, layer, head, test.metrics(one.tree, number), seed))
    del folder
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=1))
    else:
        _print(rows, files, top, test)


def _row(
    file: str, program: Any, layer: int, head: int, metrics: dict, seed: int
) -> dict[str, Any]:
    from attn_dsl.eval.metrics import bootstrap

    iou = bootstrap(metrics["iou"], seed)
    return {
        "program": file, "nodes": program.nodes, "layer": layer, "head": head,
        "iou": iou.mean, "iou_low": iou.low, "iou_high": iou.high,
        "iou_no_sink": float(metrics["iou_no_sink"].mean()), "jsd": float(metrics["jsd"].mean()),
        "tv": float(metrics["tv"].mean()), "top1": float(metrics["top1"].mean()),
        "texts": iou.texts, "lookahead": list(program.facts.lookahead),
    }  # fmt: skip


def _print(rows: list[dict[str, Any]], files: list[str], top: int, test: Any) -> None:
    from rich.table import Table

    screen = options.console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("program", overflow="fold")
    for name in ("head", "IoU", "95 %", "no sink", "JSD", "top-1"):
        table.add_column(name, justify="right", no_wrap=True)
    for file in files:
        own = sorted((r for r in rows if r["program"] == file), key=lambda r: -r["iou"])
        for at, r in enumerate(own[:top]):
            mark = " (looks ahead)" if r["lookahead"] else ""
            table.add_row(
                Path(file).name + mark if at == 0 else "", f"L{r['layer']}H{r['head']}",
                f"{r['iou']:.3f}", f"{r['iou_low']:.3f}-{r['iou_high']:.3f}",
                f"{r['iou_no_sink']:.3f}", f"{r['jsd']:.3f}", f"{r['top1']:.3f}",
            )  # fmt: skip
    screen.print(table)
    mean = test.batch.sizes.mean()
    screen.print(f"{len(test)} test texts of {mean:.0f} tokens in the mean.")
