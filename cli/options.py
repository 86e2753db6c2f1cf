"""Options and small helpers that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from attn_dsl.dsl.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from attn_dsl.eval.capture import Capture

F = TypeVar("F", bound=Callable[..., Any])


def text_option(required: bool = False) -> Callable[[F], F]:
    """`--text`, the corpus."""
    return click.option(
        "--text", metavar="FILE", required=required,
        help="Text to read: .txt (paragraphs), .jsonl (field text) or hf:dataset[:split[:column]].",
    )  # fmt: skip


def max_tokens_option() -> Callable[[F], F]:
    """`--max-tokens`, the window."""
    return click.option(
        "--max-tokens", type=click.IntRange(2), default=128, show_default=True,
        help="Longer texts are cut into windows of so many tokens.",
    )  # fmt: skip


def max_texts_option() -> Callable[[F], F]:
    """`--max-texts`, the sample."""
    return click.option(
        "--max-texts", type=click.IntRange(1), default=300, show_default=True,
        help="Read at most so many windows, first windows first.",
    )  # fmt: skip


def lookahead_option() -> Callable[[F], F]:
    """`--allow-lookahead`."""
    return click.option(
        "--allow-lookahead", is_flag=True,
        help="Let causal programs use features that read the whole text; they are marked.",
    )  # fmt: skip


def json_option() -> Callable[[F], F]:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def seed_option() -> Callable[[F], F]:
    """`--seed`."""
    return click.option(
        "--seed", type=click.IntRange(0), default=0, show_default=True,
        help="Decides everything that is drawn: the split, samples, resampling.",
    )  # fmt: skip


def console(stderr: bool = False) -> Console:
    """Return a rich console that keeps to the width of the terminal."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=False)


def quiet_libraries() -> None:
    """Keep other packages' warnings and progress bars off the terminal."""
    import logging
    import os
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="transformers")


def attention_of(
    capture: str | None, model: str | None, text: str | None, max_tokens: int, max_texts: int
) -> tuple[Capture, Any]:
    """Open a capture, or make one for this command alone, in a folder that goes when it ends.

    Returns:
        The capture, and what keeps its folder alive.
    """
    import tempfile

    from attn_dsl.eval.capture import Capture

    if capture is not None:
        if model is not None or text is not None:
            raise InputError("give either --capture, or MODEL and --text, not both")
        return Capture.open(capture), None
    if model is None or text is None:
        raise InputError("name what to score against: --capture DIR, or MODEL and --text FILE")
    from attn_dsl.eval.capture_write import write_capture
    from attn_dsl.eval.texts import read_texts

    texts = read_texts(text)
    folder = tempfile.TemporaryDirectory(prefix="attn-dsl-")
    made = write_capture(
        model, texts, f"{folder.name}/capture", max_tokens=max_tokens, max_texts=max_texts
    )
    return made, folder
