"""A proposer of another package: the one of the page on proposers, found by its entry point."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import attn_dsl, succeed
from fitting import assert_same

import attn_dsl as package
from attn_dsl.compiler.program import Program
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.synth.proposers import registry

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/proposers.md").read_text(encoding="utf-8")
SEARCH = (ROOT / "docs/synthesis.md").read_text(encoding="utf-8")
WORDS = "the cat saw a dog . Tom and Mia ran to the park , and she said hi to him !".split()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the package of the page: its module, and what pip would write of its entry point."""
    (module,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len([line for line in module.splitlines() if line.strip()]) < 30
    (points,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    found = re.search(r'entry-points\."(.*?)"\]\n(.*?) = "(.*?)"', points)
    assert found
    site = tmp_path / "site"
    info = site / "after_last-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "after_last.py").write_text(module)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: after-last\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{found[1]}]\n{found[2]} = {found[3]}\n")
    monkeypatch.syspath_prepend(site)
    return site


def test_it_is_planned_with_its_cost(site: Path, small_capture: Path) -> None:
    args = ("fit", "--capture", small_capture, "--dry-run", "--json", "--proposers")
    alone, both = (json.loads(succeed(*args, x)) for x in ("library", "library,after-last"))
    assert both["proposers"] == ["library", "after-last"]
    assert both["guessed"] == ["after-last"]
    assert both["search_seconds"] > alone["search_seconds"]


def test_it_finds_what_it_suggests(site: Path, tmp_path: Path) -> None:
    head = Program.from_tree(
        parse("head x causal:\n 4 where k == nearest(word(k) == word(q) and k < q) + 1\n"
              " -0.7 * log(1 + abs(q - k))")
    )  # fmt: skip
    rng = np.random.default_rng(0)
    tokens = [Tokens.from_strings([" " + x for x in rng.choice(WORDS, 24)]) for _ in range(40)]
    capture = Capture.from_arrays(tokens, [head(x)[None, None] for x in tokens], causal=True)
    run = package.fit(capture=capture, out=tmp_path / "run", proposers=["after-last"], jobs=1)
    (result,) = run.results
    assert result.test["iou"].mean > 0.99
    chosen = next(row for row in result.front if row.chosen)
    assert chosen.proposer == "after-last"
    assert "nearest(" in chosen.program


def test_it_is_resumed_and_runs_on_a_cluster(
    site: Path, small_capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    args = ("fit", "--capture", small_capture, "--heads", "L0", "--max-evals", "6",
            "--proposers", "after-last")  # fmt: skip
    whole, halved, away = (tmp_path / name for name in ("whole", "halved", "away"))
    succeed(*args, "--out", whole)
    assert "after-last" in (whole / "pareto.csv").read_text()
    succeed(*args, "--out", halved)
    (halved / "state" / "L00H01.json").unlink()
    succeed(*args, "--out", halved, "--resume")
    assert_same(halved, whole)
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None,
        host="127.0.0.1", silence_logs=50,
    ) as cluster:  # fmt: skip
        succeed(*args, "--out", away, "--scheduler", cluster.scheduler_address)
    assert_same(away, whole)


@pytest.mark.parametrize(
    ("module", "wanted"),
    [("raise OSError('no licence')", "no licence"), ("REGISTRATION = 3", "must name a")],
)
def test_one_that_cannot_be_used_is_named(site: Path, small_capture: Path, module: str, wanted: str) -> None:
    (site / "broken.py").write_text(module)
    (site / "after_last-1.0.dist-info" / "entry_points.txt").write_text(
        f"[{registry.GROUP}]\nbroken = broken:REGISTRATION\n"
    )
    import sys

    sys.modules.pop("broken", None)
    outcome = attn_dsl("fit", "--capture", small_capture, "--proposers", "broken", "--dry-run")
    assert outcome.code == 2
    assert "broken" in outcome.err and "after-last" in outcome.err and wanted in outcome.err
    assert "Traceback" not in outcome.err


def test_the_page_on_the_search_names_every_proposer() -> None:
    listed = set(re.findall(r"^- \*\*([\w-]+)\*\*", SEARCH, re.M))
    assert {one.name for one in registry.BUILT_IN} <= listed


def test_the_files_that_the_pages_name_exist() -> None:
    names = set(re.findall(r"`((?:synth|eval|dsl|benchmarks|tests)/[\w./]+)`", SEARCH + PAGE))
    assert len(names) > 10
    assert [name for name in names if not (ROOT / name).exists()] == []
