"""Machine code on disk: where it lies, and what becomes of damaged files."""

from __future__ import annotations

import errno
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SOURCE = """
from numba import njit
from attn_dsl.compiler.jit import COMPILED

@njit("int64(int64)", **COMPILED)
def double(x):
    return 2 * x
"""


@pytest.fixture
def compiled(tmp_path: Path) -> Iterator[Any]:
    """A function that loads a module with one compiled function, as a new process would."""
    file = tmp_path / "made" / "up.py"
    file.parent.mkdir()
    file.write_text(SOURCE)

    def load() -> Any:
        spec = importlib.util.spec_from_file_location("attn_dsl.made_up", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["attn_dsl.made_up"] = module
        spec.loader.exec_module(module)
        return module.double

    yield load
    del sys.modules["attn_dsl.made_up"]


@pytest.mark.parametrize("left", [0, 1, 100])
@pytest.mark.parametrize("damaged", [".nbi", ".nbc"])
def test_damaged_files_are_made_again(compiled: Any, tmp_path: Path, damaged: str, left: int) -> None:
    assert compiled()(2) == 4
    (file,) = tmp_path.rglob(f"*{damaged}")
    file.write_bytes(file.read_bytes()[:left])
    assert compiled()(2) == 4
    assert sum(compiled().stats.cache_hits.values()) == 1


def test_where_nothing_can_be_written(compiled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made" / "__pycache__").touch()
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "/dev/null")
    with pytest.warns(UserWarning, match="every command compiles its functions again"):
        assert compiled()(2) == 4


def test_a_disk_that_is_full(compiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_data", full)
    with pytest.warns(UserWarning, match="not kept in .*: No space left on device"):
        assert compiled()(2) == 4
