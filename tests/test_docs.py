"""The documentation: generated pages are up to date, commands, options and names exist."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from command_line import succeed

import attn_dsl
from attn_dsl.cli.main import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
GENERATED = {"cli.md", "language.md", "api.md", "readme.in.md"}
PAGES = [
    *sorted(page for page in DOCS.glob("*.md") if page.name not in GENERATED),
    ROOT / "README.md",
]


def _generate():
    spec = importlib.util.spec_from_file_location("generate_docs", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = _generate()


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def options(name: str) -> list[str]:
    return [o for p in command(name).params if isinstance(p, click.Option) for o in p.opts]


@pytest.mark.parametrize("page", GENERATE.PAGES)
def test_generated_pages_are_up_to_date(page: str) -> None:
    written = (DOCS / page).read_text(encoding="utf-8")
    assert written == GENERATE.PAGES[page](), "run `make docs`"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str) -> None:
    assert command(name).name == name
    assert command(name).get_short_help_str(200).endswith(".")
    for option in command(name).params:
        if isinstance(option, click.Option):
            assert option.help and option.help.endswith("."), option.name


def test_the_contract_of_the_command_line() -> None:
    promised = {
        "fit": "--text --capture --heads --out --seed --timeout --max-evals --max-nodes "
        "--max-tokens --proposers --program --allow-lookahead --jobs --resume --json",
        "capture": "--text --out",
        "score": "--capture --text --on --json",
        "detect": "--capture --text --json",
        "show": "--on --html",
        "explain": "--on --json",
        "diff": "--on --json",
        "check": "",
        "fmt": "",
        "replace": "--fraction --heads --tune --tasks --text --json",
        "compare": "--on --json",
        "report": "",
        "view": "--port --no-browser",
        "features": "",
        "grammar": "--gbnf",
    }
    for name, wanted in promised.items():
        assert set(wanted.split()) <= set(options(name)), name


def test_programs_and_terms_of_the_language_page_are_valid() -> None:
    page = (DOCS / "language.in.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
    assert attn_dsl.parse(source).source == source
    table = page.split("## Predicates")[1].split("## Integers")[0]
    predicates = [
        row
        for cell in re.findall(r"^\| (`.*?`(?:, `.*?`)*)(?: or more)? \|", table, flags=re.MULTILINE)
        for row in re.findall(r"`([^`]+)`", cell)
        if "(k" in row or row == "true" or "q" in row
    ]
    assert len(predicates) > 8
    for predicate in predicates:
        attn_dsl.parse(f"head a causal:\n    1 where {predicate}\n")
    for wrong in ("q - k == -1", "previous(k) == -1"):
        with pytest.raises(attn_dsl.ProgramError):
            attn_dsl.parse(f"head a causal:\n    1 where {wrong}\n")


def test_links_and_paths_of_the_pages_exist() -> None:
    for page in PAGES:
        if not page.exists():
            continue
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
        for path in re.findall(r"`((?:api|cli|compiler|dsl|eval|grammars|synth)/[\w./]*)`", text):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_commands_in_pages_parse() -> None:
    lines = 0
    for page in PAGES:
        if not page.exists():
            continue
        for line in _command_lines(page.read_text(encoding="utf-8")):
            words = shlex.split(line, comments=True)[1:]
            if not words or words[0].startswith("-"):
                continue
            assert words[0] in COMMANDS, f"{page.name}: {line}"
            for word in words[1:]:
                name = word.split("=")[0]
                assert not name.startswith("--") or name in [*options(words[0]), "--help"], line
            lines += 1
    assert lines or not (ROOT / "README.md").exists()


BLOCK = re.compile(r"^(?:<!-- ([^\n]*) -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""A note in a comment, the language of a fenced block, and the block."""
RUNNABLE = [x for x in PAGES if ".in." not in x.name and BLOCK.search(x.read_text("utf-8"))]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.stem)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the blocks of a page in order, in one folder; notes above them say what differs.

    ``file: NAME`` saves a block, ``not run: REASON`` passes over it, and ``test: a=b c=d`` puts b
    in the place of a. Output that the page shows is compared where nothing was replaced.
    """
    monkeypatch.chdir(tmp_path)
    texts = (ROOT / "demo/stories.jsonl").read_text(encoding="utf-8").splitlines()[:20]
    for name in ("stories.jsonl", "more.jsonl"):
        Path(name).write_text("\n".join(texts), encoding="utf-8")
    names: dict[str, object] = {"__name__": "page"}
    for note, language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        kind, _, rest = note.partition(": ")
        if kind == "file":
            Path(rest).write_text(block, encoding="utf-8")
        replaced = [pair.split("=") for pair in rest.split()] if kind == "test" else []
        if kind == "not run" or language not in ("python", "console"):
            assert kind != "not run" or rest, "a block that is not run needs a reason"
            continue
        for old, new in replaced:
            assert old in block, f"{page.name}: {old} is not in the block"
            block = block.replace(old, new)
        if language == "python":
            exec(compile(block, page.name, "exec"), names)
        else:
            _run_console(block, compare=not replaced)


def _run_console(block: str, compare: bool) -> None:
    for part in re.split(r"^\$ ", block.replace("\\\n", ""), flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        words = shlex.split(line, comments=True)
        if words[0] == "cp":
            shutil.copy(*words[1:])
            continue
        assert words[0] == "attn-dsl", line
        searches = words[1] == "fit" and ("--program" not in words or "--extend" in words)
        printed = succeed(*words[1:], *(["--max-evals", 60] if searches else []))
        if compare and output.strip():
            assert printed.rstrip() == output.rstrip(), line


def test_no_block_is_of_a_kind_that_is_not_run() -> None:
    kinds = {"python", "console", "text", "attn", "toml", "yaml", "json"}
    for page in PAGES:
        found = re.findall(r"^```(\w*)\n.*?^```$", page.read_text(), re.MULTILINE | re.DOTALL)
        assert set(found) <= kinds, page.name


def test_every_page_is_in_the_navigation_and_every_figure_in_the_benchmarks() -> None:
    nav = re.findall(r": ([\w.]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(nav) == sorted(x.name for x in DOCS.glob("*.md") if ".in." not in x.name)
    measured = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8").replace(" |", "")
    told = json.loads((DOCS / "readme.json").read_text(encoding="utf-8"))
    for name, value in list(told.items())[10:]:
        assert value.replace(" %", "") in measured, f"{name} is not in benchmarks/README.md"


def _command_lines(text: str) -> list[str]:
    """Take the `attn-dsl …` lines of indented and fenced blocks and of code in the text."""
    blocks = re.findall(r"^(?: {4}|\t)?(?:\$ )?(?:\.venv/bin/)?(attn-dsl .*)$", text, re.MULTILINE)
    inline = re.findall(r"`(attn-dsl [^`\n]+)`", text)
    return [re.split(r" [|>&]", line.replace("…", ""))[0] for line in blocks + inline]


def test_all_public_names_import() -> None:
    assert attn_dsl.__all__ == sorted(attn_dsl.__all__)
    for name in attn_dsl.__all__:
        assert getattr(attn_dsl, name).__doc__, name
    with pytest.raises(AttributeError):
        _ = attn_dsl.nothing_of_this_name  # type: ignore[attr-defined]


HEAVY = (
    "torch",
    "numba",
    "transformers",
    "llama_cpp",
    "pandas",
    "rich",
    "numpy",
    "lark",
    "starlette",
    "uvicorn",
)


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], ["fit", "--help"], ["view", "--help"], ["nosuch"]]
)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    code = (
        "import json, sys\n"
        "from attn_dsl.cli.main import main\n"
        "try:\n"
        f"    main({args!r})\n"
        "except SystemExit:\n"
        f"    print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
