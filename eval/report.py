"""The report of a run: one self-contained HTML file with every head's programs and matrices."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan, pack, unpack
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.definitions import self_contained, show_definitions
from attn_dsl.dsl.english import describe, explain
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.kinds import told_shares
from attn_dsl.dsl.printer import show
from attn_dsl.eval import results as found
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.files import write
from attn_dsl.eval.heads import unpadded
from attn_dsl.eval.metrics import Estimate, ious
from attn_dsl.eval.replace.curve import figure
from attn_dsl.eval.report_text import TEMPLATES, fill, lexeme_classes
from attn_dsl.eval.results import FrontRow, HeadResult, best_of, mean_known, median_known
from attn_dsl.eval.run import Run
from attn_dsl.eval.scores import SharedScore, commented, score_values, shared_scores

CANDIDATES = 8
"""On how many test texts all heads are compared; of each head, the best and the worst are shown."""
TOKENS = (20, 60)
"""The fewest and the most tokens that are shown of a text."""
ROOM = (3_100_000, 11_500)
"""How many bytes all matrices take, and those of one head: the larger of the two sums counts."""
PACKED = 0.6
"""The bytes that one entry of a matrix takes in the file, compressed and in base64."""
SCORE_TOKENS = 160
"""At how many tokens of a text the values of a score are shown."""

ScoreOnText = tuple[SharedScore, int, npt.NDArray[np.float64]]
"""A score, the number of a text, and its values at the first tokens of the text."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A head and the programs of its front on the first n tokens of a text."""

    text: int  # its number among the texts of the report
    n: int
    ious: tuple[float, ...]  # of each program on these tokens
    # uint8 (1 + programs, visible entries): round(255 sqrt(w)) of the head and of each program
    levels: npt.NDArray[np.uint8]
    # of each key, the norm of what it gives to the head's output; None without values
    norms: npt.NDArray[np.float32] | None


@dataclass(frozen=True, slots=True, eq=False)
class HeadPage:
    """What the page of one head shows beside its result."""

    result: HeadResult
    programs: tuple[t.Head, ...]  # of the front, by nodes
    examples: tuple[Example, ...]  # where the chosen program fits best, and where worst

    @property
    def front(self) -> list[FrontRow]:
        """The rows of the front, by nodes."""
        return sorted(self.result.front, key=lambda row: row.nodes)


@dataclass(frozen=True, slots=True, eq=False)
class ReportData:
    """What a report shows of a run."""

    info: Mapping[str, Any]  # what ``run.json`` holds
    pages: tuple[HeadPage, ...]  # of the heads, by layer and head
    summary: found.Summary  # the means over heads
    texts: tuple[tuple[str, ...], ...]  # the tokens of the texts that are shown
    lacking: str | None = None  # why no head's output R² is known; None where that of one is
    missing: tuple[str, ...] = ()  # names of the heads that were to be searched and have no program
    replacement: str = ""  # the plot of what replacing heads costs, as SVG, where it was measured
    scores: Sequence[ScoreOnText] = ()  # those that heads share
    definitions: t.Definitions | None = None  # that programs of the run use
    library: Sequence[Mapping[str, str]] = ()  # the rows of ``library.csv``, heads named as in L5H1

    @property
    def results(self) -> list[HeadResult]:
        """The results of all heads."""
        return [page.result for page in self.pages]


def write_run_report(run: Run, capture: str | Path | Capture | None = None) -> Path:
    """Write ``report.html`` of a run, whole or not at all.

    Args:
        capture: the run's attention, where it is not where the run says.

    Raises:
        InputError: the capture is gone, or is another one; the message says what to give.
    """
    write(run.report, render(report_data(run, run.open_capture(capture))))
    return run.report


def report_data(run: Run, capture: Capture) -> ReportData:
    """Gather the contents of a run's report; an InputError if no head is finished."""
    if not run.results:
        raise InputError(f"{run.path}: no head is finished yet; go on with `attn-dsl fit --resume`")
    seed, results = run.info["key"]["seed"], run.results
    most = shown_tokens(results, capture.causal)
    texts = _candidates(capture, capture.split(seed)["test"], most)
    batch = Batch([capture.tokens(i) for i in texts])
    return ReportData(run.info, tuple(_head_pages(run, capture, texts, batch, most)),
                      found.summarise(results, seed), tuple(tokens.strings for tokens in batch.texts),
                      run.lacking, tuple(f"L{layer}H{head}" for layer, head in run.missing),
                      figure(run.path) or "", list(_scores(run, batch)), run.definitions,
                      _library(run))  # fmt: skip


def shown_tokens(results: Sequence[HeadResult], causal: bool) -> int:
    """Return of how many tokens of a text all matrices find room in a report."""
    matrices = sum(2 * (1 + len(r.front)) for r in results)
    entries = max(ROOM[0], ROOM[1] * len(results)) / (PACKED * matrices)
    return int(np.clip(math.isqrt(int(entries * (2 if causal else 1))), *TOKENS))


def _candidates(capture: Capture, texts: Sequence[int], most: int) -> list[int]:
    """Take test texts of other sources that are long enough, or the nearest to it; spread over all."""

    def lacks(i: int) -> int:
        n = len(capture.tokens(i))
        return max(most - n, 0) if capture.causal else abs(most - n)

    first = {capture.text_hash(i): i for i in reversed(texts)}.values()
    order = sorted(first if len(first) >= CANDIDATES else texts, key=lambda i: (lacks(i), i))
    near = [i for i in order if lacks(i) <= lacks(order[:CANDIDATES][-1])]
    picks = np.linspace(0, len(near) - 1, min(CANDIDATES, len(near))).astype(int)
    return [near[i] for i in picks]


def _head_pages(run: Run, capture: Capture, texts: Sequence[int], batch: Batch,
                most: int) -> Iterable[HeadPage]:  # fmt: skip
    """Yield the page of each head, with the texts where its program fits best and worst."""
    results, causal = run.results, capture.causal
    numbers = [r.layer * capture.heads_per_layer + r.head for r in results]
    chosen = Plan([run.parsed(r.program, r.label) for r in results], batch)
    shown, fit, attention = [], [], []
    for at, i in enumerate(texts):
        predicted = chosen.packed(at)
        entries = unpack(np.arange(predicted.shape[-1]), len(batch.texts[at]), causal)
        shown.append(pack(entries[:most, :most], causal))
        attention.append(capture.attention(i, numbers)[:, shown[at]])
        pairs = zip(attention[at], predicted[:, shown[at]], strict=True)
        fit.append([float(ious(head[None], program[None])[0, 0]) for head, program in pairs])
    for h, r in enumerate(results):
        rows = sorted(r.front, key=lambda row: row.nodes)
        programs = tuple(run.parsed(row.program, r.label) for row in rows)
        order = sorted(range(len(texts)), key=lambda at: -fit[at][h])
        examples = []
        for at in dict.fromkeys((order[0], order[-1])):
            predicted = Plan(programs, batch).packed(at)[:, shown[at]]
            head, n = attention[at][h : h + 1], min(most, len(batch.texts[at]))
            norms = None
            if capture.has_outputs:
                norms = np.linalg.norm(capture.contributions(texts[at], numbers[h]), axis=1)[:n]
            own = tuple(ious(head, predicted)[0].tolist())
            examples.append(Example(at, n, own, levels(np.vstack([head, predicted])), norms))
        yield HeadPage(r, programs, tuple(examples))


def _library(run: Run) -> list[dict[str, str]]:
    """Read ``library.csv`` where there is one, with the heads named as in ``L5H1``."""
    file = run.path / "library.csv"
    if not file.is_file():
        return []
    rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines(True))
    return [{**row, **{name: unpadded(row[name]) for name in ("from", "heads")}} for row in rows]


def _scores(run: Run, batch: Batch) -> Iterable[ScoreOnText]:
    """Yield each score of a run with the text on which it varies most, those of most heads first."""
    scores = list(shared_scores(run).values())
    if run.definitions is None:
        return
    values = np.split(score_values(run.definitions, batch), batch.starts[1:-1])
    texts = np.argmax([part.std(0) for part in values], axis=0)
    for s in sorted(range(len(scores)), key=lambda s: -scores[s].heads):
        at = int(texts[s])
        yield scores[s], at, values[at][:SCORE_TOKENS, s].astype(float)


def render(data: ReportData, live: bool = False) -> str:
    """Return a report as HTML that needs nothing but itself, or as a live page that asks its server."""
    from markupsafe import Markup

    script, style, more = (
        (TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.js", "report.css", "view.js")
    )
    script += more if live else ""
    names = [*data.missing, *(r.name for r in data.results)]
    layers, columns = zip(*(map(int, name[1:].split("H")) for name in names), strict=True)
    return fill(
        "report.html", data=data, overview=overview(data.results), layers=sorted(set(layers)),
        columns=sorted(set(columns)), cells={r.name: r for r in data.results},
        scores={one.definition.name: one for one, _, _ in data.scores},
        replacement=base64.b64encode(data.replacement.encode()).decode(),
        style=Markup(style), script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        payload=_payload(data), live=live,
    )  # fmt: skip


# What the page says of all heads together.


def overview(results: Sequence[HeadResult]) -> dict[str, Any]:
    """Take the means over heads, the share of strong heads and each control's mean.

    Returns:
        ``bars`` has name, mean test IoU and kind (program, best or control), best first;
        ``output_bars`` the same of the median output R²; ``categories`` has name, number of heads,
        mean test IoU and median output R².
    """
    ious, r2s = ([r.test[name].mean for r in results] for name in ("iou", "output_r2"))
    count = Counter(r.category for r in results)
    own = {name: [r.category == name for r in results] for name in count}
    return {"means": {name: mean_known(r.test[name].mean for r in results) for name in results[0].test},
            "nodes": mean_known(r.nodes for r in results), "strong": sum(iou >= 0.75 for iou in ious),
            "explained": sum(r2 >= 0.5 for r2 in r2s), "above": sum(r.gain > 0 for r in results),
            "bars": _bars(mean_known, ious, [r.controls for r in results]),
            "output_bars": _bars(median_known, r2s, [r.controls_output_r2 for r in results]),
            "categories": [
                (name, number, mean_known(compress(ious, own[name])), median_known(compress(r2s, own[name])))
                for name, number in count.most_common()]}  # fmt: skip


def _bars(average: Callable[[Iterable[float]], float], programs: Sequence[float],
          controls: Sequence[Mapping[str, float]]) -> list[tuple[str, float, str]]:  # fmt: skip
    """Average the programs, the best control of each head and each control over heads."""
    names = dict.fromkeys(name for one in controls for name in one)
    rows = [(name, average(one.get(name, math.nan) for one in controls), "control") for name in names]
    rows.sort(key=lambda row: row[1] if math.isfinite(row[1]) else -math.inf, reverse=True)
    if len(rows) > 1:
        best = (best_of(one)[1] for one in controls)
        rows.insert(0, ("best control of each head", average(best), "best"))
    return [("programs", average(programs), "program"), *rows]


def budget_curve(fronts: Sequence[Sequence[FrontRow]]) -> list[tuple[int, float]]:
    """Return the mean test IoU over heads if no program may have more nodes than a budget.

    Each head takes the program of its front that is best on the select texts within the budget.

    >>> budget_curve([r.front for r in results])
    [(3, 0.41), (7, 0.58), (12, 0.66)]
    """
    fronts = [[row for row in front if math.isfinite(row.iou_test)] for front in fronts]
    if not all(fronts):
        return []
    start = max(min(row.nodes for row in front) for front in fronts)
    budgets = sorted({row.nodes for front in fronts for row in front if row.nodes >= start})
    curve = []
    for budget in budgets:
        within = ([row for row in front if row.nodes <= budget] for front in fronts)
        best = (max(rows, key=lambda row: (row.iou_select, -row.nodes)) for rows in within)
        curve.append((budget, mean_known(row.iou_test for row in best)))
    return curve


# What the page's script reads.


def levels(weights: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return weights as round(255 sqrt(w)), of which small ones get most.

    >>> levels(np.array([1.0, 0.25, 0.75])).tolist()
    [255, 128, 221]
    """
    roots = np.sqrt(np.clip(np.asarray(weights, dtype=np.float64), 0.0, 1.0))
    return np.rint(255 * roots).astype(np.uint8)


def packed(data: bytes) -> str:
    """Compress bytes (zlib) and write them as base64."""
    return base64.b64encode(zlib.compress(data, 9)).decode()


def _payload(data: ReportData) -> dict[str, Any]:
    """Return what the script draws: a row per head, and the page of each head, compressed."""
    scores = [{"name": one.definition.name, **one.users, "source": one.source, "text": text,
                  "values": values.round(2).tolist()} for one, text, values in data.scores]  # fmt: skip
    own = data.definitions and commented(data.definitions, {x.definition.name: x for x, _, _ in data.scores})
    return {
        "causal": data.info["causal"], "texts": data.texts, "lexemes": lexeme_classes(), "scores": scores,
        "heads": [_row(page, own) for page in data.pages],
        "definitions": show_definitions(own).rstrip().split("\n\n") if own else [],
        "curve": budget_curve([page.front for page in data.pages]),
        "library": [row["program"] for row in data.library],
        "categories": [name for name, _ in Counter(r.category for r in data.results).most_common()],
    }  # fmt: skip


def _row(page: HeadPage, definitions: t.Definitions | None) -> dict[str, Any]:
    """Return the row of a head in the table, and its page."""
    r, (control, rival), (output, output_rival) = (
        page.result, page.result.best_control, page.result.best_output_control,
    )  # fmt: skip
    controls = [
        [name, finite(iou), finite(r.controls_output_r2.get(name, math.nan))]
        for name, iou in r.controls.items()
    ]
    detail = {
        "controls": controls, "terms": _terms(page), "seconds": finite(r.seconds),
        "front": _front(page, definitions),
    }  # fmt: skip
    return {
        "id": r.name, "layer": r.layer, "head": r.head, "category": r.category, "nodes": r.nodes,
        "iou": _interval(r.test["iou"]), "r2": _interval(r.test["output_r2"]),
        **{name: finite(r.test[name].mean) for name in ("iou_no_sink", "jsd", "top1")},
        "gain": finite(r.gain), "control": [control, finite(rival)],
        "output": [output, finite(output_rival)], "shares": told_shares(r.shares),
        "ahead": r.lookahead, "cut": r.cut_short, "program": r.program,
        **pack_page(detail, page.examples),
    }  # fmt: skip


def pack_page(detail: Mapping[str, Any], examples: Sequence[Example]) -> dict[str, str]:
    """Write details and examples of a head's page as its script reads them."""
    told = [{
        "text": one.text, "n": one.n, "ious": [*map(finite, one.ious)],
        "norms": None if one.norms is None else np.rint(
            9999 * one.norms / max(float(one.norms.max(initial=0.0)), 1e-30)
        ).astype(int).tolist(),
    } for one in examples]  # fmt: skip
    maps = b""
    for one in examples:  # programs that follow each other are alike: keep what changes
        changes = one.levels.copy()
        changes[2:] -= one.levels[1:-1]
        maps += changes.tobytes()
    data = json.dumps({**detail, "examples": told}, separators=(",", ":"))
    return {"detail": packed(data.encode()), "maps": packed(maps)}


def _front(page: HeadPage, definitions: t.Definitions | None) -> list[dict[str, Any]]:
    """Return the programs of a head's front with figures and explanation.

    Programs that name a set as the definitions of the run do are written out in full, too.
    """
    rows = []
    for row, program in zip(page.front, page.programs, strict=True):
        worths = [one.share for one in page.result.terms] if row.chosen else ()
        same = definitions and definitions.sets.keys() & {one.name for one in program.sets}
        rows.append({
            "nodes": row.nodes, "chosen": row.chosen, "by": row.proposer, "program": row.program,
            "iou": [*map(finite, (row.iou_fit, row.iou_select, row.iou_test))],
            "r2": [*map(finite, (row.output_r2_select, row.output_r2_test))],
            "told": explain(program, worths),
            "full": show(self_contained(program)) if same else None,
        })  # fmt: skip
    return rows


def _terms(page: HeadPage) -> list[list[Any]]:
    """Return of each term of the chosen program its line, description and worth."""
    chosen = [p for p, row in zip(page.programs, page.front, strict=True) if row.chosen]
    if not page.result.terms or not chosen:
        return []
    lines = [at for at, term in enumerate(chosen[0].terms) for _ in t.parts_of(term)]
    return [
        [line, told, *map(finite, (one.share, one.iou_loss, one.output_r2_loss))]
        for line, told, one in zip(lines, describe(chosen[0]), page.result.terms, strict=True)
    ]


def _interval(one: Estimate) -> list[float | None]:
    return [*map(finite, (one.mean, one.low, one.high))]


def finite(value: float) -> float | None:
    """Round a number to four digits; None where it is not known."""
    return round(float(value), 4) if math.isfinite(value) else None
