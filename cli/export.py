"""`attn-dsl export`: a program as NumPy, torch, FlexAttention or Numba source, or as LaTeX."""

from __future__ import annotations

import importlib
from pathlib import Path

import click

from attn_dsl.cli import completion, options


@click.command()
@click.argument("program", shell_complete=completion.programs)
@click.option("--to", required=True, type=click.Choice(["numpy", "torch", "flex", "numba", "latex"]),
              help="What to write: NumPy, a torch module, FlexAttention functions, a kernel for "
                   "Numba, or LaTeX.")  # fmt: skip
@click.option("--out", **options.FILE, help="Write to a file instead of the terminal.")
@options.define_option()
@options.lookahead_option()
def export(program: str, to: str, out: str | None, define: tuple[str, ...], allow_lookahead: bool) -> None:
    """Write PROGRAM as source text for another system."""
    from attn_dsl.compiler.program import load

    loaded = load(program, allow_lookahead=allow_lookahead, define=define)
    printer = importlib.import_module(f"attn_dsl.compiler.export.{to}")
    source = getattr(printer, f"to_{to}")(loaded)
    if out is None:
        click.echo(source, nl=False)
        return
    from attn_dsl.eval.files import write

    write(Path(out), source)
    click.echo(out)
