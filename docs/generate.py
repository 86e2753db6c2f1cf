"""Writes the reference pages from the code, and the README from its figures.

`cli.md` comes from click, `language.md` from the registry, `api.md` from the public names. What is
written by hand is in `language.in.md` and `readme.in.md`; `{{name}}` in them stands for a constant
of the code, a table made here, or a figure of `readme.json`, which `docs/readme.py` measures. Run
it by `make docs`; a test compares the pages with what it would write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
from click.testing import CliRunner

import attn_dsl
from attn_dsl.cli.main import COMMANDS, cli
from attn_dsl.cli.reference import FUNCTIONS, READS, call, mark
from attn_dsl.dsl import limits
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.dsl.library import CATEGORIES, library

FOLDER = Path(__file__).resolve().parent
NOTE = "<!-- Written by docs/generate.py; run `make docs` to write it again. -->\n"


def help_text(name: str | None = None) -> str:
    """Return what `--help` prints on a terminal of 80 columns, of a command or of all."""
    arguments = [*([] if name is None else [name]), "--help"]
    return CliRunner().invoke(cli, arguments, prog_name="attn-dsl", terminal_width=80).output


def cli_page() -> str:
    """Return `cli.md`."""
    parts = [
        NOTE,
        "# The command line\n",
        fence(help_text()),
        "Exit codes: 0 done, 1 the work failed, 2 wrong usage or input, 130 interrupted (what\n"
        "was finished is on disk). With `ATTN_DSL_DEBUG=1` an error shows its traceback.\n",
    ]
    for name in COMMANDS:
        parts += [f"## attn-dsl {name}\n", fence(help_text(name))]
    return "\n".join(parts)


def language_page() -> str:
    """Return `language.md`."""
    parts = {
        name: f"{value:,.0f}" if value >= 1 else f"{value:g}"
        for name, value in vars(limits).items()
        if name.isupper()
    }
    parts |= {
        "features": "\n".join(feature_tables()),
        "functions": table(("function", "value"), ((code(f), doc) for f, doc in FUNCTIONS)),
        "lexicon": table(
            ("set", "what it holds", "words"),
            ((code(s.name), s.doc, str(len(s.elements))) for s in lexicon().values()),
        ),
        "library": "\n".join(library_tables()),
    }
    return NOTE + "\n" + filled("language.in.md", parts)


def readme() -> str:
    """Return the README."""
    return filled("readme.in.md", json.loads((FOLDER / "readme.json").read_text(encoding="utf-8")))


def filled(template: str, parts: dict[str, str]) -> str:
    """Return a page written by hand with its `{{name}}` filled in."""
    page = (FOLDER / template).read_text(encoding="utf-8")
    unknown = set(re.findall(r"\{\{(\w+)\}\}", page)) ^ set(parts)
    if unknown:
        raise ValueError(f"{template} and its figures differ in {', '.join(sorted(unknown))}")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]].rstrip(), page)


def api_page() -> str:
    """Return `api.md`, which mkdocstrings fills from the docstrings."""
    names = [*attn_dsl.__all__, "testing"]
    parts = [f"## {name}\n\n::: attn_dsl.{name}\n" for name in names]
    return "\n".join([NOTE, "# The Python API\n", *parts])


def feature_tables() -> Iterator[str]:
    """Yield a table of features for each thing that features read."""
    for reads, meaning in READS.items():
        rows = [
            (code(call(f)), f.type, f.doc + mark(f), code(f.example))
            for f in FEATURES.values()
            if f.reads == reads
        ]
        yield f"### `{reads}`: {meaning}\n"
        yield table(("feature", "type", "value", "example"), rows)


def library_tables() -> Iterator[str]:
    """Yield a table of library programs for each category."""
    for category in CATEGORIES:
        rows = [
            (code(x.name), x.doc + " (spaCy)" * x.path.startswith("library/spacy"))
            for x in library(spacy=True).values()
            if x.category == category
        ]
        yield f"### {category.capitalize()}\n"
        yield table(("program", "what the head does"), rows)


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Write a Markdown table."""
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell(c) for c in line)} |\n" for line in lines)


def cell(text: str) -> str:
    """Write a table cell: a bar would end it, `<` outside of code would begin a tag."""
    text = text.replace("|", "\\|")
    return text if text.startswith("`") else text.replace("<", "&lt;")


def code(text: str) -> str:
    """Write something as code."""
    return f"`{text}`"


def fence(text: str) -> str:
    """Write a block of plain text."""
    return f"```text\n{text.rstrip()}\n```\n"


PAGES = {
    "cli.md": cli_page, "language.md": language_page, "api.md": api_page, "../README.md": readme,
}  # fmt: skip
"""The generated pages and what makes them."""


def main() -> None:
    """Write all pages."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
        click.echo((FOLDER / name).resolve().name)


if __name__ == "__main__":
    main()
