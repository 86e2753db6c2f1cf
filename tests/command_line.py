"""Runs the command line inside the test's process, and reads what it writes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

WORDS = "the cat dog sat ran on to mat park and she saw a bird one day boy girl went see end".split()


@dataclass(frozen=True)
class Outcome:
    """What a command left on the terminal: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


def attn_dsl(*args: object, stdin: str = "", columns: int = 80) -> Outcome:
    """Run `attn-dsl` on a terminal of so many columns, as a shell would."""
    from attn_dsl.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    code: object = None
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        mock.patch.dict(os.environ, {"COLUMNS": str(columns)}),
    ):
        try:
            main([str(arg) for arg in args])
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int), "the command line did not exit"
    return Outcome(code, out.getvalue(), err.getvalue())


def succeed(*args: object, stdin: str = "") -> str:
    """Run a command that must succeed, and return its standard output."""
    outcome = attn_dsl(*args, stdin=stdin)
    assert outcome.code == 0, outcome.err + outcome.out
    return outcome.out


def write_texts(file: Path, number: int = 24, seed: int = 0) -> Path:
    """Write short random texts of the words that the small models know."""
    draw = random.Random(seed)
    with file.open("w", encoding="utf-8") as lines:
        for _ in range(number):
            words = draw.choices(WORDS, k=draw.randint(8, 20))
            lines.write(json.dumps({"text": " ".join(words) + " ."}) + "\n")
    return file


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return the contents of every file below a folder, by its path."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


class Page(HTMLParser):
    """What a browser would see: elements in balance, their attributes, the text of scripts."""

    VOID = ("meta", "br", "input", "wbr", "link", "img")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.text += data

    @property
    def ids(self) -> list[str | None]:
        return [attrs["id"] for _, attrs in self.elements if "id" in attrs]

    @property
    def payload(self) -> dict[str, Any]:
        payload: dict[str, Any] = json.loads(self.scripts[0])
        return payload
