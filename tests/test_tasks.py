"""Tasks of lm-evaluation-harness before and after replacement."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import attn_dsl, succeed
from replacing import masked_model, small_run

from attn_dsl.compiler.program import parse
from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.models import LoadedModel, load_model
from attn_dsl.eval.replace.context import replace_heads

HEADS = {(0, 0): parse("head a causal:\n"), (1, 3): parse("head b causal:\n    3 where k == q-1")}
ITEMS = [
    {"context": "the cat sat on the", "choices": [" mat", " bird saw"], "answer": 0},
    {"context": "the dog ran to", "choices": [" the park", " mat"], "answer": 0},
    {"context": "she saw a", "choices": [" end", " bird"], "answer": 1},
    {"context": "one day the boy and the", "choices": [" girl", " mat"], "answer": 0},
]
TASK = """task: attn_dsl_small
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{metric: acc}, {metric: acc_norm}]
"""


@pytest.fixture(scope="module")
def llama(small_model: Callable[[str], Path]) -> LoadedModel:
    return load_model(str(small_model("llama")))


@pytest.fixture(scope="module")
def run(small_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(small_model, tmp_path_factory.mktemp("tasks"))


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task of the harness: its definition and its data in a local folder."""
    pytest.importorskip("lm_eval", reason="the extra `tasks` is not installed")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data, file = tmp_path / "data.jsonl", tmp_path / "small.yaml"
    data.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    file.write_text(TASK.replace("DATA", str(data)))
    return file


def logprob(loaded: LoadedModel, context: str, choice: str) -> float:
    """Score a continuation alone."""
    whole = torch.tensor([loaded.tokenizer(context + choice).input_ids])
    first = len(loaded.tokenizer(context).input_ids)
    with torch.inference_mode():
        logs = torch.log_softmax(loaded.model(input_ids=whole).logits[0, :-1], -1)
    return float(logs.gather(-1, whole[0, 1:, None])[first - 1 :].sum())


def accuracy(loaded: LoadedModel, by_length: bool) -> float:
    right = []
    for item in ITEMS:
        scores = [logprob(loaded, item["context"], c) / (len(c) if by_length else 1) for c in item["choices"]]
        right.append(int(np.argmax(scores)) == item["answer"])
    return float(np.mean(right))


def test_choices_are_scored_by_summed_log_probability(llama: LoadedModel, task: Path) -> None:
    from attn_dsl.eval.replace.tasks import run_tasks

    [found] = run_tasks(llama, [HEADS], [str(task)], seed=0)
    assert [(r.task, r.metric) for r in found] == [
        ("attn_dsl_small", "acc"), ("attn_dsl_small", "acc_norm"),
    ]  # fmt: skip
    for result, by_length in zip(found, (False, True), strict=True):
        assert result.before.mean == accuracy(llama, by_length)
        with replace_heads(llama, HEADS):
            assert result.after.mean == accuracy(llama, by_length)
        assert result.difference.mean == pytest.approx(result.after.mean - result.before.mean)
        assert result.before.texts == len(ITEMS) and result.higher_is_better


def test_the_command_scores_a_task_of_a_file(run: Path, task: Path, tmp_path: Path) -> None:
    out = succeed("replace", run, "--tasks", task, "--order", "iou", "--out", tmp_path)
    assert "Tasks, before and after heads are replaced" in out
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith(str(tmp_path)))
    found = json.loads((tmp_path / "replacement" / "tasks.json").read_text())
    rows = [(row["heads"], row["metric"]) for row in found["extra"]["tasks"]]
    assert rows == [(2, "acc"), (2, "acc_norm"), (8, "acc"), (8, "acc_norm")]


def test_unknown_tasks_and_encoders_are_refused(llama: LoadedModel, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="the extra `tasks` is not installed")
    from attn_dsl.eval.replace.tasks import run_tasks

    broken = tmp_path / "broken.yaml"
    broken.write_text("dataset_path: json\n")
    encoder = load_model(str(masked_model(tmp_path / "bert")))
    for loaded, task, message in [
        (llama, "hellaswagg", "knows no task hellaswagg; did you mean `hellaswag`"),
        (llama, str(broken), r"broken\.yaml: not a task"),
        (encoder, "piqa", "is an encoder"),
    ]:
        with pytest.raises(InputError, match=message):
            run_tasks(loaded, [], [task], seed=0)


def test_without_the_extra_the_remedy_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    outcome = attn_dsl("replace", run, "--tasks", "piqa", "--order", "iou", "--out", tmp_path)
    assert outcome.code == 2 and "pip install 'attn-dsl[tasks]'" in outcome.err
