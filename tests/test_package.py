"""Source distribution and wheel: built, installed into an empty directory, whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
NOT_SHIPPED = {"README.md", ".gitignore"}


def run(*args: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, args)], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed that is built from the source distribution."""
    folder = tmp_path_factory.mktemp("package")
    for part in SETTINGS["package-dir"].values():
        leave_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, folder / "source" / part, ignore=leave_out)
    for name in ("pyproject.toml", "README.md", "LICENCES.md"):
        shutil.copy(ROOT / name, folder / "source")
    build = "from setuptools.build_meta import build_sdist; build_sdist('..')"
    run("-c", build, cwd=folder / "source")
    (archive,) = folder.glob("attn_dsl-*.tar.gz")
    offline = ("--no-deps", "--no-index", "--no-cache-dir")
    run("-m", "pip", "wheel", *offline, "--no-build-isolation", archive, cwd=folder)
    (wheel,) = folder.glob("attn_dsl-*.whl")
    run("-m", "pip", "install", *offline, "--target", folder / "site", wheel, cwd=folder)
    return folder / "site"


def test_every_file_of_the_package_is_installed(site: Path) -> None:
    for package, folder in SETTINGS["package-dir"].items():
        here, there = ROOT / folder, site / package.replace(".", "/")
        wanted = {
            file.relative_to(here): file.read_bytes()
            for file in here.rglob("*")
            if file.is_file() and file.name not in NOT_SHIPPED and "__pycache__" not in file.parts
        }
        assert wanted
        for name, data in wanted.items():
            assert (there / name).is_file(), f"{folder}/{name} is not in the wheel"
            assert (there / name).read_bytes() == data
    (licences,) = site.glob("attn_dsl-*.dist-info/licenses/LICENCES.md")
    assert licences.read_bytes() == (ROOT / "LICENCES.md").read_bytes()


def test_the_command_runs_where_only_the_wheel_is(site: Path) -> None:
    path = {"PYTHONPATH": str(site)}
    assert run("-c", "import attn_dsl; print(attn_dsl.__file__)", cwd=site, **path).startswith(str(site))
    assert "Commands" in run(site / "bin" / "attn-dsl", "--help", cwd=site.parent, **path)
    program = site / "attn_dsl" / "grammars" / "library" / "induction.attn"
    assert ": ok" in run("-m", "attn_dsl.cli", "check", program, cwd=site.parent, **path)


def test_what_is_shipped_has_its_licence_stated() -> None:
    stated = (ROOT / "LICENCES.md").read_text(encoding="utf-8")
    for place in ("demo/demo-gpt2/", "demo/stories.jsonl", "grammars/lexicon/", "grammars/library/",
                  "grammars/attn.lark", "eval/templates/", "benchmarks/tracr/"):  # fmt: skip
        assert (ROOT / place).exists()
        assert f"`{place}`" in stated
