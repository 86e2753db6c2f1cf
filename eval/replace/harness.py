"""The harness: tasks of lm-evaluation-harness, scored before and after heads are replaced."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attn_dsl.dsl.errors import InputError, WorkError, did_you_mean
from attn_dsl.eval.models import LoadedModel
from attn_dsl.eval.replace.tasks import TaskResult, not_resampled, paired, paired_perplexity

if TYPE_CHECKING:
    from attn_dsl.compiler.program import Program
    from attn_dsl.eval.replace.source import Head, Source

NAMES = {"lambada": "lambada_openai", "siqa": "social_iqa", "arc-easy": "arc_easy"}
"""What the literature calls tasks, and what the harness does."""


def run_harness(
    loaded: LoadedModel, heads: Mapping[Head, Source | Program], tasks: Sequence[str], seed: int,
    limit: int | None = None, tell: Callable[[str], None] | None = None,
) -> list[TaskResult]:  # fmt: skip
    """Score tasks of lm-evaluation-harness with the model as it is and with heads replaced.

    >>> run_harness(loaded, heads, ["piqa", "my_task.yaml"], seed=0)[0].before.mean
    0.62

    Args:
        tasks: names that the harness knows, or ``.yaml`` files that define tasks.
        limit: the most items of a task; all by default.
        tell: called with what is being done.

    Raises:
        InputError: the extra ``tasks`` is not installed, there is no such task, or the model is
            an encoder.
        WorkError: the harness failed, for instance since a data set cannot be had.
    """
    if not loaded.causal:
        raise InputError(f"{loaded.name} is an encoder; tasks are scored with causal models only")
    from attn_dsl.eval.replace.context import replace_heads

    say = tell or (lambda what: None)
    with _quiet():
        manager, names = _manager(tasks)
        model = _wrapped(loaded)
        say("tasks, model as it is")
        before = _evaluate(model, manager, names, limit)
        say("tasks, heads replaced")
        replaced = replace_heads(loaded.model, heads, tokenizer=loaded.tokenizer)
        with replaced if heads else nullcontext():
            after = _evaluate(model, manager, names, limit)
    found: list[TaskResult] = []
    for task in before["samples"]:
        found += _compare(task, before, after, seed)
    return found


def _manager(tasks: Sequence[str]) -> tuple[Any, list[str]]:
    """Find the tasks, those of files among them."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise InputError(
            f"--tasks {tasks[0]} needs lm-evaluation-harness ({error.name} is missing): "
            "run `pip install 'attn-dsl[tasks]'`, or give a .jsonl file of items"
        ) from None
    names, folders = [], []
    for task in tasks:
        if not task.endswith((".yaml", ".yml")):
            names.append(NAMES.get(task.lower(), task))
            continue
        path = Path(task).expanduser()
        names.append(_task_of(path, task))
        folders.append(str(path.resolve().parent))
    # the index of all the tasks that come with the harness takes a while to read
    manager = TaskManager(include_path=folders or None, include_defaults=len(folders) < len(names))
    for name in names:
        if name not in manager.all_tasks:
            near = did_you_mean(name, manager.all_tasks)
            raise InputError(
                f"--tasks: lm-evaluation-harness knows no task {name}; "
                f"{near or 'give a .jsonl file of items or a .yaml file of a task'}"
            )
    return manager, names


def _task_of(path: Path, spec: str) -> str:
    """Read the name of the task that a file defines."""
    import yaml

    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
        name = found["task"]
    except OSError as error:
        raise InputError(f"{spec}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{spec}: not a task of lm-evaluation-harness, which has a field `task` "
            f"({type(error).__name__})"
        ) from None
    return str(name)


def _wrapped(loaded: LoadedModel) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=8,
        max_length=loaded.max_positions, device=str(loaded.model.device),
    )  # fmt: skip


def _evaluate(model: Any, manager: Any, names: list[str], limit: int | None) -> dict[str, Any]:
    from lm_eval import simple_evaluate

    try:
        found = simple_evaluate(
            model=model, tasks=list(names), task_manager=manager, limit=limit, bootstrap_iters=0,
            log_samples=True,
        )  # fmt: skip
    except Exception as error:  # data sets fail in many unrelated ways
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WorkError(
            f"--tasks {','.join(names)}: lm-evaluation-harness failed: {first}; its data sets are "
            "downloaded from the hub when they are first used"
        ) from error
    assert found is not None
    return dict(found)


def _compare(
    task: str, before: Mapping[str, Any], after: Mapping[str, Any], seed: int
) -> list[TaskResult]:
    """Compare each metric of a task item by item."""
    first, second = (
        sorted(run["samples"][task], key=lambda s: (s["doc_id"], s.get("filter", "")))
        for run in (before, after)
    )
    found = []
    for key, value in sorted(before["results"][task].items()):
        metric = key.split(",")[0]
        chosen = key.partition(",")[2]
        if metric.endswith("_stderr") or not isinstance(value, int | float) or "," not in key:
            continue
        better = bool(before.get("higher_is_better", {}).get(task, {}).get(metric, True))
        pair = [
            [s.get(metric) for s in samples if s.get("filter", chosen) == chosen]
            for samples in (first, second)
        ]
        if not all(isinstance(x, int | float) for side in pair for x in side) or not pair[0]:
            count = len(pair[0])
            sides = [
                not_resampled(float(run["results"][task][key]), count) for run in (before, after)
            ]
            change = not_resampled(sides[1].mean - sides[0].mean, count)
            found.append(TaskResult(task, metric, sides[0], sides[1], change, better))
            continue
        arrays = [np.array(side, dtype=float) for side in pair]
        if metric == "perplexity":
            ones = np.ones(len(arrays[0]))
            found.append(paired_perplexity(task, metric, -arrays[0], -arrays[1], ones, seed))
        else:
            found.append(paired(task, metric, arrays[0], arrays[1], seed, better))
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the harness and its data sets print."""
    known = logging.root.manager.disable
    bars = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(known)
        if bars is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = bars
