"""Hypotheses: holes are fitted, figures are those of score, a search may start from them."""

from __future__ import annotations

import csv
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from command_line import attn_dsl, succeed

import attn_dsl as package
from attn_dsl import Capture, InputError, parse
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.synth.hypothesis import FittedProgram

WORDS = "the cat saw a dog . Tom and Mia ran to the park , and she said hi to him !".split()
TRUE = "head true causal:\n    4 where text(k-1) == text(q)\n    2 where k == 0\n"
OPEN = "head open causal:\n    ? where text(k-1) == text(q)\n    2 where k == 0\n"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "hypothesis.md"


LEVEL = 'set Mark = {".", ","}\ndef level(i) = count(j <= i where text(j) in Mark)\n\nhead level causal:\n'


def planted(values: bool = True, source: str = TRUE) -> Capture:
    """Attention and values of two heads: a program, and noise."""
    rng, program = np.random.default_rng(3), parse(source)
    tokens = [Tokens.from_strings([f" {x}" for x in rng.choice(WORDS, size=24)]) for _ in range(60)]
    attention = []
    for x in tokens:
        noise = np.tril(rng.random((24, 24)))
        attention.append(np.stack([program(x), noise / noise.sum(1, keepdims=True)])[None])
    own = [rng.normal(size=(1, 2, 24, 4)) for _ in tokens] if values else None
    return Capture.from_arrays(tokens, attention, values=own, causal=True)


@pytest.fixture(scope="module")
def capture() -> Capture:
    return planted()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "open.attn").write_text(OPEN)
    (tmp_path / "true.attn").write_text(TRUE)
    return tmp_path


def test_the_hole_of_a_true_hypothesis_gets_the_true_weight(capture: Capture) -> None:
    fitted = parse(OPEN).fit(capture, "L0H0")
    assert isinstance(fitted, FittedProgram)
    own, fixed = fitted.tree.weights
    assert own == pytest.approx(4, abs=0.1)
    assert fixed == 2
    figures = fitted.figures
    assert figures.iou.low > 0.98
    assert figures.output_r2.low > 0.98
    assert figures.holds
    assert figures.fitted == 1
    assert fitted(["a", " b"]).shape == (2, 2)
    other = parse(OPEN).fit(capture, "L0H1").figures
    assert not other.holds
    assert other.control[0] in ("uniform", "mean by offset", "positional grid")


def test_all_weights_are_fitted_where_that_is_asked_for(capture: Capture) -> None:
    wrong = parse(TRUE.replace("4 where", "-1.234567 where").replace("2 where", "0.3 where"))
    assert parse(OPEN.replace("2 where", "0.3456 where")).fit(capture, "L0H0").tree.weights[1] == 0.3456
    fitted = wrong.fit(capture, "L0H0", refit=True)
    assert fitted.tree.weights == pytest.approx((4, 2), abs=0.1)


def test_failures_are_the_queries_of_the_largest_error(capture: Capture) -> None:
    for own in (capture, planted(values=False)):
        program = parse("head first causal:\n    ? where k == 0").fit(own, "L0H0")
        (worst, *rest) = program.figures.failures
        assert [worst.error, *(x.error for x in rest)] == sorted(
            (x.error for x in program.figures.failures), reverse=True
        )
        texts = own.split(0)["test"]
        errors = []
        for text in texts:
            wrong = program(own.tokens(text)) - own.matrix(text, 0, 0)
            if own.has_outputs:
                errors.append(np.square(wrong @ own.contributions(text, 0)).sum(1))
            else:
                errors.append(np.abs(wrong).sum(1))
        assert worst.error == pytest.approx(np.max(errors) / np.mean(errors), rel=1e-3)
        assert errors[texts.index(worst.text)][worst.query] == np.max(errors)
        row = own.matrix(worst.text, 0, 0)[worst.query]
        assert worst.head[0] == (row.argmax(), pytest.approx(row.max()))


def test_a_program_that_is_never_wrong_can_be_scored() -> None:
    texts = [["a", " b", f" {i}"] for i in range(20)]
    first = np.zeros((1, 1, 3, 3))
    first[..., 0] = 1.0
    exact = parse("head a causal linear:\n 1 where k == 0")
    found = exact.score(Capture.from_arrays(texts, [first] * 20), "L0H0")
    assert found.iou.mean == 1.0
    assert all(one.error == 0.0 for one in found.failures)


def test_figures_in_files_are_those_of_score_and_of_the_run(small_run: Path, here: Path) -> None:
    """A finished run is where hypotheses go; its programs are what they are compared with."""
    import shutil

    run = shutil.copytree(small_run, here / "run")
    info = json.loads((run / "run.json").read_text())
    args = ("fit", "--program", "open.attn", "--heads", "L0H1,L1H0", "--out", "run")
    out = succeed(*args, "--capture", info["capture"])
    assert max(map(len, out.splitlines())) <= 80
    assert "above every control" in out
    assert re.search(r"\[ ?\w+.*\]", out)
    found = json.loads(succeed(*args, "--capture", info["capture"], "--json"))["hypotheses"]
    with (run / "hypotheses.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(x["layer"], x["head"]) for x in found] == [(0, 1), (1, 0)]
    for row, one in zip(rows, found, strict=True):
        label = f"L{row['layer']}H{row['head']}"
        program = run / row["file"]
        assert program.read_text() == one["source"]
        scored = ("score", program, "--capture", info["capture"], "--heads", label, "--json")
        (again,) = json.loads(succeed(*scored))
        for mine, its in (
            ("iou_test", "iou"),
            ("iou_test_low", "iou_low"),
            ("output_r2", "output_r2"),
        ):
            assert float(row[mine]) == pytest.approx(again[its], abs=1e-5)
        result = next(r for r in package.Run.open(run).results if r.name == label)
        assert float(row["iou_found"]) == pytest.approx(result.test["iou"].mean, abs=1e-6)
        assert float(row["iou_best_control"]) == pytest.approx(result.best_control[1], abs=1e-6)
        assert 1 <= len(one["failures"]) <= 5
    assert attn_dsl("fit", "--program", "open.attn", "--out", "run", "--seed", "1").code == 2


def test_the_search_starts_from_the_program(small_capture: Path, here: Path) -> None:
    args = (
        "fit",
        "--capture",
        small_capture,
        "--heads",
        "L0H0",
        "--max-evals",
        "12",
        "--jobs",
        "1",
    )
    data = json.loads(succeed(*args, "--program", "true.attn", "--extend", "--out", "run", "--json"))
    (row,) = data["hypotheses"]
    assert row["fitted"] == 2
    assert row["iou_found"] == pytest.approx(data["iou_test"], abs=1e-6)
    lines = (here / "run" / "candidates.jsonl").read_text().splitlines()
    grown = [json.loads(x) for x in lines if json.loads(x)["proposer"] == "scores"]
    assert any(x["program"].count(" where ") == 2 and "text(k-1) == text(q)" in x["program"] for x in grown)
    largest = max(grown, key=lambda x: x["nodes"])
    assert "text(k-1) == text(q)" in largest["program"]
    assert attn_dsl(*args, "--out", "run", "--resume").code == 0, "from what run.json holds"
    assert attn_dsl(*args, "--seed", "1", "--out", "run", "--resume").code == 2, "other settings"


def test_definitions_of_one_head_are_offered_to_others_and_kept(tmp_path: Path) -> None:
    """A program with a definition, found for a head, is a start for the other; the library holds it."""
    planted_level = planted(source=f"{LEVEL}    4 where level(k) == level(q)\n    2 where k == 0\n")
    given = parse(f"{LEVEL}    ? where level(k) == level(q)\n")
    runs = []
    for name, heads in (("one", "L0H0"), ("both", "L0H0,L0H1")):
        runs.append(
            package.fit(
                capture=planted_level, out=tmp_path / name, heads=heads, programs=[given],
                proposers=("scores",), max_evals=20, jobs=1,
            )
        )  # fmt: skip
        given = runs[-1]["L0H0"].program
        assert "def level(i) = count(j <= i where text(j) in " in given.source
    assert runs[1]["L0H0"].test["iou"].mean > 0.95
    library = (tmp_path / "both" / "library.csv").read_text()
    assert "def level(i)" in library
    fits = [json.loads(x) for x in (tmp_path / "both" / "candidates.jsonl").read_text().splitlines()]
    assert any(one["head"] == 1 and "level(k)" in one["program"] for one in fits)


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("head a bidirectional:\n    ? where k == 0", (), ("heads of", "write `head a causal`")),
        (TRUE, (), ("no weight to fit", "`?`", "--refit", "attn-dsl score")),
        ("head a causal linear:\n    ? where k == 0", (), ("a is linear", "write `softmax`")),
        (OPEN, ("--heads", "L7H0"), ("there is no L7H0", "layers 0 to 1")),
        (OPEN, ("--timeout", "3"), ("--timeout is for the search", "--extend")),
        (OPEN, ("--extend", "--proposers", "library"), ("proposer scores", "--proposers")),
        ("head a causal:\n    by q - k [0: 1, 2: 0]", ("--extend",), ("start from a table", "`? where")),
    ],
)  # fmt: skip
def test_hypotheses_that_cannot_be_tested(
    small_capture: Path, here: Path, source: str, options: tuple[str, ...], says: tuple[str, ...]
) -> None:
    (here / "a.attn").write_text(source)
    outcome = attn_dsl("fit", "--capture", small_capture, "--program", "a.attn", "--out", "out", *options)
    assert outcome.code == 2
    for part in says:
        assert part in " ".join(outcome.err.split())
    assert not (here / "out").exists()


def test_two_hypotheses_of_one_name_and_several_heads(capture: Capture, here: Path) -> None:
    with pytest.raises(InputError, match="two programs are called open"):
        package.fit_hypotheses(["open.attn", parse(OPEN)], capture=capture, out="out")
    with pytest.raises(InputError, match="has no head L0; did you mean"):
        parse(OPEN).fit(capture, "L0")
    assert attn_dsl("fit", "--refit").code == 2


def test_strings_that_no_text_has_are_warned_of(capture: Capture) -> None:
    literal = 'head a causal:\n    ? where token(k) in {"cat", "Dogs"}'
    with pytest.warns(UserWarning, match='2 of 2 strings that token .* as "Dogs"; did you mean " cat"'):
        parse(literal).fit(capture, "L0H0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parse('head a causal:\n    ? where token(k) in {" cat", "Dogs"}').fit(capture, "L0H0")


def test_the_program_of_the_page_is_one_that_can_be_fitted() -> None:
    programs = re.findall(r"```attn\n(head .*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(programs) >= 2
    assert parse(programs[0]).facts.holes
    for source in programs:
        assert parse(source).source == source
