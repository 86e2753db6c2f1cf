"""Records: the prompts and completions of each head in the run directory, and their replay.

``llm/l00h01.jsonl`` has a line for each request: what was asked, of which model, and all
completions. A request that is recorded is not sent again, so an interrupted run goes on with what
it had, and ``replay:RUN`` gives another run the completions of that one, without a model.
"""

import contextlib
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from attn_dsl.dsl.errors import InputError, WorkError
from attn_dsl.eval.files import UNREADABLE, read_json, typed, write
from attn_dsl.eval.heads import Pair
from attn_dsl.eval.run import Run
from attn_dsl.synth.llm.model import Completion, LanguageModel, ModelError, Request
from attn_dsl.synth.llm.parse_output import whole_terms
from attn_dsl.synth.proposer import Known, plain

FOLDER, FAILED = "llm", "failed.json"
PLAIN = 7  # lines of the longest program that is an example
SOLVED = 24  # how many heads may be examples
_LINE = {"key": str, "model": str, "fingerprint": str, "round": int, "prompt": str,
         "completions": tuple[Completion, ...]}  # fmt: skip


class Record:
    """What was asked for one head, in the folder of the run; None keeps nothing."""

    def __init__(self, folder: Path | None, head: str) -> None:
        self.path = None if folder is None else folder / FOLDER / f"{head}.jsonl"
        self.lines = [] if self.path is None or not self.path.is_file() else _read(self.path, _line)

    def completions(self, model: LanguageModel, number: int, request: Request,
                    stop: Callable[[], bool], seconds: float = math.inf) -> Iterator[Completion]:  # fmt: skip
        """Yield what the model writes in a round, or wrote; record it unless ``stop`` cut it short.

        Raises:
            ModelError: the model failed, or the disk is full.
        """
        asked = model.fingerprint, number, asdict(request), request.grammar
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        for line in self.lines:
            if line["key"] == key:
                yield from _completions(line)
                return
        found = []
        for completion in model.complete(request, stop, seconds):
            found.append(asdict(completion))
            yield completion
        cut = stop()
        if self.path is not None and any(whole_terms(one["text"]) or not cut for one in found):
            key = "" if cut else key  # what was cut short is asked again
            self.lines.append({"key": key, "model": model.name, "fingerprint": model.fingerprint,
                               "round": number, **asdict(request), "completions": found})  # fmt: skip
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write(self.path, "".join(f"{json.dumps(line)}\n" for line in self.lines))
            except (OSError, WorkError) as error:
                raise ModelError(f"completions cannot be kept: {error}") from None

    def rounds(self) -> list[list[Completion]]:
        """Return all recorded completions, round by round, for a replay.

        Raises:
            ModelError: there are none of this head.
        """
        if not self.lines:
            raise ModelError(
                f"{self.path} has no completions; choose --heads as in that run, or name the model "
                "instead of replay:")  # fmt: skip
        return [*{line["round"]: _completions(line) for line in self.lines}.values()]


def read_known(run: Run, asked: Collection[Pair]) -> dict[Pair, tuple[Known, ...]]:
    """Return what the search found for each head before a language model was asked; write it down.

    Of heads that were ``asked`` about, results hold what the model wrote as well, so theirs is read.
    """
    file = run.path / FOLDER / "known.jsonl"
    before = _read(file, partial(typed, Known)) if asked else []
    known = [one for one in before if (one.layer, one.head) in asked]
    for r in run.results:
        if (r.layer, r.head) not in asked:
            known += [Known(r.layer, r.head, x.iou_fit, x.proposer, x.program) for x in r.front]
    known.sort(key=lambda one: (one.layer, one.head))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, "".join(f"{json.dumps(asdict(one))}\n" for one in known))
    except OSError as error:
        raise WorkError(f"{file} cannot be written: {error.strerror}") from None
    groups = itertools.groupby(known, key=lambda one: (one.layer, one.head))
    return {pair: tuple(group) for pair, group in groups}


def solved(found: Mapping[Pair, Sequence[Known]]) -> tuple[Known, ...]:
    """Return the heads that short plain programs explain best, with those programs."""
    short = [[one for one in some if plain(one.program) and 2 < one.program.count("\n") <= PLAIN]
             for some in found.values()]  # fmt: skip
    best = [max(some, key=lambda one: one.iou) for some in short if some]
    return tuple(sorted(best, key=lambda one: -one.iou)[:SOLVED])


def failed(folder: Path | None, head: str, error: Exception) -> None:
    """Record that a model failed, for those who look at the run afterwards."""
    if folder is not None:
        with contextlib.suppress(OSError, WorkError):  # a full disk does not take this either
            (folder / FOLDER).mkdir(parents=True, exist_ok=True)
            write(folder / FOLDER / FAILED, json.dumps({"head": head, "error": str(error)}))


def told(folder: Path) -> dict[str, Any]:
    """Return what a run says about its language model: which, how many completions, failures."""
    files = sorted((folder / FOLDER).glob("l*h*.jsonl"))
    lines = [line for file in files for line in _read(file, _line)]
    completions = [c for line in lines for c in line["completions"]]
    found: dict[str, Any] = {"models": sorted({f"{line['model']} ({line['fingerprint']})" for line in lines}),
                             "heads": len(files), "completions": len(completions),
                             "tokens": sum(c["tokens"] for c in completions),
                             "truncated": sum(c["truncated"] for c in completions)}  # fmt: skip
    with contextlib.suppress(OSError, *UNREADABLE):
        failure = read_json((folder / FOLDER / FAILED).read_text(encoding="utf-8"))
        found["failed"] = {name: typed(str, failure[name]) for name in ("head", "error")}
    return found


def _completions(line: dict[str, Any]) -> list[Completion]:
    return [Completion(**fields) for fields in line["completions"]]


def _line(data: dict[str, Any]) -> dict[str, Any]:
    """Return the data of a line, if it has what is read of it."""
    for name, kind in _LINE.items():
        typed(kind, data[name], f"`{name}`")
    return data


def _read(path: Path, made: Callable[[Any], Any]) -> list[Any]:
    """Read the lines of a record, each made from what JSON gives.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return [made(read_json(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, *UNREADABLE) as error:
        raise InputError(f"{path} cannot be read ({error}); remove it to ask again") from None
