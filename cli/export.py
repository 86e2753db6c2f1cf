"""`attn-dsl export`: a program as NumPy, torch, FlexAttention or Numba source, or as LaTeX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from attn_dsl.cli import options

if TYPE_CHECKING:
    from attn_dsl.compiler.program import Program


@click.command()
@click.argument("program")
@click.option("--to", required=True, type=click.Choice(["numpy", "torch", "flex", "numba", "latex"]),
              help="What to write: NumPy, a torch module, FlexAttention functions, a kernel for "
                   "Numba, or LaTeX.")  # fmt: skip
@click.option("--out", metavar="FILE", help="Write to a file instead of the terminal.")
@options.lookahead_option()
def export(program: str, to: str, out: str | None, allow_lookahead: bool) -> None:
    """Write PROGRAM as source text for another system."""
    from attn_dsl.compiler.program import load

    source = write_for(to, load(program, allow_lookahead=allow_lookahead))
    if out is None:
        click.echo(source, nl=False)
        return
    from attn_dsl.eval.files import write

    write(Path(out), source)
    click.echo(out)


def write_for(target: str, program: Program) -> str:
    """Export a program, importing its target alone."""
    if target == "numpy":
        from attn_dsl.compiler.export.numpy import to_numpy as convert
    elif target == "torch":
        from attn_dsl.compiler.export.torch import to_torch as convert
    elif target == "flex":
        from attn_dsl.compiler.export.flex import to_flex as convert
    elif target == "numba":
        from attn_dsl.compiler.export.numba import to_numba as convert
    else:
        from attn_dsl.compiler.export.latex import to_latex as convert
    return convert(program)
