"""The package in Python and notebooks: names, heads of runs, and what objects show of themselves."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import attn_dsl
from attn_dsl import Capture, InputError, Run, Tokens, parse

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def run(small_run: Path) -> Run:
    return Run.open(small_run)


@pytest.fixture
def capture(small_capture: Path) -> Capture:
    return Capture.open(small_capture)


class Checked(HTMLParser):
    """Reads HTML, and fails where tags are not closed or scripts are there."""

    VOID = ("br", "hr", "img")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        assert tag != "script"
        self.open += [tag] * (tag not in self.VOID)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def shown(thing: object) -> str:
    """What a notebook shows of an object, after it was checked."""
    assert len(repr(thing)) < 600
    html = thing._repr_html_()  # type: ignore[attr-defined]
    Checked(html)
    return html


def test_dir_lists_the_public_names_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, json, attn_dsl\nnames = dir(attn_dsl)\n"
        "heavy = [x for x in ('numpy', 'torch', 'pandas', 'numba', 'lark') if x in sys.modules]\n"
        "print(json.dumps([names, heavy]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    names, heavy = json.loads(done.stdout)
    assert heavy == []
    assert {"capture", "fit", "detect", "load", "parse", "Run", "testing"} <= set(names)
    assert set(attn_dsl.__all__) <= set(names)


@pytest.mark.parametrize("name", ["capture", "fit", "detect"])
def test_functions_have_the_options_of_their_commands_as_typed_arguments(name: str) -> None:
    from attn_dsl.cli.main import cli

    function = getattr(attn_dsl, name)
    arguments = inspect.signature(function).parameters
    assert all(one.annotation is not one.empty for one in arguments.values())
    assert all(one.kind != one.VAR_KEYWORD for one in arguments.values())
    command = cli.get_command(None, name)  # type: ignore[arg-type]
    apart = {"as_json", "define", "dry_run", "program", "refit", "extend", "llm_options"}
    options = {x.name for x in command.params} - apart  # type: ignore[union-attr]
    options = {x for x in options if not str(x).startswith("llm_")}
    assert options <= set(arguments), options - set(arguments)
    assert function.__doc__


def test_capture_of_texts_shows_itself_in_short(tmp_path: Path) -> None:
    texts = [f"Once upon a time {EVIL} there were {i} dogs." for i in range(3)]
    made = attn_dsl.capture("demo", texts=texts, out=tmp_path / "capture", max_tokens=32)
    assert repr(made) == ("<Capture of demo-gpt2: attention and values of 4 layers of 8 heads on 3 texts>")
    assert "demo-gpt2" in shown(made)
    frame = made.to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame["tokens"]) == [len(made.tokens(i)) for i in range(3)]
    picture = parse("head first causal:\n    9 where k == 0").plot("A dog.", made, "L1H2")
    real, program = picture.matrices.values()
    assert real.shape == program.shape == (len(picture.tokens),) * 2
    assert picture.tokens.text == "A dog."
    np.testing.assert_allclose(real.sum(1), 1, atol=1e-3)
    assert next(iter(picture.matrices)) == "demo-gpt2, L1H2"
    with pytest.raises(InputError, match="more than 256 tokens; give a shorter one"):
        parse("head first causal:\n    9 where k == 0").plot("A dog. " * 100, made, "L1H2")


def test_heads_of_a_run_are_found_by_name_and_by_number(run: Run) -> None:
    for name in ("L1H0", "l01h00", "L1.H0", (1, 0)):
        assert run[name].name == "L1H0"
        assert run.program(name) == run.program(1, 0) == run["L1H0"].program
        assert name == "L1.H0" or name == "l01h00" or name in run
    assert "L9H9" not in run
    for wrong in ("L1H7", (1, 7), "L7", 3):
        with pytest.raises(InputError, match=r"has no head [L3].*(did you mean `L1H|its heads: L0H0)"):
            run[wrong]
    assert [head.name for head in run] == [r.name for r in run.results]
    assert len(run) == len(run.results) == 6
    assert run._ipython_key_completions_()[0] == "L0H0"


def test_a_head_of_a_run_has_all_that_was_found(run: Run, capture: Capture) -> None:
    for head in run:
        assert head.metrics["iou"] == head.result.test["iou"]
        assert [row.nodes for row in head.front] == list(head.front.to_frame()["nodes"])
        assert sum(row.chosen for row in head.front) == 1
        assert list(head.worths) == list(head.result.terms)
        assert head.explanation.endswith(".")
        assert head.category == head.result.category
        assert {"program", "front", "metrics", "category", "plot"} <= set(dir(head))
        html = shown(head)
        assert all(f"worth {one.share:.0%}" in html for one in head.worths[:1])
        for one in (head.front, head.worths, head.program):
            shown(one)
        assert len(repr(head.metrics)) < 600
    picture = run["L0H1"].plot()
    real, made = picture.matrices.values()
    text = capture.split(0)["test"][0]
    np.testing.assert_array_equal(real, capture.matrix(text, 0, 1))
    np.testing.assert_array_equal(made, run.program(0, 1)(capture.tokens(text)))


def test_tables_of_a_run_are_data_frames(run: Run) -> None:
    frame = run.to_frame()
    assert isinstance(frame, pd.DataFrame)
    written = pd.read_csv(run.path / "heads.csv")
    assert list(frame) == list(written)
    assert list(frame["iou_test"]) == pytest.approx(list(written["iou_test"]), abs=1e-5)
    assert "iou_test" in shown(run)
    assert repr(run).endswith(": 6 heads of model>")


def test_score_is_that_of_the_run(run: Run, capture: Capture) -> None:
    best = max(run, key=lambda head: head.metrics["iou"].mean)
    found = best.program.score(capture, best.name)
    assert found.iou == best.metrics["iou"]
    assert found.output_r2.mean == pytest.approx(best.metrics["output_r2"].mean, abs=1e-5)
    assert found.program == best.program.source
    shown(found)
    shown(parse("head a causal:\n    ? where k == 0").fit(capture, (0, 0)))
    with pytest.raises(InputError, match="weights to be fitted"):
        parse("head a causal:\n    ? where k == 0").score(capture, "L0H0")
    with pytest.raises(InputError, match="has no head L5H0; did you mean `L1H0` or `L0H0`"):
        best.program.score(capture, "L5H0")
    with pytest.raises(InputError, match="heads of model are causal"):
        parse("head a bidirectional:\n    1 where k == 0").score(capture, "L0H0")


def test_pictures_show_every_token_escaped(tmp_path: Path) -> None:
    program = parse("head before causal:\n    99 where k == q-1")
    picture = program.plot(["<b>", EVIL, " &", "\n"])
    html = shown(picture)
    assert html.count("<rect") == 4  # one key for each query
    assert "&lt;b&gt; → &lt;b&gt;: 1.000" in html
    picture.save(tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").read_text(encoding="utf-8").count("<rect") == 4
    assert "first 64 of 100" in shown(program.plot("word" + " word" * 99))
    assert program.plot("Tom saw").tokens == Tokens.from_strings(["Tom", " saw"])
    for wrong in ({"head": "L0H0"}, {"text": 3}):
        with pytest.raises(InputError, match="give capture="):
            program.plot(**{"text": "Tom", **wrong})


def test_pictures_of_captures_name_a_text_by_its_number(capture: Capture) -> None:
    program = parse("head before causal:\n    99 where k == q-1")
    assert program.plot(2, capture).tokens == capture.tokens(2)
    with pytest.raises(InputError, match="no text 99; they go from 0 to 23"):
        program.plot(99, capture)
    with pytest.raises(InputError, match="has no head L8H8"):
        program.plot(2, capture, "L8H8")
    arrays = Capture.from_arrays([["a", " b"]], [[[[[1, 0], [0.5, 0.5]]]]])
    with pytest.raises(InputError, match="made from arrays"):
        program.plot("a b", arrays, "L0H0")


def test_differences_tell_terms_and_rows() -> None:
    old = parse(f'head a causal:\n    9 where k == 0\n    1 where text(k) == "{EVIL}"')
    new = parse("head a causal:\n    9 where k == q")
    difference = old.diff(new, "Tom ran.")
    assert "~ 9 where k == q\n      0 → q\n- 1 where text(k)" in str(difference)
    assert "   1 1.000  Tom[ ran]." in str(difference)
    assert "after   ·ran@1 1.00" in str(difference)
    assert "&lt;" in shown(difference)
    assert repr(difference) == "<Difference: 1 gone, 0 new, 1 changed>"
    assert str(old.diff(old)) == "The programs are the same."


def test_tokens_and_detections_show_themselves(capture: Capture) -> None:
    assert repr(Tokens.from_text("Tom's dog.")) == "<Tokens 5: 'Tom', \"'\", 's', ' dog', '.'>"
    assert "&lt;script" in shown(Tokens.from_strings([EVIL] * 20))
    assert len(repr(Tokens.from_text("a " * 1000))) < 300
    found = attn_dsl.detect(capture=capture)
    shown(found)
    assert len(found.to_frame()) == len(found.every)


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for slow, quick in (
        ("max_evals=40", "max_evals=2"),
        ('"L1"', '"L1H1"'),
        ("texts=60", "texts=12"),
    ):
        code = code.replace(slow, quick)
    exec(code, names)
    head = names["run"]["L1H1"]
    for name in re.findall(r"`(\w+)`|`(\w+)\(", page.split("| `run[", 1)[1].split("\n", 1)[0]):
        assert hasattr(head, "".join(name)), name


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(notebook: Path, tmp_path: Path) -> None:
    import nbclient
    import nbformat

    read = nbformat.read(notebook, as_version=4)
    assert not any(cell.get("outputs") for cell in read.cells), "save it without outputs"
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(read, timeout=600, kernel_name="python3", resources=resources).execute()
    outputs = [one for cell in read.cells for one in cell.get("outputs", ())]
    kinds = {kind for one in outputs for kind in one.get("data", ())}
    assert "text/html" in kinds
    assert any("<progress" in one.get("data", {}).get("text/html", "") for one in outputs)
    assert sum(len(one.get("data", {}).get("text/plain", "")) for one in outputs) < 20_000


def test_there_are_two_notebooks() -> None:
    assert len(NOTEBOOKS) == 2
