"""Outcomes of the recovery benchmark: what became of each program, and what they come to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

RECOVERED = 0.99
"""IoU on the test split from which on a program counts as recovered."""
AS_GOOD = 0.01
"""With noise: how near to the true program's IoU the found one must come."""


@dataclass(frozen=True)
class Outcome:
    """What became of one program.

    Attributes:
        forms: the form of each true term.
        terms, nodes: of the true program.
        iou_true: its IoU with the test matrices: 1 without noise.
        found_nodes, iou_select, iou_test: of the found program.
        chosen_nodes, chosen_iou: of the program that the run itself chose.
        missed: the forms of true terms that the found program lacks, the worst first.
        seconds: of the search.
    """

    cell: str
    number: int
    terms: int
    nodes: int
    forms: tuple[str, ...]
    iou_true: float
    found_nodes: int
    iou_select: float
    iou_test: float
    chosen_nodes: int
    chosen_iou: float
    missed: tuple[str, ...]
    seconds: float
    true: str
    found: str

    @property
    def recovered(self) -> bool:
        """Whether the found program gives the same matrices."""
        return self.iou_test >= RECOVERED

    @property
    def as_good(self) -> bool:
        """Whether the found program comes within 0.01 of the true one on the test matrices."""
        return self.iou_test >= self.iou_true - AS_GOOD

    @property
    def ratio(self) -> float:
        """Nodes of the found program to those of the true one."""
        return self.found_nodes / self.nodes


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Compute the 95 % Wilson interval of a share.

    >>> tuple(round(x, 3) for x in wilson(19, 20))
    (0.764, 0.991)
    """
    if not count:
        return 0.0, 1.0
    z, p = 1.959964, hits / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def summary(found: Sequence[Outcome], noise: bool) -> list[dict[str, Any]]:
    """Summarise outcomes by number of terms, and of all up to 5 and up to 10 terms."""
    sizes = sorted({o.terms for o in found})
    groups = {str(size): [o for o in found if o.terms == size] for size in sizes}
    for most in (5, 10):
        if sizes and sizes[0] < most <= sizes[-1]:
            groups[f"1 to {most}"] = [o for o in found if o.terms <= most]
    rows = []
    for name, group in groups.items():
        hits = sum(o.as_good if noise else o.recovered for o in group)
        good = [o for o in group if (o.as_good if noise else o.recovered)]
        low, high = wilson(hits, len(group))
        ious_here = [o.iou_test for o in group]
        rows.append({
            "terms": name, "programs": len(group), "recovered": hits / max(len(group), 1),
            "low": low, "high": high, "median_iou": statistics.median(ious_here),
            "mean_iou": statistics.fmean(ious_here),
            "true_iou": statistics.fmean(o.iou_true for o in group),
            "size_ratio": statistics.median(o.ratio for o in group),
            "size_ratio_recovered": statistics.median(o.ratio for o in good) if good else None,
            "nodes": statistics.median(o.nodes for o in group),
            "seconds": statistics.fmean(o.seconds for o in group),
        })  # fmt: skip
    return rows


def by_form(found: Sequence[Outcome], noise: bool) -> list[dict[str, Any]]:
    """Count for each form of a term: how many there were, and how many of them were missed."""
    rows = {}
    for o in found:
        left = list(o.missed)
        for form in o.forms:
            row = rows.setdefault(form, {"form": form, "terms": 0, "missed": 0, "worst": 0})
            row["terms"] += 1
            if form in left:
                left.remove(form)
                row["missed"] += 1
        if o.missed:
            rows[o.missed[0]]["worst"] += 1
        elif not (o.as_good if noise else o.recovered):
            row = rows.setdefault("(no single term)", {
                "form": "(no single term)", "terms": 0, "missed": 0, "worst": 0})  # fmt: skip
            row["worst"] += 1
    return sorted(rows.values(), key=lambda row: (-row["missed"], -row["worst"], row["form"]))


def print_tables(rows: Sequence[dict[str, Any]], noise: bool) -> None:
    """Print recovery by number of terms."""
    what = "within 0.01 of the true program" if noise else "recovered (IoU >= 0.99)"
    print(f"\n| terms | programs | {what} | 95 % interval | mean IoU | of the true | "
          "nodes found / true, median | where recovered | s a head |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        there = r["size_ratio_recovered"]
        print(
            f"| {r['terms']} | {r['programs']} | {r['recovered']:.2f} | {r['low']:.2f} to "
            f"{r['high']:.2f} | {r['mean_iou']:.3f} | {r['true_iou']:.3f} | {r['size_ratio']:.2f} | "
            f"{'-' if there is None else f'{there:.2f}'} | {r['seconds']:.1f} |"
        )


def print_forms(rows: Sequence[dict[str, Any]]) -> None:
    """Print which forms of terms were missed."""
    print("\n| form of term | terms | missed | worst of its program |\n|---|---|---|---|")
    for r in rows:
        if r["missed"] or r["worst"]:
            print(f"| {r['form']} | {r['terms']} | {r['missed']} | {r['worst']} |")
