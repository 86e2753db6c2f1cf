"""Reporting: gathers what the HTML report shows of a run, with three test texts for each head."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan, pack, unpack
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.parser import parse
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.metrics import ious
from attn_dsl.eval.replace.curve import figure
from attn_dsl.eval.report import Example, FrontRow, HeadReport, ReportData, write_report
from attn_dsl.eval.results import HeadResult
from attn_dsl.eval.run import Run
from attn_dsl.synth.runs.summary import summarise

EXAMPLES = 3


def write_run_report(run: Run, capture: str | Path | Capture | None = None) -> Path:
    """Write ``report.html`` of a run.

    Args:
        capture: the run's attention, where it is not where the run says.

    Raises:
        InputError: the capture is gone, or is another one; the message says what to give.
    """
    if not run.results:
        raise InputError(f"{run.path}: no head is finished yet; go on with `attn-dsl fit --resume`")
    attention = _capture(run, capture)
    write_report(report_data(run, attention), run.report)
    return run.report


def _capture(run: Run, capture: str | Path | Capture | None) -> Capture:
    if isinstance(capture, Capture):
        found = capture
    else:
        own = run.path / "capture"
        place = capture or (own if own.is_dir() else run.info["capture"])
        if place is None:
            raise InputError(f"{run.path}: the run was made from arrays; give its --capture")
        if capture is None and not Path(place).is_dir():
            raise InputError(f"{run.path}: its attention is not in {place}; give its --capture")
        found = Capture.open(place)
    if found.hash != run.info["key"]["capture"]:
        raise InputError(f"{found.path}: is not the capture that {run.path} was fitted to")
    return found


def report_data(run: Run, capture: Capture) -> ReportData:
    """Gather the contents of a run's report."""
    results, info = run.results, run.info
    texts = _example_texts(capture, capture.split(info["key"]["seed"])["test"])
    batch = Batch([capture.tokens(i) for i in texts])
    summary = summarise(results, info["key"]["seed"])
    notes, short = [], set(run.cut_short)
    if ahead := [r.label for r in results if r.lookahead]:
        notes.append(f"Programs that look ahead: {', '.join(ahead)}.")
    if info["split"] != "texts":
        notes.append(
            f"The texts were too few to split by source; they are split by {info['split']}."
        )
    return ReportData(
        title=f"Attention heads of {Path(info['model']).name}", model=info["model"],
        created=info["created"], settings=dict(sorted((info["key"] | info["versions"]).items())),
        texts=info["texts"],
        tokens_per_text=info["tokens_per_text"], causal=info["causal"],
        heads=tuple(_head(capture, r, texts, batch, r.label in short) for r in results), notes=tuple(notes),
        mean_interval=(summary.iou.low, summary.iou.high), missing=missing(run),
        replacement=figure(run.path) or "",
    )  # fmt: skip


def missing(run: Run) -> tuple[tuple[int, int], ...]:
    """Return the heads that the run was to search and has no result for."""
    done = {(r.layer, r.head) for r in run.results}
    chosen = ((int(layer), int(head)) for layer, head in run.info["key"]["heads"])
    return tuple(pair for pair in chosen if pair not in done)


def _example_texts(capture: Capture, texts: list[int]) -> list[int]:
    """Take the shortest, a middling and the longest of the shorter half of the test texts."""
    order = sorted(texts, key=lambda i: (len(capture.tokens(i)), i))
    half = order[: max(EXAMPLES, len(order) // 2)]
    picks = np.linspace(0, len(half) - 1, min(EXAMPLES, len(half))).astype(int)
    return [half[i] for i in picks]


def _head(
    capture: Capture, r: HeadResult, texts: list[int], batch: Batch, cut_short: bool
) -> HeadReport:
    program = parse(r.program, r.label)
    test = r.test
    return HeadReport(
        r.layer, r.head, r.program, r.nodes, r.iou_fit, r.iou_select, test["iou"].mean,
        test["iou"].low, test["iou"].high, test["iou_no_sink"].mean, test["jsd"].mean,
        test["top1"].mean, r.category, r.seconds, r.lookahead, r.controls,
        tuple(
            FrontRow(row.nodes, row.iou_select, row.iou_test, row.program, row.chosen)
            for row in r.front
        ),
        tuple(_example(capture, r, program, text, at, batch) for at, text in enumerate(texts)),
        cut_short,
    )  # fmt: skip


def _example(
    capture: Capture, r: HeadResult, program: t.Head, text: int, at: int, batch: Batch
) -> Example:
    tokens = capture.tokens(text)
    actual = capture.matrix(text, r.layer, r.head)
    packed = Plan([program], batch).packed(at)
    predicted = unpack(packed[0], len(tokens), capture.causal)
    visible = pack(actual, capture.causal)[None]
    return Example(tokens.strings, actual, predicted, float(ious(visible, packed)[0, 0]))
