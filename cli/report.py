"""`attn-dsl report`: the HTML report of a run."""

from __future__ import annotations

import click

from attn_dsl.cli import completion, options


@click.command()
@click.argument("run", shell_complete=completion.runs)
@options.moved_capture_option()
def report(run: str, capture: str | None) -> None:
    """Write report.html of RUN, one file that needs nothing but itself."""
    options.quiet_libraries()
    from attn_dsl.eval.report import write_run_report
    from attn_dsl.eval.run import Run

    click.echo(write_run_report(Run.open(run), capture))
