"""`attn-dsl compare`: what an edited program changes in a model's predictions, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from attn_dsl.cli import completion, options

if TYPE_CHECKING:
    from attn_dsl.eval.replace.compare import Comparison


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.argument("a", shell_complete=completion.heads)
@click.argument("b", shell_complete=completion.heads)
@options.on_option(required=True, help="The text itself.")
@click.option("--head", metavar="HEAD", shell_complete=completion.heads,
              help="The head that A and B are put into, as in L2H3.")  # fmt: skip
@click.option("--replaced", **options.HEADS,
              help="Replace these heads by the run's programs on both sides, as in L2H3,L4.")  # fmt: skip
@options.define_option()
@options.moved_model_option()
@options.moved_capture_option()
@options.json_option()
def compare(run: str, a: str, b: str, on: str, head: str | None, replaced: str | None,
            define: tuple[str, ...], model: str | None, capture: str | None,
            as_json: bool) -> None:  # fmt: skip
    """Put A, then B into one head of RUN's model, and show what changes in its predictions.

    A and B are programs (.attn), a head's name such as L2H3 for the run's own program, or `model`
    for the model's own head. The head is the one that --head, A or B names, or the one whose
    program in RUN has the name of A or B.
    """
    options.quiet_libraries()
    from attn_dsl.eval.replace import compare as comparing
    from attn_dsl.eval.replace.replaced_model import open_replaced_model

    opened = open_replaced_model(run, model=model, capture=capture)
    place, sides = comparing.choose_sides(opened, a, b, head, define)
    chosen = [] if replaced is None else opened.choose_heads(replaced)
    others = {one: opened.programs[one] for one in chosen if one != place}
    found = comparing.compare(opened.loaded, place, sides, on, others)
    if as_json:
        options.print_json(found.to_json())
    else:
        print_comparison(found, opened.loaded.name, opened.loaded.causal)


def print_comparison(found: Comparison, model: str, causal: bool) -> None:
    """Print a comparison in 80 columns; what changed is bold."""
    from rich.text import Text

    from attn_dsl.eval.pictures import visible

    screen = options.console()
    layer, head = found.head
    screen.print(f"{model}, head L{layer}H{head}. A: {found.sides[0]}. B: {found.sides[1]}.\n")
    names = ("token", "next") if causal else ("masked",)
    rows = []
    for p in found.predictions:
        tops = zip(p.top, p.top_probability, strict=True)
        cells = [*(visible(string) for string in (p.token, p.target)[-len(names) :]),
                 *(f"{value:.3f}" for value in p.target_probability),
                 *(f"{visible(token)[:11]} {value:.2f}" for token, value in tops), f"{p.kl:.3f}"]  # fmt: skip
        rows.append([Text(cell, style="bold" if p.changed else "") for cell in cells])
    best = ("top in A", "top in B")
    columns = (*names, "p in A", "p in B", *best, "KL")
    options.print_table(columns, rows, left=(*names, *best), gap=1)
    before, after = found.perplexity
    screen.print(f"\nThe most probable token changes at {found.changed} of {len(found.predictions)} "
                 f"positions.\nMean KL(A || B) {found.kl:.3f} nats; perplexity {before:.2f} with A, "
                 f"{after:.2f} with B.")  # fmt: skip
