"""`attn-dsl explain`: a program in plain English."""

from __future__ import annotations

from pathlib import Path

import click

from attn_dsl.cli import options
from attn_dsl.dsl.errors import InputError


@click.command()
@click.argument("program")
@click.argument("head", required=False)
@options.lookahead_option()
@options.json_option()
def explain(program: str, head: str | None, allow_lookahead: bool, as_json: bool) -> None:
    """Describe PROGRAM (.attn), or the program of HEAD in the run directory PROGRAM, in plain English.

    A head of a run, named as in L5H1, is told in the order of what its terms are worth: in brackets is
    the share of what the program explains.
    """
    from attn_dsl.compiler.program import load
    from attn_dsl.dsl import tree as t
    from attn_dsl.dsl.english import describe
    from attn_dsl.dsl.english import explain as in_english
    from attn_dsl.dsl.printer import show_term

    found = None
    if head is None:
        if Path(program).is_dir():
            raise InputError(
                f"{program}: name a head of the run too, as in `attn-dsl explain {program} L5H1`"
            )
        tree = load(program, allow_lookahead=allow_lookahead).tree
    else:
        from attn_dsl.eval.run import Run

        run = Run.open(program)
        found = run[head]
        tree = found.program.tree
        if not found.terms:
            click.echo(
                "attn-dsl: warning: this run was made before the worth of terms was measured, so terms come "
                "in the order of their weights; run `attn-dsl fit` again", err=True,
            )  # fmt: skip
    text = in_english(tree, [one.share for one in found.terms] if found else ())
    if not as_json:
        options.console().print(text, markup=False)
        return
    terms = [part for whole in tree.terms for part in t.parts_of(whole)]
    told = [
        {"term": i, "source": show_term(one), "english": english}
        for i, (one, english) in enumerate(zip(terms, describe(tree), strict=True), 1)
    ]
    for row, worth in zip(told, found.terms if found else (), strict=False):
        row |= {name: getattr(worth, name) for name in ("iou_loss", "output_r2_loss", "share")}
    whole = {"category": found.category, "shares": found.shares} if found else {}
    options.print_json({"program": tree.name, "english": text, **whole, "terms": told})
