"""How `attn-dsl fit --dry-run` shows a plan."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from attn_dsl.cli import options

if TYPE_CHECKING:
    from attn_dsl.synth.runs.plan import Plan


def print_plan(plan: Plan, as_json: bool) -> None:
    """Print a plan as a table, or as JSON."""
    if as_json:
        shown = {**plan.to_json(), "estimate": estimate(plan)}
        click.echo(json.dumps(shown, indent=1, sort_keys=True))
        return
    from rich.table import Table

    screen = options.console()
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in lines(plan):
        table.add_row(f"[bold]{name}[/]", value)
    screen.print(table)
    screen.print(f"\n{estimate(plan)} Nothing was loaded or written.")
    for warning in plan.warnings:
        screen.print(f"[bold]Note:[/] {warning}.")


def estimate(plan: Plan) -> str:
    """Say what the times of a plan rest on."""
    told = (
        "Times are estimates from rates that benchmarks/scale.py measured on a core of x86-64 with "
        "AVX-512; other machines differ, and so do heads."
    )
    if plan.guessed:
        told += f" Not measured but guessed: {', '.join(plan.guessed)}."
    return told


def lines(plan: Plan) -> list[tuple[str, str]]:
    """Write a plan as names and values."""
    shape, settings = plan.shape, plan.settings
    heads = f"{shape.layers} layers of {shape.heads_per_layer} heads"
    known = "" if shape.parameters is None else f", {shape.parameters / 1e6:,.1f} M parameters"
    count = "" if shape.counted else ", estimated at 4 bytes a token"
    memory = "" if plan.machine_bytes is None else f", of {size(plan.machine_bytes)}"
    parts = f"search {time(plan.search_seconds)}"
    if shape.parameters is not None:
        parts = f"capture {time(plan.capture_seconds)}, {parts}"
    disk = "the capture is there"
    if plan.capture_bytes:
        disk = f"{size(plan.capture_bytes)} for the capture, {size(plan.free_bytes)} free"
    limit = "" if plan.timeout is None else f", at most {time(plan.timeout)}"
    return [
        ("model", f"{shape.model} ({shape.family}): {heads}{known}"),
        ("text", f"{len(shape.lengths):,} windows, {sum(shape.lengths):,} tokens{count}"),
        ("search", f"{plan.heads} heads, {plan.jobs} at once; {settings.rounds} rounds of at most "
         f"{settings.max_evals} programs"),
        ("", f"effort {settings.effort}, at most {settings.max_nodes:,} nodes, by "
         f"{', '.join(settings.proposers)}"),
        ("disk", disk),
        ("memory", f"{size(plan.memory_bytes)}{memory}"),
        ("time", f"about {time(plan.seconds)}{limit} ({parts})"),
    ]  # fmt: skip


def size(count: float) -> str:
    """Write a number of bytes.

    >>> size(2_400_000), size(71e9)
    ('2.4 MB', '71 GB')
    """
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= bytes_:
            value = count / bytes_
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{count:.0f} B"


def time(seconds: float) -> str:
    """Write a time as it is said.

    >>> time(42), time(660), time(9000)
    ('42 s', '11 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
