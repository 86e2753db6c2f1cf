"""Tasks before and after replacement: local files of items, and tasks of lm-evaluation-harness."""

from __future__ import annotations

import json
import math
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
from attn_dsl.eval.replace import tasks
from attn_dsl.eval.replace.context import replace_heads

HEADS = {(0, 0): parse("head a causal:\n"), (1, 3): parse("head b causal:\n    3 where k == q-1")}
CHOICES = [
    {"context": "the cat sat on the", "choices": [" mat", " bird saw", " dog"], "answer": 0},
    {"context": "the dog ran to", "choices": [" the park", " mat"], "answer": 0},
    {"context": "she saw a", "choices": [" end", " bird"], "answer": 1},
    {"context": "one day the boy and the ", "choices": ["girl", "mat"], "answer": 0},
]
CONTINUATIONS = [
    {"context": "the cat sat on the", "continuation": " mat and the dog"},
    {"context": "one day the boy and", "continuation": " the girl"},
    {"context": "she saw", "continuation": " a bird"},
]


@pytest.fixture(scope="module")
def llama(small_model: Callable[[str], Path]) -> LoadedModel:
    return load_model(str(small_model("llama")))


@pytest.fixture(scope="module")
def run(small_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(small_model, tmp_path_factory.mktemp("tasks"))


def write(file: Path, items: list[dict]) -> Path:
    file.write_text("".join(json.dumps(item) + "\n" for item in items))
    return file


def logprob(loaded: LoadedModel, context: str, choice: str) -> tuple[float, bool]:
    """Score a continuation alone, token by token."""
    whole = loaded.tokenizer(context + choice).input_ids
    first = len(loaded.tokenizer(context.rstrip()).input_ids)
    total, greedy = 0.0, True
    for at in range(first, len(whole)):
        with torch.inference_mode():
            logits = loaded.model(input_ids=torch.tensor([whole[:at]])).logits[0, -1]
        total += float(torch.log_softmax(logits, -1)[whole[at]])
        greedy &= int(logits.argmax()) == whole[at]
    return total, greedy


def test_choices_are_scored_by_summed_log_probability(llama: LoadedModel, tmp_path: Path) -> None:
    file = write(tmp_path / "choices.jsonl", CHOICES)
    found = tasks.run_items(llama, HEADS, file, seed=0)
    assert [(r.task, r.metric) for r in found] == [
        ("choices", "accuracy"), ("choices", "accuracy by length"),
    ]  # fmt: skip

    def accuracy(by_length: bool) -> float:
        right = []
        for item in CHOICES:
            scores = [
                logprob(llama, item["context"], c)[0] / (len(c) if by_length else 1)
                for c in item["choices"]
            ]
            right.append(int(np.argmax(scores)) == item["answer"])
        return float(np.mean(right))

    for result, by_length in zip(found, (False, True), strict=True):
        assert result.before.mean == accuracy(by_length)
        with replace_heads(llama.model, HEADS, tokenizer=llama.tokenizer):
            assert result.after.mean == accuracy(by_length)
        assert result.difference.mean == pytest.approx(result.after.mean - result.before.mean)
        assert result.before.texts == len(CHOICES)


def test_continuations_are_scored_as_in_lambada(llama: LoadedModel, tmp_path: Path) -> None:
    file = write(tmp_path / "last.jsonl", CONTINUATIONS)
    exact, perplexity = tasks.run_items(llama, HEADS, file, seed=0)
    assert exact.metric == "exact continuation" and perplexity.metric == "perplexity"

    def figures() -> tuple[float, float]:
        scores = [logprob(llama, item["context"], item["continuation"]) for item in CONTINUATIONS]
        counts = [
            len(llama.tokenizer(i["context"] + i["continuation"]).input_ids)
            - len(llama.tokenizer(i["context"]).input_ids)
            for i in CONTINUATIONS
        ]
        loss = -sum(score for score, _ in scores) / sum(counts)
        return float(np.mean([greedy for _, greedy in scores])), math.exp(loss)

    assert (exact.before.mean, perplexity.before.mean) == pytest.approx(figures(), rel=1e-4)
    with replace_heads(llama.model, HEADS, tokenizer=llama.tokenizer):
        assert (exact.after.mean, perplexity.after.mean) == pytest.approx(figures(), rel=1e-4)
    growth = perplexity.after.mean / perplexity.before.mean - 1
    assert perplexity.difference.mean == pytest.approx(growth)
    assert not perplexity.higher_is_better


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", "a JSON object was expected"),
        ('{"contxt": "a", "continuation": " b"}', "did you mean `context`"),
        ('{"context": 3, "continuation": " b"}', "`context` must be a string"),
        ('{"context": "a"}', "either `choices` with `answer`, or `continuation`"),
        ('{"context": "a", "continuation": " "}', "not blank"),
        ('{"context": "a", "choices": ["b"], "answer": 0}', "two or more strings"),
        ('{"context": "a", "choices": ["b", ""], "answer": 0}', "none empty"),
        ('{"context": "a", "choices": ["b", "c"], "answer": 2}', "from 0 to 1, not 2"),
    ],
)
def test_a_line_that_is_no_item_is_refused(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(json.dumps(CHOICES[0]) + "\n\n" + line + "\n")
    with pytest.raises(InputError) as error:
        tasks.read_items(file)
    assert f"{file}:3: " in str(error.value) and message in str(error.value)


def test_what_a_model_cannot_score_is_refused(llama: LoadedModel, tmp_path: Path) -> None:
    file = write(tmp_path / "long.jsonl", [{"context": "the cat " * 60, "continuation": " sat"}])
    with pytest.raises(InputError, match=r"long\.jsonl:1: .* takes 64"):
        tasks.run_items(llama, HEADS, file, seed=0)
    encoder = load_model(str(masked_model(tmp_path / "bert")))
    with pytest.raises(InputError, match="is an encoder"):
        tasks.run_items(encoder, {}, write(tmp_path / "a.jsonl", CHOICES), seed=0)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no items"):
        tasks.read_items(tmp_path / "empty.jsonl")


def test_the_command_scores_a_local_file(run: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "items.jsonl", CHOICES + CONTINUATIONS)
    out = succeed("replace", run, "--tasks", file, "--order", "iou", "--out", tmp_path)
    assert "Tasks, before and after 2 heads are replaced" in out
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith(str(tmp_path)))
    found = json.loads((tmp_path / "replacement" / "fraction-0.25-tasks.json").read_text())
    metrics = [row["metric"] for row in found["extra"]["tasks"]]
    assert metrics == ["accuracy", "accuracy by length", "exact continuation", "perplexity"]


# lm-evaluation-harness


@pytest.fixture(scope="module")
def harness_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of the harness: its definition and its data in a local folder."""
    pytest.importorskip("lm_eval", reason="the extra `tasks` is not installed")
    folder = tmp_path_factory.mktemp("harness")
    data = write(folder / "data.jsonl", [{**i, "choices": i["choices"][:2]} for i in CHOICES])
    file = folder / "small.yaml"
    file.write_text(
        "task: attn_dsl_small\n"
        "dataset_path: json\n"
        "dataset_kwargs:\n"
        "  data_files:\n"
        f"    test: {data}\n"
        "test_split: test\n"
        "output_type: multiple_choice\n"
        'doc_to_text: "{{context}}"\n'
        "doc_to_target: answer\n"
        'doc_to_choice: "{{choices}}"\n'
        'target_delimiter: ""\n'
        "metric_list:\n"
        "  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
        "  - metric: acc_norm\n    aggregation: mean\n    higher_is_better: true\n"
    )
    return file


def test_a_harness_task_agrees_with_the_local_one(
    llama: LoadedModel, harness_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attn_dsl.eval.replace.harness import run_harness

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found = run_harness(llama, HEADS, [str(harness_task)], seed=0)
    local = tasks.run_items(llama, HEADS, harness_task.parent / "data.jsonl", seed=0)
    assert [r.metric for r in found] == ["acc", "acc_norm"]
    for result, own in zip(found, local, strict=True):
        assert result.task == "attn_dsl_small"
        assert (result.before, result.after) == (own.before, own.after)
        assert result.difference == own.difference


def test_unknown_harness_tasks_are_refused(llama: LoadedModel, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="the extra `tasks` is not installed")
    from attn_dsl.eval.replace.harness import run_harness

    with pytest.raises(InputError, match="knows no task hellaswagg; did you mean `hellaswag`"):
        run_harness(llama, HEADS, ["hellaswagg"], seed=0)
    broken = tmp_path / "broken.yaml"
    broken.write_text("dataset_path: json\n")
    with pytest.raises(InputError, match=r"broken\.yaml: not a task"):
        run_harness(llama, HEADS, [str(broken)], seed=0)


def test_without_the_extra_the_remedy_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    outcome = attn_dsl("replace", run, "--tasks", "piqa", "--order", "iou", "--out", tmp_path)
    assert outcome.code == 2 and "pip install 'attn-dsl[tasks]'" in outcome.err
