"""`attn-dsl diff`: what changed from one program to another, and where it shows."""

from __future__ import annotations

from pathlib import Path

import click

from attn_dsl.cli import completion, options
from attn_dsl.cli.show import cut, read_head
from attn_dsl.dsl.errors import InputError

STORIES = 40
"""Among how many stories the text is looked for on which two files of programs differ most."""
STYLES = {"+": options.STYLES["string"], "-": options.STYLES["number"], "~": options.STYLES["word"]}


@click.command()
@click.argument("sides", metavar="A B", nargs=-1, required=True, shell_complete=completion.programs)
@options.on_option(help="The text itself; by default, a test text or a story where they differ most.")
@options.define_option()
@options.moved_model_option()
@options.moved_capture_option()
@options.lookahead_option()
@options.json_option()
def diff(sides: tuple[str, ...], on: str | None, define: tuple[str, ...], model: str | None,
         capture: str | None, allow_lookahead: bool, as_json: bool) -> None:  # fmt: skip
    """Show what changed from A to B: their terms and definitions, and the rows of attention that differ.

    A and B are programs (.attn) or heads of runs, RUN:L2H3 or RUN L2H3. If one is, the texts are
    those of its run, and --on is read by its model; else texts are cut into words and marks.
    """
    from attn_dsl.eval.difference import difference, most_different
    from attn_dsl.eval.locate import stories_path
    from attn_dsl.eval.metrics import ious
    from attn_dsl.eval.texts import read_texts

    opened = [options.open_program(place, head, "diff", allow_lookahead, define)
              for place, head in read_sides(sides)]  # fmt: skip
    old, new = (program for program, _, _ in opened)
    heads = [(run, found) for _, run, found in opened if run is not None and found is not None]
    text, actual = None, None
    if on is None and (old.facts.holes or new.facts.holes):
        click.echo("attn-dsl: weights are holes (`?`), so that there are no rows to compare", err=True)
    elif heads:
        text, actual = read_head(*heads[0], on, model, capture, lambda texts: most_different(old, new, texts))
    elif on is not None:
        text = cut(on)
    else:
        texts = [cut(story).prefix(96) for story in read_texts(str(stories_path()))[:STORIES]]
        text = texts[most_different(old, new, texts)]
    changed, iou = difference(old, new, text), []
    if actual is not None and len({(run.info["key"]["capture"], x.name) for run, x in heads}) == 1:
        iou = [float(ious(actual.reshape(1, -1), x.reshape(1, -1))[0, 0]) for x in changed.matrices]
    if as_json:
        options.print_json(changed.to_json() | ({"iou": iou} if iou else {}))
        return
    from rich.text import Text

    screen = options.console()
    for line in str(changed).split("\n"):
        screen.print(Text(line, style=STYLES.get(line[:1], "")))
    if iou:
        screen.print(f"\nIoU with the head itself on this text: {iou[0]:.3f} before, {iou[1]:.3f} after.")


def read_sides(words: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """Return the place of each of two programs, and its head where the place is a run."""
    found: list[tuple[str, str | None]] = []
    left = list(words)
    while left:
        place = left.pop(0)
        run, _, head = place.rpartition(":")
        if run and (Path(run) / "run.json").is_file():
            found.append((run, head))
        else:
            found.append((place, left.pop(0) if left and Path(place).is_dir() else None))
    if len(found) != 2:
        raise InputError(f"name two programs to compare, each as FILE.attn, RUN:L2H3 or RUN L2H3, not "
                         f"{' '.join(words)}")  # fmt: skip
    return found
