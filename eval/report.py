"""The report of a run: one self-contained HTML file with every head's program and matrices."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attn_dsl.eval.files import write
from attn_dsl.eval.report_text import decimal, highlight, scoped, terms_line

TEMPLATES = Path(__file__).with_name("templates")
BYTES_PER_HEAD = 20_000
"""How much base64 the matrices of one head may take; longer texts are shown in part."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A test text with the head's attention and the program's, both (n, n).

    >>> Example(("a", " b"), np.eye(2), np.eye(2), iou=1.0).tokens
    ('a', ' b')
    """

    tokens: tuple[str, ...]
    attention: npt.NDArray[np.float32]
    program: npt.NDArray[np.float32]
    iou: float

    def __post_init__(self) -> None:
        n = len(self.tokens)
        if self.attention.shape != (n, n) or self.program.shape != (n, n):
            shapes = f"{self.attention.shape} and {self.program.shape}"
            raise ValueError(f"{n} tokens need matrices of shape {(n, n)}, not {shapes}")


@dataclass(frozen=True, slots=True)
class FrontRow:
    """A program of a head's Pareto front; ``chosen`` marks the one that the head got."""

    nodes: int
    iou_select: float
    iou_test: float
    program: str
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class HeadReport:
    """A head, its program in canonical form, and how well the one computes the other.

    ``controls`` maps a control's name to its test IoU on this head; ``lookahead`` names the
    features by which a causal program reads past its query; ``cut_short`` says that the time ran
    out before the search ended.
    """

    layer: int
    head: int
    program: str
    nodes: int
    iou_fit: float
    iou_select: float
    iou_test: float
    iou_test_low: float
    iou_test_high: float
    iou_no_sink: float
    jsd_test: float
    top1_test: float
    category: str
    seconds: float
    lookahead: tuple[str, ...] = ()
    controls: Mapping[str, float] = field(default_factory=dict)
    front: tuple[FrontRow, ...] = ()
    examples: tuple[Example, ...] = ()
    cut_short: bool = False

    @property
    def name(self) -> str:
        """The head's usual name: ``L5H1``."""
        return f"L{self.layer}H{self.head}"

    @property
    def best_control(self) -> tuple[str, float]:
        """The control with the highest test IoU on this head; ("", nan) if there is none."""
        known = {name: iou for name, iou in self.controls.items() if math.isfinite(iou)}
        return max(known.items(), key=lambda item: item[1], default=("", math.nan))

    @property
    def gain(self) -> float:
        """How far the program's test IoU lies above the best control's."""
        return self.iou_test - self.best_control[1]


@dataclass(frozen=True, slots=True)
class ReportData:
    """What a report shows of a run.

    ``texts`` counts the texts of each split, ``tokens_per_text`` is their mean length, and
    ``mean_interval`` is the bootstrap interval of the mean test IoU over heads, if there is one.
    ``missing`` are the heads, layer and number, that were to be searched and have no program;
    ``replacement`` is the plot of what replacing heads costs, as SVG, where it was measured.
    """

    title: str
    model: str
    created: str
    settings: Mapping[str, object]
    texts: Mapping[str, int]
    tokens_per_text: float
    causal: bool
    heads: tuple[HeadReport, ...]
    notes: tuple[str, ...] = ()
    mean_interval: tuple[float, float] | None = None
    missing: tuple[tuple[int, int], ...] = ()
    replacement: str = ""

    @property
    def cut_short(self) -> tuple[str, ...]:
        """The heads whose search ended before it was done, by name."""
        return tuple(head.name for head in self.heads if head.cut_short)


def write_report(data: ReportData, path: Path) -> None:
    """Write a report to a file, whole or not at all.

    >>> write_report(data, Path("runs/gpt2/report.html"))
    """
    write(path, render(data))


def render(data: ReportData) -> str:
    """Return a report as HTML that needs nothing but itself.

    >>> render(data)[:15]
    '<!doctype html>'
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"dec": decimal, "highlight": highlight, "terms": terms_line}
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    heads = sorted(data.heads, key=lambda head: (head.layer, head.head))
    return environment.get_template("report.html").render(
        data=data,
        heads=heads,
        summary=summarise(data),
        layers=sorted({head.layer for head in heads} | {layer for layer, _ in data.missing}),
        columns=sorted({head.head for head in heads} | {head for _, head in data.missing}),
        missing=set(data.missing),
        names=lambda pairs: [f"L{layer}H{head}" for layer, head in pairs],
        replacement=Markup(scoped(data.replacement, ".replacement")),
        cells={(head.layer, head.head): head for head in heads},
        scatter=_scatter(heads),
        sparklines=[_sparkline(head.front) for head in heads],
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=digest,
        payload=Markup(_json(_payload(data, heads))),
    )


# What the page says of all heads together.


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of the comparison with the controls; ``kind`` is program, control or best."""

    name: str
    value: float
    kind: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures over all heads."""

    iou: float
    no_sink: float
    jsd: float
    top1: float
    nodes: float
    strong: int
    above: int
    best: Bar | None
    bars: tuple[Bar, ...]
    categories: tuple[tuple[str, int, float], ...]


def summarise(data: ReportData) -> Summary:
    """Take the means over heads, the share of strong heads and each control's mean.

    >>> summarise(data).best
    Bar(name='positional grid', value=0.61, kind='control')
    """
    heads = data.heads
    names = dict.fromkeys(name for head in heads for name in head.controls)
    controls = [
        Bar(name, _mean(h.controls[name] for h in heads if name in h.controls), "control")
        for name in names
    ]
    controls.sort(key=lambda bar: bar.value if math.isfinite(bar.value) else -1, reverse=True)
    iou = _mean(head.iou_test for head in heads)
    bars = [Bar("programs", iou, "program")]
    if len(controls) > 1:
        each = _mean(head.best_control[1] for head in heads)
        bars.append(Bar("best control of each head", each, "best"))
    count = Counter(head.category for head in heads)
    return Summary(
        iou=iou,
        no_sink=_mean(head.iou_no_sink for head in heads),
        jsd=_mean(head.jsd_test for head in heads),
        top1=_mean(head.top1_test for head in heads),
        nodes=_mean(head.nodes for head in heads),
        strong=sum(head.iou_test >= 0.75 for head in heads),
        above=sum(head.gain > 0 for head in heads),
        best=controls[0] if controls else None,
        bars=(*bars, *controls),
        categories=tuple(
            (name, number, _mean(h.iou_test for h in heads if h.category == name))
            for name, number in count.most_common()
        ),
    )


def _mean(values: Iterable[float]) -> float:
    known = [float(value) for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def budget_curve(heads: Sequence[HeadReport]) -> list[tuple[int, float]]:
    """Return the mean test IoU over heads if no program may have more nodes than a budget.

    Each head takes the program of its front that is best on the select texts within the budget.

    >>> budget_curve(heads)
    [(3, 0.41), (7, 0.58), (12, 0.66)]
    """
    fronts = [[row for row in h.front if math.isfinite(row.iou_test)] for h in heads]
    if not fronts or not all(fronts):
        return []
    start = max(min(row.nodes for row in front) for front in fronts)
    budgets = sorted({row.nodes for front in fronts for row in front if row.nodes >= start})
    curve = []
    for budget in budgets:
        within = ([row for row in front if row.nodes <= budget] for front in fronts)
        best = (max(rows, key=lambda row: (row.iou_select, -row.nodes)) for rows in within)
        curve.append((budget, _mean(row.iou_test for row in best)))
    return curve


# Drawings, as coordinates that the template puts into SVG.


def _scatter(heads: Sequence[HeadReport]) -> dict[str, Any]:
    """Place heads by nodes and test IoU in a 440 by 250 drawing, with ticks and budget curve."""
    curve = budget_curve(heads)
    most = max([head.nodes for head in heads] + [nodes for nodes, _ in curve], default=1)
    step = next((s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500) if most / s <= 7), 1000)
    top = step * max(1, math.ceil(most / step))

    def x(nodes: float) -> float:
        return round(38 + 392 * nodes / top, 1)

    def y(iou: float) -> float:
        return round(214 - 204 * iou, 1)

    path = ""
    for index, (nodes, iou) in enumerate(curve):
        path += f"H{x(nodes)}V{y(iou)}" if index else f"M{x(nodes)} {y(iou)}"
    return {
        "dots": [(h, x(h.nodes), y(h.iou_test)) for h in heads if math.isfinite(h.iou_test)],
        "xticks": [(value, x(value)) for value in range(0, top + 1, step)],
        "yticks": [(value / 4, y(value / 4)) for value in range(5)],
        "curve": path + (f"H{x(top)}" if path else ""),
    }


def _sparkline(front: Sequence[FrontRow]) -> dict[str, Any]:
    """Place a front's test IoU by nodes in a 440 by 64 drawing, between its least and greatest."""
    rows = sorted((r for r in front if math.isfinite(r.iou_test)), key=lambda row: row.nodes)
    if len(rows) < 2:
        return {}
    low, high = min(r.iou_test for r in rows), max(r.iou_test for r in rows)
    first, last = rows[0].nodes, rows[-1].nodes
    xs = [round(8 + 424 * (row.nodes - first) / max(last - first, 1), 1) for row in rows]
    ys = [round(54 - 44 * (row.iou_test - low) / max(high - low, 1e-9), 1) for row in rows]
    points = list(zip(xs, ys, rows, strict=True))
    return {"points": points, "line": " ".join(f"{px},{py}" for px, py, _ in points)}


# What the page's script reads.


def pack(matrix: npt.NDArray[Any], causal: bool) -> str:
    """Pack weights as base64 of bytes round(255 sqrt(w)), row by row, visible entries only.

    The square root spends the bytes on small weights; an entry reads back within 1/255.

    >>> pack(np.array([[1.0, 0.0], [0.25, 0.75]]), causal=True)
    '/4Dd'
    """
    weights = np.sqrt(np.clip(np.nan_to_num(np.asarray(matrix, dtype=np.float64)), 0.0, 1.0))
    levels = np.rint(255 * weights).astype(np.uint8)
    chosen = levels[np.tril_indices(len(levels))] if causal else levels.ravel()
    return base64.b64encode(chosen.tobytes()).decode()


def _payload(data: ReportData, heads: Sequence[HeadReport]) -> dict[str, Any]:
    texts: dict[tuple[str, ...], int] = {}
    rows = []
    for head in heads:
        share = BYTES_PER_HEAD * 3 / 4 / max(2 * len(head.examples), 1)
        limit = int(math.sqrt((2 if data.causal else 1) * share))
        examples = []
        for example in head.examples:
            n = min(len(example.tokens), limit)
            examples.append(
                {
                    "text": texts.setdefault(example.tokens, len(texts)),
                    "n": n,
                    "iou": _finite(example.iou),
                    "head": pack(example.attention[:n, :n], data.causal),
                    "program": pack(example.program[:n, :n], data.causal),
                }
            )
        measures = {"iou": head.iou_test, "gain": head.gain, "jsd": head.jsd_test}
        row: dict[str, Any] = {name: _finite(value) for name, value in measures.items()}
        row |= {"id": head.name, "category": head.category, "nodes": head.nodes}
        rows.append({**row, "examples": examples})
    categories = [name for name, _, _ in summarise(data).categories]
    return {"causal": data.causal, "categories": categories, "texts": list(texts), "heads": rows}


def _finite(value: float) -> float | None:
    return round(float(value), 5) if math.isfinite(value) else None


def _json(value: object) -> str:
    """Write JSON that may stand inside a script element, whatever its strings hold."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
