"""What `attn-dsl fit --dry-run` prints: the plan of a fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from attn_dsl.cli import options

ESTIMATE = "Times are estimates, from the speed of this machine at this moment; heads differ."


def print_plan(model: str | None, out: str, proposers: Sequence[str] | None, as_json: bool,
               **given: Any) -> None:  # fmt: skip
    """Print what a fit of these settings would do, as names and values or as JSON."""
    from attn_dsl.synth.fit import settings_of
    from attn_dsl.synth.runs.plan import plan

    settings = settings_of(given["seed"], given["max_evals"], given["max_nodes"], given["effort"], proposers,
                           llm=given["llm"], allow_lookahead=given["allow_lookahead"],
                           objective=given["objective"])  # fmt: skip
    more = {key: given[key] for key in "heads max_tokens max_texts jobs timeout dtype".split()}
    found = plan(model, given["text"], given["capture"], settings, out=out, **more)
    estimate = ESTIMATE
    if found["guessed"]:
        estimate += f" Not measured but guessed: {', '.join(found['guessed'])}."
    if as_json:
        options.print_json({**found, "estimate": estimate}, sort_keys=True)
        return
    page = click.HelpFormatter(max_width=80)
    page.write_dl(lines(found))
    page.write_paragraph()
    page.write_text(f"{estimate} Nothing was loaded or written.")
    for warning in found["warnings"]:
        page.write_text(f"Note: {warning}.")
    click.echo(page.getvalue(), nl=False)


def lines(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """Write a plan as names and values."""
    from rich.filesize import decimal as size

    heads = f"{plan['layers']} layers of {plan['heads_per_layer']} heads"
    count = "" if plan["counted"] else ", estimated at 4 bytes a token"
    parts, disk = f"search {time(plan['search_seconds'])}", "the capture is there"
    if plan["parameters"] is not None:
        heads += f", {plan['parameters'] / 1e6:,.1f} M parameters"
        parts = f"capture {time(plan['capture_seconds'])}, {parts}"
        disk = f"{size(plan['capture_bytes'])} for the capture, {size(plan['free_bytes'])} free"
    limit = "" if plan["timeout"] is None else f", at most {time(plan['timeout'])}"
    return [("model", f"{plan['model']} ({plan['family']}): {heads}"),
            ("text", f"{plan['texts']:,} windows, {plan['tokens']:,} tokens{count}"),
            ("search", f"{plan['heads']} heads, {plan['jobs']} at once; at most "
                f"{plan['max_evals']} programs each"),
            ("", f"effort {plan['effort']}, at most {plan['max_nodes']:,} nodes, by "
                f"{', '.join(plan['proposers'])}"), ("disk", disk),
            ("memory", f"{size(plan['memory_bytes'])}, of {size(plan['machine_bytes'])}"),
            ("time", f"about {time(plan['seconds'])}{limit} ({parts})")]  # fmt: skip


def time(seconds: float) -> str:
    """Write a time as it is said.

    >>> time(42), time(660), time(9000)
    ('42 s', '11 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
