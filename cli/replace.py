"""`attn-dsl replace`: what a model loses when programs stand in the place of its heads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attn_dsl.cli import options

if TYPE_CHECKING:
    from attn_dsl.eval.replace.experiment import Result
    from attn_dsl.eval.replace.outcome import Point

HEADINGS = {"first token": "first", "mean by offset": "offset"}


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
              help="Score tasks before and after: files (.jsonl, .yaml), names of lm-eval.")  # fmt: skip
@click.option("--task-limit", type=click.IntRange(1), metavar="N",
              help="Score at most N items of a task of lm-eval.")  # fmt: skip
@options.text_option()
@click.option("--max-tokens", type=click.IntRange(2), metavar="N",
              help="Cut --text into windows of N tokens; by default as the run did.")  # fmt: skip
@options.max_texts_option()
@click.option("--model", metavar="MODEL", help="The run's model, if it has been moved.")
@click.option("--capture", metavar="DIR", help="The run's attention, if it has been moved.")
@click.option("--device", metavar="NAME", help="Where the model runs, as in cuda; cpu by default.")
@click.option("--out", metavar="DIR", help="Where the results go; RUN itself by default.")
@click.option("--overwrite", is_flag=True, help="Replace finished results of other settings.")
@options.seed_option()
@options.json_option()
def replace(
    run: str, fraction: float | None, heads: str | None, nodes: int | None, order: str, tune: bool,
    tune_text: str | None, tune_texts: int, tasks: str | None, task_limit: int | None,
    text: str | None, max_tokens: int | None, max_texts: int,
    model: str | None, capture: str | None, device: str | None, out: str | None, overwrite: bool,
    seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Put the programs of RUN in the place of its model's heads and measure what is lost.

    Perplexity, KL to the original model and top-1 agreement, on the texts that the programs never
    saw, beside the same heads replaced by controls.
    """
    options.quiet_libraries()
    from attn_dsl.eval.replace.experiment import replace_run
    from attn_dsl.eval.replace.options import Options
    from attn_dsl.eval.replace.subject import open_subject

    asked = Options(
        fraction=fraction, heads=heads, orders=_list(order), tune=tune,
        tune_text=tune_text, tune_texts=tune_texts,
        tasks=_list(tasks or ""), task_limit=task_limit, text=text, max_tokens=max_tokens,
        max_texts=max_texts, out=None if out is None else Path(out), overwrite=overwrite, seed=seed,
    )  # fmt: skip
    screen = options.console(stderr=True)
    try:
        with Watcher(screen) as watcher:
            watcher.tell("loading the model", 0, 1)
            subject = open_subject(run, model=model, capture=capture, device=device, nodes=nodes)
            result = replace_run(subject, asked, watcher.tell)
    except KeyboardInterrupt:
        screen.print("stopped; what was measured is kept, and the same command goes on from there")
        raise
    if as_json:
        click.echo(json.dumps(result.outcome.to_json(), indent=1))
    else:
        print_result(result, subject.loaded.causal, text is None)


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


class Watcher:
    """Shows on the terminal what is being measured, and how far it is."""

    def __init__(self, screen: Any) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.bar = Progress(
            TextColumn("{task.description:<24}"), BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(),
            console=screen, transient=True,
        )  # fmt: skip
        self.task = self.bar.add_task("starting", total=1)

    def __enter__(self) -> Watcher:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def tell(self, what: str, done: int, total: int) -> None:
        """Show a stage."""
        self.bar.update(self.task, description=what, completed=done, total=total)


def print_result(result: Result, causal: bool, own: bool) -> None:
    """Print an outcome in 80 columns: growth of perplexity, then all measures of the programs."""
    screen = options.console()
    outcome = result.outcome
    kind = "perplexity" if causal else "perplexity of masked tokens"
    before = outcome.original
    screen.print(
        f"{outcome.settings['model']} as it is: {kind} {before.mean:.2f} "
        f"[{before.low:.2f}, {before.high:.2f}]\n({before.texts} {'test' if own else 'held-out'} "
        f"texts, {outcome.tokens:,} predictions).\n"
    )
    for order in dict.fromkeys(point.order for point in outcome.points):
        points = [point for point in outcome.points if point.order == order]
        screen.print(f"Growth of perplexity in percent, heads taken {taken(order)}:")
        screen.print(growth_table(points))
        screen.print()
        for source in dict.fromkeys(p.source for p in points if p.source in ("programs", "tuned")):
            screen.print(
                f"{'Programs' if source == 'programs' else 'Tuned programs'}, {taken(order)}:"
            )
            screen.print(measures_table([p for p in points if p.source == source]))
            screen.print()
    if tuning := outcome.extra.get("tuning"):
        print_tuning(tuning, screen)
    if tasks := outcome.extra.get("tasks"):
        print_tasks(tasks, len(outcome.points[0].heads), screen)
    for note in outcome.notes:
        screen.print(note)
    screen.print("Brackets are 95 % intervals over texts, in pairs with the original model.")
    for file in result.files:
        screen.print(str(file), soft_wrap=True, markup=False)


def taken(order: str) -> str:
    """Say how heads were taken.

    >>> taken("iou"), taken("greedy")
    ('by IoU', 'greedily')
    """
    names = {"iou": "by IoU", "damage": "by damage", "greedy": "greedily"}
    return names.get(order, order)


def growth_table(points: Sequence[Point]) -> Any:
    """Lay out fractions down, stand-ins across."""
    from rich.table import Table

    sources = list(dict.fromkeys(point.source for point in points))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("heads", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    for source in sources:
        table.add_column(HEADINGS.get(source, source), justify="right", no_wrap=True)
    for heads in dict.fromkeys(point.heads for point in points):
        row = {point.source: point for point in points if point.heads == heads}
        first = next(iter(row.values()))
        cells = [_growth(row[s], s in ("programs", "tuned")) for s in sources]
        table.add_row(str(len(heads)), f"{100 * first.fraction:.3g} %", *cells)
    return table


def _growth(point: Point, interval: bool) -> str:
    ratio = point.effect.ratio
    text = number(ratio.mean)
    return f"{text} {interval_of(ratio.low, ratio.high)}" if interval else text


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
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("heads", "perplexity", "KL, nats", "top-1 agreement"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in points:
        found = point.effect
        cells = [
            f"{e.mean:{digits}} \\[{e.low:{digits}}, {e.high:{digits}}]"
            for e, digits in ((found.perplexity, ".2f"), (found.kl, ".3f"), (found.top1, ".3f"))
        ]
        table.add_row(str(len(point.heads)), *cells)
    return table


def print_tuning(tuning: dict[str, Any], screen: Any) -> None:
    """Print what tuning did to IoU, and the trade-off of IoU against perplexity."""
    from rich.table import Table

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
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("way", "IoU", "perplexity, %"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in tuning["tradeoff"]:
        iou, ratio = row["iou"], row["ratio"]
        table.add_row(
            f"{100 * row['share']:.0f} %", f"{iou['mean']:.3f} \\[{iou['low']:.3f}, {iou['high']:.3f}]",
            f"{number(ratio['mean'])} {interval_of(ratio['low'], ratio['high'])}",
        )  # fmt: skip
    screen.print(table)
    screen.print()


def print_tasks(tasks: Sequence[dict[str, Any]], heads: int, screen: Any) -> None:
    """Print the tasks' metrics before and after."""
    from rich.table import Table

    screen.print(f"Tasks, before and after {heads} heads are replaced (95 % over items):")
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for name in ("task", "metric"):
        table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=19)
    for name in ("items", "before", "after", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in tasks:
        change = row["difference"]
        interval = f" \\[{change['low']:+.3f}, {change['high']:+.3f}]"
        known = change["low"] == change["low"]
        mark = " (tuned)" if row["source"] == "tuned" else ""
        table.add_row(
            row["task"] + mark, row["metric"], str(row["before"]["texts"]),
            f"{row['before']['mean']:.3f}", f"{row['after']['mean']:.3f}",
            f"{change['mean']:+.3f}" + (interval if known else ""),
        )  # fmt: skip
    screen.print(table)
    screen.print()
