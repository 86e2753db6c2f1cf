"""The page on the search: its proposer is run as it stands there, and its names exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attn_dsl.compiler.program import Program
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.synth.fit import fit
from attn_dsl.synth.proposers import registry

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/synthesis.md").read_text(encoding="utf-8")
WORDS = "the cat saw a dog . Tom and Mia ran to the park , and she said hi to him !".split()


@pytest.fixture(scope="module")
def namespace() -> dict[str, Any]:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    lines = [line for line in code.splitlines() if line.strip()]
    body = lines[next(i for i, line in enumerate(lines) if line.startswith("@dataclass")) :]
    assert len(body) < 30
    made: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, "docs/synthesis.md", "exec", dont_inherit=True), made)
    return made


def test_the_proposer_of_the_page_finds_what_it_suggests(
    namespace: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registered as the page says, it recovers a head that attends behind the last like word."""
    head = Program.from_tree(
        parse("head x causal:\n 4 where k == nearest(word(k) == word(q) and k < q) + 1\n"
              " -0.7 * log(1 + abs(q - k))")
    )  # fmt: skip
    rng = np.random.default_rng(0)
    tokens = [Tokens.from_strings([" " + x for x in rng.choice(WORDS, 24)]) for _ in range(40)]
    capture = Capture.from_arrays(tokens, [head(x)[None, None] for x in tokens], causal=True)
    added = registry.Registration(
        "after-last", lambda session: namespace["AfterLast"](), lambda s: registry.Cost(0.1, 3)
    )
    monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, added))
    run = fit(capture=capture, out=tmp_path / "run", proposers=["after-last"], jobs=1)
    (result,) = run.results
    assert result.test["iou"].mean > 0.99
    chosen = next(row for row in result.front if row.chosen)
    assert chosen.proposer == "after-last"
    assert "nearest(" in chosen.program


def test_the_files_that_the_page_names_exist() -> None:
    names = set(re.findall(r"`((?:synth|eval|dsl|benchmarks|tests)/[\w./]+)`", PAGE))
    assert len(names) > 10
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_the_page_names_every_proposer() -> None:
    listed = set(re.findall(r"^- \*\*([\w-]+)\*\*", PAGE, re.M))
    assert {one.name for one in registry.BUILT_IN} <= listed
