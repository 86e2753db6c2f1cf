"""`attn-dsl fmt`: programs in canonical form."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from attn_dsl.cli import completion, options


@click.command()
@click.argument("program", shell_complete=completion.programs, nargs=-1, required=True)
@click.option("--check", "only_check", is_flag=True,
              help="Change nothing; exit 1 if a program is not in canonical form.")  # fmt: skip
@options.define_option()
def fmt(program: tuple[str, ...], only_check: bool, define: tuple[str, ...]) -> None:
    """Rewrite each PROGRAM in canonical form, comments kept; - reads one and prints it.

    A file of definitions, which programs use, is rewritten too.
    """
    from attn_dsl.dsl.definitions import canonical, read_source
    from attn_dsl.eval.files import write

    sources = {name: sys.stdin.read() if name == "-" else read_source(name) for name in program}
    printed = {name: canonical(source, name, define) for name, source in sources.items()}
    changed = [name for name in program if printed[name] != sources[name]]
    if "-" in printed and not only_check:
        click.echo(printed["-"], nl=False)
    for name in changed:
        if name == "-":
            continue
        if not only_check:
            write(Path(name), printed[name])
        click.echo(f"{name}: {'would be rewritten' if only_check else 'rewritten'}", err=True)
    if only_check and changed:
        raise click.exceptions.Exit(1)
