"""`attn-dsl capture`: attention of every head on a text, on disk."""

from __future__ import annotations

from pathlib import Path

import click

from attn_dsl.cli import interrupt, options


@click.command()
@click.argument("model")
@options.text_option(required=True)
@click.option("--out", required=True, metavar="DIR", help="Where to store the capture.")
@options.max_tokens_option()
@options.max_texts_option()
def capture(model: str, text: str, out: str, max_tokens: int, max_texts: int) -> None:
    """Store the attention of every head of MODEL on a text.

    MODEL is a Hugging Face id or a directory. A capture that was interrupted goes on where it
    stopped when the same command is run again.
    """
    options.quiet_libraries()
    from attn_dsl.eval.capture_write import write_capture
    from attn_dsl.eval.texts import read_texts

    texts = read_texts(text)
    how = f"go on with:\n{interrupt.same_command()}"
    with interrupt.told(lambda: how), options.progress_bar(options.console(stderr=True)) as bar:
        task = bar.add_task("reading attention", total=None)
        made = write_capture(
            model, texts, out, max_tokens=max_tokens, max_texts=max_texts,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    size = sum(file.stat().st_size for file in Path(out).rglob("*") if file.is_file())
    click.echo(
        f"{made.n_texts} texts, {made.n_layers} layers of {made.heads_per_layer} heads, "
        f"{size / 1e6:.0f} MB in {out}"
    )
