"""Modules do not import each other in a circle, not even for type checking.

``make lint`` checks the layers: see ``tool.importlinter`` in ``pyproject.toml``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_no_modules_import_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "attn_dsl"
    package.mkdir()
    for path in [*ROOT.glob("api/*.py"), *(file.parent for file in ROOT.glob("*/__init__.py"))]:
        if path.name != "api":
            (package / path.name).symlink_to(path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "attn_dsl", raising=False)
    graph = grimp.build_graph("attn_dsl", exclude_type_checking_imports=False, cache_dir=None)
    circles = set()
    for module in graph.modules:
        both = graph.find_upstream_modules(module) & graph.find_downstream_modules(module)
        circles.add(" ".join(sorted(m.removeprefix("attn_dsl.") for m in both | {module})))
    assert not {circle for circle in circles if " " in circle}
