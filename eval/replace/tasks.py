"""Tasks: multiple-choice and continuation items of a local file, scored before and after."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from attn_dsl.dsl.errors import InputError, did_you_mean
from attn_dsl.eval.metrics import Estimate, bootstrap
from attn_dsl.eval.models import LoadedModel
from attn_dsl.eval.replace.measure import padding_id, ratio_of_sums

if TYPE_CHECKING:
    from attn_dsl.compiler.program import Program
    from attn_dsl.eval.replace.source import Head, Source

EXAMPLES = (
    '{"context": "The cat sat on the", "choices": [" mat", " moon"], "answer": 0} or '
    '{"context": "Lily had a red", "continuation": " ball"}'
)
FIELDS = ("context", "choices", "answer", "continuation")


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a task file.

    Attributes:
        context: what the model reads first.
        choices: the continuations; of a continuation task the one and only.
        answer: the number of the right choice.
        place: file and line.
    """

    context: str
    choices: tuple[str, ...]
    answer: int
    place: str

    @property
    def multiple_choice(self) -> bool:
        """Whether there is anything to choose."""
        return len(self.choices) > 1


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


@dataclass(frozen=True, slots=True)
class Score:
    """The log-probability of a continuation, its tokens, and whether each was the most probable."""

    logprob: float
    tokens: int
    greedy: bool


def read_items(file: str | Path) -> list[Item]:
    """Read a task file: JSONL of ``{context, choices, answer}`` or ``{context, continuation}``.

    ``answer`` is the number of the right choice, counted from 0.

    Raises:
        InputError: the file is missing or empty, or a line is no item; all that is wrong with
            the first such line is said.
    """
    path = Path(file).expanduser()
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 at byte {error.start}; convert it") from None
    items = [
        _item(line, f"{file}:{number}")
        for number, line in enumerate(content.split("\n"), 1)
        if line.strip()
    ]
    if not items:
        raise InputError(f"{file} holds no items; a line is like {EXAMPLES}")
    return items


def _item(line: str, place: str) -> Item:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{place}: not JSON ({error.msg} at column {error.colno}); a line is like {EXAMPLES}"
        ) from None
    if not isinstance(found, dict):
        raise InputError(f"{place}: a JSON object was expected; a line is like {EXAMPLES}")
    unknown = [name for name in found if name not in FIELDS]
    context, continuation = found.get("context"), found.get("continuation")
    choices, answer = found.get("choices"), found.get("answer")
    wrong = [
        f"there is no field `{name}` ({did_you_mean(name, FIELDS) or 'leave it out'})"
        for name in unknown
    ]
    if not isinstance(context, str):
        wrong.append("`context` must be a string")
    if (continuation is None) == (choices is None):
        wrong.append("give either `choices` with `answer`, or `continuation`")
    elif choices is None:
        choices, answer = [continuation], 0
        if not isinstance(continuation, str) or not continuation.strip():
            wrong.append("`continuation` must be a string that is not blank")
    else:
        good = isinstance(choices, list) and len(choices) > 1
        if not good or not all(isinstance(c, str) and c for c in choices):
            wrong.append("`choices` must be a list of two or more strings, none empty")
        elif not isinstance(answer, int) or not 0 <= answer < len(choices):
            wrong.append(f"`answer` must be a number from 0 to {len(choices) - 1}, not {answer!r}")
    if wrong:
        raise InputError(f"{place}: {'; '.join(wrong)}")
    assert isinstance(context, str) and isinstance(choices, list) and isinstance(answer, int)
    return Item(context, tuple(choices), answer, place)


def run_items(
    loaded: LoadedModel, heads: Mapping[Head, Source | Program], file: str | Path, seed: int,
    tick: Callable[[int, int], None] | None = None,
) -> list[TaskResult]:  # fmt: skip
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
    from attn_dsl.eval.replace.context import replace_heads

    items = read_items(file)
    scorer = Scorer(loaded, items)
    total = 2 * len(scorer.batches)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if tick is not None:
            tick(done, total)

    before = scorer.scores(step)
    replaced = replace_heads(loaded.model, heads, tokenizer=loaded.tokenizer)
    with replaced if heads else nullcontext():
        after = scorer.scores(step)
    return _results(Path(file).stem, items, before, after, seed)


class Scorer:
    """The items of a file, tokenised for a model."""

    def __init__(self, loaded: LoadedModel, items: Sequence[Item], batch_size: int = 16) -> None:
        if not loaded.causal:
            raise InputError(
                f"{loaded.name} is an encoder: it gives no probability to a continuation, so "
                "tasks cannot be scored with it"
            )
        self.loaded = loaded
        self.pairs: list[list[tuple[list[int], list[int]]]] = [
            [self._encode(item, choice) for choice in item.choices] for item in items
        ]
        flat = [(i, j) for i, pairs in enumerate(self.pairs) for j in range(len(pairs))]
        flat.sort(key=lambda at: sum(map(len, self.pairs[at[0]][at[1]])))
        self.batches = [flat[i : i + batch_size] for i in range(0, len(flat), batch_size)]

    def scores(self, step: Callable[[], None]) -> list[list[Score]]:
        """Score every choice of every item with the model as it is now."""
        out: list[list[Score]] = [[Score(0.0, 0, False)] * len(pairs) for pairs in self.pairs]
        for batch in self.batches:
            rows = [self.pairs[i][j] for i, j in batch]
            for (i, j), score in zip(batch, self._score(rows), strict=True):
                out[i][j] = score
            step()
        return out

    def _encode(self, item: Item, choice: str) -> tuple[list[int], list[int]]:
        """Tokenise context and choice together, so that they meet as in running text."""
        tokenizer = self.loaded.tokenizer
        lead = item.context.rstrip()
        tail = item.context[len(lead) :] + choice
        whole, first = (_strip_end(tokenizer, tokenizer(t).input_ids) for t in (lead + tail, lead))
        first = first[: len(whole) - 1] if len(first) >= len(whole) else first
        if not first:
            raise InputError(
                f"{item.place}: the context is empty, and the tokenizer adds no token before a "
                "text; give some context"
            )
        limit = self.loaded.max_positions
        if limit is not None and len(whole) > limit:
            raise InputError(
                f"{item.place}: context and continuation have {len(whole)} tokens, and "
                f"{self.loaded.name} takes {limit}; shorten the context"
            )
        return whole[: len(first)], whole[len(first) :]

    def _score(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[Score]:
        longest = max(len(a) + len(b) for a, b in rows)
        ids = torch.full((len(rows), longest), padding_id(self.loaded))
        mask = torch.zeros_like(ids)
        for row, (first, rest) in enumerate(rows):
            n = len(first) + len(rest)
            ids[row, :n], mask[row, :n] = torch.tensor(first + rest), 1
        device = self.loaded.model.device
        with torch.inference_mode():
            logits = self.loaded.model(
                input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
            ).logits
        found = []
        for row, (first, rest) in enumerate(rows):
            at = slice(len(first) - 1, len(first) + len(rest) - 1)
            logp = torch.log_softmax(logits[row, at].float(), dim=-1).cpu()
            target = torch.tensor(rest)
            chosen = logp.gather(-1, target[:, None]).double().sum()
            greedy = bool((logp.argmax(-1) == target).all())
            found.append(Score(float(chosen), len(rest), greedy))
        return found


def _strip_end(tokenizer: Any, ids: list[int]) -> list[int]:
    """Take off an end-of-text token that a tokenizer adds."""
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def _results(
    name: str, items: Sequence[Item], before: list[list[Score]], after: list[list[Score]], seed: int
) -> list[TaskResult]:
    found: list[TaskResult] = []
    choices = [i for i, item in enumerate(items) if item.multiple_choice]
    if choices:
        for metric, by_length in (("accuracy", False), ("accuracy by length", True)):
            pair = [
                np.array([_right(items[i], scores[i], by_length) for i in choices], dtype=float)
                for scores in (before, after)
            ]
            found.append(paired(name, metric, pair[0], pair[1], seed))
    rest = [i for i, item in enumerate(items) if not item.multiple_choice]
    if rest:
        greedy = [np.array([float(s[i][0].greedy) for i in rest]) for s in (before, after)]
        found.append(paired(name, "exact continuation", greedy[0], greedy[1], seed))
        tokens = np.array([before[i][0].tokens for i in rest], dtype=float)
        losses = [np.array([-s[i][0].logprob for i in rest]) for s in (before, after)]
        found.append(paired_perplexity(name, "perplexity", losses[0], losses[1], tokens, seed))
    return found


def _right(item: Item, scores: Sequence[Score], by_length: bool) -> bool:
    """Say whether the right choice is the most probable."""
    values = [
        score.logprob / (len(choice) if by_length else 1)
        for score, choice in zip(scores, item.choices, strict=True)
    ]
    return max(range(len(values)), key=values.__getitem__) == item.answer


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


def not_resampled(value: float, items: int) -> Estimate:
    """Return a figure of which no interval is known."""
    return Estimate(value, math.nan, math.nan, items)
