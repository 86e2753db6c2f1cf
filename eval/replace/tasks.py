"""Tasks of lm-evaluation-harness, scored before and after heads are replaced."""

import logging
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from attn_dsl.dsl.errors import InputError, WorkError, did_you_mean
from attn_dsl.eval.files import first_line
from attn_dsl.eval.heads import Pair
from attn_dsl.eval.metrics import Estimate, bootstrap
from attn_dsl.eval.models import LoadedModel
from attn_dsl.eval.replace.context import Standing, replace_heads

NAMES = {"lambada": "lambada_openai", "siqa": "social_iqa", "arc-easy": "arc_easy"}
"""What the literature calls tasks, and what the harness does."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A task's metric before and after heads are replaced, on the same items."""

    task: str
    metric: str
    before: Estimate
    after: Estimate
    # after minus before, with an interval over items drawn in pairs; of a perplexity the ratio, as a growth
    difference: Estimate
    higher_is_better: bool = True  # which way is good


def run_tasks(loaded: LoadedModel, choices: Sequence[Mapping[Pair, Standing]], tasks: Sequence[str],
              seed: int, limit: int | None = None) -> list[list[TaskResult]]:  # fmt: skip
    """Score tasks with the model as it is and with each choice of heads replaced.

    Args:
        choices: what stands in the place of which heads.
        tasks: names that the harness knows, or ``.yaml`` files that define tasks.
        limit: the most items of a task; all by default.

    Raises:
        InputError: lm-eval is not installed, there is no such task, or the model is an encoder.
        WorkError: the harness failed, for instance since a data set cannot be had.
    """
    if not loaded.causal:
        raise InputError(f"{loaded.name} is an encoder; tasks are scored with causal models only")
    with _quiet():
        manager, names = _manager(tasks)
        before = _evaluate(loaded, manager, names, limit)
        found = []
        for heads in choices:
            with replace_heads(loaded, heads):
                found.append(_evaluate(loaded, manager, names, limit))
    return [[_compare(task, key, before, after, seed) for task in before["samples"]
                for key, value in sorted(before["results"][task].items()) if isinstance(value, int | float)
                and "," in key and "_stderr," not in key] for after in found]  # fmt: skip


def _manager(tasks: Sequence[str]) -> tuple[Any, list[str]]:
    """Find the tasks, those of files among them."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise InputError(f"--tasks {tasks[0]} needs lm-evaluation-harness ({error.name} is missing): "
                         "run `pip install 'attn-dsl[tasks]'`") from None  # fmt: skip
    files = [task for task in tasks if task.endswith((".yaml", ".yml"))]
    names = [_task_of(task) if task in files else NAMES.get(task.lower(), task) for task in tasks]
    folders = [str(Path(file).expanduser().resolve().parent) for file in files]
    # the index of all the tasks that come with the harness takes a while to read
    manager = TaskManager(include_path=folders or None, include_defaults=len(files) < len(tasks))
    for name in names:
        if name not in manager.all_tasks:
            near = did_you_mean(name, manager.all_tasks) or "give a .yaml file that defines it"
            raise InputError(f"--tasks: lm-evaluation-harness knows no task {name}; {near}")
    return manager, names


def _task_of(file: str) -> str:
    """Read the name of the task that a file defines."""
    try:
        content = Path(file).expanduser().read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    found = re.search(r"^task:\s*['\"]?([^\s'\"#]+)", content, re.MULTILINE)
    if found is None:
        raise InputError(f"{file}: not a task of lm-evaluation-harness, which has a field `task`")
    return found[1]


def _evaluate(loaded: LoadedModel, manager: Any, names: list[str], limit: int | None) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=8,
                 max_length=loaded.max_positions, device=str(loaded.model.device))  # fmt: skip
    try:
        return dict(simple_evaluate(model=model, tasks=list(names), task_manager=manager, limit=limit,
                        bootstrap_iters=0, log_samples=True))  # fmt: skip
    except Exception as error:  # data sets fail in many unrelated ways
        raise WorkError(
            f"--tasks {','.join(names)}: lm-evaluation-harness failed: {first_line(error)}; its "
            "data sets are downloaded from the hub when they are first used") from error  # fmt: skip


def _compare(task: str, key: str, before: Mapping[str, Any], after: Mapping[str, Any],
             seed: int) -> TaskResult:  # fmt: skip
    """Compare one metric of a task item by item; without an interval if items have no number."""
    metric, _, chosen = key.partition(",")
    better = bool(before.get("higher_is_better", {}).get(task, {}).get(metric, True))
    values = [[sample.get(metric) for sample in sorted(run["samples"][task], key=lambda s: s["doc_id"])
                  if sample.get("filter", chosen) == chosen] for run in (before, after)]  # fmt: skip
    if not values[0] or not all(isinstance(x, int | float) for side in values for x in side):
        figures = [float(run["results"][task][key]) for run in (before, after)]
        figures.append(figures[1] - figures[0])
        one, two, change = (Estimate(x, math.nan, math.nan, len(values[0])) for x in figures)
        return TaskResult(task, metric, one, two, change, better)
    first, second = (np.array(side, dtype=float) for side in values)
    mean = change_of = partial(bootstrap, seed=seed)
    if metric == "perplexity":  # items hold log-probabilities
        first, second = -first, -second
        mean = partial(bootstrap, seed=seed, transform=np.exp)
        change_of = partial(bootstrap, seed=seed, transform=np.expm1)
    return TaskResult(task, metric, mean(first), mean(second), change_of(second - first), better)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the harness and its data sets print."""
    known = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere:
            warnings.simplefilter("ignore")
            with redirect_stderr(nowhere):
                yield
    finally:
        logging.disable(known)
