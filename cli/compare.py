"""`attn-dsl compare`: what an edited program changes in a model's predictions, token by token."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from attn_dsl.cli import options

if TYPE_CHECKING:
    from attn_dsl.eval.replace.compare import Comparison, Prediction


@click.command()
@click.argument("run")
@click.argument("a")
@click.argument("b")
@click.option("--text", required=True, metavar="TEXT", help="The text itself.")
@click.option("--head", metavar="HEAD", help="The head that A and B are put into, as in L2H3.")
@click.option("--replaced", metavar="LIST",
              help="Replace these heads by the run's programs on both sides, as in L2H3,L4.")  # fmt: skip
@click.option("--model", metavar="MODEL", help="The run's model, if it has been moved.")
@click.option("--capture", metavar="DIR", help="The run's attention, if it has been moved.")
@click.option("--html", metavar="FILE", help="Write a page instead.")
@options.json_option()
def compare(
    run: str, a: str, b: str, text: str, head: str | None, replaced: str | None, model: str | None,
    capture: str | None, html: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Put A, then B into one head of RUN's model, and show what changes in its predictions.

    A and B are programs (.attn), a head's name such as L2H3 for the run's own program, or `model`
    for the model's own head. The head is the one that --head, A or B names, or the one whose
    program in RUN has the name of A or B.
    """
    options.quiet_libraries()
    from attn_dsl.eval.replace import compare as comparing
    from attn_dsl.eval.replace.subject import choose_heads, open_subject

    subject = open_subject(run, model=model, capture=capture)
    place, sides = comparing.choose_sides(subject, a, b, head)
    chosen = [] if replaced is None else choose_heads(subject, replaced)
    others = {one: subject.programs[one] for one in chosen if one != place}
    found = comparing.compare(subject, place, sides, text, others)
    if html is not None:
        from attn_dsl.eval.replace.compare_page import write_page

        write_page(found, subject.loaded.name, subject.loaded.causal, html)
        click.echo(html)
    elif as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
    else:
        print_comparison(found, subject.loaded.name, subject.loaded.causal)


def print_comparison(found: Comparison, model: str, causal: bool) -> None:
    """Print a comparison in 80 columns; what changed is bold."""
    from rich.table import Table
    from rich.text import Text

    from attn_dsl.cli.show import visible

    screen = options.console()
    layer, head = found.head
    screen.print(f"{model}, head L{layer}H{head}. A: {found.sides[0]}. B: {found.sides[1]}.\n")
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    names = ("token", "next") if causal else ("masked",)
    for name in (*names, "p in A", "p in B", "top in A", "top in B", "KL"):
        right = name in ("p in A", "p in B", "KL")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for p in found.predictions:
        row = (p.token, p.target) if causal else (p.token,)
        cells = [
            *(visible(string) for string in row), f"{p.target_probability[0]:.3f}",
            f"{p.target_probability[1]:.3f}", top(p, 0), top(p, 1), f"{p.kl:.3f}",
        ]  # fmt: skip
        style = "bold" if p.changed else ""
        table.add_row(*(Text(cell, style=style) for cell in cells))
    screen.print(table)
    total = len(found.predictions)
    before, after = found.perplexity
    screen.print(
        f"\nThe most probable token changes at {found.changed} of {total} positions.\n"
        f"Mean KL(A || B) {found.kl:.3f} nats; perplexity {before:.2f} with A, {after:.2f} with B."
    )


def top(p: Prediction, side: int) -> Any:
    """Write a side's most probable token with its probability."""
    from attn_dsl.cli.show import visible

    name = visible(p.top[side])
    return f"{name[:11]} {p.top_probability[side]:.2f}"
