"""What is asked of a replacement: the options of `attn-dsl replace`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked of a replacement.

    Attributes:
        fraction: the share of heads to replace; None measures the whole curve.
        heads: heads chosen by hand, as in ``L2H3,L4``: all of them are replaced, or with a
            ``fraction`` the first of them.
        orders: the orders in which heads are replaced.
        tune: whether to tune the weights of all replaced heads through the model.
        tune_text: texts to tune on beside the run's fit texts.
        tune_texts: the most windows of those.
        tasks: names and files of tasks.
        task_limit: the most items of a task of the harness.
        text: the user's own text, instead of the run's test texts.
        max_tokens, max_texts: how it is cut.
        out: the directory for the results; the run's own by default.
        overwrite: replace results of other settings.
        seed: decides the resampling and the order of batches in tuning.
    """

    fraction: float | None = None
    heads: str | None = None
    orders: tuple[str, ...] = ("damage",)
    tune: bool = False
    tune_text: str | None = None
    tune_texts: int = 600
    tasks: tuple[str, ...] = ()
    task_limit: int | None = None
    text: str | None = None
    max_tokens: int | None = None
    max_texts: int = 300
    out: Path | None = None
    overwrite: bool = False
    seed: int = 0
