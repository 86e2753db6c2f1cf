"""The proposer llm: from a head to prompts, completions, programs; refined, recorded, replayed."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import attn_dsl, snapshot, succeed
from fitting import assert_same
from llm_models import is_proposal
from llm_server import Behaviour, serving

import attn_dsl as package
from attn_dsl.dsl.check import check
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import show
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.run import Run
from attn_dsl.synth.design import Design
from attn_dsl.synth.llm.model import LanguageModel, ModelError
from attn_dsl.synth.llm.named import open_model
from attn_dsl.synth.llm.options import Options
from attn_dsl.synth.llm.prompt import ASK, head_part, shared_part
from attn_dsl.synth.llm.proposer import Llm
from attn_dsl.synth.llm.record import Record, read_known, told
from attn_dsl.synth.llm.summary import Summary
from attn_dsl.synth.proposer import Asking, HeadTask, Known
from attn_dsl.synth.proposers.registry import DEFAULT
from attn_dsl.synth.session import Session, Settings

OPTIONS = Options(samples=8, rounds=2, prompt_tokens=1500, completion_tokens=320)
SHORT = ("--samples", "8", "--completion-tokens", "160", "--llm-rounds", "2")


@pytest.fixture(scope="module")
def design(small_capture: Path) -> Design:
    return Session(Capture.open(small_capture), Settings(DEFAULT)).design


def task_of(design: Design, layer: int, head: int, seed: int = 0, **more: Any) -> HeadTask:
    return HeadTask(design, layer, head, seed=seed, max_nodes=200, **{"max_evals": 200, **more})


@pytest.fixture
def task(design: Design) -> HeadTask:
    return task_of(design, 1, 1)


@pytest.fixture(scope="module")
def model(language_model: Path) -> LanguageModel:
    return open_model(str(language_model))


def tried(task: HeadTask, llm: Llm) -> list[tuple[str, float]]:
    """Let the proposer propose for a new task of the same head; return what was fitted."""
    new = task_of(task.design, task.layer, task.head)
    fitted = [new.fit(proposal) for proposal in llm.propose(new)]
    return [(show(f.program), f.iou) for f in fitted]


class Silent:
    """A model that must not be asked, or whose context is short."""

    def __init__(self, model: LanguageModel, context: int = 4096) -> None:
        self.name, self.fingerprint, self.count = model.name, model.fingerprint, model.count
        self.context = context

    def complete(self, *args: Any) -> Any:
        raise ModelError("asked again")


def test_it_proposes_programs(task: HeadTask, model: LanguageModel) -> None:
    found = tried(task, Llm(OPTIONS, model=model))
    assert len(found) > 3
    for source, iou in found:
        program = parse(source)
        check(program)
        assert program.name == "l01h01" and 0 < iou <= 1
    assert tried(task, Llm(OPTIONS, model=model)) == found


def test_requests_are_recorded_and_not_asked_again(
    task: HeadTask, model: LanguageModel, tmp_path: Path
) -> None:
    options = OPTIONS
    found = tried(task, Llm(options, run=tmp_path, model=model))
    file = tmp_path / "llm" / "l01h01.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1]
    assert sum(len(line["completions"]) for line in lines) == 8
    assert lines[0]["model"] == model.name and lines[0]["temperature"] == 1
    first, second = (line["prompt"] for line in lines)
    assert "Programs that were tried" not in first
    assert first[: lines[0]["shared"]] == second[: lines[1]["shared"]] != ""
    for part in ("Programs that were tried", "program is wrong:", "head: ", "program: "):
        assert part in second
    best = max(iou for _, iou in found[: 1 + len(lines[0]["completions"])])
    assert f"IoU {best:.3f}:\nhead proposed causal softmax:" in second
    silent: Any = Silent(model)
    assert tried(task, Llm(options, run=tmp_path, model=silent)) == found
    with pytest.raises(ModelError, match="asked again"):
        tried(task, Llm(replace(options, temperature=0.5), run=tmp_path, model=silent))
    file.write_text(file.read_text()[:-40])  # as another hand may leave it
    with pytest.raises(InputError, match=r"l01h01\.jsonl cannot be read"):
        tried(task, Llm(options, run=tmp_path, model=model))


@pytest.mark.parametrize("line", [
    "5", "{}", "[" * 100_000, '{"key": "", "model": "", "fingerprint": "", "round": 1, "completions": [{}]}',
])  # fmt: skip
def test_damaged_records_are_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "l00h01.jsonl").write_text(line + "\n")
    (tmp_path / "llm" / "known.jsonl").write_text(line + "\n")
    (tmp_path / "llm" / "failed.json").write_text(line)
    run = Run(tmp_path, {})
    for read in (
        partial(Record, tmp_path, "l00h01"),
        partial(told, tmp_path),
        partial(read_known, run, [(0, 1)]),
    ):
        with pytest.raises(InputError, match=r"\.jsonl cannot be read .*remove it"):
            read()
    (tmp_path / "llm" / "l00h01.jsonl").unlink()
    assert "failed" not in told(tmp_path)


def test_a_replay_needs_no_model(task: HeadTask, model: LanguageModel, tmp_path: Path) -> None:
    found = tried(task, Llm(replace(OPTIONS, rounds=3), run=tmp_path, model=model))
    assert tried(task, Llm(Options(f"replay:{tmp_path}"))) == found
    with pytest.raises(ModelError, match="choose --heads as in that run"):
        tried(task_of(task.design, 0, 0), Llm(Options(f"replay:{tmp_path}")))


def test_samples_depend_on_the_head_and_the_seed(design: Design, model: LanguageModel) -> None:
    def written(head: int, seed: int) -> list[str]:
        task = task_of(design, 0, head, seed)
        found = [show(p).partition(":")[2] for p in Llm(OPTIONS, model=model).propose(task)]
        assert len(found) > 3
        return found

    assert written(0, 0) == written(0, 0)
    assert written(0, 0) != written(1, 0)
    assert written(0, 0) != written(0, 1)


def test_the_prompt_keeps_to_its_budget(task: HeadTask, model: LanguageModel) -> None:
    best = [task.fit(parse("head a causal:\n ? where k == q-1\n ? where k == 0"))]
    lengths = []
    summary = Summary(task)
    for budget in (3000, 1500, 900, 700, 300, 150):
        text = head_part(summary, model.count, budget, best)
        assert model.count(text) <= budget
        assert text.endswith(f"\n\n{ASK}\n")
        lengths.append(len(text))
    assert lengths == sorted(lengths, reverse=True)
    assert head_part(summary, model.count, 5, best) == text
    whole = shared_part(True, model.count, 9_000)
    for room in (5_000, 3_000, 300, 20):
        text = shared_part(True, model.count, room)
        assert model.count(text) <= room and whole.startswith(text)
    half: Any = Silent(model, context=600)
    written = Llm(replace(OPTIONS, completion_tokens=384), model=half).prompt(task)
    assert model.count("".join(written)) <= 300


def test_the_prompt_describes_the_language_by_its_tables(task: HeadTask) -> None:
    text = shared_part(task.causal, lambda text: 0, 0)
    for feature in FEATURES.values():
        usable = not feature.extra and feature.reads != "full"
        assert (f"{feature.doc}\n" in text) == usable, feature.name
    for causal in (True, False):
        text = shared_part(causal, lambda text: 0, 0)
        head = f"head proposed {'causal' if causal else 'bidirectional'} softmax:\n"
        shown = text[text.index("and their programs:") :].split(head)[1:]
        assert len(shown) == 3
        assert all(is_proposal(head + one.partition("\n\n")[0] + "\n", causal) for one in shown)


def test_solved_heads_are_examples(design: Design, model: LanguageModel) -> None:
    source = "head l00h01 causal softmax:\n    2 where k == q-1\n    1 where k == 0\n"
    task = task_of(design, 1, 1)
    task.asking = Asking(solved=tuple(Known(0, h, 0.5, "library", source) for h in (0, 1)))
    _, own = Llm(OPTIONS, model=model).prompt(task)
    assert own.count("Another head of the model") == 2
    assert "IoU 0.50:\nhead proposed causal softmax:\n    ? where k == q-1\n" in own


def test_the_search_goes_on_from_what_was_written(task: HeadTask, model: LanguageModel) -> None:
    given = []

    def extend(start: Any, task: HeadTask) -> list[Any]:
        given.append(start)
        return [replace(task.fit(start), proposer="grown")]

    llm = Llm(OPTIONS, model=model, extend=extend)
    *_, last = llm.propose(task)
    assert last.proposer == "grown"
    (start,) = given
    assert 1 < len(start.terms) == len(set(start.terms)) <= 16
    assert not any(weight for weight in start.weights)


def test_the_summary_tells_the_truth(design: Design) -> None:
    task = task_of(design, 0, 0)
    rows, starts = task.rows, task.rows.starts
    lines = Summary(task).lines(200)
    assert f"causal head, seen on {len(rows)} queries of {len(design.rows)} texts" in lines[0]
    first = float(rows.actual[starts[:-1]].sum() / len(rows))
    even = float((1 / np.diff(starts)).mean())
    assert f"  k == 0: {first:.2f} ({even:.2f})" in lines
    tokens = next(line for line in lines if line.startswith('  "'))
    shown, share = re.match(r'  "(.*?)" ([0-9.]+) ', tokens).groups()  # type: ignore[union-attr]
    places = [design.symbols[key] == shown for key in design.key_symbols]
    assert float(share) == pytest.approx(rows.actual[places].sum() / len(rows), abs=0.006)
    assert Summary(task).lines(5) == Summary(task).lines(5)
    assert len(Summary(task).lines(0)) < len(Summary(task).lines(5)) < len(lines)


def test_a_failure_is_the_runs_only_if_nobody_else_is_asked(
    task: HeadTask, model: LanguageModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "llm").write_text("a file, where the folder of records would be")
    with pytest.raises(ModelError, match="completions cannot be kept"):
        tried(task, Llm(OPTIONS, run=tmp_path, model=model))
    llm = Llm(OPTIONS, run=tmp_path, model=model, alone=False)
    with caplog.at_level(logging.WARNING):
        assert len(tried(task, llm)) > 1  # what was written before the disk was full
        assert len(tried(task, llm)) == 1
    assert "The other proposers go on" in caplog.text
    assert len(caplog.records) == 1


def test_writing_leaves_time_for_fitting(task: HeadTask, gguf_model: Path) -> None:
    model = open_model(str(gguf_model))
    options = replace(OPTIONS, samples=9_000, rounds=1, prompt_tokens=300)
    task.asking = Asking(seconds=20.0)
    assert len(list(Llm(options, model=model).propose(task))) > 1
    assert task.short
    assert task.evals > 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"samples": 0}, "--samples must be at least 1"),
        ({"rounds": 0}, "--llm-rounds must be at least 1"),
        ({"prompt_tokens": 3}, "--prompt-tokens must be at least 32"),
        ({"completion_tokens": 3}, "--completion-tokens must be at least 16"),
        ({"temperature": -1}, "--temperature must be at least 0"),
        ({"device": "moon"}, "--llm-device moon"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Options(**options)


# The command line.


@pytest.fixture(scope="module")
def fit(small_capture: Path, language_model: Path) -> Callable[..., tuple[object, ...]]:
    """Gives the arguments of a run on two heads."""

    def args(out: Path, *more: object, llm: object = language_model) -> tuple[object, ...]:
        return (
            "fit", "--capture", small_capture, "--heads", "L0H0,L1H1", "--max-evals", "12", "--out",
            out, "--llm", llm, *SHORT, *more,
        )  # fmt: skip

    return args


def test_runs_are_the_same_however_they_are_made(fit: Any, tmp_path: Path) -> None:
    one, two, three, four = (tmp_path / name for name in ("one", "two", "three", "four"))
    told = json.loads(succeed(*fit(one, "--proposers", "llm,library", "--jobs", 1, "--json")))
    assert told["llm"]["completions"] == 16 and "failed" not in told["llm"]
    succeed(*fit(two, "--proposers", "llm,library", "--jobs", 2))
    assert_same(one, two)
    shutil.copytree(one, three)  # and undo all but what the model wrote
    shutil.rmtree(three / "state")
    (three / "candidates.jsonl").unlink()
    written = snapshot(three / "llm")
    succeed(*fit(three, "--proposers", "llm,library", "--resume"))
    assert_same(one, three)
    assert snapshot(three / "llm") == snapshot(two / "llm") == written
    succeed(*fit(four, "--proposers", "llm,library", llm=f"replay:{one}"))
    assert_same(one, four)
    assert '"proposer": "llm"' in (one / "candidates.jsonl").read_text()


def test_definitions_that_a_model_writes_come_into_the_run(fit: Any, tmp_path: Path) -> None:
    source = (
        "def marked(i) = punct(i)\ndef level(i) = count(j <= i where marked(j))\n\n"
        "head proposed causal softmax:\n    ? where level(k) == level(q) and not marked(k)\n"
        "    ? where k == q-1\n    ? where k == 0\n    ? * level(k)\n"
    )
    line = {"key": "", "round": 0, "model": "m", "fingerprint": "f", "prompt": ""}
    line |= {"completions": [{"text": source, "tokens": 90, "truncated": False}]}
    (tmp_path / "asked" / "llm").mkdir(parents=True)
    for head in ("l00h00", "l01h01"):
        (tmp_path / "asked" / "llm" / f"{head}.jsonl").write_text(json.dumps(line) + "\n")
    out = tmp_path / "run"
    succeed(*fit(out, "--proposers", "llm", llm=f"replay:{tmp_path / 'asked'}"))
    found = [json.loads(x) for x in (out / "candidates.jsonl").read_text().splitlines()]
    fitted = [parse(one["program"]) for one in found if "def level(i)" in one["program"]]
    assert len(fitted) == 2 and None not in (fitted[0].weights, fitted[1].weights)
    assert "def level(i) = count(j <= i where marked(j))" in (out / "pareto.csv").read_text()


def test_a_cluster_writes_the_same(fit: Any, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    one, other = tmp_path / "one", tmp_path / "other"
    succeed(*fit(one, "--proposers", "llm,library", "--jobs", 1))
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None,
        host="127.0.0.1", silence_logs=50,
    ) as cluster:  # fmt: skip
        address = cluster.scheduler_address
        succeed(*fit(other, "--proposers", "llm,library", "--scheduler", address))
    assert_same(one, other)
    assert snapshot(one / "llm") == snapshot(other / "llm")


def test_a_run_says_what_was_asked_of_which_model(fit: Any, gguf_model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    out = succeed(*fit(run, "--proposers", "llm", "--llm-rounds", 1, llm=gguf_model))
    assert "16 completions about 2 of 2 heads" in " ".join(out.split())
    assert "model.gguf" in out.replace("\n", "")
    info = json.loads((run / "run.json").read_text())
    assert info["key"]["llm"]["samples"] == 8 and info["key"]["llm"]["rounds"] == 1
    assert info["key"]["proposers"] == ["llm"]
    assert "llm" in (run / "pareto.csv").read_text()
    other = fit(run, "--proposers", "llm", "--llm-rounds", 2, "--resume", llm=gguf_model)
    assert "other settings" in attn_dsl(*other).err


def test_only_the_heads_explained_least_are_asked_about(fit: Any, gguf_model: Path, tmp_path: Path) -> None:
    def asked(name: str, *more: str) -> tuple[Any, set[str]]:
        limits = ("--proposers", "llm,library", "--llm-rounds", 1, *more)
        told = json.loads(succeed(*fit(tmp_path / name, *limits, "--json", llm=gguf_model)))
        assert told["status"] == "done" and told["heads"] == 2
        return told, {file.stem for file in (tmp_path / name / "llm").glob("l0*.jsonl")}

    told, heads = asked("weakest", "--llm-heads", "1")
    states = [json.loads(f.read_text()) for f in (tmp_path / "weakest" / "state").iterdir()]
    weakest = min(states, key=lambda state: max(row["score"] for row in state["front"]))
    assert heads == {f"l{weakest['layer']:02}h{weakest['head']:02}"} and told["llm"]["heads"] == 1
    told, heads = asked("late", "--llm-seconds", "0.001")
    assert heads == set() and told["llm"]["heads"] == 0 and told["cut_short"] == []


def test_a_server_that_dies_leaves_the_others(
    fit: Any, language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(language_model, Behaviour(status=503, answers=2)) as url:
        done = attn_dsl(*fit(tmp_path / "run", "--proposers", "llm,library", llm=url))
        assert done.code == 0, done.err
        assert "The proposer llm failed" in done.out and "503" in done.out
        alone = attn_dsl(*fit(tmp_path / "alone", "--proposers", "llm", llm=url))
    assert alone.code == 1 and "503" in alone.err and "Traceback" not in alone.err
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["status"] == "done" and "503" in info["llm"]["failed"]["error"]
    assert "library" in (tmp_path / "run" / "pareto.csv").read_text()


def test_a_file_that_cannot_be_loaded_leaves_the_others(fit: Any, gguf_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(gguf_model.read_bytes()[:9_000])
    done = attn_dsl(*fit(tmp_path / "run", "--proposers", "llm,library", llm=file))
    assert done.code == 0, done.err
    assert "llama.cpp cannot load it" in " ".join(done.out.split())
    assert "library" in (tmp_path / "run" / "pareto.csv").read_text()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--samples", "3"), "name one by --llm"),
        (("--proposers", "llm"), "name one by --llm MODEL"),
        (("--proposers", "llm,library", "--samples", "3"), "name one by --llm MODEL"),
        (("--llm", "nowhere.gguf"), "no such GGUF file"),
        (("--proposers", "llm,library", "--llm", "nowhere.gguf"), "no such GGUF file"),
        (("--llm", "replay:nowhere"), "no completions are kept there"),
        (("--proposers", "library", "--llm", "x"), "add it to --proposers"),
        (("--llm", "a/b", "--llm-device", "moon"), "--llm-device moon"),
    ],
)
def test_bad_options_end_before_any_work(
    small_capture: Path, tmp_path: Path, args: tuple[str, ...], says: str
) -> None:
    outcome = attn_dsl("fit", "--capture", small_capture, "--out", tmp_path / "run", *args)
    assert outcome.code == 2
    assert says in " ".join(outcome.err.split())
    assert not (tmp_path / "run" / "run.json").exists()


def test_the_python_function_names_the_remedy_too(small_capture: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name one by --llm MODEL"):
        package.fit(capture=small_capture, out=tmp_path / "run", proposers=["llm"])
