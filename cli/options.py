"""What several commands share: options, tables and JSON on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attn_dsl.cli import completion
from attn_dsl.cli.terminal import Shown
from attn_dsl.dsl.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.text import Text

    from attn_dsl.compiler.program import Program
    from attn_dsl.eval.results import HeadResult
    from attn_dsl.eval.run import Run

STYLES = {"comment": "italic color(66)", "string": "color(64)", "number": "color(166)", "type": "color(131)",
          "word": "color(98)", "function": "color(32)", "call": "color(32)", "definition": "bold",
          "variable": "bold"}  # fmt: skip
"""How kinds of lexemes are shown; the colours are legible on white, black and dark grey."""
EVERY = 20.0
"""Seconds from one line of progress to the next where there is no terminal."""
FILE: dict[str, Any] = {"metavar": "FILE", "type": click.Path()}
DIR: dict[str, Any] = {"metavar": "DIR", "type": click.Path()}
HEADS: dict[str, Any] = {"metavar": "LIST", "shell_complete": completion.heads}
"""What options of files, directories and heads have in common: shells complete them."""
text_option = partial(
    click.option, "--text", metavar="SPEC", multiple=True, type=click.Path(),
    callback=lambda ctx, param, given: given[0] if len(given) == 1 else given or None,
    help="Text to read: .txt (paragraphs), .jsonl (field text), .md or source code, a directory or "
    '"pattern" of these, or hf:dataset[:split[:column]]; can be given more than once.')  # fmt: skip
on_option = partial(click.option, "--on", metavar="TEXT")
capture_option = partial(click.option, "--capture", help="Attention captured before, instead of MODEL.",
                         **DIR)  # fmt: skip
max_tokens_option = partial(click.option, "--max-tokens", metavar="N", type=click.IntRange(2), default=128,
                            show_default=True,
                            help="Longer texts are cut into windows of so many tokens.")  # fmt: skip
max_texts_option = partial(click.option, "--max-texts", metavar="N", type=click.IntRange(1), default=300,
                           show_default=True,
                           help="Read at most so many windows, first windows first.")  # fmt: skip
lookahead_option = partial(click.option, "--allow-lookahead", is_flag=True, help="Let causal programs use "
                           "features that read the whole text; they are marked.")  # fmt: skip
define_option = partial(click.option, "--define", metavar="FILE", multiple=True,
                        help="A file of definitions that programs may use without naming it; can be given "
                        "more than once.")  # fmt: skip
device_option = partial(click.option, "--device", metavar="NAME", default="cpu", show_default=True,
                        help="Where the model runs, as in cuda.")  # fmt: skip
dtype_option = partial(
    click.option, "--dtype", metavar="NAME", default="float32", show_default=True,
    help="Of the model's weights and activations: float32, bfloat16 or float16.")  # fmt: skip
json_option = partial(click.option, "--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
moved_model_option = partial(click.option, "--model", metavar="MODEL",
                             help="The run's model, if it has been moved.")  # fmt: skip
moved_capture_option = partial(click.option, "--capture", help="The run's attention, if it has been moved.",
                               **DIR)  # fmt: skip
seed_option = partial(click.option, "--seed", metavar="N", type=click.IntRange(0), default=0,
                      show_default=True,
                      help="Decides everything that is drawn: the split, samples, resampling.")  # fmt: skip


def console(stderr: bool = False) -> Console:
    """Return a rich console that keeps to the width of the terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    screen = Console(file=getattr(stream, "stream", stream), highlight=False, soft_wrap=False)
    screen.push_render_hook(Shown())  # type: ignore[arg-type]
    return screen


def print_program(source: str) -> None:
    """Print a program in colours, where there are any."""
    from rich.text import Text

    from attn_dsl.dsl.highlighting import marked

    text = Text.assemble(*((part, STYLES.get(kind, "")) for kind, part in marked(source)))
    console().print(text, overflow="fold")


def open_program(place: str, head: str | None, command: str, allow_lookahead: bool,
                 define: tuple[str, ...]) -> tuple[Program, Run | None, HeadResult | None]:  # fmt: skip
    """Open a file of a program, or a run and its program of a head.

    Raises:
        InputError: there is none, or it is a run and no head is named.
    """
    from attn_dsl.compiler.program import load

    if head is not None:
        from attn_dsl.eval.run import Run

        run = Run.open(place)
        found = run[head]
        return found.program, run, found.result
    if (Path(place) / "run.json").is_file():
        raise InputError(f"{place}: name a head of the run too, as in `attn-dsl {command} {place} L5H1`")
    return load(place, allow_lookahead=allow_lookahead, define=define), None, None


def print_json(value: Any, **settings: Any) -> None:
    """Print JSON, with the settings of ``json.dumps``."""
    import json

    click.echo(json.dumps(value, indent=1, **settings))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, left: Collection[str] = (),
                cut: str | None = None, gap: int = 2) -> None:  # fmt: skip
    """Print a table, its columns aligned to the right; what is too wide becomes several tables.

    Args:
        left: the columns of text, which are aligned to the left.
        cut: a column of text that has the room that is left, and is cut off there.
        gap: spaces between columns.
    """
    from rich.table import Table
    from rich.text import Text

    padding = (0, gap, 0, 0)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=padding, expand=cut is not None)
    for name in columns:
        if name == cut:
            table.add_column(name, overflow="ellipsis", no_wrap=True, ratio=1)
        elif name in left:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    kept = list(rows)
    for row in kept:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    screen = console()
    needed = screen.measure(table, options=screen.options.update(max_width=1000)).minimum
    names = [at for at, name in enumerate(columns) if name in left]
    others = [at for at in range(len(columns)) if at not in names]
    if needed <= screen.width or len(others) < 2 or cut is not None:
        screen.print(table)
        return
    half = (len(others) + 1) // 2
    for part in (others[:half], others[half:]):
        chosen = sorted(names[:2] + part)
        some = [[row[at] for at in chosen] for row in kept]
        print_table([columns[at] for at in chosen], some, left=left, gap=gap)


def progress_bar(screen: Console) -> Progress:
    """Return a bar that shows what is done, how much of it, and for how long; then it goes.

    Without a terminal it is a line at each new stage, and every ``EVERY`` seconds.
    """
    from rich import progress as rich

    class Shown(rich.Progress):
        told = "", 0.0

        def update(self, task_id: TaskID, **fields: Any) -> None:
            super().update(task_id, **fields)
            task, now = self.tasks[task_id], time.monotonic()
            if screen.is_terminal or (self.told[0] == task.description and now < self.told[1] + EVERY):
                return
            self.told = task.description, now
            count = f" {task.completed:g} of {task.total:g}" if task.total else ""
            left = task.time_remaining
            more = f", about {left / 60:.0f} min to go" if left and left > 60 else ""
            print(f"{task.description}{count}, {task.elapsed or 0:.0f} s{more}", file=screen.file)

    return Shown(rich.TextColumn("{task.description:<24}"), rich.BarColumn(bar_width=None),
                 rich.MofNCompleteColumn(), rich.TimeElapsedColumn(), rich.TimeRemainingColumn(),
                 console=screen, transient=True, speed_estimate_period=600)  # fmt: skip


def name_list(text: str | None) -> tuple[str, ...]:
    """Read names that are separated by commas.

    >>> name_list("iou, damage")
    ('iou', 'damage')
    """
    return tuple(name for part in (text or "").split(",") if (name := part.strip()))


def quiet_libraries() -> None:
    """Keep other packages' warnings and progress bars off the terminal."""
    import logging
    import os
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="transformers")
    warnings.showwarning = lambda message, *_, **__: click.echo(f"warning: {message}", err=True)
