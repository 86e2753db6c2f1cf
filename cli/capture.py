"""`attn-dsl capture`: attention and values of every head on a text, on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from attn_dsl.cli import completion, interrupt, options


@click.command()
@click.argument("model", shell_complete=completion.models)
@options.text_option()
@click.option("--out", required=True, **options.DIR, help="Where to store the capture.")
@options.max_tokens_option()
@options.max_texts_option()
@click.option("--no-values", "values", flag_value=False, default=True,
              help="Leave out value vectors, without which what heads write cannot be measured.")  # fmt: skip
@options.device_option()
@options.dtype_option()
def capture(model: str, text: Any, out: str, **settings: Any) -> None:
    """Store attention and values of every head of MODEL on a text.

    MODEL is as for fit. A capture that was interrupted goes on where it stopped when the same
    command is run again.
    """
    options.quiet_libraries()
    from attn_dsl.eval.capture_write import capture_of

    how = f"go on with:\n{interrupt.same_command()}"
    with interrupt.told(lambda: how), options.progress_bar(options.console(stderr=True)) as bar:
        task = bar.add_task("reading attention", total=None)
        made = capture_of(
            None, model, text, out, **settings,
            progress=lambda done, total: bar.update(task, completed=done, total=total))  # fmt: skip
    size = sum(file.stat().st_size for file in Path(out).rglob("*") if file.is_file())
    click.echo(f"{made.n_texts} texts, {made.n_layers} layers of {made.heads_per_layer} heads, "
               f"{size / 1e6:.0f} MB in {out}")  # fmt: skip
    if settings["values"] and made.lacking is not None:
        click.echo(f"no values of heads: {made.lacking}")
