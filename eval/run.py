"""Runs: the directory of one fit, written as it goes, so that nothing found is ever lost."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from attn_dsl.compiler.program import Program, load
from attn_dsl.dsl.definitions import Definitions, in_folder, read_definitions
from attn_dsl.dsl.errors import InputError, ProgramSyntaxError
from attn_dsl.dsl.kinds import told_shares
from attn_dsl.dsl.parser import Resolver, parse
from attn_dsl.dsl.tree import Head
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.files import (
    UNREADABLE,
    append,
    cut_off,
    lines_of,
    read_json,
    refuse_other_things,
    sealed,
    table,
    typed,
    unsealed,
    write,
    write_bytes,
)
from attn_dsl.eval.heads import label, one_head
from attn_dsl.eval.notebook import Tabular
from attn_dsl.eval.results import Candidate, HeadResult, LibraryEntry
from attn_dsl.eval.run_head import RunHead

FORMAT = 1
Types = dict[str, Any]
NEEDED: Types = {"key": dict[str, Any], "status": str, "model": str, "capture": str | None, "causal": bool,
                 "texts": dict[str, int], "split": str, "tokens_per_text": float}  # fmt: skip
"""What every ``run.json`` has beside its format, and of which type; and what its ``key`` has."""
KEY: Types = {"capture": str, "seed": int, "heads": tuple[tuple[int, int], ...]}
FURTHER: Types = {"max_evals": int, "max_nodes": int, "effort": int, "allow_lookahead": bool,
                  "objective": str, "proposers": tuple[str, ...],
                  "programs": tuple[str, ...] | None}  # fmt: skip
"""What a ``key`` also has where it is not of an earlier version."""
MAY_HAVE: Types = {"processors": tuple[str, ...], "written": dict[str, bool], "versions": dict[str, str],
                   "asked": tuple[tuple[int, int], ...], "cut_short": tuple[str, ...],
                   "not_reached": tuple[str, ...], "lacking": str | None, "vocabulary": str | None,
                   "llm": dict[str, Any], "library": dict[str, float],
                   "capture_settings": dict[str, Any]}  # fmt: skip
"""What a ``run.json`` may have beside."""
_MENDING = "if you changed it yourself, remove its sha256; else"
NOT_MEASURED = "this run was made before it was measured; run `attn-dsl fit` again"
VOCABULARY = "vocabulary.attn"
"""The file of a run with the scores that its programs share."""
TABLES_SHARE = 0.05
"""The most of a run's time that goes into writing its tables while it runs."""


class Run(Tabular):
    """A run directory: settings, results by head, programs; ``for head in run`` goes through them.

    ``info`` is what ``run.json`` holds: settings, versions, hashes, split sizes, status.
    """

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path, self.info = path, info
        self._results: dict[str, HeadResult] = {}
        self._tables_next = 0.0

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open a run that exists.

        >>> Run.open("runs/demo").results[0].label
        'L00H00'

        Raises:
            InputError: it is no run directory, or one of another version.
        """
        path = Path(path)
        file = path / "run.json"
        if not file.is_file():
            what = "not a run (it has no run.json)" if path.exists() else "no such directory"
            raise InputError(f"{path}: {what}; `attn-dsl fit --out DIR` makes one")
        try:
            info = unsealed(file.read_text(encoding="utf-8"))
            if info["format"] != FORMAT:
                raise InputError(f"{file}: format {info['format']}, and this version reads {FORMAT}; the run "
                                 "is of another version of attn-dsl (pip install --upgrade "
                                 "attn-dsl)")  # fmt: skip
            if lacking := [name for name in NEEDED if name not in info]:
                raise ValueError(f"it lacks {', '.join(lacking)}")
            for fields, types in ((info, NEEDED), (info["key"], KEY)):
                for name, kind in types.items():
                    typed(kind, fields[name], f"`{name}`")
            for fields, types in ((info, MAY_HAVE), (info["key"], FURTHER)):
                for name in types.keys() & fields.keys():
                    typed(types[name], fields[name], f"`{name}`")
        except UNREADABLE as error:
            raise InputError(f"{file}: damaged ({error}); {_MENDING} run `attn-dsl fit` again") from None
        return cls(path, info)

    @classmethod
    def create(cls, path: str | Path, info: Mapping[str, Any]) -> Run:
        """Make a run directory, or go on with the run in it if its ``key`` in ``info`` is the same.

        Raises:
            InputError: the directory holds a run of other settings.
        """
        path = Path(path)
        if (path / "run.json").exists():
            run = cls.open(path)
            there = run.info["key"]
            wrong = [f"{name}: {there.get(name)!r} there, {value!r} "
                     "now" for name, value in info["key"].items() if there.get(name) != value]  # fmt: skip
            if wrong:
                raise InputError(f"{path} holds a run with other settings ({'; '.join(wrong)}); repeat those "
                                 "to resume it, or choose another --out")  # fmt: skip
        else:
            path.mkdir(parents=True, exist_ok=True)
            run = cls(path, {"format": FORMAT, **info})
            run.update()
        run._repair()
        return run

    def update(self, **changes: Any) -> None:
        """Change ``run.json``."""
        self.info.update(changes)
        write(self.path / "run.json", json.dumps(sealed(self.info), indent=1, sort_keys=True) + "\n")

    def add(self, result: HeadResult, candidates: Iterable[Candidate], *,
            further: bool = False) -> HeadResult:  # fmt: skip
        """Record the search of one head, and return its result.

        A result that is recorded already stays, and is returned, unless it was cut short and the new
        one was not, or reached a higher score; or the new one is ``further``: went on from it.
        """
        name = result.label
        if self._state(name).exists() and not further:
            reached, had = (max(x.score for x in r.front) for r in (result, self._read(name)))
            if not self._read(name).cut_short or (result.cut_short and not reached > had):
                return self._read(name)
        lines = [json.dumps(asdict(c), sort_keys=True) for c in candidates]
        append(self.path / "candidates.jsonl", "".join(f"{line}\n" for line in lines))
        write(self._state(name), result.to_json(self._origin))
        self._results.pop(name, None)
        write(self.path / "programs" / f"{name}.attn", result.program)
        if time.monotonic() >= self._tables_next:
            self.tabulate()
        return result

    def _state(self, name: str) -> Path:
        """Return the file of a head's result."""
        return self.path / "state" / f"{name}.json"

    @property
    def _origin(self) -> str:
        """The capture and the seed of its split, which the results of heads are of."""
        return f"{self.info['key']['capture']} seed {self.info['key']['seed']}"

    def _repair(self) -> None:
        """Make folders, and undo what an interruption left half recorded: candidates and programs."""
        for folder in ("programs", "state"):
            (self.path / folder).mkdir(exist_ok=True)
        done, file = {r.label for r in self.results}, self.path / "candidates.jsonl"
        kept: list[bytes] = []
        lines = lines_of(file)
        for number, line in enumerate(lines, 1):
            try:
                found: Candidate = typed(Candidate, read_json(line))
                kept += [line] if label(found.layer, found.head) in done else []
            except UNREADABLE as error:
                if not cut_off(line, error):
                    raise InputError(f"{file}:{number}: damaged ({error}); delete this line and go on with "
                                     "`attn-dsl fit --resume`") from None  # fmt: skip
        if kept != lines:
            write_bytes(file, b"".join(kept))
        for result in self.results:
            write(self.path / "programs" / f"{result.label}.attn", result.program)

    def _read(self, name: str) -> HeadResult:
        """Read the result of a head, once."""
        if name not in self._results:
            try:
                found = HeadResult.from_json(self._state(name).read_text(encoding="utf-8"), self._origin)
                if found.label != name:
                    raise ValueError(f"it is of the head {found.label}")
                self._results[name] = found
            except (OSError, *UNREADABLE) as error:
                raise self._damaged(name, error) from None
        return self._results[name]

    @property
    def results(self) -> list[HeadResult]:
        """The results of all recorded heads, by layer and head."""
        found = [self._read(file.stem) for file in (self.path / "state").glob("L*.json")]
        return sorted(found, key=lambda r: (r.layer, r.head))

    def __getitem__(self, head: str | tuple[int, int]) -> RunHead:
        """Return a head by a name as ``"L5H1"`` or ``"l05h01"``, or as ``(5, 1)``.

        >>> Run.open("runs/demo")["L5H1"]
        <Head L5H1: IoU 0.712, output R² 0.640, 31 nodes, position>

        Raises:
            InputError: the run has no such head; the message names those near it.
        """
        there = [(r.layer, r.head) for r in self.results]
        return self._head(self._read(label(*one_head(head, there, str(self.path)))))

    def _head(self, result: HeadResult) -> RunHead:
        file = self.path / "programs" / f"{result.label}.attn"
        ahead = bool(self.info["key"].get("allow_lookahead"))
        read = partial(load, file, allow_lookahead=ahead)
        return RunHead(result, self.info["key"]["seed"], read, self.open_capture)

    def __iter__(self) -> Iterator[RunHead]:
        return map(self._head, self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __contains__(self, head: object) -> bool:
        return any(head in (r.name, r.label, (r.layer, r.head)) for r in self.results)

    def _ipython_key_completions_(self) -> list[str]:
        return [r.name for r in self.results]

    @property
    def cut_short(self) -> list[str]:
        """The heads whose search did not end."""
        return [r.label for r in self.results if r.cut_short]

    @property
    def missing(self) -> list[tuple[int, int]]:
        """The heads that were to be searched and have no result."""
        done = {(r.layer, r.head) for r in self.results}
        return [(one, head) for one, head in self.info["key"]["heads"] if (one, head) not in done]

    def tabulate(self) -> None:
        """Write ``heads.csv``, ``pareto.csv`` and ``terms.csv`` from what is recorded."""
        started = time.monotonic()
        results = self.results
        self._write("heads.csv", self.rows())
        for name, field in (("pareto.csv", "front"), ("terms.csv", "terms")):
            rows = ((r, asdict(one)) for r in results for one in getattr(r, field))
            self._write(name, [{"layer": r.layer, "head": r.head} | own for r, own in rows])
        now = time.monotonic()
        self._tables_next = now + (now - started) / TABLES_SHARE

    def share(self, entries: Sequence[LibraryEntry]) -> None:
        """Write ``library.csv``: programs that describe several heads, in the order they were taken."""
        rows = [asdict(entry) for entry in entries]
        named = [{"rank": i, "from": row.pop("label"), **row} for i, row in enumerate(rows, 1)]
        self._write("library.csv", named)
        self.update(library={"programs": len(entries), "iou_test": entries[-1].iou_test})

    def _write(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a table, if it has rows."""
        if rows:
            write(self.path / name, table(rows[0], (row.values() for row in rows)))

    def rows(self) -> list[Mapping[str, Any]]:
        """Return the rows of ``heads.csv``, those of a run's data frame."""
        return [_head_row(r) for r in self.results]

    def program(self, head: str | int | tuple[int, int], number: int | None = None) -> Program:
        """Return the program of a head, given as for ``run[…]``, or as a layer and a number."""
        pair = head if isinstance(head, str | tuple) or number is None else (head, number)
        return self[pair].program  # type: ignore[index]

    @property
    def resolve(self) -> Resolver:
        """Finds the definitions that programs of the run use."""
        return in_folder(self.path)

    def parsed(self, source: str, name: str) -> Head:
        """Return the tree of a program in the result of a head.

        Raises:
            InputError: it is no program, so that the file of the result is damaged.
        """
        try:
            return parse(source, name, self.resolve)
        except ProgramSyntaxError as error:
            raise self._damaged(name, error.message) from None

    def _damaged(self, name: str, why: object) -> InputError:
        return InputError(f"{self._state(name)}: damaged ({why}); {_MENDING} delete it and go on with "
                          "`attn-dsl fit --resume`")  # fmt: skip

    @property
    def definitions(self) -> Definitions | None:
        """The scores that programs of the run share; None where none were looked for.

        Raises:
            InputError: their file is gone or was changed since they were found.
        """
        file, known = self.path / VOCABULARY, self.info.get("vocabulary")
        if known is None:
            return None
        found = read_definitions(file) if file.exists() else None
        if found is None or found.digest != known:
            what = "is gone" if found is None else "was changed"
            raise InputError(f"{file} {what}, and the programs of the run were found with it; put it back, "
                             "or fit into a fresh directory")  # fmt: skip
        return found

    def open_capture(self, place: str | Path | Capture | None = None) -> Capture:
        """Open the attention that the run was fitted to, which may have moved to another place.

        Raises:
            InputError: it is not there, or another capture is.
        """
        if not isinstance(place, Capture):
            own = self.path / "capture"
            at = place or (own if own.is_dir() else self.info["capture"])
            if at is None or (place is None and not Path(at).is_dir()):
                where = f"not in {at}" if at else "nowhere on disk (it was made from arrays)"
                raise InputError(f"{self.path}: its attention is {where}; give it by --capture DIR")
            place = Capture.open(at)
        if place.hash != self.info["key"]["capture"]:
            raise InputError(f"{place.path} is not the capture that {self.path} was fitted to")
        return place

    @property
    def lacking(self) -> str | None:
        """Why the output R² of no head is known; None where that of one is."""
        if any(math.isfinite(r.test["output_r2"].mean) for r in self.results):
            return None
        return self.info.get("lacking", NOT_MEASURED) or "the outputs of no head vary"

    @property
    def report(self) -> Path:
        """The HTML report's file."""
        return self.path / "report.html"

    def __repr__(self) -> str:
        return f"<Run {self.path}: {len(self.results)} heads of {self.info['model']}>"


def _head_row(r: HeadResult) -> dict[str, Any]:
    """Return a head's row of ``heads.csv``; scores from ``iou_test`` on are means over texts."""
    iou, (control, control_iou) = r.test["iou"], r.best_control
    output_control, control_r2 = r.best_output_control
    return {"layer": r.layer, "head": r.head, "program": f"programs/{r.label}.attn", "nodes": r.nodes,
            "iou_fit": r.iou_fit, "iou_select": r.iou_select, **iou.named("iou_test"),
            "iou_no_sink": r.test["iou_no_sink"].mean, **r.test["output_r2"].named("output_r2"),
            "jsd_test": r.test["jsd"].mean, "top1_test": r.test["top1"].mean, "category": r.category,
            "seconds": round(r.seconds, 2), "texts_test": iou.texts, "tv_test": r.test["tv"].mean,
            "best_control": control, "iou_best_control": control_iou, "best_output_control": output_control,
            "output_r2_best_control": control_r2, "evals": r.evals, "cut_short": r.cut_short,
            "lookahead": r.lookahead, "category_shares": told_shares(r.shares)}  # fmt: skip


def refuse_other_work(path: Path, resume: bool) -> None:
    """Refuse a directory that a run must not touch; to be asked before any work is done.

    Raises:
        InputError: it is a file, or holds other things, or a run that is not to be resumed.
    """
    if (path / "run.json").exists():
        if not resume:
            raise InputError(f"{path} already holds a run; go on with it by --resume, or choose another "
                             "--out")  # fmt: skip
        return
    if resume and not path.exists():
        raise InputError(f"{path}: there is no run to resume; leave out --resume to start one")
    refuse_other_things(path, ("capture", "hypotheses", "."), "run")
