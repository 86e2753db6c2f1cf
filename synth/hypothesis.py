"""Hypotheses: programs of one's own, fitted to heads and judged on test texts beside controls."""

import dataclasses
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from attn_dsl.compiler.evaluate import Plan, unpack
from attn_dsl.compiler.program import Program, load, parse
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.printer import show
from attn_dsl.eval import outputs
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.capture_write import capture_of
from attn_dsl.eval.controls import control_scores
from attn_dsl.eval.files import alone, refuse_other_things, table, write
from attn_dsl.eval.heads import label, one_head, parse_heads
from attn_dsl.eval.metrics import Estimate, bootstrap, decimal, ious, variation
from attn_dsl.eval.notebook import Tabular
from attn_dsl.eval.results import best_of
from attn_dsl.eval.run import Run
from attn_dsl.eval.texts import Spec
from attn_dsl.synth.fit import ready_session, settings_of
from attn_dsl.synth.given import checked
from attn_dsl.synth.objective import HeadRows
from attn_dsl.synth.runs.progress import Progress, Watcher, watcher_here
from attn_dsl.synth.session import Session
from attn_dsl.synth.sparse_design import fit_holes, refit

WORST = 5  # how many queries are shown where a hypothesis fails, each of another text
STRONGEST = 3  # how many keys of each of them are shown
FOLDER = "hypotheses"  # what the folder of fitted programs is called, and the table beside it


@dataclass(frozen=True, slots=True)
class Failure:
    """A query of a test text at which a hypothesis is far from a head."""

    text: int  # its number in the capture
    query: int
    tokens: tuple[str, ...]  # of the whole text
    # its squared error of the output, or its total variation distance where values are not known,
    # in units of its mean over all queries of the test texts
    error: float
    # head, program: the positions of the keys that get most attention, and how much they get
    head: tuple[tuple[int, float], ...]
    program: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, repr=False)
class Hypothesis(Tabular):
    """What is found of one hypothesis and one head; every figure but ``found`` is of the test texts."""

    name: str  # of the program
    layer: int
    head: int
    program: str  # the source, fitted
    nodes: int
    fitted: int  # how many weights were fitted
    iou: Estimate
    output_r2: Estimate  # nan where it is not known
    # control, output_control: the best control and its IoU or output R²
    control: tuple[str, float]
    output_control: tuple[str, float]
    # IoU and output R² of the program that a search chose for the head; nan without a search
    found: tuple[float, float]
    failures: tuple[Failure, ...]  # where it fails most, the worst first

    @property
    def label(self) -> str:
        """The head's name, as in ``L5H1``."""
        return f"L{self.layer}H{self.head}"

    def __repr__(self) -> str:
        control = f"best control {decimal(self.control[1])}"
        r2 = f"output R² {self.output_r2.with_interval}"
        return f"<Hypothesis {self.name} on {self.label}: IoU {self.iou}, {control}, {r2}>"

    def rows(self) -> list[Mapping[str, Any]]:
        """Return its only row."""
        return [self.row()]

    def row(self) -> dict[str, Any]:
        """Return the figures by column, as ``hypotheses.csv`` has them."""
        (control, iou), (output_control, r2) = self.control, self.output_control
        return {"program": self.name, "layer": self.layer, "head": self.head, "nodes": self.nodes,
                "fitted": self.fitted, **self.iou.named("iou_test"), **self.output_r2.named("output_r2"),
                "best_control": control, "iou_best_control": iou, "best_output_control": output_control,
                "output_r2_best_control": r2, "iou_found": self.found[0], "output_r2_found": self.found[1],
                "holds": self.holds, "texts_test": self.iou.texts}  # fmt: skip

    @property
    def holds(self) -> bool:
        """Whether the whole interval of the IoU lies above the best control."""
        return self.iou.low > self.control[1]


class FittedProgram(Program):
    """A program that was fitted to a head, with what is found of it in ``figures``."""

    def __init__(self, program: Program, figures: Hypothesis) -> None:
        super().__init__(program.tree, program.facts)
        self.figures = figures

    def __repr__(self) -> str:
        return f"<FittedProgram {self.name}: {self.nodes} nodes, {self.figures!r}>"


def fit_program(program: Program, capture: Capture | str | Path, head: str | tuple[int, int], *,
                seed: int = 0, refit: bool = False, as_it_is: bool = False,
                objective: str | None = None) -> FittedProgram:  # fmt: skip
    """Fit a program to one head, or measure it as it is; see ``Program.fit`` and ``Program.score``."""
    ahead = bool(program.facts.lookahead)
    attention = capture if isinstance(capture, Capture) else Capture.open(capture)
    pairs = [one_head(head, attention.pairs, attention.name)]
    tree = checked(program, attention, every=refit, as_it_is=as_it_is)
    settings = settings_of(seed, 1, 1, 1, None, allow_lookahead=ahead, objective=objective)
    (found,) = _judge(ready_session(attention, settings), [tree], pairs, refit)
    return FittedProgram(parse(found.program, program.name, allow_lookahead=ahead), found)


def fit_hypotheses(programs: Sequence[str | Path | Program], model: str | None = None,
                   text: Spec | None = None, *, out: str | Path, capture: str | Path | Capture | None = None,
                   heads: str | None = None, refit: bool = False, seed: int = 0,
                   max_tokens: int = 128, max_texts: int = 300, device: str = "cpu", dtype: str = "float32",
                   objective: str | None = None, allow_lookahead: bool = False, jobs: int | None = None,
                   watch: Watcher | None = None) -> list[Hypothesis]:  # fmt: skip
    """Fit each program to each of some heads, and write what is found beside controls.

    ``hypotheses.csv`` and the fitted programs (``hypotheses/NAME-L05H01.attn``) go to a directory. If
    it holds a finished run, its capture is read where no other is given, and its programs are compared with.

    >>> fit_hypotheses(["sink.attn"], "demo", out="runs/sink", heads="L1H1")[0].holds
    True

    Args:
        programs: programs or their files; their holes are fitted.
        out: the directory.
        refit: fit all weights of terms.
        others: as for ``fit``.

    Returns:
        What is found, by program and then by head.

    Raises:
        InputError: a program does not fit the heads or has nothing to fit, or something else that
            was given cannot be used; the message says what and why.
    """
    loaded = [one if isinstance(one, Program) else load(one, allow_lookahead=allow_lookahead)
              for one in programs]  # fmt: skip
    names = [one.name for one in loaded]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two programs are called {twice}; rename the head of one of them")
    place, tell = Path(out), watch or watcher_here()
    settings = settings_of(seed, 1, 1, 1, None, allow_lookahead=allow_lookahead, objective=objective)
    with alone(place):
        run = Run.open(place) if (place / "run.json").exists() else None
        if run is None:
            refuse_other_things(place, ("capture", FOLDER, "."), "run")
        elif run.info["key"]["seed"] != seed:
            raise InputError(f"{place} was split by --seed {run.info['key']['seed']}; give the same, so that "
                             "hypotheses and its programs are compared on the same texts")  # fmt: skip
        if run is not None and capture is None and model is None:
            attention = run.open_capture()
        else:
            attention = capture_of(capture, model, text, place / "capture", max_tokens=max_tokens,
                                   max_texts=max_texts, device=device, dtype=dtype,
                                   progress=lambda i, n: tell(Progress("capture", i, n)))  # fmt: skip
            if run is not None:
                run.open_capture(attention)
        trees = [checked(one, attention, every=refit) for one in loaded]
        pairs = parse_heads(heads, attention.n_layers, attention.heads_per_layer)
        session = ready_session(attention, settings)
        found = _judge(session, trees, pairs, refit, run, jobs, tell)
        _write(place, found)
    return found


def _judge(session: Session, programs: Sequence[t.Head], pairs: Sequence[tuple[int, int]], refit: bool,
           run: Run | None = None, jobs: int | None = None,
           tell: Watcher = lambda progress: None) -> list[Hypothesis]:  # fmt: skip
    """Fit all programs to all heads, and measure them on the test texts."""
    width, found = session.capture.heads_per_layer, list[list[Hypothesis]]()
    best = {(r.layer, r.head): (r.test["iou"].mean, r.test["output_r2"].mean)
            for r in (run.results if run else ())}  # fmt: skip
    _ = session.design, session.test  # which all threads share
    tell(Progress("hypotheses", 0, len(pairs)))
    with ThreadPoolExecutor(jobs or os.cpu_count()) as threads:
        for layer, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
            heads = [head for _, head in group]
            numbers = [layer * width + head for head in heads]
            controls = control_scores(session.capture, session.texts, numbers)
            beside = ({name: x[:, at] for name, x in controls.items()} for at in range(len(heads)))
            reached = (best.get((layer, head), (math.nan, math.nan)) for head in heads)
            judge = partial(_judge_head, session, programs, refit)
            for own in threads.map(judge, numbers, beside, reached):
                found.append(own)
                tell(Progress("hypotheses", len(found), len(pairs)))
    return [one for by_program in zip(*found, strict=True) for one in by_program]


def _judge_head(session: Session, programs: Sequence[t.Head], every: bool, number: int,
                controls: dict[str, np.ndarray],
                reached: tuple[float, float]) -> list[Hypothesis]:  # fmt: skip
    """Fit programs to a head, and measure them beside controls and what a search ``reached``."""
    capture, test, seed = session.capture, session.test, session.settings.seed
    layer, head = divmod(number, capture.heads_per_layer)
    rows = session.design.target(layer, head)
    fitted = [_fitted(session, rows, program, every) for program in programs]
    plan = Plan(fitted, test.batch)
    found, by_row = np.empty((len(programs), len(test))), list[np.ndarray]()
    for at, text in enumerate(test.texts):
        actual, predicted = capture.attention(text, [number]), plan.packed(at)
        found[:, at] = ious(actual, predicted)[0]
        wrong = unpack(predicted - actual, len(capture.tokens(text)), capture.causal)
        if capture.has_outputs:
            by_row.append(np.square(wrong @ capture.contributions(text, number)).sum(-1))
        else:
            by_row.append(variation(wrong))
    errors = np.array([one.sum(-1) for one in by_row], dtype=np.float64).T
    spreads = np.full(len(test), np.nan)
    if capture.has_outputs:
        spreads = outputs.spreads(capture, test.texts, [number])[0]

    def failures(i: int) -> tuple[Failure, ...]:
        made: dict[tuple[str, ...], Failure] = {}  # by the last tokens: texts begin alike
        for at in np.argsort([-one[i].max() for one in by_row], kind="stable"):
            one = failure(i, int(at))
            made.setdefault(one.tokens[max(0, one.query - 3) : one.query + 1], one)
            if len(made) == WORST:
                break
        return tuple(made.values())

    def failure(i: int, at: int) -> Failure:
        text, query = test.texts[at], int(by_row[at][i].argmax())
        strings = capture.tokens(text).strings
        both = np.stack([capture.attention(text, [number])[0], plan.packed(at)[i]])
        own, made = unpack(both, len(strings), capture.causal)[:, query]
        mean = float(errors[i].sum()) / float(test.batch.sizes.sum())
        error = float(by_row[at][i, query]) / mean if mean else 0.0
        return Failure(text, query, strings, error, _strongest(own), _strongest(made))

    control, output_control = (best_of({name: float(x[at]) for name, x in controls.items()}) for at in (0, 1))
    return [
        Hypothesis(one.name, layer, head, show(one), t.nodes(one),
                   len(given.weights) if every else given.weights.count(None), bootstrap(found[i], seed),
                   outputs.output_r2(errors[i : i + 1], spreads[None], seed), control, output_control,
                   reached, failures(i))
        for i, (given, one) in enumerate(zip(programs, fitted, strict=True))]  # fmt: skip


def _fitted(session: Session, rows: HeadRows, program: t.Head, every: bool) -> t.Head:
    """Fit the holes of a program to the rows of a head, or all of its weights."""
    if not every:
        return fit_holes(session.design, rows, program)
    terms = tuple(t.reweighted(term, repeat(None)) for term in program.terms)
    free = dataclasses.replace(program, terms=terms)
    return refit(session.design, rows, fit_holes(session.design, rows, free))


def _strongest(row: np.ndarray) -> tuple[tuple[int, float], ...]:
    """Return the keys of a row that get most attention, and how much."""
    keys = np.argsort(-row, kind="stable")[:STRONGEST]
    return tuple((int(k), float(row[k])) for k in keys if row[k] >= 0.005)


def _write(place: Path, found: Sequence[Hypothesis]) -> None:
    """Write the table of hypotheses, and the fitted programs."""
    (place / FOLDER).mkdir(exist_ok=True)
    rows = []
    for one in found:
        file = f"{FOLDER}/{one.name}-{label(one.layer, one.head)}.attn"
        write(place / file, one.program)
        rows.append(one.row() | {"file": file})
    write(place / f"{FOLDER}.csv", table(rows[0], (row.values() for row in rows)))
