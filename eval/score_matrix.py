"""Score matrices: IoU of many programs with many heads over many texts, fused with evaluation.

Programs are evaluated in groups whose rows stay in cache and are compared with all heads there,
so that no program's matrix goes to memory.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor

import numpy as np

from attn_dsl.compiler.evaluate import Plan
from attn_dsl.eval.distances import agreements, divergences, in_lanes, minima, strongest

METRICS = ("iou", "iou_no_sink", "jsd", "tv", "top1")
"""What programs and heads can be compared by, over the visible entries of a text.

IoU (sum of minima by sum of maxima), IoU without the first column, mean Jensen-Shannon distance
(base 2) and total variation distance of the rows, share of rows with the same strongest key.
"""


def measure_text(plan: Plan, text: int, heads: np.ndarray,
                 metrics: Sequence[str] = METRICS) -> dict[str, np.ndarray]:  # fmt: skip
    """Compare all programs of a plan with heads on one text: each metric, float64 (heads, programs)."""
    n, shape = int(plan.batch.sizes[text]), (len(heads), plan.size)
    # IoU and tv cost as much together as one of them; jsd costs several times as much.
    sums = {name: np.zeros(shape) for name in ("shared", "first", "jsd", "top1")}
    whole = [heads.sum(1, dtype=np.float64), np.zeros(plan.size)]
    column = [np.zeros(len(heads)), np.zeros(plan.size)]
    entries = None
    for part in plan.parts(text):
        if part.entries != entries:
            entries = part.entries
            actual = in_lanes(heads[:, entries])
            starts = _starts(part.queries, n, plan.causal)
            best = strongest(actual, starts) if "top1" in metrics else None
            column[0] += actual[:, starts[:-1]].sum(1, dtype=np.float64)
        here = part.programs
        _add(sums["shared"], here, minima, actual, part.rows)
        whole[1][here] += part.rows.sum(1, dtype=np.float64)
        if "iou_no_sink" in metrics:
            first = part.rows[:, starts[:-1]]
            column[1][here] += first.sum(1, dtype=np.float64)
            _add(sums["first"], here, minima, in_lanes(actual[:, starts[:-1]]), in_lanes(first))
        if "jsd" in metrics:
            _add(sums["jsd"], here, divergences, actual, part.rows, starts)
        if best is not None:
            _add(sums["top1"], here, agreements, best, strongest(part.rows, starts))
    both = whole[0][:, None] + whole[1]
    rest = both - column[0][:, None] - column[1]
    found = {"iou": _ratio(sums["shared"], both), "iou_no_sink": _ratio(sums["shared"] - sums["first"], rest),
             "jsd": sums["jsd"] / max(n, 1), "tv": (both - 2 * sums["shared"]) / max(2 * n, 1),
             "top1": sums["top1"] / n if n else np.ones(shape)}  # fmt: skip
    return {name: found[name] for name in metrics}


def _add(sums: np.ndarray, here: slice, kernel: Callable, *arrays: np.ndarray) -> None:
    """Add what a kernel makes of some programs."""
    found = np.zeros((len(sums), here.stop - here.start))
    kernel(*arrays, found)
    sums[:, here] += found


def _ratio(shared: np.ndarray, both: np.ndarray) -> np.ndarray:
    """IoU of two tables of masses: what they share by what either has; 1 where neither has any."""
    either = both - shared
    some = either > 1e-9
    return np.where(some, shared / np.where(some, either, 1.0), 1.0)


def _starts(rows: range, n: int, causal: bool) -> np.ndarray:
    """Return where the rows of a block start in it, int64 (rows + 1)."""
    lengths = np.arange(rows.start, rows.stop) + 1 if causal else np.full(len(rows), n)
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def measure_texts(plan: Plan, heads: Callable[[int], np.ndarray], metrics: Sequence[str] = METRICS,
                  executor: Executor | None = None) -> Iterator[dict[str, np.ndarray]]:  # fmt: skip
    """Yield what ``measure_text`` finds on each text of a plan's batch, in order.

    Args:
        heads: for a text's number, the packed attention of all heads.
        executor: where texts are measured side by side; threads do, for the work holds no lock.
    """
    plan.prepare()
    side_by_side = map if executor is None else executor.map
    yield from side_by_side(lambda text: measure_text(plan, text, heads(text), metrics),
                            range(len(plan.batch)))  # fmt: skip


def score_matrix(plan: Plan, heads: Callable[[int], np.ndarray]) -> np.ndarray:
    """Average the IoU of all heads with all programs over the texts of a plan's batch, float64."""
    total = sum(found["iou"] for found in measure_texts(plan, heads, ("iou",)))
    return np.asarray(total / len(plan.batch))
