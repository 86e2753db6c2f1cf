"""Runs: the directory of one fit, written as it goes, so that nothing found is ever lost."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_dsl.dsl.errors import InputError, WorkError
from attn_dsl.eval.files import table, write
from attn_dsl.eval.heads import label
from attn_dsl.eval.results import Candidate, HeadResult, LibraryEntry

if TYPE_CHECKING:
    import pandas as pd

    from attn_dsl.compiler.program import Program

FORMAT = 1
NEEDED = ("key", "status", "model", "capture", "causal", "texts", "split", "tokens_per_text")
"""What every ``run.json`` has beside its format."""
HEAD_COLUMNS = (
    "layer", "head", "program", "nodes", "iou_fit", "iou_select", "iou_test", "iou_test_low",
    "iou_test_high", "iou_no_sink", "jsd_test", "top1_test", "category", "seconds", "texts_test",
    "tv_test", "best_control", "iou_best_control", "evals", "stability", "cut_short",
    "lookahead",
)  # fmt: skip
"""Columns of ``heads.csv``; all scores from ``iou_test`` on are means over ``texts_test`` texts."""
LIBRARY_COLUMNS = ("rank", "from", "nodes", "heads", "iou_select", "iou_test", "program")
PARETO_COLUMNS = (
    "layer", "head", "nodes", "iou_fit", "iou_select", "iou_test", "gain_by_node", "chosen",
    "proposer", "program",
)  # fmt: skip
"""Columns of ``pareto.csv``; ``program`` is its source."""
LOCK = ".lock"
TABLES_SHARE = 0.05
"""The most of a run's time that goes into writing its tables while it runs."""


class Run:
    """A run directory: settings, results by head, programs.

    The search goes through rounds. Results of the last are in ``state``, those of round r before
    it in ``state/roundR``; tables and programs show the latest result of each head.

    Attributes:
        path: the directory.
        info: what ``run.json`` holds: settings, versions, hashes, split sizes, status.
    """

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path, self.info = path, info
        self._results: dict[tuple[int, str], HeadResult] = {}
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
            old._repair()
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

    @property
    def rounds(self) -> int:
        """How many rounds the search goes through."""
        return int(self.info["key"].get("rounds", 1))

    def add(
        self, result: HeadResult, candidates: Iterable[Candidate], number: int | None = None
    ) -> None:
        """Record the finished search of one head; what is recorded already stays.

        Args:
            number: of the round, from 1; the last if None.
        """
        number = self.rounds if number is None else number
        state = self._state(number, result.label)
        if state.exists():
            return
        lines = [json.dumps({**_fields(c), "round": number}, sort_keys=True) for c in candidates]
        try:
            state.parent.mkdir(parents=True, exist_ok=True)
            with (self.path / "candidates.jsonl").open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise WorkError(
                f"{self.path}: cannot write: {error.strerror}; what was finished before is kept, "
                "go on with --resume"
            ) from None
        text = result.to_json()
        write(state, text)
        # What is read back, so that a resumed run goes on from the very same result.
        self._results[number, result.label] = HeadResult.from_json(text)
        later = range(number + 1, self.rounds + 1)
        if not any(self.done(result.layer, result.head, n) for n in later):
            write(self.path / "programs" / f"{result.label}.attn", result.program)
        if time.monotonic() >= self._tables_next:
            self.tabulate()

    def _state(self, number: int, name: str) -> Path:
        folder = self.path / "state"
        return (folder if number >= self.rounds else folder / f"round{number}") / f"{name}.json"

    def _repair(self) -> None:
        """Undo what an interruption left half recorded: candidates and programs of heads."""
        for part in self.path.rglob(".*.part"):
            part.unlink(missing_ok=True)
        file = self.path / "candidates.jsonl"
        if file.exists():
            done = {(n, r.layer, r.head) for (n, _), r in self._read().items()}
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if self._origin(line) in done]
            if kept != lines:
                write(file, "".join(kept))
        for result in self.results:
            program = self.path / "programs" / f"{result.label}.attn"
            if not program.exists() or program.read_text(encoding="utf-8") != result.program:
                write(program, result.program)

    def _origin(self, line: str) -> tuple[int, int, int] | None:
        try:
            fields = json.loads(line)
            return fields.get("round", self.rounds), fields["layer"], fields["head"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def done(self, layer: int, head: int, number: int | None = None) -> bool:
        """Say whether a head's search is recorded, that of the last round unless said."""
        number = self.rounds if number is None else number
        return self._state(number, label(layer, head)).exists()

    def result(self, layer: int, head: int, number: int) -> HeadResult | None:
        """Return a head's result in a round, None where there is none yet."""
        name = label(layer, head)
        if (number, name) not in self._results and self.done(layer, head, number):
            self._results[number, name] = _read_result(self._state(number, name))
        return self._results.get((number, name))

    @property
    def results(self) -> list[HeadResult]:
        """The latest results of all recorded heads, by layer and head."""
        latest = {name: result for (_, name), result in sorted(self._read().items(), key=_place)}
        return sorted(latest.values(), key=lambda r: (r.layer, r.head))

    def _read(self) -> dict[tuple[int, str], HeadResult]:
        """Read what is on disk of all rounds."""
        for number in range(1, self.rounds + 1):
            for file in self._state(number, "").parent.glob("L*.json"):
                if (number, file.stem) not in self._results:
                    self._results[number, file.stem] = _read_result(file)
        return self._results

    def tabulate(self) -> None:
        """Write ``heads.csv`` and ``pareto.csv`` from what is recorded."""
        started = time.monotonic()
        results = self.results
        heads = (_head_row(r, (self.rounds, r.label) not in self._results) for r in results)
        write(self.path / "heads.csv", table(HEAD_COLUMNS, heads))
        rows = ((r.layer, r.head, *_pareto_row(row)) for r in results for row in r.front)
        write(self.path / "pareto.csv", table(PARETO_COLUMNS, rows))
        now = time.monotonic()
        self._tables_next = now + (now - started) / TABLES_SHARE

    def share(self, entries: Sequence[LibraryEntry], terms: Sequence[tuple[str, int]]) -> None:
        """Write ``library.csv`` and ``terms.csv``: what describes several heads.

        Args:
            entries: programs of the shared library, in the order in which they were taken.
            terms: terms that recur, each with the number of heads whose programs have it.
        """
        rows = (
            (i + 1, e.label, e.nodes, " ".join(e.heads), e.iou_select, e.iou_test, e.program)
            for i, e in enumerate(entries)
        )
        write(self.path / "library.csv", table(LIBRARY_COLUMNS, rows))
        write(self.path / "terms.csv", table(("term", "heads"), terms))
        self.update(library={"programs": len(entries), "iou_test": entries[-1].iou_test})

    @property
    def cut_short(self) -> list[str]:
        """The heads whose search did not end, all rounds included."""
        results = self.results
        return [
            r.label for r in results if r.cut_short or (self.rounds, r.label) not in self._results
        ]

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


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes out of a run directory for a while; the lock goes with the process.

    Raises:
        InputError: another process works in it, or it cannot be made.
    """
    from filelock import FileLock, Timeout

    made = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{path}: another process is working on this run; wait until it ends, or interrupt "
            "it and go on with --resume"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be made or written: {error.strerror}; choose another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()
        if made and [file.name for file in path.iterdir()] in ([LOCK], []):
            with contextlib.suppress(OSError):  # nothing came of it
                (path / LOCK).unlink(missing_ok=True)
                path.rmdir()


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


def _place(item: tuple[tuple[int, str], HeadResult]) -> tuple[int, str]:
    return item[0]


def _fields(candidate: Candidate) -> dict[str, Any]:
    return {name: getattr(candidate, name) for name in candidate.__slots__}


def _head_row(r: HeadResult, unfinished: bool) -> tuple:
    control, control_iou = r.best_control
    iou = r.test["iou"]
    return (
        r.layer, r.head, f"programs/{r.label}.attn", r.nodes, r.iou_fit, r.iou_select, iou.mean,
        iou.low, iou.high, r.test["iou_no_sink"].mean, r.test["jsd"].mean, r.test["top1"].mean,
        r.category, round(r.seconds, 2), iou.texts, r.test["tv"].mean, control, control_iou,
        r.evals, r.stability, int(r.cut_short or unfinished), " ".join(r.lookahead),
    )  # fmt: skip


def _pareto_row(row: Any) -> tuple:
    return (
        row.nodes, row.iou_fit, row.iou_select, row.iou_test, row.gain_by_node, int(row.chosen),
        row.proposer, row.program,
    )  # fmt: skip
