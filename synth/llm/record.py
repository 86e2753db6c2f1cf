"""Records: prompts and completions of a head in its run's directory, and their replay.

``llm/l00h01.jsonl`` has a line for each request: what was asked, of which model, and all
completions. A request that is there is not asked again, so a run that was interrupted goes on with
what it had; and ``replay:RUN`` gives another run the completions of that one, without a model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attn_dsl.dsl.errors import InputError, WorkError
from attn_dsl.eval.files import write
from attn_dsl.synth.llm.model import Completion, LanguageModel, ModelError, Sampling

FOLDER = "llm"


@dataclass(frozen=True, slots=True)
class Request:
    """What a model is asked for a head.

    Attributes:
        round: 0 for the first, then one more for each refinement.
        grammar: in Lark's notation.
    """

    round: int
    prompt: str
    grammar: str
    count: int
    seed: int
    sampling: Sampling

    def key(self, fingerprint: str) -> str:
        """Return a hash that two requests share if their completions must be the same."""
        text = json.dumps([fingerprint, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class Record:
    """What was asked for one head.

    Args:
        folder: of the run; None keeps nothing.
        head: the head's name, as in ``l00h01``.
    """

    def __init__(self, folder: Path | None, head: str) -> None:
        self.path = None if folder is None else folder / FOLDER / f"{head}.jsonl"
        self.lines = [] if self.path is None else _read(self.path)

    def completions(
        self, model: LanguageModel, request: Request, stop: Callable[[], bool]
    ) -> Sequence[Completion]:
        """Return what the model writes, or wrote before; record it.

        What ``stop`` cut short is not recorded.

        Raises:
            ModelError: the model failed.
            WorkError: the disk is full; names the file.
        """
        key = request.key(model.fingerprint)
        for line in self.lines:
            if line["key"] == key:
                return _completions(line)
        found = model.complete(
            request.prompt, request.grammar, request.count, request.seed, request.sampling, stop
        )
        if not stop():
            try:
                self.add(key, model, request, found)
            except WorkError as error:
                full = ModelError(str(error))
                full.done = found
                raise full from None
        return found

    def add(
        self, key: str, model: LanguageModel, request: Request, found: Sequence[Completion]
    ) -> None:
        """Write a request and its completions; readers never see a part of them."""
        if self.path is None:
            return
        line = {
            "key": key, "model": model.name, "fingerprint": model.fingerprint, **asdict(request),
            "completions": [asdict(completion) for completion in found],
        }  # fmt: skip
        self.lines.append(line)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkError(f"{self.path.parent} cannot be made: {error.strerror}") from None
        write(self.path, "".join(f"{json.dumps(line)}\n" for line in self.lines))


class Replay:
    """The completions of another run in a model's place.

    Raises:
        InputError: the run has none.
    """

    def __init__(self, run: str) -> None:
        self.folder = Path(run)
        if not (self.folder / FOLDER).is_dir():
            raise InputError(f"--llm replay:{run}: no completions are kept there")

    def rounds(self, head: str) -> list[list[Completion]]:
        """Return the completions of a head's requests, round by round.

        Raises:
            ModelError: that run has none of this head.
        """
        file = self.folder / FOLDER / f"{head}.jsonl"
        found = {line["round"]: _completions(line) for line in _read(file)}
        if not found:
            raise ModelError(
                f"{file} has no completions; choose --heads as in that run, or name the model instead "
                "of replay:"
            )
        return [completions for _, completions in sorted(found.items())]


def failed(folder: Path | None, head: str, error: Exception) -> None:
    """Record that a model failed, for those who look at the run afterwards."""
    if folder is None:
        return
    with contextlib.suppress(
        OSError, WorkError, InputError
    ):  # a full disk does not take this either
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        told = {"head": head, "error": str(error)}
        write(folder / FOLDER / "failed.json", json.dumps(told) + "\n")


def told(folder: Path) -> dict[str, Any]:
    """Return what a run says about its language model: which, how many completions, failures."""
    lines = [x for file in sorted((folder / FOLDER).glob("*.jsonl")) for x in _read(file)]
    completions = [c for line in lines for c in line["completions"]]
    found: dict[str, Any] = {
        "models": sorted({f"{line['model']} ({line['fingerprint']})" for line in lines}),
        "completions": len(completions),
        "tokens": sum(c["tokens"] for c in completions),
        "truncated": sum(c["truncated"] for c in completions),
    }
    with contextlib.suppress(OSError, ValueError):
        found["failed"] = json.loads((folder / FOLDER / "failed.json").read_text(encoding="utf-8"))
    return found


def _completions(line: dict[str, Any]) -> list[Completion]:
    return [Completion(**fields) for fields in line["completions"]]


def _read(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a record; those that are damaged are as good as not there."""
    names = {field.name for field in dataclasses.fields(Completion)}
    found = []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    for source in text.splitlines():
        try:
            line = json.loads(source)
            whole = isinstance(line["key"], str) and isinstance(line["round"], int)
            if whole and all(set(fields) == names for fields in line["completions"]):
                found.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return found
