"""The shared library of a run: few programs that describe many heads."""

from collections.abc import Sequence

import numpy as np

from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import Resolver, parse
from attn_dsl.eval.results import HeadResult, LibraryEntry
from attn_dsl.eval.score_matrix import score_matrix
from attn_dsl.eval.split import Split

COVER = 0.95  # share of the heads' mean IoU that a shared library must give


def shared_library(results: Sequence[HeadResult], select: Split, test: Split,
                   resolve: Resolver | None = None) -> list[LibraryEntry]:  # fmt: skip
    """Find the fewest of the heads' chosen programs that give 95 % of their mean IoU, as they are.

    Programs are taken one by one, each the one that raises the mean over heads most (the paper
    counts distinct best programs in the same way, out of its library).
    """
    programs = [parse(r.program, r.label, resolve) for r in results]
    picked, shown = (_scores(programs, split, results) for split in (select, test))
    taken = cover(picked, float(np.diag(picked).mean()) * COVER)
    entries = []
    final = picked[:, taken].argmax(1)
    for at, program in enumerate(taken):
        best = picked[:, taken[: at + 1]].argmax(1)
        rows = np.arange(len(results))
        chosen = np.array(taken)[best]
        entries.append(LibraryEntry(
            results[program].label, results[program].nodes,
            tuple(r.label for r, mine in zip(results, final, strict=True) if mine == at),
            float(picked[rows, chosen].mean()), float(shown[rows, chosen].mean()),
            results[program].program))  # fmt: skip
    return entries


def cover(scores: np.ndarray, enough: float = np.inf, most: int | None = None,
          taken: Sequence[int] = ()) -> list[int]:  # fmt: skip
    """Take programs greedily, in that order, until the mean over heads of the best taken one is enough.

    ``scores`` are float (heads, programs); ``taken`` are the first, and at ``most`` so many are taken.
    """
    found = list(taken)
    best = scores[:, found].max(1, initial=0.0)
    while best.mean() < enough and len(found) < min(most or np.inf, scores.shape[1]):
        found.append(int(np.maximum(best[:, None], scores).mean(0).argmax()))
        best = np.maximum(best, scores[:, found[-1]])
    return found


def _scores(programs: list[t.Head], split: Split, results: Sequence[HeadResult]) -> np.ndarray:
    """Score all programs against all heads, float64 (heads, programs)."""
    capture = split.capture
    numbers = [r.layer * capture.heads_per_layer + r.head for r in results]
    plan = Plan(programs, split.batch)
    return score_matrix(plan, lambda text: capture.attention(split.texts[text], numbers))
