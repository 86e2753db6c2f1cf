"""`attn-dsl explain`: a program in plain English."""

from __future__ import annotations

import click

from attn_dsl.cli import completion, options


@click.command()
@click.argument("program", shell_complete=completion.programs)
@click.argument("head", shell_complete=completion.heads, required=False)
@options.define_option()
@options.lookahead_option()
@options.json_option()
def explain(program: str, head: str | None, define: tuple[str, ...], allow_lookahead: bool,
            as_json: bool) -> None:  # fmt: skip
    """Describe PROGRAM (.attn), or the program of HEAD in the run directory PROGRAM, in plain English.

    A head of a run, named as in L5H1, is told in the order of what its terms are worth: in brackets is
    the share of what the program explains.
    """
    from attn_dsl.dsl import tree as t
    from attn_dsl.dsl.english import describe
    from attn_dsl.dsl.english import explain as in_english
    from attn_dsl.dsl.printer import show_term

    loaded, _, found = options.open_program(program, head, "explain", allow_lookahead, define)
    tree = loaded.tree
    if found and not found.terms:
        click.echo("attn-dsl: warning: this run was made before the worth of terms was measured, so terms "
                   "come in the order of their weights; run `attn-dsl fit` again", err=True)  # fmt: skip
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
