"""`attn-dsl show`: the matrix of a program on a text, in the terminal or as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from attn_dsl.cli import options
from attn_dsl.dsl.errors import InputError

SAMPLE = 'Tom and Mia went to the park. "Look, a dog!" said Tom. Mia saw the dog and smiled at Tom.'
SHADES = " .:-=+*#%@"
WIDE = 30
"""Texts of up to so many tokens are drawn as a matrix; of longer ones, the strongest keys."""


@click.command()
@click.argument("program")
@click.option("--text", metavar="TEXT", help="The text itself; a sample by default.")
@click.option("--tokenizer", metavar="MODEL", help="Cut the text as this model does.")
@click.option("--html", metavar="FILE", help="Write a page with the matrix instead.")
@options.lookahead_option()
def show(
    program: str, text: str | None, tokenizer: str | None, html: str | None, allow_lookahead: bool
) -> None:
    """Show the attention matrix of PROGRAM on a text.

    Without --tokenizer, the text is cut into words and punctuation marks.
    """
    from attn_dsl.compiler.program import load

    loaded = load(program, allow_lookahead=allow_lookahead)
    tokens = cut(SAMPLE if text is None else text, tokenizer)
    if not len(tokens):
        raise InputError("--text is empty; give at least one word")
    matrix = loaded(tokens)
    if html is not None:
        from attn_dsl.eval.files import write
        from attn_dsl.eval.report_text import program_page

        write(Path(html), program_page(loaded, tokens.strings, matrix))
        click.echo(html)
        return
    screen = options.console()
    screen.print(loaded.source, markup=False, style="cyan", overflow="fold")
    facts = loaded.facts
    ahead = f", looks ahead by {', '.join(facts.lookahead)}" if facts.lookahead else ""
    screen.print(f"{facts.nodes} nodes, {facts.cost} operations per pair{ahead}\n")
    for line in draw(tokens.strings, matrix):
        screen.print(line, markup=False, overflow="crop", no_wrap=True)


def cut(text: str, tokenizer: str | None) -> Any:
    """Cut a text into tokens, as a model does or into words and marks."""
    if tokenizer is None:
        from attn_dsl.dsl.tokens import Tokens

        return Tokens.from_text(text)
    options.quiet_libraries()
    from attn_dsl.eval.models import load_tokenizer
    from attn_dsl.eval.vocabulary import Vocabulary

    windows = Vocabulary(load_tokenizer(tokenizer)).encode(text, max_tokens=2048)
    return windows[0].tokens


def draw(strings: tuple[str, ...], matrix: Any) -> list[str]:
    """Draw a matrix with characters: dark is strong; long texts by their strongest keys."""
    from attn_dsl.eval.pictures import visible

    names = [visible(s) for s in strings]
    wide = max(len(name) for name in names)
    if len(names) <= WIDE:
        lines = ["each row is a query, each column a key; dark is strong, @ is all weight"]
        lines.append(f"{'':>{wide}}    " + "".join(f"{i % 100:>2}" for i in range(len(names))))
    else:
        lines = ["each query with the keys that it attends to most"]
    for q, name in enumerate(names):
        if len(names) <= WIDE:
            levels = (round(float(w) ** 0.5 * (len(SHADES) - 1)) for w in matrix[q])
            lines.append(f"{name:>{wide}} {q:>2} " + "".join(f" {SHADES[x]}" for x in levels))
            continue
        best = sorted(range(len(names)), key=lambda k: (-matrix[q, k], k))[:4]
        keys = "  ".join(f"{names[k]}@{k} {matrix[q, k]:.2f}" for k in best if matrix[q, k] >= 0.01)
        lines.append(f"{q:>4} {name:>{wide}}  {keys}")
    return lines
