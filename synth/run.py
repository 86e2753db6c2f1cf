"""Runs: the directory of one fit, written as it goes, so that nothing found is ever lost."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_dsl.dsl.errors import InputError, WorkError
from attn_dsl.eval.files import write
from attn_dsl.synth.result import Candidate, HeadResult, label

if TYPE_CHECKING:
    import pandas as pd

    from attn_dsl.compiler.program import Program

FORMAT = 1
NEEDED = ("key", "status", "model", "capture", "causal", "texts", "split", "tokens_per_text")
"""What every ``run.json`` has beside its format."""
HEAD_COLUMNS = (
    "layer", "head", "program", "nodes", "iou_fit", "iou_select", "iou_test", "iou_test_low",
    "iou_test_high", "iou_no_sink", "jsd_test", "top1_test", "category", "seconds", "texts_test",
    "tv_test", "best_control", "iou_best_control", "evals", "cut_short", "lookahead",
)  # fmt: skip
"""Columns of ``heads.csv``; all scores from ``iou_test`` on are means over ``texts_test`` texts."""
PARETO_COLUMNS = (
    "layer", "head", "nodes", "iou_fit", "iou_select", "iou_test", "gain_by_node", "chosen",
    "proposer", "program",
)  # fmt: skip
"""Columns of ``pareto.csv``; ``program`` is its source."""


class Run:
    """A run directory: settings, results by head, programs.

    Attributes:
        path: the directory.
        info: what ``run.json`` holds: settings, versions, hashes, split sizes, status.
    """

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path, self.info = path, info
        self._results: dict[str, HeadResult] = {}

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
            info = json.loads(file.read_text(encoding="utf-8"))
            version = info["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}: damaged ({error}); run `attn-dsl fit` again") from None
        if version != FORMAT:
            raise InputError(f"{file}: format {version}, and this version reads {FORMAT}")
        lacking = [name for name in NEEDED if name not in info]
        if lacking:
            raise InputError(
                f"{file}: damaged (it lacks {', '.join(lacking)}); run `attn-dsl fit` again"
            )
        return cls(path, info)

    @classmethod
    def create(cls, path: str | Path, info: Mapping[str, Any], *, resume: bool) -> Run:
        """Make a run directory, or go on with one whose settings are the same.

        Args:
            info: must have ``key``, which decides whether two runs are the same work.

        Raises:
            InputError: the directory holds something else, or a run that must not be touched.
        """
        path = Path(path)
        refuse_other_work(path, resume)
        if (path / "run.json").exists():
            old = cls.open(path)
            wrong = [
                f"{name}: {old.info['key'].get(name)!r} there, {value!r} now"
                for name, value in info["key"].items()
                if old.info["key"].get(name) != value
            ]
            if wrong:
                raise InputError(
                    f"{path} holds a run with other settings ({'; '.join(wrong)}); repeat those to "
                    "resume it, or choose another --out"
                )
            old._drop_unfinished()
            return old
        run = cls(path, {"format": FORMAT, **info})
        try:
            for folder in ("programs", "state"):
                (path / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be made: {error.strerror}; choose another --out"
            ) from None
        run.update()
        return run

    def update(self, **changes: Any) -> None:
        """Change ``run.json``."""
        self.info.update(changes)
        write(self.path / "run.json", json.dumps(self.info, indent=1, sort_keys=True) + "\n")

    def add(self, result: HeadResult, candidates: Iterable[Candidate]) -> None:
        """Record the finished search of one head; what is recorded already stays."""
        state = self.path / "state" / f"{result.label}.json"
        if state.exists():
            return
        lines = [json.dumps(_fields(c), sort_keys=True) for c in candidates]
        try:
            with (self.path / "candidates.jsonl").open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise WorkError(f"{self.path}: cannot write: {error.strerror}") from None
        write(self.path / "programs" / f"{result.label}.attn", result.program)
        write(state, result.to_json())
        self.tabulate()

    def _drop_unfinished(self) -> None:
        """Drop candidates of heads whose search was interrupted while they were recorded."""
        file = self.path / "candidates.jsonl"
        if file.exists():
            done = {(r.layer, r.head) for r in self.results}
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if _head_of(line) in done]
            if kept != lines:
                write(file, "".join(kept))

    def done(self, layer: int, head: int) -> bool:
        """Say whether a head's search is recorded."""
        return (self.path / "state" / f"{label(layer, head)}.json").exists()

    @property
    def results(self) -> list[HeadResult]:
        """The results of all recorded heads, by layer and head."""
        for file in (self.path / "state").glob("L*.json"):
            if file.stem not in self._results:
                self._results[file.stem] = _read_result(file)
        return sorted(self._results.values(), key=lambda r: (r.layer, r.head))

    def tabulate(self) -> None:
        """Write ``heads.csv`` and ``pareto.csv`` from what is recorded."""
        results = self.results
        write(self.path / "heads.csv", table(HEAD_COLUMNS, map(_head_row, results)))
        rows = ((r.layer, r.head, *_pareto_row(row)) for r in results for row in r.front)
        write(self.path / "pareto.csv", table(PARETO_COLUMNS, rows))

    @property
    def heads(self) -> pd.DataFrame:
        """``heads.csv`` as a data frame."""
        import pandas as pd

        return pd.read_csv(self.path / "heads.csv")

    @property
    def pareto(self) -> pd.DataFrame:
        """``pareto.csv`` as a data frame."""
        import pandas as pd

        return pd.read_csv(self.path / "pareto.csv")

    def program(self, layer: int, head: int) -> Program:
        """Return the program that was chosen for a head.

        Raises:
            InputError: the run has none for it.
        """
        from attn_dsl.compiler.program import load

        return load(
            self.path / "programs" / f"{label(layer, head)}.attn",
            allow_lookahead=bool(self.info["key"].get("allow_lookahead")),
        )

    @property
    def report(self) -> Path:
        """The HTML report's file."""
        return self.path / "report.html"

    def __repr__(self) -> str:
        return f"<Run {self.path}: {len(self.results)} heads>"


def refuse_other_work(path: Path, resume: bool) -> None:
    """Refuse a directory that a run must not touch; to be asked before any work is done.

    Raises:
        InputError: it is a file, or holds other things, or a run that is not to be resumed.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; choose another --out")
    if (path / "run.json").exists():
        if not resume:
            raise InputError(
                f"{path} already holds a run; go on with it by --resume, or choose another --out"
            )
        return
    if resume and not path.exists():
        raise InputError(f"{path}: there is no run to resume; leave out --resume to start one")
    names = {p.name for p in path.iterdir()} if path.is_dir() else set()
    others = sorted(name for name in names - {"capture"} if not name.startswith("."))
    if others:
        raise InputError(
            f"{path} holds other things ({others[0]}) and no run; choose another --out"
        )


def _read_result(file: Path) -> HeadResult:
    try:
        return HeadResult.from_json(file.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: damaged ({error}); delete it and go on with `attn-dsl fit --resume`"
        ) from None


def _head_of(line: str) -> tuple[int, int] | None:
    try:
        fields = json.loads(line)
        return fields["layer"], fields["head"]
    except (ValueError, KeyError, TypeError):
        return None


def _fields(candidate: Candidate) -> dict[str, Any]:
    return {name: getattr(candidate, name) for name in candidate.__slots__}


def _head_row(r: HeadResult) -> tuple:
    control, control_iou = r.best_control
    iou = r.test["iou"]
    return (
        r.layer, r.head, f"programs/{r.label}.attn", r.nodes, r.iou_fit, r.iou_select, iou.mean,
        iou.low, iou.high, r.test["iou_no_sink"].mean, r.test["jsd"].mean, r.test["top1"].mean,
        r.category, round(r.seconds, 2), iou.texts, r.test["tv"].mean, control, control_iou,
        r.evals, int(r.cut_short), " ".join(r.lookahead),
    )  # fmt: skip


def _pareto_row(row: Any) -> tuple:
    return (
        row.nodes, row.iou_fit, row.iou_select, row.iou_test, row.gain_by_node, int(row.chosen),
        row.proposer, row.program,
    )  # fmt: skip


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Write a table as CSV; numbers to six digits, so that equal runs give equal bytes."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([f"{x:.6f}" if isinstance(x, float) else x for x in row])
    return out.getvalue()
