"""`attn-dsl detect`: which heads of a model are of a known kind, as a table and a map."""

from __future__ import annotations

from typing import Any

import click

from attn_dsl.cli import completion, options


@click.command()
@click.argument("model", shell_complete=completion.models, required=False)
@options.text_option()
@options.capture_option()
@click.option("--threshold", type=click.FloatRange(0, 1), metavar="X",
              help="The least share, 0.4 by default, and 0.2 for induction and duplicates.")  # fmt: skip
@options.max_tokens_option()
@options.max_texts_option()
@options.seed_option()
@options.json_option()
def detect(model: str | None, text: Any, capture: str | None, threshold: float | None, max_tokens: int,
           max_texts: int, seed: int, as_json: bool) -> None:  # fmt: skip
    """Say which heads of MODEL are previous-token, induction, first-token, … heads.

    Each kind is a program of the library. Its share is the mean attention of a head on the keys that the
    program singles out, over the queries where it does, on held-out texts. A head is of a kind where the
    95 % interval of the share lies above the threshold, above uniform attention and, for kinds that are no
    matter of distance, above the same share of the head's own mean by distance; for induction and duplicates
    also above what the query before gives to the same keys.

    MODEL and its texts are as for fit.
    """
    options.quiet_libraries()
    from attn_dsl.eval.detect import detect as detected
    from attn_dsl.eval.metrics import decimal

    found = detected(model, text, capture=capture, threshold=threshold, seed=seed, max_tokens=max_tokens,
                     max_texts=max_texts)  # fmt: skip
    kinds = {one.kind.name: one.kind for one in found.every}
    if as_json:
        options.print_json(found.rows())
        return
    screen = options.console()
    rows = []
    for label, (x, *others) in found.heads.items():
        figures = map(decimal, (x.share.mean, x.share.low, x.share.high, x.control))
        also = ", ".join(f"{y.kind.name} {decimal(y.share.mean, 2)}" for y in others)
        rows.append((label, x.kind.name, *figures, also))
    columns = ("head", "kind", "share", "from", "to", "control", "also")
    options.print_table(columns, rows, left=("head", "kind", "also"), gap=1)
    screen.print(f"\n[bold]Map of {found.model}[/], a line for each layer, a letter for each head:")
    for layer, line in enumerate(found.map):
        screen.print(f"{layer:>4}  {line}", markup=False)
    letters = "".join(found.map)
    counts = ", ".join(f"{k.letter} {k.name} ({letters.count(k.letter)})" for k in kinds.values())
    screen.print(f"{counts}; . none of these ({letters.count('.')})", markup=False)
    if rare := [name for name in found.queries if name not in kinds]:
        screen.print(f"Not told, for these texts have too few cases: {', '.join(rare)}.")
    screen.print(f"{found.texts} test texts.")
