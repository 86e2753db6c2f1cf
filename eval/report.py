"""The report of a run: one self-contained HTML file with every head's program and matrices."""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan, pack, unpack
from attn_dsl.dsl.english import explain
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.parser import parse
from attn_dsl.eval import results as found
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.files import write
from attn_dsl.eval.metrics import ious
from attn_dsl.eval.replace.curve import figure
from attn_dsl.eval.report_text import TEMPLATES, fill
from attn_dsl.eval.results import FrontRow, HeadResult, best_of, mean_known, median_known
from attn_dsl.eval.run import Run
from attn_dsl.eval.scores import SharedScore, score_values, shared_scores

EXAMPLES = 3
"""How many test texts are shown of each head."""
SCORE_TOKENS = 160
"""At how many tokens of a text the values of a score are shown."""
BYTES_PER_HEAD = 20_000
"""How much base64 the matrices of one head may take; longer texts are shown in part."""

ScoreOnText = tuple[SharedScore, int, npt.NDArray[np.float64]]
"""A score, the number of a text, and its values at the first tokens of the text."""


@dataclass(frozen=True, slots=True, eq=False)
class ReportData:
    """What a report shows of a run."""

    info: Mapping[str, Any]  # what ``run.json`` holds
    results: tuple[HeadResult, ...]  # of the heads, by layer and head
    summary: found.Summary  # the means over heads
    texts: tuple[tuple[str, ...], ...]  # the tokens of the texts that are shown
    # by text, the weights of every head and of its program, packed: float32 (2, heads, entries)
    weights: tuple[npt.NDArray[np.float32], ...]
    lacking: str | None = None  # why no head's output R² is known; None where that of one is
    missing: tuple[str, ...] = ()  # names of the heads that were to be searched and have no program
    replacement: str = ""  # the plot of what replacing heads costs, as SVG, where it was measured
    scores: Sequence[ScoreOnText] = ()  # those that heads share
    # by head, its program in plain English
    explained: Mapping[str, str] = field(default_factory=dict)


def write_run_report(run: Run, capture: str | Path | Capture | None = None) -> Path:
    """Write ``report.html`` of a run, whole or not at all.

    Args:
        capture: the run's attention, where it is not where the run says.

    Raises:
        InputError: the capture is gone, or is another one; the message says what to give.
    """
    if not run.results:
        raise InputError(f"{run.path}: no head is finished yet; go on with `attn-dsl fit --resume`")
    write(run.report, render(report_data(run, run.open_capture(capture))))
    return run.report


def report_data(run: Run, capture: Capture) -> ReportData:
    """Gather the contents of a run's report."""
    seed, results = run.info["key"]["seed"], tuple(run.results)
    texts = _example_texts(capture, capture.split(seed)["test"])
    batch = Batch([capture.tokens(i) for i in texts])
    programs = [parse(r.program, r.label, run.resolve) for r in results]
    heads = [r.layer * capture.heads_per_layer + r.head for r in results]
    plan = Plan(programs, batch)
    pairs = zip(results, programs, strict=True)
    return ReportData(
        run.info, results, found.summarise(results, seed),
        tuple(tokens.strings for tokens in batch.texts),
        tuple(
            np.stack([capture.attention(i, heads), plan.packed(at)]) for at, i in enumerate(texts)
        ),
        run.lacking,
        tuple(f"L{layer}H{head}" for layer, head in run.missing),
        figure(run.path) or "", list(_scores(run, batch)),
        {r.name: explain(program, [x.share for x in r.terms]) for r, program in pairs},
    )  # fmt: skip


def _example_texts(capture: Capture, texts: Sequence[int]) -> list[int]:
    """Take the shortest, a middling and the longest of the shorter half of the test texts."""
    order = sorted(texts, key=lambda i: (len(capture.tokens(i)), i))
    half = order[: max(EXAMPLES, len(order) // 2)]
    picks = np.linspace(0, len(half) - 1, min(EXAMPLES, len(half))).astype(int)
    return [half[i] for i in picks]


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


def render(data: ReportData) -> str:
    """Return a report as HTML that needs nothing but itself."""
    from markupsafe import Markup

    script, style = (
        (TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.js", "report.css")
    )
    names = [*data.missing, *(r.name for r in data.results)]
    layers, columns = zip(*(map(int, name[1:].split("H")) for name in names), strict=True)
    return fill(
        "report.html", data=data, overview=overview(data.results), scatter=_scatter(data.results),
        layers=sorted(set(layers)), columns=sorted(set(columns)),
        cells={r.name: r for r in data.results},
        scores={one.definition.name: one for one, _, _ in data.scores},
        replacement=base64.b64encode(data.replacement.encode()).decode(),
        style=Markup(style), script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        payload=_payload(data),
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
    return {
        "means": {name: mean_known(r.test[name].mean for r in results) for name in results[0].test},
        "nodes": mean_known(r.nodes for r in results),
        "strong": sum(iou >= 0.75 for iou in ious),
        "explained": sum(r2 >= 0.5 for r2 in r2s),
        "above": sum(r.gain > 0 for r in results),
        "bars": _bars(mean_known, ious, [r.controls for r in results]),
        "output_bars": _bars(median_known, r2s, [r.controls_output_r2 for r in results]),
        "categories": [
            (name, number, mean_known(compress(ious, own[name])), median_known(compress(r2s, own[name])))
            for name, number in count.most_common()
        ],
    }  # fmt: skip


def _bars(
    average: Callable[[Iterable[float]], float], programs: Sequence[float],
    controls: Sequence[Mapping[str, float]],
) -> list[tuple[str, float, str]]:  # fmt: skip
    """Average the programs, the best control of each head and each control over heads."""
    names = dict.fromkeys(name for one in controls for name in one)
    rows = [
        (name, average(one.get(name, math.nan) for one in controls), "control") for name in names
    ]
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


# Drawings, as coordinates that the template puts into SVG.


def _scatter(results: Sequence[HeadResult]) -> dict[str, Any]:
    """Place heads in two 440 by 250 drawings: by nodes and test IoU, by test IoU and output R²."""
    curve = budget_curve([r.front for r in results])
    most = max([r.nodes for r in results] + [nodes for nodes, _ in curve])
    step = next((s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500) if most / s <= 7), 1000)
    top = step * max(1, math.ceil(most / step))

    def x(nodes: float, most: float = top) -> float:
        return round(38 + 392 * nodes / most, 1)

    def y(score: float) -> float:
        return round(214 - 204 * max(score, 0.0), 1)

    path = ""
    for index, (nodes, iou) in enumerate(curve):
        path += f"H{x(nodes)}V{y(iou)}" if index else f"M{x(nodes)} {y(iou)}"
    scores = [(r, r.test["iou"].mean, r.test["output_r2"].mean) for r in results]
    quarters = [value / 4 for value in range(5)]
    fit = {
        "dots": [(r, x(r.nodes), y(iou)) for r, iou, _ in scores if math.isfinite(iou)],
        "xticks": [(value, x(value)) for value in range(0, top + 1, step)],
        "curve": path + (f"H{x(top)}" if path else ""),
    }
    outputs = {
        "dots": [(r, x(iou, 1), y(r2)) for r, iou, r2 in scores if math.isfinite(iou + r2)],
        "xticks": [(f"{value:g}", x(value, 1)) for value in quarters],
        "curve": "",
    }
    return {"fit": fit, "outputs": outputs, "yticks": [(value, y(value)) for value in quarters]}


# What the page's script reads.


def encode(weights: npt.NDArray[Any]) -> str:
    """Write weights as base64 of bytes round(255 sqrt(w)), of which small ones get most.

    >>> encode(np.array([1.0, 0.25, 0.75]))
    '/4Dd'
    """
    roots = np.sqrt(np.clip(np.asarray(weights, dtype=np.float64), 0.0, 1.0))
    return base64.b64encode(np.rint(255 * roots).astype(np.uint8).tobytes()).decode()


def _payload(data: ReportData) -> dict[str, Any]:
    """Return what the script draws; of long texts, the first tokens."""
    causal = data.info["causal"]
    limit = math.isqrt(int((2 if causal else 1) * BYTES_PER_HEAD * 3 / 8 / max(len(data.texts), 1)))
    examples: list[list[dict[str, Any]]] = [[] for _ in data.results]
    for at, (text, weights) in enumerate(zip(data.texts, data.weights, strict=True)):
        n = min(len(text), limit)
        entries = unpack(np.arange(weights.shape[-1]), len(text), causal)
        shown = weights[..., pack(entries[:n, :n], causal)]
        for i, own in enumerate(examples):
            iou = float(ious(weights[0, i : i + 1], weights[1, i : i + 1])[0, 0])
            head, program = map(encode, shown[:, i])
            own.append({"text": at, "n": n, "iou": _finite(iou), "head": head, "program": program})
    heads = [{
        "iou": _finite(r.test["iou"].mean), "r2": _finite(r.test["output_r2"].mean),
        "gain": _finite(r.gain), "jsd": _finite(r.test["jsd"].mean), "id": r.name,
        "category": r.category, "nodes": r.nodes, "examples": own,
    } for r, own in zip(data.results, examples, strict=True)]  # fmt: skip
    scores = [{
        "name": one.definition.name, **one.users, "text": text, "values": values.round(2).tolist(),
    } for one, text, values in data.scores]  # fmt: skip
    return {
        "causal": causal, "texts": data.texts, "heads": heads, "scores": scores,
        "categories": [name for name, _ in Counter(r.category for r in data.results).most_common()],
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return round(float(value), 5) if math.isfinite(value) else None
