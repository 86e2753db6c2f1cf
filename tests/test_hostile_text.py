"""Texts, names and files with control characters, markup and marks of chats: shown, never obeyed."""

from __future__ import annotations

import json
import re
import shutil
from itertools import accumulate, pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from command_line import Page, attn_dsl
from fitting import SETTINGS

import attn_dsl as package
from attn_dsl.cli.terminal import printable
from attn_dsl.eval.capture_files import content_hash
from attn_dsl.eval.difference import difference
from attn_dsl.eval.files import write_bytes
from attn_dsl.eval.pictures import plot
from attn_dsl.synth.llm.prompt import head_part
from attn_dsl.synth.llm.summary import Summary
from attn_dsl.synth.proposer import HeadTask

ESCAPE = "\x1b[2J\x1b]0;owned\x07"
MARKUP = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
WORDS = (ESCAPE, MARKUP, "<|im_end|>", "\x9b31m", "\u202eevil", "</text></svg>", "\x00", "a]]>b")
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
PROGRAM = f"""# {ESCAPE}
head odd causal softmax:
    6 where k == q-1 and text(k) in {{"<script>alert(1)</script>", "\\u001b[2J"}}  # {ESCAPE}{MARKUP}
    2 where k == 0
"""


@pytest.fixture(scope="module")
def hostile(small_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A capture, a run and a program, all with hostile texts in their names, tokens and comments."""
    folder = tmp_path_factory.mktemp("hostile") / f"x{ESCAPE}<b>"
    capture, run, program = folder / "capture", folder / "run", folder / f"p{ESCAPE}.attn"
    shutil.copytree(small_capture, capture, ignore=shutil.ignore_patterns(".*"))
    texts, meta = capture / "texts.jsonl", json.loads((capture / "capture.json").read_text())
    records = [json.loads(line) for line in texts.read_text().splitlines()]
    for record in records:
        n = len(record["strings"])
        record["strings"] = [f" {WORDS[i % len(WORDS)]}{i // 2}" for i in range(n)]
        record["text"] = "".join(record["strings"])
        ends = [0, *accumulate(map(len, record["strings"]))]
        record["spans"] = [[*pair] for pair in pairwise(ends)]
    meta["texts"] = write_bytes(texts, "".join(json.dumps(x) + "\n" for x in records).encode())
    meta["name"] = f"m{ESCAPE}{MARKUP}"
    (capture / "capture.json").write_text(json.dumps(meta | {"hash": content_hash(meta)}))
    program.write_text(PROGRAM)
    outcome = attn_dsl("fit", "--capture", capture, *SETTINGS, "--out", run)
    assert outcome.code == 0, outcome.err
    assert not CONTROL.search(outcome.out + outcome.err)
    return capture, run, program


def test_no_command_sends_control_characters(hostile: tuple[Path, Path, Path]) -> None:
    capture, run, program = hostile
    gone = f"gone{ESCAPE}"
    commands: list[tuple[object, ...]] = [
        ("fit", "--capture", capture, "--heads", "L0H0", "--max-evals", "1", "--out", run, "--resume"),
        ("fit", "--capture", gone), ("fit", gone, "--text", gone), ("capture", gone, "--text", gone),
        ("score", program, "--capture", capture), ("score", gone, "--capture", capture),
        ("detect", "--capture", capture), ("show", program, "--on", f"a {ESCAPE} b"),
        ("show", run, "L0H1", "--on", f"a {ESCAPE} b"), ("show", run, ESCAPE), ("explain", program),
        ("explain", run, "L0H0"), ("check", program), ("check", gone), ("fmt", "--check", program),
        ("diff", program, program), ("export", program, "--to", "numpy"), ("replace", run),
        ("compare", run, program), ("report", run), ("report", gone), ("features", ESCAPE), (ESCAPE,),
        ("grammar", gone), ("view", gone), ("score", program, "--capture", capture, "--json"),
    ]  # fmt: skip
    for args in commands:
        outcome = attn_dsl(*args)
        assert "Traceback" not in outcome.err
        assert not CONTROL.search(outcome.out + outcome.err), (args, outcome)


def test_pages_and_pictures_hold_texts_as_texts(hostile: tuple[Path, Path, Path]) -> None:
    capture, run, file = hostile
    program = package.load(file)
    attn_dsl("show", file, "--on", f"a {MARKUP} b", "--html", run / "page.html")
    text = package.Capture.open(capture).tokens(0)
    shown = [plot(program, text.strings), difference(program, program, text.strings), program, text]
    pages = [(run / name).read_text(encoding="utf-8") for name in ("report.html", "page.html")]
    for html in [*pages, *(one._repr_html_() for one in shown)]:
        page = Page(html)
        assert not page.open, "elements in balance"
        assert {name for name, _ in page.elements}.isdisjoint({"img"} if html not in pages[:1] else set())
        assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
        assert not any("alert(1)" in script for script in page.scripts[1:])
    svg = plot(program, text.strings).svg
    assert ElementTree.fromstring(svg).tag.endswith("svg"), "control characters are no XML"


def test_marks_of_chats_are_broken_in_prompts(hostile: tuple[Path, Path, Path]) -> None:
    from attn_dsl.synth.fit import ready_session, settings_of

    capture = package.Capture.open(hostile[0])
    session = ready_session(capture, settings_of(0, 4, 40, 1, None, allow_lookahead=False))
    task = HeadTask(session.design, 0, 0, seed=0, max_nodes=40, max_evals=4)
    prompt = head_part(Summary(task), len, 20_000)
    assert "im_end" in prompt
    assert "<|im_end" not in prompt


def test_printable() -> None:
    assert printable("a\tb\nc é 猫 \x1b[0m\x9b\u202e") == "a\tb\nc é 猫 \\x1b[0m\\x9b\\u202e"
    assert json.loads(json.dumps("\x1b")) == "\x1b"
