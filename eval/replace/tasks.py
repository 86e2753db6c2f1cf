"""Tasks: multiple-choice and continuation items of a local file, scored before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from attn_dsl.dsl.errors import InputError, did_you_mean
from attn_dsl.eval.metrics import Estimate, bootstrap
from attn_dsl.eval.models import LoadedModel
from attn_dsl.eval.replace.context import Standing, replace_heads
from attn_dsl.eval.replace.measure import ratio_of_sums
from attn_dsl.eval.replace.predictions import Batch, batches, log_probabilities, refuse_long
from attn_dsl.eval.replace.source import Head

EXAMPLES = (
    '{"context": "The cat sat on the", "choices": [" mat", " moon"], "answer": 0} or '
    '{"context": "Lily had a red", "continuation": " ball"}'
)
FIELDS = ("context", "choices", "answer", "continuation")


class Item(NamedTuple):
    """One item of a task file; of a continuation task with the continuation as its only choice."""

    context: str
    choices: tuple[str, ...]
    answer: int
    place: str


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A task's metric before and after heads are replaced, on the same items.

    Attributes:
        difference: after minus before, with an interval over items drawn in pairs; of a
            perplexity the ratio, as a growth.
        higher_is_better: which way is good.
    """

    task: str
    metric: str
    before: Estimate
    after: Estimate
    difference: Estimate
    higher_is_better: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        return asdict(self)


def read_items(file: str | Path) -> list[Item]:
    """Read a task file: JSONL of ``{context, choices, answer}`` or ``{context, continuation}``.

    ``answer`` is the number of the right choice, counted from 0.

    Raises:
        InputError: the file is missing or empty, or a line is no item; all that is wrong with
            the first such line is said.
    """
    try:
        content = Path(file).expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 at byte {error.start}; convert it") from None
    lines = enumerate(content.split("\n"), 1)
    items = [_item(line, f"{file}:{number}") for number, line in lines if line.strip()]
    if not items:
        raise InputError(f"{file} holds no items; a line is like {EXAMPLES}")
    return items


def _item(line: str, place: str) -> Item:
    try:
        found = json.loads(line)
        why = "" if isinstance(found, dict) else "a JSON object was expected"
    except json.JSONDecodeError as error:
        why = f"not JSON ({error.msg} at column {error.colno})"
    if why:
        raise InputError(f"{place}: {why}; a line is like {EXAMPLES}")
    context, continuation = found.get("context"), found.get("continuation")
    choices, answer = found.get("choices"), found.get("answer")
    wrong = [
        f"there is no field `{name}` ({did_you_mean(name, FIELDS) or 'leave it out'})"
        for name in found
        if name not in FIELDS
    ]
    if not isinstance(context, str):
        wrong.append("`context` must be a string")
    if (continuation is None) == (choices is None):
        wrong.append("give either `choices` with `answer`, or `continuation`")
    elif choices is None:
        choices, answer = [continuation], 0
        if not isinstance(continuation, str) or not continuation.strip():
            wrong.append("`continuation` must be a string that is not blank")
    elif not isinstance(choices, list) or len(choices) < 2 or not all(map(_is_text, choices)):
        wrong.append("`choices` must be a list of two or more strings, none empty")
    elif not isinstance(answer, int) or not 0 <= answer < len(choices):
        wrong.append(f"`answer` must be a number from 0 to {len(choices) - 1}, not {answer!r}")
    if wrong:
        raise InputError(f"{place}: {'; '.join(wrong)}")
    return Item(context, tuple(choices), answer, place)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def run_items(
    loaded: LoadedModel, heads: Mapping[Head, Standing], file: str | Path, seed: int
) -> list[TaskResult]:
    """Score the items of a local file with the model as it is and with heads replaced.

    >>> for result in run_items(loaded, {(5, 1): program}, "items.jsonl", seed=0):
    ...     print(result.metric, result.before.mean, result.after.mean)
    accuracy 0.71 0.66
    accuracy by length 0.74 0.7

    Of multiple-choice items the choice with the highest summed log-probability is taken;
    ``accuracy by length`` divides it by the choice's characters first. A continuation is right
    if each of its tokens is the most probable one, as in LAMBADA (Paperno et al. 2016); its
    perplexity is by token.

    Raises:
        InputError: the file is no task file, an item is longer than the model's context, or the
            model is an encoder.
    """
    if not loaded.causal:
        raise InputError(
            f"{loaded.name} is an encoder: it gives no probability to a continuation, so "
            "tasks cannot be scored with it"
        )
    items = read_items(file)
    encoded = [_encode(loaded, item, choice) for item in items for choice in item.choices]
    places = [range(first, len(ids)) for ids, first in encoded]
    work = batches(loaded, [ids for ids, _ in encoded], places, size=16)
    replaced = replace_heads(loaded, heads)
    before = _scores(loaded, work, len(encoded))
    with replaced if heads else nullcontext():
        after = _scores(loaded, work, len(encoded))
    return _results(Path(file).stem, items, before, after, np.array(list(map(len, places))), seed)


def _encode(loaded: LoadedModel, item: Item, choice: str) -> tuple[list[int], int]:
    """Tokenise context and choice as running text; return the ids and where the choice begins."""
    lead = item.context.rstrip()
    tail = item.context[len(lead) :] + choice
    whole, context = (_ids(loaded.tokenizer, text) for text in (lead + tail, lead))
    first = min(len(context), len(whole) - 1)
    if not first:
        raise InputError(
            f"{item.place}: the context is empty, and the tokenizer adds no token before a "
            "text; give some context"
        )
    refuse_long(loaded, len(whole), f"{item.place}: context and continuation together")
    return whole, first


def _ids(tokenizer: Any, text: str) -> list[int]:
    """Tokenise a text, without the end-of-text token that a tokenizer may add."""
    ids: list[int] = tokenizer(text).input_ids
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def _scores(loaded: LoadedModel, work: Sequence[Batch], count: int) -> np.ndarray:
    """Return per choice its log-probability, and whether each token is the most probable one."""
    out = np.zeros((count, 2))
    with torch.inference_mode():
        for batch in work:
            logs = log_probabilities(loaded, batch)
            chosen = logs.gather(-1, batch.targets[:, None])[:, 0].double().split(batch.counts)
            greedy = (logs.argmax(-1) == batch.targets).split(batch.counts)
            for text, values, hits in zip(batch.texts, chosen, greedy, strict=True):
                out[text] = float(values.sum()), bool(hits.all())
    return out


def _results(
    name: str, items: Sequence[Item], before: np.ndarray, after: np.ndarray, tokens: np.ndarray,
    seed: int,
) -> list[TaskResult]:  # fmt: skip
    """Compare the scores of all choices, item after item."""
    ends = np.cumsum([len(item.choices) for item in items])
    rows = [(i, slice(end - len(i.choices), end)) for i, end in zip(items, ends, strict=True)]
    choices = [(item, at) for item, at in rows if len(item.choices) > 1]
    single = [at.start for item, at in rows if len(item.choices) == 1]
    found: list[TaskResult] = []
    if choices:
        for metric, by_length in (("accuracy", False), ("accuracy by length", True)):
            right = [
                np.array([_right(item, scores[at, 0], by_length) for item, at in choices])
                for scores in (before, after)
            ]
            found.append(paired(name, metric, right[0], right[1], seed))
    if single:
        exact = before[single, 1], after[single, 1]
        found.append(paired(name, "exact continuation", *exact, seed))
        losses = -before[single, 0], -after[single, 0]
        found.append(paired_perplexity(name, "perplexity", *losses, tokens[single], seed))
    return found


def _right(item: Item, scores: np.ndarray, by_length: bool) -> float:
    """Say whether the right choice is the most probable, as 0 or 1."""
    lengths = [len(choice) if by_length else 1 for choice in item.choices]
    return float(int(np.argmax(scores / lengths)) == item.answer)


def paired(
    task: str, metric: str, before: np.ndarray, after: np.ndarray, seed: int,
    higher_is_better: bool = True,
) -> TaskResult:  # fmt: skip
    """Compare a metric that is a mean over items.

    >>> paired("t", "accuracy", np.array([1.0, 1.0]), np.array([0.0, 0.0]), seed=0).difference
    Estimate(mean=-1.0, low=-1.0, high=-1.0, texts=2)
    """
    return TaskResult(
        task, metric, bootstrap(before, seed), bootstrap(after, seed),
        bootstrap(after - before, seed), higher_is_better,
    )  # fmt: skip


def paired_perplexity(
    task: str, metric: str, before: np.ndarray, after: np.ndarray, tokens: np.ndarray, seed: int
) -> TaskResult:
    """Compare a perplexity: exp of a ratio of sums over items; the difference is its growth."""
    growth = ratio_of_sums(after - before, tokens, seed, lambda x: np.exp(x) - 1.0)
    return TaskResult(
        task, metric, ratio_of_sums(before, tokens, seed, np.exp),
        ratio_of_sums(after, tokens, seed, np.exp), growth, higher_is_better=False,
    )  # fmt: skip
