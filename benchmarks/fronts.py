"""What a run directory says of a search: means over heads of rows that were picked on ``select``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.metrics import bootstrap, ious
from attn_dsl.eval.results import HeadResult
from attn_dsl.eval.run import Run
from attn_dsl.synth.program_cover import COVER, cover

SMALL = 40
"""Nodes of a program that is read at a glance."""


def sources_hash(root: Path) -> str:
    """Hash the search's sources, so that no old run passes for one of the present code."""
    digest = hashlib.sha256()
    for file in sorted((root / "synth").rglob("*.py")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def pick(result: HeadResult, most: int | None) -> Any:
    """Return the front's row with the best IoU on the select split among those not too large.

    Args:
        most: nodes that it may have; None for any number.

    Returns:
        The row, or None where even the smallest is too large.
    """
    rows = [row for row in result.front if most is None or row.nodes <= most]
    return max(rows, key=lambda row: (row.iou_select, -row.nodes), default=None)


def scores(
    programs: Sequence[t.Head], capture: Capture, texts: Sequence[int], heads: Sequence[int]
) -> np.ndarray:
    """Score every program on every head, float64 (texts, heads, programs)."""
    plan = Plan(programs, Batch([capture.tokens(i) for i in texts]))
    return np.stack(
        [ious(capture.attention(text, heads), plan.packed(at)) for at, text in enumerate(texts)]
    )


def figures(path: Path, capture: Capture | None = None) -> dict[str, Any]:
    """Take the figures of a run: mean IoU at any size, of small programs, of the chosen ones.

    Args:
        capture: what it was fitted to, where that is not in the run's own folder.
    """
    run = Run.open(path)
    capture = capture or Capture.open(run.info["capture"] or path / "capture")
    results, seed = run.results, run.info["key"]["seed"]
    split = capture.split(seed)
    numbers = [r.layer * capture.heads_per_layer + r.head for r in results]
    empty = t.Head("uniform", "causal" if capture.causal else "bidirectional")
    found: dict[str, Any] = {}
    for name, most in (("any", None), (str(SMALL), SMALL), ("chosen", -1)):
        programs, sizes = [], []
        for result in results:
            row = next(r for r in result.front if r.chosen) if most == -1 else pick(result, most)
            programs.append(empty if row is None else parse(row.program))
            sizes.append(t.nodes(programs[-1]))
        table = scores(programs, capture, split["test"], numbers)
        own = table[:, np.arange(len(numbers)), np.arange(len(numbers))]
        mean = bootstrap(own.mean(1), seed)
        found[name] = {"mean": mean.mean, "low": mean.low, "high": mean.high, "texts": mean.texts}
        found[f"heads_{name}"] = [float(x) for x in own.mean(0)]
        found[f"nodes_{name}"] = sizes
        if name == "chosen":
            picked = scores(programs, capture, split["select"], numbers)
            found["distinct"] = distinct(picked.mean(0), table.mean(0))
    layers = np.array([r.layer for r in results])
    by_head = np.array(found["heads_any"])
    found["by_layer"] = [float(by_head[layers == x].mean()) for x in sorted(set(layers))]
    found["nodes"] = "; ".join(
        " ".join(f"{x:.0f}" for x in np.quantile(found[f"nodes_{name}"], [0, 0.25, 0.5, 0.75, 1]))
        for name in ("any", "chosen")
    )
    found["controls"] = {
        name: float(np.mean([r.controls[name] for r in results])) for name in results[0].controls
    }
    found["heads"], found["texts"] = len(results), {k: len(v) for k, v in split.items()}
    found["tokens"] = run.info["tokens_per_text"]
    found["cut_short"] = len(run.info.get("cut_short", []))
    return found


def distinct(select: np.ndarray, test: np.ndarray) -> str:
    """Say how few of the chosen programs, as they are, give 95 % of the mean IoU of all of them.

    >>> same = np.array([[0.8, 0.8, 0.1], [0.8, 0.8, 0.1], [0.1, 0.1, 0.9]])
    >>> distinct(same, same)
    '2 of 3 (mean IoU on test 0.833 of 0.833)'

    Args:
        select, test: IoU (heads, programs) on each split. Programs are taken greedily by the
            mean over heads of the best taken one, on the select split.
    """
    taken = cover(select, COVER * float(np.diag(select).mean()))
    by_head = [taken[i] for i in select[:, taken].argmax(1)]
    reached = test[np.arange(len(test)), by_head].mean()
    return f"{len(taken)} of {len(select)} (mean IoU on test {reached:.3f} of {np.diag(test).mean():.3f})"


def transfer(source: Path, target: Path) -> dict[str, Any]:
    """Score a run's programs of any size on the test texts of another run of the same model."""
    from_run, to_run = Run.open(source), Run.open(target)
    capture = Capture.open(to_run.info["capture"] or target / "capture")
    heads = [r.layer * capture.heads_per_layer + r.head for r in from_run.results]
    texts = capture.split(to_run.info["key"]["seed"])["test"]
    rows = [pick(r, None) for r in from_run.results]
    table = scores([parse(row.program) for row in rows], capture, texts, heads)
    own = table[:, np.arange(len(heads)), np.arange(len(heads))]
    mean = bootstrap(own.mean(1), to_run.info["key"]["seed"])
    return {"any": {"mean": mean.mean, "low": mean.low, "high": mean.high, "texts": mean.texts}}


def estimate(found: dict[str, float]) -> str:
    """Write a mean with its interval and sample size.

    >>> estimate({"mean": 0.5, "low": 0.45, "high": 0.55, "texts": 60})
    '0.500 (0.450 to 0.550, 60 texts)'
    """
    return (
        f"{found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f}, {found['texts']} texts)"
    )
