"""The proposer llm: from a head to prompts, completions, programs; refined, recorded, replayed."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import attn_dsl, snapshot, succeed
from fitting import assert_same
from llm_models import save_language_model
from llm_server import Behaviour, serving

from attn_dsl.dsl.check import check
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import show
from attn_dsl.eval.capture import Capture
from attn_dsl.synth.llm.model import LanguageModel, ModelError, Sampling
from attn_dsl.synth.llm.named import open_model
from attn_dsl.synth.llm.prompt import page_prompt
from attn_dsl.synth.llm.proposer import Llm, Options, counts, programs
from attn_dsl.synth.llm.record import Record
from attn_dsl.synth.llm.summary import Summary, fitting
from attn_dsl.synth.llm.together import NAME, together
from attn_dsl.synth.proposer import Fitted, HeadTask
from attn_dsl.synth.proposers.registry import DEFAULT
from attn_dsl.synth.session import Session, Settings

SAMPLING = Sampling(max_tokens=80)
SHORT = ("--samples", "6", "--completion-tokens", "80")


@pytest.fixture(scope="module")
def session(small_capture: Path) -> Session:
    return Session(Capture.open(small_capture), Settings(DEFAULT))


@pytest.fixture
def task(session: Session) -> HeadTask:
    return HeadTask(session.design, 1, 1, seed=0, max_nodes=200, max_evals=200)


@pytest.fixture(scope="module")
def model(language_model: Path) -> LanguageModel:
    return open_model(str(language_model))


def tried(task: HeadTask, llm: Llm) -> list[tuple[str, float]]:
    """Let the proposer propose for a new task of the same head; return what was fitted."""
    new = HeadTask(task.design, task.layer, task.head, seed=0, max_nodes=200, max_evals=200)
    for proposal in llm.propose(new):
        new.fit(proposal if not hasattr(proposal, "program") else proposal.program)
    return [(show(f.program), f.iou) for f in new.tried]


def test_it_proposes_programs(task: HeadTask, model: LanguageModel, tmp_path: Path) -> None:
    llm = Llm(Options(samples=8, sampling=SAMPLING), run=tmp_path, model=model)
    found = tried(task, llm)
    assert len(found) > 3
    for source, iou in found:
        program = parse(source)
        check(program)
        assert program.name == "l01h01" and 0 < iou <= 1
    assert tried(task, llm) == found


def test_requests_are_recorded_and_not_asked_again(
    task: HeadTask, model: LanguageModel, tmp_path: Path
) -> None:
    options = Options(samples=6, rounds=2, sampling=SAMPLING)
    found = tried(task, Llm(options, run=tmp_path, model=model))
    file = tmp_path / "llm" / "l01h01.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1]
    assert sum(len(line["completions"]) for line in lines) == 6
    assert lines[0]["model"] == model.name and "head proposed" in lines[0]["grammar"]
    first, second = (line["prompt"] for line in lines)
    assert "Programs that were tried" not in first
    for part in ("Programs that were tried", "Worst rows:", "Best rows:", "head: ", "program: "):
        assert part in second

    class Silent:
        """A model that was asked enough."""

        name, fingerprint = model.name, model.fingerprint
        prompt, context, count = model.prompt, model.context, staticmethod(model.count)

        def complete(self, *args: Any) -> Any:
            raise ModelError("asked again")

    assert tried(task, Llm(options, run=tmp_path, model=Silent())) == found  # type: ignore[arg-type]
    other = Options(samples=6, rounds=2, sampling=Sampling(0.5, max_tokens=80))
    with pytest.raises(ModelError, match="asked again"):
        tried(task, Llm(other, run=tmp_path, model=Silent()))  # type: ignore[arg-type]
    file.write_text(file.read_text()[:-40])  # as an interruption may leave it, or another hand
    assert len(Record(tmp_path, "l01h01").lines) == 1
    assert tried(task, Llm(options, run=tmp_path, model=model)) == found


def test_samples_are_put_together(task: HeadTask, model: LanguageModel) -> None:
    llm = Llm(Options(samples=16, rounds=1, sampling=SAMPLING), model=model)
    found = [x if isinstance(x, Fitted) else task.fit(x) for x in llm.propose(task)]
    whole = [f for f in found if f.proposer == NAME]
    samples = [f for f in found if f.proposer != NAME]
    assert max(f.iou for f in whole) > max(f.iou for f in samples)
    for fitted in whole:
        check(fitted.program)
        assert fitted.nodes <= task.max_nodes
        assert task.measured(fitted.program).iou == pytest.approx(fitted.iou, abs=1e-6)
    assert {f.nodes <= 40 for f in whole} == {True, False}
    assert list(together(task, samples[:1])) == []


def test_a_replay_needs_no_model(task: HeadTask, model: LanguageModel, tmp_path: Path) -> None:
    found = tried(task, Llm(Options(samples=6, sampling=SAMPLING), run=tmp_path, model=model))
    assert tried(task, Llm(Options(model=f"replay:{tmp_path}"))) == found
    other = HeadTask(task.design, 0, 0, seed=0, max_nodes=200, max_evals=200)
    with pytest.raises(ModelError, match="choose --heads as in that run"):
        tried(other, Llm(Options(model=f"replay:{tmp_path}")))


def test_samples_depend_on_the_head_and_the_seed(session: Session, model: LanguageModel) -> None:
    def first(head: int, seed: int) -> str:
        task = HeadTask(session.design, 0, head, seed=seed, max_nodes=200, max_evals=200)
        return tried(task, Llm(Options(samples=1, sampling=SAMPLING), model=model))[-1][0]

    assert first(0, 0) == first(0, 0)
    assert first(0, 0).partition(":")[2] != first(1, 0).partition(":")[2]


def test_a_model_of_the_compact_prompt_is_given_that(task: HeadTask, tmp_path: Path) -> None:
    from attn_dsl.synth.llm.compact import compact_prompt

    model = open_model(str(save_language_model(tmp_path / "model", prompt="compact")))
    assert model.prompt == "compact"
    llm = Llm(Options(samples=4, rounds=3, sampling=SAMPLING), run=tmp_path, model=model)
    tried(task, llm)
    (line,) = (json.loads(x) for x in (tmp_path / "llm" / "l01h01.jsonl").read_text().splitlines())
    assert line["prompt"] == compact_prompt(task)
    assert line["count"] == 4


def test_plans_come_before_programs(task: HeadTask, model: LanguageModel, tmp_path: Path) -> None:
    tried(task, Llm(Options(samples=8, plan=True, sampling=SAMPLING), run=tmp_path, model=model))
    lines = [json.loads(x) for x in (tmp_path / "llm" / "l01h01.jsonl").read_text().splitlines()]
    assert "begin with `#`" in lines[0]["prompt"]
    written = [c["text"] for line in lines for c in line["completions"]]
    assert any(text.startswith("# ") for text in written)


def test_the_prompt_keeps_to_its_budget(task: HeadTask, model: LanguageModel) -> None:
    lengths = []
    best = [task.fit(parse("head a causal:\n ? where k == q-1\n ? where k == 0"))]
    for budget in (3000, 1500, 700, 300, 100):
        text = page_prompt(task, model.count, budget, best=best)
        assert text is not None and model.count(text) <= budget
        assert text.rstrip().endswith("Write the program of this head, nothing else:")
        lengths.append(len(text))
    assert lengths == sorted(lengths, reverse=True)
    assert page_prompt(task, model.count, 5) is None
    with pytest.raises(ModelError, match="leaves too little for a program"):
        Llm(Options(prompt_tokens=32), model=_Narrow(model)).prompt(task)  # type: ignore[arg-type]


class _Narrow:
    """A model whose context is hardly longer than a sentence."""

    prompt, context, name = "page", 16, "narrow"

    def __init__(self, model: LanguageModel) -> None:
        self.count = model.count


def test_the_summary_tells_the_truth(session: Session) -> None:
    task = HeadTask(session.design, 0, 0, seed=0, max_nodes=200, max_evals=200)
    lines = Summary(task).lines(200)
    rows, starts = task.rows, task.rows.starts
    first = float(rows.actual[starts[:-1]].sum() / len(rows))
    assert f"On the first token: {first:.2f};" in "\n".join(lines)
    assert f"seen on {len(rows)} queries of {len(session.design.rows)} texts" in lines[0]
    share = next(line for line in lines if "k == q:" in line or "q - k" in line)
    assert share
    for most in (0, 3, 4, 11, 60):
        assert len(Summary(task).lines(most)) <= most
    assert Summary(task).lines(40) == Summary(task).lines(40)


def test_the_longest_text_within_a_budget() -> None:
    assert fitting(lambda n: "x" * n, len, 3, 10) == "xxx"
    assert fitting(lambda n: "x" * n, len, 30, 10) == "x" * 10
    assert fitting(lambda n: "x" * (n + 5), len, 3, 10) is None


def test_completions_are_counted(task: HeadTask, model: LanguageModel) -> None:
    from attn_dsl.synth.llm.grammar import proposal_grammar

    found = model.complete("A head.", proposal_grammar(True), 20, 0, SAMPLING)
    told = counts(found, causal=True)
    assert told.completions == 20 and told.invalid == 0
    assert told.truncated == sum(c.truncated for c in found) > 0
    assert told.distinct <= 20 - told.truncated + told.cut
    assert len(list(programs(task, found))) == 20 - told.truncated + told.cut


def test_a_failure_is_the_runs_only_if_nobody_else_is_asked(
    task: HeadTask, model: LanguageModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "llm").write_text("a file, where the folder of records would be")
    options = Options(samples=4, sampling=SAMPLING)
    with pytest.raises(ModelError, match="llm cannot be made"):
        tried(task, Llm(options, run=tmp_path, model=model))
    with caplog.at_level(logging.WARNING):
        kept = tried(task, Llm(options, run=tmp_path, model=model, alone=False))
    assert kept  # what was written before the disk was full
    assert "The other proposers go on" in caplog.text
    assert len(caplog.records) == 1


def test_writing_leaves_time_for_fitting(task: HeadTask, model: LanguageModel) -> None:
    options = Options(samples=9_000, rounds=1, sampling=SAMPLING)
    now = time.monotonic()
    short = HeadTask(
        task.design, 0, 0, seed=0, max_nodes=200, max_evals=9_000, deadline=now + 10,
    )  # fmt: skip
    assert list(Llm(options, model=model).propose(short))
    assert short.short
    assert len(short.tried) > 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"samples": 0}, "--samples must be at least 1"),
        ({"rounds": 0}, "--llm-rounds must be at least 1"),
        ({"prompt_tokens": 3}, "--prompt-tokens must be at least 32"),
    ],
)
def test_options_out_of_range(options: dict[str, int], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Options(**options)  # type: ignore[arg-type]


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
    assert told["llm"]["completions"] == 12 and "failed" not in told["llm"]
    succeed(*fit(two, "--proposers", "llm,library", "--jobs", 2))
    assert_same(one, two)
    shutil.copytree(one, three)  # and undo all but what the model wrote
    shutil.rmtree(three / "state")
    (three / "candidates.jsonl").unlink()
    written = snapshot(three / "llm")
    succeed(*fit(three, "--proposers", "llm,library", "--resume"))
    assert_same(one, three)
    assert snapshot(three / "llm") == written
    args = [*fit(four, "--proposers", "llm,library", llm=f"replay:{one}")]
    succeed(*args)
    assert_same(one, four)
    assert '"proposer": "llm"' in (one / "candidates.jsonl").read_text()


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


def test_a_run_says_what_was_asked_of_which_model(fit: Any, tmp_path: Path) -> None:
    out = succeed(*fit(tmp_path / "run", "--proposers", "llm", "--llm-rounds", 1))
    assert "12 completions" in out
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["key"]["llm"]["samples"] == 6 and info["key"]["llm"]["rounds"] == 1
    assert info["key"]["proposers"] == ["llm"]
    other = fit(tmp_path / "run", "--proposers", "llm", "--llm-rounds", 2, "--resume")
    assert "other settings" in attn_dsl(*other).err


def test_a_server_that_dies_leaves_the_others(
    fit: Any, language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(language_model, Behaviour(status=503, answers=2)) as url:
        done = attn_dsl(*fit(tmp_path / "run", "--proposers", "llm,greedy", llm=url))
        assert done.code == 0, done.err
        assert "The proposer llm failed" in done.out and "503" in done.out
        alone = attn_dsl(*fit(tmp_path / "alone", "--proposers", "llm", llm=url))
    assert alone.code == 1 and "503" in alone.err and "Traceback" not in alone.err
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["status"] == "done" and "503" in info["llm"]["failed"]["error"]
    assert "greedy" in (tmp_path / "run" / "pareto.csv").read_text()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--samples", "3"), "name one by --llm"),
        (("--llm", "nowhere.gguf"), "no such file"),
        (("--llm", "replay:nowhere"), "no completions are kept there"),
        (("--proposers", "greedy", "--llm", "x"), "add it to --proposers"),
        (("--proposers", "llm", "--llm-device", "moon"), "--llm-device moon"),
    ],
)
def test_bad_options_end_before_any_work(
    small_capture: Path, tmp_path: Path, args: tuple[str, ...], says: str
) -> None:
    outcome = attn_dsl("fit", "--capture", small_capture, "--out", tmp_path / "run", *args)
    assert outcome.code == 2
    assert says in " ".join(outcome.err.split())
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_file_that_is_no_model_leaves_the_others(fit: Any, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_text("not one")
    done = attn_dsl(*fit(tmp_path / "run", "--proposers", "llm,greedy", llm=file))
    assert done.code == 0, done.err
    assert "not a GGUF file" in " ".join(done.out.split())
    assert "greedy" in (tmp_path / "run" / "pareto.csv").read_text()


@pytest.mark.shared
def test_a_real_model_that_never_saw_the_language(fit: Any, shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    gguf = shared / "models" / "stories260k.gguf"
    told = json.loads(succeed(*fit(tmp_path / "run", "--proposers", "llm", "--json", llm=gguf)))
    assert told["llm"]["completions"] == 12
    assert "llm" in (tmp_path / "run" / "pareto.csv").read_text()
