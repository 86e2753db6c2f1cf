"""`attn-dsl show`: the matrix of a program on a text, in the terminal or as a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attn_dsl.cli import completion, options
from attn_dsl.dsl.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from attn_dsl.dsl.tokens import Tokens
    from attn_dsl.eval.results import HeadResult
    from attn_dsl.eval.run import Run

SAMPLE = 'Tom and Mia went to the park. "Look, a dog!" said Tom. Mia saw the dog and smiled at Tom.'
SHADES = " .:-=+*#%@"
WIDE = 30
"""Texts of up to so many tokens are drawn as a matrix; of longer ones, the strongest keys."""


@click.command()
@click.argument("program", shell_complete=completion.programs)
@click.argument("head", shell_complete=completion.heads, required=False)
@options.on_option(help="The text itself; by default a sample, of a run one of its test texts.")
@click.option("--tokenizer", metavar="MODEL", help="Cut the text of a PROGRAM as this model does.")
@click.option("--html", **options.FILE, help="Write a page with the matrix instead.")
@options.define_option()
@options.moved_model_option()
@options.moved_capture_option()
@options.lookahead_option()
def show(program: str, head: str | None, on: str | None, tokenizer: str | None, html: str | None,
         define: tuple[str, ...], model: str | None, capture: str | None,
         allow_lookahead: bool) -> None:  # fmt: skip
    """Show the attention matrix of PROGRAM (.attn) on a text.

    With HEAD, as in L5H1, PROGRAM is a run directory: show the run's program of that head, and below
    it what the head itself does. With --on, the run's model reads the text.

    Without --tokenizer, the text of a PROGRAM is cut into words and punctuation marks.
    """
    loaded, run, found = options.open_program(program, head, "show", allow_lookahead, define)
    actual, more = None, ""
    if run is not None and found is not None:
        if tokenizer is not None:
            raise InputError(f"--tokenizer is for a program; {program} has the tokenizer of its model")
        tokens, actual = read_head(run, found, on, model, capture)
        drawn = WIDE if on is None and loaded.causal else len(tokens)
        outputs = "" if run.lacking else f", output R² {found.test['output_r2'].with_interval}"
        more = f"\nIoU {found.test['iou'].with_interval}{outputs} on {len(found.test_ious)} test texts"
    else:
        tokens = cut(SAMPLE if on is None else on, tokenizer)
        drawn = len(tokens)
    matrix = loaded(tokens)
    if html is not None:
        from attn_dsl.eval.files import write
        from attn_dsl.eval.pictures import program_page

        matrices = {loaded.name: matrix} | ({} if actual is None else {"the head": actual})
        write(Path(html), program_page(loaded, tokens, matrices))
        click.echo(html)
        return
    screen = options.console()
    options.print_program(loaded.source)
    facts = loaded.facts
    ahead = f", looks ahead by {', '.join(facts.lookahead)}" if facts.lookahead else ""
    screen.print(f"{facts.nodes} nodes, {facts.cost} operations per pair{ahead}{more}\n", markup=False)
    for line in draw(tokens.strings[:drawn], matrix, screen.width):
        screen.print(line, markup=False, overflow="crop", no_wrap=True)
    if actual is not None:
        from attn_dsl.eval.metrics import ious

        iou = ious(actual.reshape(1, -1), matrix.reshape(1, -1))[0, 0]
        screen.print(f"\nThe head itself on this text, IoU {iou:.3f}:")
        for line in draw(tokens.strings[:drawn], actual, screen.width)[1:]:
            screen.print(line, markup=False, overflow="crop", no_wrap=True)


def read_head(run: Run, found: HeadResult, on: str | None, model: str | None, capture: str | None,
              choose: Callable[[list[Tokens]], int] | None = None) -> tuple[Tokens, np.ndarray]:  # fmt: skip
    """Return a text and the attention of a head on it.

    Without a text it is the test text that ``choose`` picks; by default, that on which the IoU of
    the run's program is the median.

    Raises:
        InputError: attention or model of the run are gone, or the text is too short or too long.
    """
    options.quiet_libraries()
    attention = run.open_capture(capture)
    place = found.layer, found.head
    if on is None:
        texts = attention.split(run.info["key"]["seed"])["test"]
        if choose is None:
            order = sorted(range(len(found.test_ious)), key=found.test_ious.__getitem__)
            text = texts[order[len(order) // 2]]
        else:
            text = texts[choose([attention.tokens(i) for i in texts])]
        return attention.tokens(text), attention.matrix(text, *place)
    from attn_dsl.eval.capture_write import TextReader
    from attn_dsl.eval.replace.replaced_model import open_model

    loaded = open_model(run, attention, model)
    count = len(loaded.ids_of(on, "--on"))
    read = TextReader.of(loaded).read(on, count)
    return read.tokens(0), read.matrix(0, *place)


def cut(text: str, tokenizer: str | None = None) -> Tokens:
    """Cut a text into tokens, as a model does or into words and marks."""
    if tokenizer is None:
        from attn_dsl.dsl.tokens import Tokens

        if not text.strip():
            raise InputError("--on is empty; give at least one word")
        return Tokens.from_text(text)
    options.quiet_libraries()
    from attn_dsl.eval.models import load_tokenizer
    from attn_dsl.eval.tokenizer import Vocabulary

    windows = Vocabulary(load_tokenizer(tokenizer)).encode(text, max_tokens=2048)
    if not windows or not len(windows[0].tokens):
        raise InputError("--on is empty; give at least one word")
    return windows[0].tokens


def draw(strings: tuple[str, ...], matrix: Any, columns: int = 80) -> list[str]:
    """Draw a matrix with characters: dark is strong; long texts by their strongest keys."""
    from attn_dsl.eval.pictures import strongest, visible

    names = [visible(s) for s in strings]
    wide = max(len(name) for name in names)
    whole = len(names) <= min(WIDE, (columns - wide - 4) // 2)
    if whole:
        lines = ["each row is a query, each column a key; dark is strong, @ is all weight"]
        lines.append(f"{'':>{wide}}    " + "".join(f"{i % 100:>2}" for i in range(len(names))))
    else:
        lines = ["each query with the keys that it attends to most"]
    for q, name in enumerate(names):
        if whole:
            levels = (round(float(w) ** 0.5 * (len(SHADES) - 1)) for w in matrix[q])
            lines.append(f"{name:>{wide}} {q:>2} " + "".join(f" {SHADES[x]}" for x in levels))
            continue
        lines.append(f"{q:>4} {name:>{wide}}  {strongest(names, matrix[q], columns // 20)}")
    return lines
