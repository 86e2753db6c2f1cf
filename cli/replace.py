"""`attn-dsl replace`: what a model loses when programs stand in the place of its heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attn_dsl.cli import completion, interrupt, options

if TYPE_CHECKING:
    from attn_dsl.eval.replace.measure import Outcome, Point

HEADINGS = {"first token": "first", "mean by offset": "offset"}
TAKEN = {"gradient": "by gradient", "greedy": "greedily", "damage": "by damage", "iou": "by IoU"}
TITLES = {"programs": "Programs", "tuned": "Tuned programs"}


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.option("--fraction", type=float, metavar="F",
              help="Replace this share of the heads, as in 0.25; without it, the whole curve.")  # fmt: skip
@click.option("--heads", **options.HEADS,
              help="Replace these heads, as in L2H3,L4; with --fraction, a share of them.")  # fmt: skip
@click.option("--nodes", type=click.IntRange(1), metavar="N", help="Take programs of at most N nodes; of "
              "each head's front, the one is taken that serves the output best.")  # fmt: skip
@click.option("--chosen", is_flag=True, help="Take the programs that the run chose instead.")
@click.option("--order", "orders", default="greedy", show_default=True, metavar="LIST",
              help="Which heads come first: greedy, gradient, damage, iou, or several.")  # fmt: skip
@click.option("--tune", is_flag=True, help="Tune the weights of all replaced programs through the model.")
@click.option("--tune-text", metavar="SPEC", help="Tune on further texts, given as for --text; those of the "
              "run's select and test splits are left out.")  # fmt: skip
@click.option("--tune-texts", type=click.IntRange(1), default=600, show_default=True, metavar="N",
              help="Tune on at most N windows of --tune-text.")  # fmt: skip
@click.option("--tasks", metavar="LIST",
              help="Score tasks of lm-eval before and after: names or files (.yaml).")  # fmt: skip
@click.option("--task-limit", type=click.IntRange(1), metavar="N", help="Score at most N items of a task.")
@options.text_option()
@click.option("--max-tokens", type=click.IntRange(2), metavar="N",
              help="Cut --text into windows of N tokens; by default as the run did.")  # fmt: skip
@click.option("--max-texts", type=click.IntRange(2), metavar="N",
              help="Measure on at most N windows; by default fewer on larger models, so that the "
              "whole curve of 135 million parameters takes ten minutes of a core.")  # fmt: skip
@options.moved_model_option()
@options.moved_capture_option()
@options.device_option()
@options.dtype_option(default=None, help="Of the model, as for fit; by default as the run had it.")
@click.option("--out", **options.DIR, help="Where the results go; RUN itself by default.")
@options.seed_option()
@options.json_option()
def replace(run: str, orders: str, tasks: str | None, nodes: int | None, chosen: bool, model: str | None,
            capture: str | None, device: str, dtype: str | None, out: str | None, as_json: bool,
            **asked: Any) -> None:  # fmt: skip
    """Put the programs of RUN in the place of its model's heads and measure what is lost.

    Perplexity, KL to the original model and top-1 agreement, on the texts that the programs never
    saw, beside the same heads replaced by controls.
    """
    options.quiet_libraries()
    from attn_dsl.eval.replace.experiment import Options, replace_run
    from attn_dsl.eval.replace.replaced_model import open_replaced_model

    asked_for = Options(orders=options.name_list(orders), tasks=options.name_list(tasks),
                        out=None if out is None else Path(out), **asked)  # fmt: skip
    screen = options.console(stderr=True)
    how = f"what was measured is kept. Go on with:\n{interrupt.same_command()}"
    with interrupt.told(lambda: how), options.progress_bar(screen) as bar:
        stage = bar.add_task("loading the model", total=1)

        def tell(what: str, done: int, total: int) -> None:
            bar.update(stage, description=what, completed=done, total=total)

        opened = open_replaced_model(run, model=model, capture=capture, device=device, dtype=dtype,
                                     nodes=nodes, chosen=chosen)  # fmt: skip
        outcome, files = replace_run(opened, asked_for, tell)
    if as_json:
        options.print_json(asdict(outcome))
    else:
        print_outcome(outcome, files, opened.loaded.causal, asked_for.text is None)


def print_outcome(outcome: Outcome, files: Iterable[Path], causal: bool, own: bool) -> None:
    """Print an outcome in 80 columns: growth of perplexity, then all measures of the programs."""
    screen = options.console()
    before = outcome.original
    screen.print(f"{outcome.settings['model']} as it is: perplexity {'' if causal else 'of masked tokens '}"
                 f"{before.mean:.2f} [{before.low:.2f}, {before.high:.2f}]\n({before.texts} "
                 f"{'test' if own else 'held-out'} texts, {outcome.tokens:,} predictions).\n")  # fmt: skip
    for order in dict.fromkeys(point.order for point in outcome.points):
        points = [point for point in outcome.points if point.order == order]
        taken = TAKEN.get(order, order)
        screen.print(f"Growth of perplexity in percent, heads taken {taken}:")
        print_growth(points)
        for source, title in TITLES.items():
            if chosen := [p for p in points if p.source == source]:
                screen.print(f"\n{title}, {taken}:")
                print_measures(chosen)
        screen.print()
    for names, rank in outcome.extra["spearman"].items():
        screen.print(f"Spearman correlation of the orders {names}: {rank:.2f}\n")
    if tuning := outcome.extra.get("tuning"):
        print_tuning(tuning)
    if tasks := outcome.extra.get("tasks"):
        screen.print("Tasks, before and after heads are replaced (95 % over items):")
        print_tasks(tasks)
        screen.print()
    for note in outcome.notes:
        screen.print(note)
    screen.print("Brackets are 95 % intervals over texts, in pairs with the original model.")
    for file in files:
        screen.print(str(file), soft_wrap=True, markup=False)


def print_growth(points: Sequence[Point]) -> None:
    """Print fractions down, programs and baselines across."""
    sources = list(dict.fromkeys(point.source for point in points))
    rows: dict[tuple, list[str]] = {}
    for point in points:
        start = [str(len(point.heads)), f"{100 * point.fraction:.3g} %"]
        ratio = point.effect.ratio
        cell = growth(ratio.mean, ratio.low, ratio.high)
        shown = cell if point.source in TITLES else growth(ratio.mean)
        rows.setdefault(point.heads, start).append(shown)
    columns = ("heads", "share", *(HEADINGS.get(s, s) for s in sources))
    options.print_table(columns, rows.values(), gap=1)


def growth(ratio: float, *interval: float) -> str:
    """Write a ratio of perplexities as a growth in percent, with the ends of its interval if given.

    >>> growth(1.0213), growth(9.04), growth(0.998), growth(1.02, 1.01, 1.03)
    ('+2.1', '+804', '-0.2', '+2.0 [1.0, 3.0]')
    """
    cost = 100 * (ratio - 1.0)
    style = "+.0e" if abs(cost) >= 1e5 else "+.1f" if abs(cost) < 99.5 else "+.0f"
    ends = ", ".join(growth(end).lstrip("+") for end in interval)
    return f"{cost:{style}}" + (f" [{ends}]" if ends else "")


def interval(found: Mapping[str, float], style: str) -> str:
    """Write a mean with its interval."""
    return f"{found['mean']:{style}} [{found['low']:{style}}, {found['high']:{style}}]"


def print_measures(points: Sequence[Point]) -> None:
    """Print fractions down, measures across, each with its interval."""
    measures = (("perplexity", ".2f"), ("kl", ".3f"), ("top1", ".3f"))
    rows = [(str(len(p.heads)), *(interval(asdict(getattr(p.effect, name)), d) for name, d in measures))
            for p in points]  # fmt: skip
    options.print_table(("heads", "perplexity", "KL, nats", "top-1 agreement"), rows, gap=1)


def print_tuning(tuning: dict[str, Any]) -> None:
    """Print what tuning did to KL and IoU."""
    screen = options.console()
    first, best = tuning["history"][0], tuning["history"][tuning["best"]]
    before, after = tuning["mean_iou_before"], tuning["mean_iou_after"]
    what = "lowers" if after["mean"] < before["mean"] else "raises"
    screen.print(f"Tuned on {tuning['texts']} texts in {len(tuning['history']) - 1} epochs, "
                 f"{tuning['seconds']:.0f} s: KL on the select "
                 f"texts {first['select_kl']:.3f} -> {best['select_kl']:.3f}. It {what} the programs' mean "
                 f"IoU with their heads from {before['mean']:.3f} to {after['mean']:.3f}.\n")  # fmt: skip


def print_tasks(tasks: Sequence[dict[str, Any]]) -> None:
    """Print the tasks' metrics before and after."""
    rows = []
    for row in tasks:
        before, after, change = row["before"], row["after"], row["difference"]
        known = change["low"] == change["low"]  # not a number where items have none
        rows.append(
            (row["task"] + (" (tuned)" if row["source"] == "tuned" else ""), row["metric"], str(row["heads"]),
                str(before["texts"]), f"{before['mean']:.3f}", f"{after['mean']:.3f}",
                interval(change, "+.3f") if known else f"{change['mean']:+.3f}"))  # fmt: skip
    columns = ("task", "metric", "heads", "items", "before", "after", "difference")
    options.print_table(columns, rows, left=columns[:2], gap=1)
