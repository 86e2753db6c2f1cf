"""How the cases of bad input are written: a command, what it says, what is prepared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from llm_models import save_gguf

from attn_dsl.eval.capture_files import content_hash

FIT = ("fit", "{model}", "--text", "{texts}", "--out", "out", "--max-tokens", "32")
SHORT = ("--heads", "L0H0", "--max-evals", "2")
SCORE = ("--capture", "{run}/capture")
VALID = "head first causal:\n    2 where k == 0\n"


def no_preparation(here: Path) -> None:
    """Most cases need no file."""


def file(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Prepare a case by writing a file."""

    def prepare(here: Path) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(data)

    return prepare


@dataclass(frozen=True)
class Case:
    """One mistake of a user.

    Attributes:
        name: what the mistake is.
        args: the command; ``{model}``, ``{texts}``, ``{run}`` stand for a model, its texts and
            a finished run, which must stay as they are.
        says: what the message holds: the file or option, what is wrong, the remedy.
        prepare: makes the files of the case in the working directory.
        leaves: files that the command may leave behind, by their first folder.
    """

    name: str
    args: tuple[str, ...]
    says: tuple[str, ...]
    prepare: Callable[[Path], None] = field(default=no_preparation, repr=False)
    leaves: tuple[str, ...] = ()


def model(**changes: object) -> Callable[[Path], None]:
    """Prepare a copy of the model in ``model``: files by name (None removes), or settings."""

    def prepare(here: Path) -> None:
        shutil.copytree(here / ".given" / "model", here / "model")
        for name, content in changes.items():
            target = here / "model" / name.replace("__", ".")
            if content is None:
                target.unlink()
            elif isinstance(content, bytes):
                target.write_bytes(content)
            elif isinstance(content, dict):
                target.write_text(json.dumps(json.loads(target.read_text()) | content))

    return prepare


def tensors(**header: object) -> bytes:
    """Return a safetensors file of 16 bytes of data with a header."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(16)


def tensor(start: int, end: int, size: int) -> dict[str, object]:
    """Return what a header says of a tensor of float32."""
    return {"dtype": "F32", "shape": [size], "data_offsets": [start, end]}


def gguf(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Prepare a changed copy of the model as ``model.gguf``."""

    def prepare(here: Path) -> None:
        whole = save_gguf(here / ".given" / "model", here / "model.gguf").read_bytes()
        (here / "model.gguf").write_bytes(change(whole))

    return prepare


def damaged(what: str, change: Callable[[Path], None]) -> Callable[[Path], None]:
    """Prepare a damaged copy of the run or its capture, in a folder of that name."""

    def prepare(here: Path) -> None:
        given = here / ".given" / "run"
        shutil.copytree(given / "capture" if what == "capture" else given, here / what)
        change(here / what)

    return prepare


def cut(name: str) -> Callable[[Path], None]:
    """Cut a file off in its middle."""

    def change(folder: Path) -> None:
        (found,) = folder.glob(name)
        data = found.read_bytes()
        found.write_bytes(data[: len(data) // 2])

    return change


def setting(name: str, **values: object) -> Callable[[Path], None]:
    """Change fields of a JSON file; None removes them."""

    def change(folder: Path) -> None:
        fields = json.loads((folder / name).read_text()) | values
        kept = {key: value for key, value in fields.items() if value is not None}
        kept.pop("sha256", None)
        if "hash" in kept:
            kept["hash"] = content_hash(kept)
        (folder / name).write_text(json.dumps(kept))

    return change


def remove(name: str) -> Callable[[Path], None]:
    """Remove a file or folder."""

    def change(folder: Path) -> None:
        target = folder / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return change


def fit(*changed: str) -> tuple[str, ...]:
    """Return the arguments of a fit with options added; the last of the same name counts."""
    return (*FIT, *SHORT, *changed)


def fit_text(text: str) -> tuple[str, ...]:
    """Return the arguments of a fit to other texts."""
    return tuple(text if part == "{texts}" else part for part in fit())
