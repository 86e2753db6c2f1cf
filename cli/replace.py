"""`attn-dsl replace`: what a model loses when programs stand in the place of its heads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attn_dsl.cli import options

if TYPE_CHECKING:
    from attn_dsl.eval.replace.outcome import Outcome, Point

HEADINGS = {"first token": "first", "mean by offset": "offset"}
TAKEN = {"iou": "by IoU", "damage": "by damage", "greedy": "greedily"}
TITLES = {"programs": "Programs", "tuned": "Tuned programs"}


@click.command()
@click.argument("run")
@click.option("--fraction", type=float, metavar="F",
              help="Replace this share of the heads, as in 0.25; without it, the whole curve.")  # fmt: skip
@click.option("--heads", metavar="LIST",
              help="Replace these heads, as in L2H3,L4; with --fraction, a share of them.")  # fmt: skip
@click.option("--nodes", type=click.IntRange(1), metavar="N",
              help="Take each head's best program of at most N nodes from its front, instead of "
              "the one that the run chose.")  # fmt: skip
@click.option("--order", default="damage", show_default=True, metavar="LIST",
              help="Which heads come first: by iou, damage or greedy, or several of these.")  # fmt: skip
@click.option("--tune", is_flag=True,
              help="Tune the weights of all replaced programs through the model.")  # fmt: skip
@click.option("--tune-text", metavar="SPEC",
              help="Tune on further texts, given as for --text; those of the run's select and test "
              "splits are left out.")  # fmt: skip
@click.option("--tune-texts", type=click.IntRange(1), default=600, show_default=True, metavar="N",
              help="Tune on at most N windows of --tune-text.")  # fmt: skip
@click.option("--tasks", metavar="LIST",
              help="Score tasks of lm-eval before and after: names or files (.yaml).")  # fmt: skip
@click.option("--task-limit", type=click.IntRange(1), metavar="N",
              help="Score at most N items of a task.")  # fmt: skip
@options.text_option()
@click.option("--max-tokens", type=click.IntRange(2), metavar="N",
              help="Cut --text into windows of N tokens; by default as the run did.")  # fmt: skip
@options.max_texts_option()
@click.option("--model", metavar="MODEL", help="The run's model, if it has been moved.")
@click.option("--capture", metavar="DIR", help="The run's attention, if it has been moved.")
@click.option("--device", metavar="NAME", help="Where the model runs, as in cuda; cpu by default.")
@click.option("--out", metavar="DIR", help="Where the results go; RUN itself by default.")
@options.seed_option()
@options.json_option()
def replace(
    run: str, order: str, tasks: str | None, nodes: int | None, model: str | None,
    capture: str | None, device: str | None, out: str | None, as_json: bool, **asked: Any,
) -> None:  # fmt: skip
    """Put the programs of RUN in the place of its model's heads and measure what is lost.

    Perplexity, KL to the original model and top-1 agreement, on the texts that the programs never
    saw, beside the same heads replaced by controls.
    """
    options.quiet_libraries()
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from attn_dsl.eval.replace.experiment import Options, replace_run
    from attn_dsl.eval.replace.replaced_model import open_replaced_model

    chosen = Options(
        orders=_list(order),
        tasks=_list(tasks or ""),
        out=None if out is None else Path(out),
        **asked,
    )
    screen = options.console(stderr=True)
    bar = Progress(
        TextColumn("{task.description:<24}"), BarColumn(bar_width=None),
        TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(),
        console=screen, transient=True,
    )  # fmt: skip
    stage = bar.add_task("loading the model", total=1)

    def tell(what: str, done: int, total: int) -> None:
        bar.update(stage, description=what, completed=done, total=total)

    try:
        with bar:
            opened = open_replaced_model(
                run, model=model, capture=capture, device=device, nodes=nodes
            )
            outcome, files = replace_run(opened, chosen, tell)
    except KeyboardInterrupt:
        screen.print("stopped; what was measured is kept, and the same command goes on from there")
        raise
    if as_json:
        click.echo(json.dumps(outcome.to_json(), indent=1))
    else:
        print_outcome(outcome, files, opened.loaded.causal, chosen.text is None)


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def print_outcome(outcome: Outcome, files: Iterable[Path], causal: bool, own: bool) -> None:
    """Print an outcome in 80 columns: growth of perplexity, then all measures of the programs."""
    screen = options.console()
    before = outcome.original
    screen.print(
        f"{outcome.settings['model']} as it is: perplexity {'' if causal else 'of masked tokens '}"
        f"{before.mean:.2f} [{before.low:.2f}, {before.high:.2f}]\n({before.texts} "
        f"{'test' if own else 'held-out'} texts, {outcome.tokens:,} predictions).\n"
    )
    for order in dict.fromkeys(point.order for point in outcome.points):
        points = [point for point in outcome.points if point.order == order]
        taken = TAKEN.get(order, order)
        screen.print(f"Growth of perplexity in percent, heads taken {taken}:")
        screen.print(growth_table(points), "")
        for source, title in TITLES.items():
            if chosen := [p for p in points if p.source == source]:
                screen.print(f"{title}, {taken}:")
                screen.print(measures_table(chosen), "")
    if tuning := outcome.extra.get("tuning"):
        print_tuning(tuning, screen)
    if tasks := outcome.extra.get("tasks"):
        heads = len(outcome.points[0].heads)
        screen.print(f"Tasks, before and after {heads} heads are replaced (95 % over items):")
        screen.print(tasks_table(tasks), "")
    for note in outcome.notes:
        screen.print(note)
    screen.print("Brackets are 95 % intervals over texts, in pairs with the original model.")
    for file in files:
        screen.print(str(file), soft_wrap=True, markup=False)


def table_of(names: Iterable[str], rows: Iterable[Sequence[str]], left: int = 0) -> Any:
    """Lay out a table whose columns are aligned to the right, but the first ones to the left."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for at, name in enumerate(names):
        if at < left:
            table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=19)
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def growth_table(points: Sequence[Point]) -> Any:
    """Lay out fractions down, programs and baselines across."""
    sources = list(dict.fromkeys(point.source for point in points))
    rows: dict[tuple, list[str]] = {}
    for point in points:
        start = [str(len(point.heads)), f"{100 * point.fraction:.3g} %"]
        ratio = point.effect.ratio
        interval = f" {interval_of(ratio.low, ratio.high)}" if point.source in TITLES else ""
        rows.setdefault(point.heads, start).append(number(ratio.mean) + interval)
    return table_of(("heads", "share", *(HEADINGS.get(s, s) for s in sources)), rows.values())


def interval_of(low: float, high: float) -> str:
    """Write the interval of a ratio of perplexities, in percent, for a rich table."""
    return f"\\[{number(low).lstrip('+')}, {number(high).lstrip('+')}]"


def number(ratio: float) -> str:
    """Write a ratio of perplexities as a growth in percent.

    >>> number(1.0213), number(9.04), number(0.998)
    ('+2.1', '+804', '-0.2')
    """
    cost = 100 * (ratio - 1.0)
    if abs(cost) >= 1e5:
        return f"{cost:+.0e}"
    return f"{cost:+.1f}" if abs(cost) < 99.5 else f"{cost:+.0f}"


def measures_table(points: Sequence[Point]) -> Any:
    """Lay out fractions down, measures across, each with its interval."""
    rows = []
    for point in points:
        found = point.effect
        measures = ((found.perplexity, ".2f"), (found.kl, ".3f"), (found.top1, ".3f"))
        cells = [f"{e.mean:{d}} \\[{e.low:{d}}, {e.high:{d}}]" for e, d in measures]
        rows.append((str(len(point.heads)), *cells))
    return table_of(("heads", "perplexity", "KL, nats", "top-1 agreement"), rows)


def print_tuning(tuning: dict[str, Any], screen: Any) -> None:
    """Print what tuning did to IoU, and the trade-off of IoU against perplexity."""
    first, best = tuning["history"][0], tuning["history"][tuning["best"]]
    before, after = tuning["mean_iou_before"], tuning["mean_iou_after"]
    what = "lowers" if after["mean"] < before["mean"] else "raises"
    screen.print(
        f"Tuned on {tuning['texts']} texts in {len(tuning['history']) - 1} epochs, "
        f"{tuning['seconds']:.0f} s: KL on the select "
        f"texts {first['select_kl']:.3f} -> {best['select_kl']:.3f}. It {what} the programs' mean "
        f"IoU with their heads from {before['mean']:.3f} to {after['mean']:.3f}.\n"
    )
    screen.print("On the way from the fitted weights (0 %) to the tuned ones (100 %), all of them:")
    rows = []
    for row in tuning["tradeoff"]:
        iou, ratio = row["iou"], row["ratio"]
        rows.append((
            f"{100 * row['share']:.0f} %",
            f"{iou['mean']:.3f} \\[{iou['low']:.3f}, {iou['high']:.3f}]",
            f"{number(ratio['mean'])} {interval_of(ratio['low'], ratio['high'])}",
        ))  # fmt: skip
    screen.print(table_of(("way", "IoU", "perplexity, %"), rows), "")


def tasks_table(tasks: Sequence[dict[str, Any]]) -> Any:
    """Lay out the tasks' metrics before and after."""
    rows = []
    for row in tasks:
        change = row["difference"]
        known = change["low"] == change["low"]  # not a number where items have none
        interval = f" \\[{change['low']:+.3f}, {change['high']:+.3f}]" if known else ""
        rows.append((
            row["task"] + (" (tuned)" if row["source"] == "tuned" else ""), row["metric"],
            str(row["before"]["texts"]), f"{row['before']['mean']:.3f}",
            f"{row['after']['mean']:.3f}", f"{change['mean']:+.3f}{interval}",
        ))  # fmt: skip
    return table_of(("task", "metric", "items", "before", "after", "difference"), rows, left=2)
