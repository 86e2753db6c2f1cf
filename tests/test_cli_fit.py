"""`attn-dsl fit` from a model and a text to a run directory: contents, repetition, interruption."""

from __future__ import annotations

import csv
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import attn_dsl, snapshot, succeed, write_texts
from fitting import assert_same, started, wait_for
from fitting import rows as head_rows

import attn_dsl as package
from attn_dsl.eval.files import sealed
from attn_dsl.eval.texts import text_hash

PROMISED = (
    "layer", "head", "program", "nodes", "iou_fit", "iou_select", "iou_test", "iou_test_low",
    "iou_test_high", "iou_no_sink", "output_r2", "output_r2_low", "output_r2_high", "jsd_test",
    "top1_test", "category", "seconds",
)  # fmt: skip
HEADS = [(0, 0), (1, 0), (1, 1), (1, 2), (1, 3)]
SETTINGS = ("--heads", "L0H0,L1", "--max-evals", "12", "--max-tokens", "32")


@pytest.fixture(scope="module")
def inputs(
    small_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[object, ...]:
    """What is fitted: a small model with random weights, and 24 short texts."""
    texts = write_texts(tmp_path_factory.mktemp("texts") / "texts.jsonl")
    return ("fit", small_model("gpt2"), "--text", texts)


@pytest.fixture(scope="module")
def run(inputs: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made by the command line with one thread."""
    out = tmp_path_factory.mktemp("runs") / "run"
    succeed(*inputs, *SETTINGS, "--jobs", "1", "--out", out)
    return out


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def programs(run: Path) -> dict[str, bytes]:
    return snapshot(run / "programs")


# what a run holds


def test_a_run_holds_its_files(run: Path) -> None:
    names = {"run.json", "heads.csv", "pareto.csv", "terms.csv", "candidates.jsonl", "report.html"}
    assert names <= {file.name for file in run.iterdir()}
    assert programs(run).keys() == {f"L{layer:02d}H{head:02d}.attn" for layer, head in HEADS}
    assert not list(run.rglob("*.part"))


def test_heads_csv_has_the_promised_columns_and_a_row_per_head(run: Path) -> None:
    header = (run / "heads.csv").read_text().splitlines()[0].split(",")
    assert tuple(header[: len(PROMISED)]) == PROMISED
    table = rows(run / "heads.csv")
    assert [(int(row["layer"]), int(row["head"])) for row in table] == HEADS
    for row in table:
        assert (run / row["program"]).is_file()
        for name in ("iou_fit", "iou_select", "iou_test", "iou_no_sink", "jsd_test", "top1_test"):
            assert 0 <= float(row[name]) <= 1, name
        assert float(row["iou_test_low"]) <= float(row["iou_test"]) <= float(row["iou_test_high"])
        assert float(row["seconds"]) >= 0
        assert row["category"]


def test_run_json_holds_settings_versions_hashes_and_split_sizes(
    run: Path, inputs: tuple[object, ...]
) -> None:
    info = json.loads((run / "run.json").read_text())
    assert info["status"] == "done"
    assert info["texts"].keys() == {"fit", "select", "test"}
    assert sum(info["texts"].values()) == 24
    assert all(int(row["texts_test"]) == info["texts"]["test"] for row in rows(run / "heads.csv"))
    assert info["key"]["seed"] == 0
    assert info["key"]["max_evals"] == 12
    assert info["key"]["heads"] == [list(pair) for pair in HEADS]
    assert len(info["key"]["capture"]) == 64
    assert {"attn-dsl", "torch", "transformers", "numpy", "python"} <= info["versions"].keys()
    assert info["capture_settings"]["max_tokens"] == 32
    capture = package.Capture.open(run / "capture")
    first = json.loads(Path(str(inputs[3])).read_text().splitlines()[0])["text"]
    assert capture.text_hash(0) == text_hash(first)
    assert capture.hash == info["key"]["capture"]


def test_programs_check_and_are_canonical(run: Path) -> None:
    files = sorted((run / "programs").iterdir())
    checked = json.loads(succeed("check", *files, "--examples", "3", "--json"))
    nodes = [int(row["nodes"]) for row in rows(run / "heads.csv")]
    assert [report["nodes"] for report in checked] == nodes
    assert not any(report["holes"] or report["lookahead"] for report in checked)
    succeed("fmt", "--check", *files)


def test_scoring_the_programs_again_gives_the_same_figures(run: Path) -> None:
    for row in rows(run / "heads.csv"):
        file, head = run / row["program"], f"L{row['layer']}H{row['head']}"
        args = ("--capture", run / "capture", "--heads", head, "--json")
        (again,) = json.loads(succeed("score", file, *args))
        for mine, its in (
            ("iou_test", "iou"), ("iou_test_low", "iou_low"), ("iou_test_high", "iou_high"),
            ("iou_no_sink", "iou_no_sink"), ("jsd_test", "jsd"), ("top1_test", "top1"),
            ("output_r2", "output_r2"), ("output_r2_low", "output_r2_low"),
            ("output_r2_high", "output_r2_high"),
        ):  # fmt: skip
            assert again[its] == pytest.approx(float(row[mine]), abs=1e-5), mine
        assert again["texts"] == int(row["texts_test"])


def test_pareto_csv_holds_the_chosen_program_of_each_head(run: Path) -> None:
    front = rows(run / "pareto.csv")
    for row in rows(run / "heads.csv"):
        own = [r for r in front if (r["layer"], r["head"]) == (row["layer"], row["head"])]
        (chosen,) = [r for r in own if r["chosen"] == "1"]
        assert chosen["program"] == (run / row["program"]).read_text()
        assert chosen["iou_test"] == row["iou_test"]
        nodes = [int(r["nodes"]) for r in own]
        assert nodes == sorted(set(nodes))


def test_candidates_are_kept(run: Path) -> None:
    lines = (run / "candidates.jsonl").read_text().splitlines()
    candidates = [json.loads(line) for line in lines]
    for layer, head in HEADS:
        own = [c for c in candidates if (c["layer"], c["head"]) == (layer, head)]
        assert 1 <= len(own) <= 40, "--max-evals, and a program of each size"
        for candidate in own:
            assert package.parse(candidate["program"]).nodes == candidate["nodes"]


def test_the_run_opens_in_python(run: Path) -> None:
    opened = package.Run.open(run)
    assert list(opened.to_frame()["iou_test"]) == pytest.approx(
        [float(row["iou_test"]) for row in rows(run / "heads.csv")], abs=1e-6
    )
    assert sum(len(one.front) for one in opened) == len(rows(run / "pareto.csv"))
    assert opened.program((1, 2))(["the", " cat"]).shape == (2, 2)


def test_the_report_can_be_written_again_where_the_run_was_moved(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    info = json.loads((moved / "run.json").read_text())
    info["capture"] = "gone/capture"
    (moved / "run.json").write_text(json.dumps(sealed(info)))
    (moved / "report.html").unlink()
    monkeypatch.chdir(tmp_path)
    assert succeed("report", "moved") == "moved/report.html\n"
    assert (moved / "report.html").read_bytes() == (run / "report.html").read_bytes()


# what it prints


def test_output_fits_the_terminal(
    inputs: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = attn_dsl(*inputs, "--heads", "L1", "--max-evals", "3", *SETTINGS[4:], "--out", "r")
    assert outcome.code == 0
    wide = [line for line in (outcome.out + outcome.err).splitlines() if len(line) > 80]
    assert not wide
    for head in ("L01H00", "L01H01", "L01H02", "L01H03"):
        assert f"\n{head} " in outcome.out
        assert head in outcome.err, "told while it runs"
    texts = json.loads((tmp_path / "r" / "run.json").read_text())["texts"]
    assert f"({texts['test']} texts)" in outcome.out
    for control in ("uniform", "first token", "previous token", "mean by offset", "positional"):
        assert control in outcome.out
    assert "Hall of fame" in outcome.out
    assert all("output R²" in part for part in (outcome.out.splitlines()[0], outcome.err))
    assert re.search(rf"Mean output R² \S+ \[\S+ \S+\] \({texts['test']} texts\)", outcome.out)


def test_json_output(inputs: tuple[object, ...], tmp_path: Path) -> None:
    args = ("--heads", "L1H1", "--max-evals", "2", *SETTINGS[4:], "--out", tmp_path / "r", "--json")
    told = json.loads(succeed(*inputs, *args))
    (row,) = rows(tmp_path / "r" / "heads.csv")
    assert told["iou_test"] == pytest.approx(float(row["iou_test"]), abs=1e-6)
    assert told["iou_test_low"] <= told["iou_test"] <= told["iou_test_high"]
    assert (told["heads"], told["status"], told["cut_short"]) == (1, "done", [])
    assert told["output_r2"] == pytest.approx(float(row["output_r2"]), abs=1e-6)
    assert told["output_r2_low"] <= told["output_r2"] <= told["output_r2_high"]
    assert told["controls"].keys() == told["controls_output_r2_median"].keys() == {
        "uniform", "first token", "previous token", "mean by offset", "positional grid",
    }  # fmt: skip
    assert Path(told["run"]) == tmp_path / "r"


# settings


def test_a_capture_can_be_given_instead_of_a_model(run: Path, tmp_path: Path) -> None:
    args = ("--capture", run / "capture", *SETTINGS[:4], "--out", tmp_path / "r")
    succeed("fit", *args)
    assert head_rows(tmp_path / "r") == head_rows(run)
    assert not (tmp_path / "r" / "capture").exists()


def test_bounds_on_programs_are_kept(run: Path, tmp_path: Path) -> None:
    args = ("--capture", run / "capture", "--heads", "L1", "--max-evals", "8", "--max-nodes", "5")
    succeed("fit", *args, "--out", tmp_path / "r")
    assert all(int(r["nodes"]) <= 5 for r in rows(tmp_path / "r" / "pareto.csv"))


def test_proposers_can_be_chosen(run: Path, tmp_path: Path) -> None:
    args = ("--capture", run / "capture", "--heads", "L1H0", "--max-evals", "6")
    succeed("fit", *args, "--proposers", "library", "--out", tmp_path / "r")
    lines = (tmp_path / "r" / "candidates.jsonl").read_text().splitlines()
    assert {json.loads(line)["proposer"] for line in lines} == {"library"}


def test_the_time_limit_ends_the_search_and_is_marked(run: Path, tmp_path: Path) -> None:
    args = ("--capture", run / "capture", "--timeout", "1", "--max-evals", "100000")
    out = succeed("fit", *args, "--out", tmp_path / "r", "--jobs", "1")
    table = rows(tmp_path / "r" / "heads.csv")
    assert len(table) == 8
    assert any(row["cut_short"] == "1" for row in table)
    short = [f"L{int(r['layer']):02d}H{int(r['head']):02d}" for r in table if r["cut_short"] == "1"]
    assert json.loads((tmp_path / "r" / "run.json").read_text())["cut_short"] == short
    assert "Cut short by --timeout" in out
    assert not any(int(row["cut_short"]) for row in rows(run / "heads.csv"))


def test_the_demo_model_is_the_default(tmp_path: Path) -> None:
    args = ("--heads", "L0H0", "--max-evals", "2", "--max-texts", "30", "--max-tokens", "24")
    told = json.loads(succeed("fit", *args, "--out", tmp_path / "r", "--json"))
    assert told["heads"] == 1
    assert sum(told["texts"].values()) == 30


# the same again


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_jobs(
    run: Path, inputs: tuple[object, ...], tmp_path: Path
) -> None:
    for jobs in ("1", "2"):
        again = tmp_path / jobs
        succeed(*inputs, *SETTINGS, "--jobs", jobs, "--out", again)
        assert_same(again, run)


def test_another_seed_splits_the_texts_otherwise(run: Path, tmp_path: Path) -> None:
    args = ("--capture", run / "capture", "--heads", "L1H0", "--max-evals", "2", "--seed", "5")
    succeed("fit", *args, "--out", tmp_path / "r")
    (row,) = rows(tmp_path / "r" / "heads.csv")
    assert row["iou_fit"] != rows(run / "heads.csv")[1]["iou_fit"]


# interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_it_has_and_is_resumed(
    run: Path, tmp_path: Path, inputs: tuple[object, ...], number: signal.Signals
) -> None:
    args = (*inputs, *SETTINGS, "--jobs", "1")
    out = tmp_path / "r"
    with started(*args, "--out", out) as process:
        wait_for(process, out / "state", "L*.json")
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert "--resume" in told
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    finished = snapshot(out / "state")
    assert 0 < len(finished) < len(HEADS)
    assert len(rows(out / "heads.csv")) == len(finished)

    assert attn_dsl(*args, "--out", out).code == 2, "without --resume nothing is touched"
    assert snapshot(out / "state") == finished
    succeed(*args, "--out", out, "--resume")
    assert snapshot(out / "state").items() >= finished.items()
    assert_same(out, run)
    assert json.loads((out / "run.json").read_text())["status"] == "done"


def test_resuming_a_finished_run_changes_nothing_but_the_report(
    run: Path, inputs: tuple[object, ...]
) -> None:
    before = snapshot(run)
    succeed(*inputs, *SETTINGS, "--out", run, "--resume")
    assert snapshot(run) == before


# real models


@pytest.mark.shared
@pytest.mark.parametrize("model", ["stories260k", "minilm-l6"])
def test_programs_explain_more_of_real_heads_than_any_control(
    shared: Path, tmp_path: Path, model: str
) -> None:
    text = shared / "text" / "tinystories-5k.jsonl"
    args = ("--text", text, "--heads", "L1H0,L2H3", "--max-texts", "40", "--max-tokens", "48")
    out = ("--max-evals", "60", "--out", tmp_path / "r", "--json")
    told = json.loads(succeed("fit", shared / "models" / model, *args, *out))
    assert told["heads"] == 2
    assert told["iou_test"] > max(told["controls"].values())
    kind = "causal" if model == "stories260k" else "bidirectional"
    assert all(f" {kind} " in p.decode() for p in programs(tmp_path / "r").values())
