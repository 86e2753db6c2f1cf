"""What several commands share: options, tables and JSON on the terminal."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.text import Text

EVERY = 20.0
"""Seconds from one line of progress to the next where there is no terminal."""
text_option = partial(
    click.option, "--text", metavar="FILE",
    help="Text to read: .txt (paragraphs), .jsonl (field text) or hf:dataset[:split[:column]].",
)  # fmt: skip
capture_option = partial(
    click.option, "--capture", metavar="DIR", help="Attention captured before, instead of MODEL."
)
max_tokens_option = partial(
    click.option, "--max-tokens", type=click.IntRange(2), default=128, show_default=True,
    help="Longer texts are cut into windows of so many tokens.",
)  # fmt: skip
max_texts_option = partial(
    click.option, "--max-texts", type=click.IntRange(1), default=300, show_default=True,
    help="Read at most so many windows, first windows first.",
)  # fmt: skip
lookahead_option = partial(
    click.option, "--allow-lookahead", is_flag=True,
    help="Let causal programs use features that read the whole text; they are marked.",
)  # fmt: skip
define_option = partial(
    click.option, "--define", metavar="FILE", multiple=True,
    help="A file of definitions that programs may use without naming it; can be given more than once.",
)  # fmt: skip
device_option = partial(
    click.option, "--device", metavar="NAME", default="cpu", show_default=True,
    help="Where the model runs, as in cuda.",
)  # fmt: skip
dtype_option = partial(
    click.option, "--dtype", metavar="NAME", default="float32", show_default=True,
    help="Of the model's weights and activations: float32, bfloat16 or float16.",
)  # fmt: skip
json_option = partial(
    click.option, "--json", "as_json", is_flag=True, help="Print JSON instead of a table."
)
moved_model_option = partial(
    click.option, "--model", metavar="MODEL", help="The run's model, if it has been moved."
)
moved_capture_option = partial(
    click.option, "--capture", metavar="DIR", help="The run's attention, if it has been moved."
)
seed_option = partial(
    click.option, "--seed", type=click.IntRange(0), default=0, show_default=True,
    help="Decides everything that is drawn: the split, samples, resampling.",
)  # fmt: skip


def console(stderr: bool = False) -> Console:
    """Return a rich console that keeps to the width of the terminal."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=False)


def print_json(value: Any, **settings: Any) -> None:
    """Print JSON, with the settings of ``json.dumps``."""
    import json

    click.echo(json.dumps(value, indent=1, **settings))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *,
    left: Collection[str] = (), cut: str | None = None, gap: int = 2,
) -> None:  # fmt: skip
    """Print a table, its columns aligned to the right.

    Args:
        left: the columns of text, which are aligned to the left.
        cut: a column of text that has the room that is left, and is cut off there.
        gap: spaces between columns.
    """
    from rich.table import Table
    from rich.text import Text

    padding = (0, gap, 0, 0)
    table = Table(
        box=None, pad_edge=False, header_style="bold", padding=padding, expand=cut is not None
    )
    for name in columns:
        if name == cut:
            table.add_column(name, overflow="ellipsis", no_wrap=True, ratio=1)
        elif name in left:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    console().print(table)


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
            if screen.is_terminal or (
                self.told[0] == task.description and now < self.told[1] + EVERY
            ):
                return
            self.told = task.description, now
            count = f" {task.completed:g} of {task.total:g}" if task.total else ""
            left = task.time_remaining
            more = f", about {left / 60:.0f} min to go" if left and left > 60 else ""
            print(f"{task.description}{count}, {task.elapsed or 0:.0f} s{more}", file=screen.file)

    return Shown(
        rich.TextColumn("{task.description:<24}"), rich.BarColumn(bar_width=None),
        rich.MofNCompleteColumn(), rich.TimeElapsedColumn(), rich.TimeRemainingColumn(),
        console=screen, transient=True, speed_estimate_period=600,
    )  # fmt: skip


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
